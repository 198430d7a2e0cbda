/* See counts.h. Totals are of the daemon's life, so a run is the difference of two answers; a
 * percentile has no difference, and is given only where the life began with the run. */
#include "tests/bench/counts.h"

#include <stdio.h>
#include <string.h>

#include "client/convstore.h"
#include "tests/bench/clock.h"

#define POLL_NS (10 * NS_PER_MS)

json_t *counts_ask(struct convstore *store, uint64_t *ret_ns)
{
    const char *text = NULL;
    json_t *stats = NULL;

    if (convstore_stats(store, NULL, &text) == 0)
        stats = json_loads(text, 0, NULL);
    if (stats == NULL)
        fprintf(stderr, "convstore-bench: stats: %s\n", convstore_error_text(store));
    *ret_ns = clock_ns();
    return stats;
}

double counts_get(const json_t *stats, const char *group, const char *key)
{
    const json_t *map = group != NULL ? json_object_get(stats, group) : stats;

    return json_number_value(json_object_get(map, key));
}

int64_t counts_completed(const json_t *stats)
{
    return (int64_t)counts_get(stats, NULL, "completed");
}

int64_t counts_queued(const json_t *stats)
{
    return (int64_t)(counts_get(stats, NULL, "queued") + counts_get(stats, NULL, "processing"));
}

int counts_begin(struct counts *c, const struct options *o)
{
    memset(c, 0, sizeof *c);
    if (o->target != TARGET_CONVSTORED || o->socket == NULL)
        return 0;
    if (convstore_open(o->socket, &c->store) != 0 || convstore_connect(c->store) != 0) {
        fprintf(stderr, "convstore-bench: %s: %s\n", o->socket,
                c->store != NULL ? convstore_error_text(c->store) : "cannot be opened");
        return -1;
    }
    c->before = counts_ask(c->store, &c->before_ns);
    return c->before != NULL ? 0 : -1;
}

void counts_report_rate(json_t *result, const char *key, int64_t count, uint64_t ns, bool complete)
{
    double seconds = (double)ns / (double)NS_PER_S;

    json_object_set_new(result, key,
                        json_pack("{s:I, s:f, s:f, s:b}", "count", (json_int_t)count, "seconds",
                                  seconds, "per_second", seconds > 0 ? (double)count / seconds : 0,
                                  "complete", complete));
}

static void report_cache(const struct counts *c, json_t *result)
{
    double hits = counts_get(c->after, "cache", "hits") - counts_get(c->before, "cache", "hits");
    double misses =
        counts_get(c->after, "cache", "misses") - counts_get(c->before, "cache", "misses");

    json_object_set_new(
        result, "cache",
        json_pack("{s:I, s:I, s:o}", "hits", (json_int_t)hits, "misses", (json_int_t)misses,
                  "hit_rate", hits + misses > 0 ? json_real(hits / (hits + misses)) : json_null()));
}

/* In the unit of the load generator's own figures. */
static void report_acks(const struct counts *c, json_t *result)
{
    const json_t *before = json_object_get(json_object_get(c->before, "operations"), "queue");
    const json_t *own = json_object_get(json_object_get(c->after, "operations"), "queue");

    if (counts_get(before, NULL, "count") > 0 || counts_get(own, NULL, "count") <= 0)
        return;
    json_object_set_new(result, "daemon_ack_us",
                        json_pack("{s:I, s:f, s:f, s:f, s:f}", "count",
                                  (json_int_t)counts_get(own, NULL, "count"), "p50",
                                  counts_get(own, NULL, "p50_ms") * 1000, "p95",
                                  counts_get(own, NULL, "p95_ms") * 1000, "p99",
                                  counts_get(own, NULL, "p99_ms") * 1000, "max",
                                  counts_get(own, NULL, "max_ms") * 1000));
}

/* Waits until nothing is queued any more; reports the rows since the load ended, and all from the
 * first message to the last row. What is then told becomes the answer after the run. */
static int drain(struct counts *c, const struct options *o, json_t *result)
{
    uint64_t ended_ns = c->after_ns,
             deadline = ended_ns + (uint64_t)(o->drain_s * (double)NS_PER_S);
    int64_t ended = counts_completed(c->after);
    bool empty;

    while (empty = counts_queued(c->after) == 0, !empty && c->after_ns < deadline) {
        clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){.tv_nsec = POLL_NS}, NULL);
        json_decref(c->after);
        c->after = counts_ask(c->store, &c->after_ns);
        if (c->after == NULL)
            return -1;
    }
    counts_report_rate(result, "drain", counts_completed(c->after) - ended, c->after_ns - ended_ns,
                       empty);
    counts_report_rate(result, "end_to_end",
                       counts_completed(c->after) - counts_completed(c->before),
                       c->after_ns - c->before_ns, empty);
    return 0;
}

static int report(struct counts *c, const struct options *o, json_t *result)
{
    c->after = counts_ask(c->store, &c->after_ns);
    if (c->after == NULL)
        return -1;
    json_object_set_new(result, "queued_before", json_integer(counts_queued(c->before)));
    json_object_set_new(result, "queued_after", json_integer(counts_queued(c->after)));
    counts_report_rate(result, "rows", counts_completed(c->after) - counts_completed(c->before),
                       c->after_ns - c->before_ns, true);
    report_acks(c, result);
    if (o->drain_s > 0 && drain(c, o, result) != 0)
        return -1;
    report_cache(c, result);
    return 0;
}

int counts_end(struct counts *c, const struct options *o, json_t *result)
{
    int status = c->before != NULL && result != NULL ? report(c, o, result) : 0;

    json_decref(c->before);
    json_decref(c->after);
    convstore_close(c->store);
    return status;
}
