/* The arrivals of an open loop: when each message should leave, whatever became of the earlier
 * ones. Arrival i is due at start + i / rate. A latency is counted from that moment, so that a
 * server's stall is charged to all the messages that it held up and not only to the one that met it
 * ("coordinated omission", Gil Tene). Pure. */
#ifndef TESTS_BENCH_SCHEDULE_H
#define TESTS_BENCH_SCHEDULE_H

#include <stdint.h>

struct schedule {
    uint64_t start_ns;
    double interval_ns;
    uint64_t total;    /* arrivals in all */
    uint64_t released; /* of them due so far */
};

/* rate: arrivals a second, above 0. */
void schedule_init(struct schedule *s, uint64_t start_ns, double rate, uint64_t total);

/* When arrival i is due. */
uint64_t schedule_intended_ns(const struct schedule *s, uint64_t i);

/* How many arrivals have become due since the last call; they are s->released - n and those after
 * it. A clock that went past many of them releases them all at once. */
uint64_t schedule_release(struct schedule *s, uint64_t now_ns);

/* When the next arrival is due; UINT64_MAX after the last. */
uint64_t schedule_next_ns(const struct schedule *s);

#endif
