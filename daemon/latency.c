/* The one hard thing is why this matters: under EEVDF a thread that wakes may have to wait until
 * the running one has used up its turn, about 3 ms. With two processors and more busy threads than
 * that (the database's among them), that wait and not the disk was the tail of an acknowledgement.
 * A thread with a shorter turn preempts a longer one (PREEMPT_SHORT); the turn of a SCHED_OTHER
 * thread is sched_setattr(2)'s sched_runtime. */
#include "daemon/latency.h"

#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SHORT_TURN_NS 100000u /* the least that the kernel takes */

/* As in linux/sched/types.h, which cannot be included beside sched.h. */
struct scheduling {
    uint32_t size;
    uint32_t policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime;
    uint64_t deadline;
    uint64_t period;
};

void latency_take_short_turns(void)
{
    struct scheduling s;

    memset(&s, 0, sizeof s);
    if (syscall(SYS_sched_getattr, 0, &s, sizeof s, 0) != 0 || s.policy != SCHED_OTHER)
        return; /* somebody has chosen another policy on purpose */
    s.size = sizeof s;
    s.runtime = SHORT_TURN_NS;
    (void)syscall(SYS_sched_setattr, 0, &s, 0);
}
