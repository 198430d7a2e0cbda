/* See schedule.h. An intended time is computed from its index and never from the one before it:
 * rounding does not add up over a long run. */
#include "tests/bench/schedule.h"

#include <assert.h>

#include "tests/bench/clock.h"

void schedule_init(struct schedule *s, uint64_t start_ns, double rate, uint64_t total)
{
    assert(rate > 0);
    *s = (struct schedule){
        .start_ns = start_ns, .interval_ns = (double)NS_PER_S / rate, .total = total};
}

uint64_t schedule_intended_ns(const struct schedule *s, uint64_t i)
{
    return s->start_ns + (uint64_t)((double)i * s->interval_ns);
}

uint64_t schedule_release(struct schedule *s, uint64_t now_ns)
{
    uint64_t due, n;

    if (now_ns < s->start_ns)
        return 0;
    due = (uint64_t)((double)(now_ns - s->start_ns) / s->interval_ns) + 1;
    /* The division may round either way; the definition is schedule_intended_ns(). */
    while (due > 0 && schedule_intended_ns(s, due - 1) > now_ns)
        due--;
    while (schedule_intended_ns(s, due) <= now_ns)
        due++;
    if (due > s->total)
        due = s->total;
    if (due <= s->released)
        return 0;
    n = due - s->released;
    s->released = due;
    return n;
}

uint64_t schedule_next_ns(const struct schedule *s)
{
    return s->released < s->total ? schedule_intended_ns(s, s->released) : UINT64_MAX;
}
