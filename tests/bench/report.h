/* What a benchmark says at its end: one JSON object that holds every figure, and a table made from
 * it for people. */
#ifndef TESTS_BENCH_REPORT_H
#define TESTS_BENCH_REPORT_H

#include <stdbool.h>

#include <jansson.h>

#include "daemon/histogram.h"
#include "tests/bench/load.h"

/* {command, version, machine, started_at, results: []}. Never NULL: without memory it ends the
 * program, which has nothing to lose. */
json_t *report_new(const char *command);

/* Appends a result to the report: an object that begins with its name and target. Returns it
 * (borrowed), for more figures. */
json_t *report_add(json_t *report, const char *name, const char *target);

/* The figures of a run. */
void report_load(json_t *result, const struct load_options *options,
                 const struct load_result *load);

/* latency_us: {count, mean, p50, p90, p95, p99, p99_9, p99_99, max}. */
void report_latency(json_t *result, const char *key, const struct histogram *ns);

/* Frees the report. */
void report_print(json_t *report, bool as_json);

#endif
