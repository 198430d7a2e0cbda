/* What the daemon itself says of a run: the rows that came to be meanwhile, what its embedding
 * cache gave, and its own times of acknowledgements. Asked over a connection of its own, before and
 * after. One thread. */
#ifndef TESTS_BENCH_COUNTS_H
#define TESTS_BENCH_COUNTS_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "tests/bench/options.h"

struct convstore;

struct counts {
    struct convstore *store; /* NULL: the target is no convstored */
    json_t *before, *after;  /* stats */
    uint64_t before_ns, after_ns;
};

/* Connects and asks. 0; or -1 when nobody answers, and then it was said. */
int counts_begin(struct counts *c, const struct options *o) __attribute__((warn_unused_result));

/* Asks again and adds to result (NULL: the run was none): queued_before, queued_after, rows, cache,
 * and daemon_ack_us where this run is all that the daemon has acknowledged. With drain_s waits
 * until nothing is queued any more and adds drain and end_to_end. Ends what counts_begin() began.
 */
int counts_end(struct counts *c, const struct options *o, json_t *result)
    __attribute__((warn_unused_result));

/* The daemon's stats now, for the caller to release. NULL: no answer, and that was said. */
json_t *counts_ask(struct convstore *store, uint64_t *ret_ns);

/* stats[group][key], or stats[key] where group is NULL; 0 where it is missing. */
double counts_get(const json_t *stats, const char *group, const char *key);

/* Rows since the daemon's start. */
int64_t counts_completed(const json_t *stats);

/* What has been accepted and is no row yet. */
int64_t counts_queued(const json_t *stats);

/* result[key] = {count, seconds, per_second, complete}. */
void counts_report_rate(json_t *result, const char *key, int64_t count, uint64_t ns, bool complete);

#endif
