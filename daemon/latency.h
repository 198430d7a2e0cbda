/* A thread that runs for microseconds at a time and that others wait for. */
#ifndef DAEMON_LATENCY_H
#define DAEMON_LATENCY_H

#include <stdbool.h>

/* Asks the scheduler to let the calling thread run soon after it wakes, by taking short turns: it
 * gets no more of the processor than before. Where the kernel does not know of this (before
 * Linux 6.12) nothing changes. Threads that are created afterwards by this one inherit it. */
void latency_take_short_turns(void);

struct latency {
    bool wanted;
    bool is_first; /* not where it is not permitted: RLIMIT_RTPRIO, CAP_SYS_NICE */
};

/* Lets the calling thread, which took short turns, run as soon as it wakes, whoever else would: at
 * the lowest real-time priority; or has it stand back to short turns. A thread that was given
 * another policy on purpose keeps it. *l, zeroed at first, is this thread's. */
void latency_set_first(struct latency *l, bool first);

#endif
