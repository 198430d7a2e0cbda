/* The one hard thing is why this matters: a thread that wakes may have to wait until the running
 * one has used up its turn, about 3 ms. With two processors and more busy threads than that (the
 * database's among them), that wait and not the disk was the tail of an acknowledgement. A
 * real-time thread never waits for others. Else a shorter turn helps: under EEVDF a thread with one
 * preempts those with longer ones (PREEMPT_SHORT) while it has had less than its share; the turn of
 * a SCHED_OTHER thread is sched_setattr(2)'s sched_runtime. */
#include "daemon/latency.h"

#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SHORT_TURN_NS 100000u /* the least that the kernel takes */
#define RESET_ON_FORK 1u      /* threads and processes of this one are ordinary again */

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

static int get_scheduling(struct scheduling *ret)
{
    memset(ret, 0, sizeof *ret);
    if (syscall(SYS_sched_getattr, 0, ret, sizeof *ret, 0) != 0)
        return -errno;
    ret->size = sizeof *ret;
    return ret->policy == SCHED_OTHER ? 0 : -EBUSY; /* another one was chosen on purpose */
}

static int set_scheduling(const struct scheduling *s)
{
    return syscall(SYS_sched_setattr, 0, s, 0) == 0 ? 0 : -errno;
}

void latency_take_short_turns(void)
{
    struct scheduling s;

    if (get_scheduling(&s) != 0)
        return;
    s.runtime = SHORT_TURN_NS;
    (void)!set_scheduling(&s);
}

static bool come_first(void)
{
    struct scheduling s;

    if (get_scheduling(&s) != 0)
        return false;
    s.policy = SCHED_RR;
    s.priority = 1;
    s.flags = RESET_ON_FORK;
    return set_scheduling(&s) == 0;
}

static void stand_back(void)
{
    struct scheduling s = {.size = sizeof s,
                           .policy = SCHED_OTHER,
                           .flags = RESET_ON_FORK, /* only a privileged thread may take it back */
                           .runtime = SHORT_TURN_NS};

    (void)!set_scheduling(&s);
}

void latency_set_first(struct latency *l, bool first)
{
    if (first == l->wanted)
        return;
    l->wanted = first;
    if (first) {
        l->is_first = come_first();
    } else if (l->is_first) {
        stand_back();
        l->is_first = false;
    }
}
