/* Capped exponential backoff with full jitter (Brooker, "Exponential Backoff And Jitter", 2015). */
#ifndef DAEMON_BACKOFF_H
#define DAEMON_BACKOFF_H

#include <stdint.h>
#include <stdlib.h>

/* How long to wait before try number `failures` + 1: 1 to min(cap_ms, base_ms * 2^failures)
 * milliseconds, evenly spread, so that many that failed together do not come back together. */
static inline uint64_t backoff_ms(unsigned failures, uint64_t base_ms, uint64_t cap_ms)
{
    uint64_t bound = failures < 20 ? base_ms << failures : cap_ms;

    if (bound > cap_ms)
        bound = cap_ms;
    return 1 + (uint64_t)random() % bound;
}

#endif
