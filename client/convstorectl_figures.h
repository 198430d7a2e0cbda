/* The daemon's stats map as one struct, for stats, top and health. One thread; reads no terminal
 * and no socket. */
#ifndef CONVSTORECTL_FIGURES_H
#define CONVSTORECTL_FIGURES_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FIGURES_OPERATIONS_MAX 128 /* the daemon's own and at most 64 of services */
#define FIGURES_ALERTS_MAX 64
#define FIGURES_SERVERS_MAX 32

enum figures_window { WINDOW_MINUTE, WINDOW_FIVE_MINUTES, WINDOW_START, WINDOW_COUNT };

/* What a daemon did not send is -1 as a count, NAN as a measure and "" as a text. */
struct figures_latency {
    int64_t count, errors;
    double mean_ms, p50_ms, p95_ms, p99_ms, max_ms;
};

struct figures_operation {
    const char *name;
    struct figures_latency windows[WINDOW_COUNT];
};

struct figures_alert {
    const char *name, *severity, *text;
    const char *action;
    int64_t since_ms; /* since 1970 */
};

struct figures_server {
    const char *url, *state, *last_error;
    const char *self_test, *self_test_text;
    int64_t requests, failures;
};

struct figures {
    json_t *root; /* owns every text below */
    const char *version, *health;
    int64_t uptime_s, connections;
    int64_t queued, processing, oldest_queued_ms;
    int64_t completed, duplicates, failed, dead_letters, rejected;
    struct {
        int64_t bytes, segments, syncs, waiting_on_disk, recovered, damages, disk_free_bytes;
        double records_per_sync;
    } journal;
    struct {
        int64_t entries, hits, misses;
        double hit_rate; /* 0 to 1 */
    } cache;
    struct {
        const char *state, *last_error, *pgvector;
        int64_t server_version, timeline, pace;
    } database;
    struct {
        const char *provider, *state, *last_error;
        int64_t requests, inputs, backlog, filled_in_later;
        struct figures_server servers[FIGURES_SERVERS_MAX];
        size_t server_count;
    } embedding;
    struct figures_alert alerts[FIGURES_ALERTS_MAX];
    size_t alert_count;
    struct figures_operation operations[FIGURES_OPERATIONS_MAX];
    size_t operation_count;
};

/* Reads the JSON of a stats map. 0, -EPROTO where it is no map; *ret then holds nothing. */
int figures_read(const char *json, struct figures *ret) __attribute__((warn_unused_result));

/* Frees what figures_read() took; a struct of zeros is allowed. */
void figures_done(struct figures *figures);

/* One window of an operation; everything is unknown where either was not sent. */
struct figures_latency figures_latency(const struct figures *figures, const char *name,
                                       enum figures_window window);

/* The latest past that the daemon tells of: a minute, or with an older daemon since its start. */
enum figures_window figures_recent(const struct figures *figures);

/* How many a second over a window; NAN where unknown. */
double figures_rate(const struct figures *figures, const struct figures_latency *latency,
                    enum figures_window window);

/* What happened between two samples of one daemon, seconds apart. NAN where it cannot be told: the
 * daemon was started anew in between, or nothing was counted. */
struct figures_change {
    double acked_per_s, stored_per_s;
    double ack_mean_ms; /* of what was acked in between */
};
struct figures_change figures_between(const struct figures *before, const struct figures *now,
                                      double seconds);

#endif
