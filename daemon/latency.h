/* A thread that runs for microseconds at a time and that others wait for. */
#ifndef DAEMON_LATENCY_H
#define DAEMON_LATENCY_H

/* Asks the scheduler to let the calling thread run soon after it wakes, by taking short turns: it
 * gets no more of the processor than before. Where the kernel does not know of this (before
 * Linux 6.12) nothing changes. Threads that are created afterwards by this one inherit it. */
void latency_take_short_turns(void);

#endif
