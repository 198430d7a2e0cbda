/* When a server that fails is asked again: backoff, and a circuit breaker over it. Times are the
 * caller's, in milliseconds. Pure; the loop's. */
#ifndef DAEMON_BREAKER_H
#define DAEMON_BREAKER_H

#include <stdbool.h>
#include <stdint.h>

#define BREAKER_BASE_MS 500
#define BREAKER_CAP_MS 8000
#define BREAKER_FAILURES_MAX 3 /* one after another, until it opens */
#define BREAKER_LIMITED_MAX 10 /* refusals for too many requests have a budget of their own */

enum breaker_state {
    BREAKER_CLOSED,    /* it is asked, after a failure not before until_ms */
    BREAKER_OPEN,      /* nobody asks before until_ms; then one request goes as a probe */
    BREAKER_HALF_OPEN, /* the probe is under way */
};
const char *breaker_state_name(enum breaker_state state);

enum breaker_event {
    BREAKER_ANSWERED,
    BREAKER_FAILED,  /* passing trouble */
    BREAKER_LIMITED, /* 429 */
    BREAKER_REFUSED, /* a person must look: opens at once */
};

struct breaker {
    enum breaker_state state;
    unsigned failures, limited; /* one after another */
    uint64_t until_ms;
    uint64_t counted_ms; /* when the last failure was counted */
};

/* Whether a request may go now. */
bool breaker_allows(const struct breaker *b, uint64_t now_ms);

/* A request goes; it was allowed. */
void breaker_begin(struct breaker *b);

/* A request that began at begun_ms is over. retry_after_ms: what the server asked for, or -1; 0,
 * which is also a date that our clock has passed already, says nothing.
 * Requests that were under way together fail together and count once. */
void breaker_settle(struct breaker *b, enum breaker_event event, int retry_after_ms,
                    uint64_t begun_ms, uint64_t now_ms);

/* The earliest time at which a request may go; a probe under way may take probe_ms. */
uint64_t breaker_next_ms(const struct breaker *b, uint64_t now_ms, uint64_t probe_ms);

#endif
