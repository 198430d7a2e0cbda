/* A circuit breaker. One function, breaker_settle(), moves it; begin only marks the probe.
 *
 * The one hard thing: several requests are under way at once. When the server dies they all fail
 * within a moment, which is one failure and not as many as there were; and a late answer to a
 * request from before is no proof that the server is well, but then the next one will tell. */
#include "daemon/breaker.h"

#include <assert.h>
#include <stdlib.h>

/* A server that asks for less gets no more requests by it. */
#define RETRY_AFTER_MIN_MS 100

const char *breaker_state_name(enum breaker_state state)
{
    switch (state) {
    case BREAKER_CLOSED:
        return "closed";
    case BREAKER_OPEN:
        return "open";
    case BREAKER_HALF_OPEN:
        return "half-open";
    }
    abort();
}

bool breaker_allows(const struct breaker *b, uint64_t now_ms)
{
    return b->state != BREAKER_HALF_OPEN && now_ms >= b->until_ms;
}

void breaker_begin(struct breaker *b)
{
    assert(b->state != BREAKER_HALF_OPEN);
    if (b->state == BREAKER_OPEN)
        b->state = BREAKER_HALF_OPEN;
}

/* Half of the bound is certain, so that a dead server is not asked twice at once; the other half is
 * chance, so that many daemons do not come back together. */
static uint64_t pause_ms(unsigned failures)
{
    uint64_t bound = failures < 16 ? (uint64_t)BREAKER_BASE_MS << failures : BREAKER_CAP_MS;

    if (bound > BREAKER_CAP_MS)
        bound = BREAKER_CAP_MS;
    return bound / 2 + (uint64_t)random() % (bound / 2 + 1);
}

void breaker_settle(struct breaker *b, enum breaker_event event, int retry_after_ms,
                    uint64_t begun_ms, uint64_t now_ms)
{
    bool was_probe = b->state == BREAKER_HALF_OPEN;
    unsigned *count = event == BREAKER_LIMITED ? &b->limited : &b->failures;

    if (event == BREAKER_ANSWERED) {
        *b = (struct breaker){.state = BREAKER_CLOSED, .counted_ms = b->counted_ms};
        return;
    }
    if (!was_probe && b->failures + b->limited > 0 && begun_ms < b->counted_ms)
        return; /* it was under way when another failed */
    b->counted_ms = now_ms;
    b->until_ms = now_ms + pause_ms((*count)++);
    if (retry_after_ms > 0 && retry_after_ms < RETRY_AFTER_MIN_MS)
        retry_after_ms = RETRY_AFTER_MIN_MS;
    if (retry_after_ms > 0)
        b->until_ms = now_ms + (uint64_t)retry_after_ms;
    if (was_probe || event == BREAKER_REFUSED || b->failures >= BREAKER_FAILURES_MAX ||
        b->limited >= BREAKER_LIMITED_MAX)
        b->state = BREAKER_OPEN;
}

uint64_t breaker_next_ms(const struct breaker *b, uint64_t now_ms, uint64_t probe_ms)
{
    if (b->state == BREAKER_HALF_OPEN)
        return now_ms + probe_ms;
    return b->until_ms > now_ms ? b->until_ms : now_ms;
}
