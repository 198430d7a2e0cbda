/* The daemon's stats map as one struct. An older daemon lacks some keys and a newer one has others:
 * every key is optional here, and none has to be of the type that is expected. */
#include "client/convstorectl_figures.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <string.h>

/* ---- one value ---- */

static int64_t count_of(json_t *map, const char *key)
{
    json_t *value = json_object_get(map, key);

    return json_is_integer(value) && json_integer_value(value) >= 0 ? json_integer_value(value)
                                                                    : -1;
}

static double measure_of(json_t *map, const char *key)
{
    json_t *value = json_object_get(map, key);

    return json_is_number(value) ? json_number_value(value) : NAN;
}

static const char *text_of(json_t *map, const char *key)
{
    const char *text = json_string_value(json_object_get(map, key));

    return text != NULL ? text : "";
}

/* ---- sections ---- */

static void read_counters(struct figures *f)
{
    json_t *root = f->root;

    f->version = text_of(root, "version");
    f->health = text_of(root, "health");
    f->uptime_s = count_of(root, "uptime_s");
    f->connections = count_of(root, "connections");
    f->queued = count_of(root, "queued");
    f->processing = count_of(root, "processing");
    f->oldest_queued_ms = count_of(root, "oldest_queued_ms");
    f->completed = count_of(root, "completed");
    f->duplicates = count_of(root, "duplicates");
    f->failed = count_of(root, "failed");
    f->dead_letters = count_of(root, "dead_letters");
    f->rejected = count_of(root, "rejected");
}

static void read_journal_and_cache(struct figures *f)
{
    json_t *journal = json_object_get(f->root, "journal");
    json_t *cache = json_object_get(f->root, "cache");

    f->journal.bytes = count_of(journal, "bytes");
    f->journal.segments = count_of(journal, "segments");
    f->journal.syncs = count_of(journal, "syncs");
    f->journal.records_per_sync = measure_of(journal, "records_per_sync");
    f->journal.waiting_on_disk = count_of(journal, "waiting_on_disk");
    f->journal.recovered = count_of(journal, "recovered");
    f->journal.damages = count_of(journal, "damages");
    f->journal.disk_free_bytes = count_of(journal, "disk_free_bytes");
    f->cache.entries = count_of(cache, "entries");
    f->cache.hits = count_of(cache, "hits");
    f->cache.misses = count_of(cache, "misses");
    f->cache.hit_rate = measure_of(cache, "hit_rate");
}

static void read_database(struct figures *f)
{
    json_t *database = json_object_get(f->root, "database");

    f->database.state = text_of(database, "state");
    f->database.last_error = text_of(database, "last_error");
    f->database.pgvector = text_of(database, "pgvector");
    f->database.server_version = count_of(database, "server_version");
    f->database.timeline = count_of(database, "timeline");
    f->database.pace = count_of(database, "pace");
}

static void read_servers(struct figures *f, json_t *servers)
{
    json_t *map;
    size_t i;

    json_array_foreach(servers, i, map)
    {
        json_t *self_test = json_object_get(map, "self_test");

        if (f->embedding.server_count == FIGURES_SERVERS_MAX)
            return;
        f->embedding.servers[f->embedding.server_count++] = (struct figures_server){
            .url = text_of(map, "url"),
            .state = text_of(map, "state"),
            .last_error = text_of(map, "last_error"),
            .self_test = text_of(self_test, "state"),
            .self_test_text = text_of(self_test, "text"),
            .requests = count_of(map, "requests"),
            .failures = count_of(map, "failures"),
        };
    }
}

static void read_embedding(struct figures *f)
{
    json_t *embedding = json_object_get(f->root, "embedding");

    f->embedding.provider = text_of(embedding, "provider");
    f->embedding.state = text_of(embedding, "state");
    f->embedding.last_error = text_of(embedding, "last_error");
    f->embedding.requests = count_of(embedding, "requests");
    f->embedding.inputs = count_of(embedding, "inputs");
    f->embedding.backlog = count_of(f->root, "embedding_backlog");
    f->embedding.filled_in_later = count_of(embedding, "filled_in_later");
    read_servers(f, json_object_get(embedding, "servers"));
}

static void read_alerts(struct figures *f)
{
    json_t *map;
    size_t i;

    json_array_foreach(json_object_get(f->root, "alerts"), i, map)
    {
        if (f->alert_count == FIGURES_ALERTS_MAX)
            return;
        f->alerts[f->alert_count++] = (struct figures_alert){
            .name = text_of(map, "name"),
            .severity = text_of(map, "severity"),
            .text = text_of(map, "text"),
            .action = text_of(map, "action"),
            .since_ms = count_of(map, "since_ms"),
        };
    }
}

static struct figures_latency latency_of(json_t *map)
{
    return (struct figures_latency){
        .count = count_of(map, "count"),
        .errors = count_of(map, "errors"),
        .mean_ms = measure_of(map, "mean_ms"),
        .p50_ms = measure_of(map, "p50_ms"),
        .p95_ms = measure_of(map, "p95_ms"),
        .p99_ms = measure_of(map, "p99_ms"),
        .max_ms = measure_of(map, "max_ms"),
    };
}

static void read_operations(struct figures *f)
{
    const char *name;
    json_t *map;

    json_object_foreach(json_object_get(f->root, "operations"), name, map)
    {
        struct figures_operation *operation = &f->operations[f->operation_count];

        if (f->operation_count == FIGURES_OPERATIONS_MAX)
            return;
        f->operation_count++;
        operation->name = name;
        operation->windows[WINDOW_START] = latency_of(map);
        operation->windows[WINDOW_MINUTE] = latency_of(json_object_get(map, "last_minute"));
        operation->windows[WINDOW_FIVE_MINUTES] =
            latency_of(json_object_get(map, "last_5_minutes"));
    }
}

int figures_read(const char *json, struct figures *ret)
{
    json_t *root = json_loads(json, 0, NULL);

    memset(ret, 0, sizeof *ret);
    if (!json_is_object(root)) {
        json_decref(root);
        return -EPROTO;
    }
    ret->root = root;
    read_counters(ret);
    read_journal_and_cache(ret);
    read_database(ret);
    read_embedding(ret);
    read_alerts(ret);
    read_operations(ret);
    return 0;
}

void figures_done(struct figures *figures)
{
    json_decref(figures->root);
    memset(figures, 0, sizeof *figures);
}

/* ---- questions ---- */

struct figures_latency figures_latency(const struct figures *figures, const char *name,
                                       enum figures_window window)
{
    assert(window < WINDOW_COUNT);
    for (size_t i = 0; i < figures->operation_count; i++) {
        if (strcmp(figures->operations[i].name, name) == 0)
            return figures->operations[i].windows[window];
    }
    return latency_of(NULL);
}

enum figures_window figures_recent(const struct figures *figures)
{
    return figures_latency(figures, "queue", WINDOW_MINUTE).count >= 0 ? WINDOW_MINUTE
                                                                       : WINDOW_START;
}

double figures_rate(const struct figures *figures, const struct figures_latency *latency,
                    enum figures_window window)
{
    static const int64_t seconds[WINDOW_COUNT] = {60, 300, INT64_MAX};
    int64_t uptime_s = figures->uptime_s;

    if (latency->count < 0 || uptime_s < 0)
        return NAN;
    /* A daemon younger than the window has filled only a part of it. */
    if (uptime_s < 1)
        uptime_s = 1;
    return (double)latency->count /
           (double)(uptime_s < seconds[window] ? uptime_s : seconds[window]);
}

static double rate_between(int64_t before, int64_t now, double seconds)
{
    return before >= 0 && now >= before && seconds > 0 ? (double)(now - before) / seconds : NAN;
}

/* The mean of what came in between, from two means over everything. */
static double mean_between(const struct figures_latency *before, const struct figures_latency *now)
{
    double mean;

    if (before->count < 0 || now->count <= before->count)
        return NAN;
    mean = (now->mean_ms * (double)now->count - before->mean_ms * (double)before->count) /
           (double)(now->count - before->count);
    return mean < 0 ? 0 : mean; /* rounding */
}

struct figures_change figures_between(const struct figures *before, const struct figures *now,
                                      double seconds)
{
    static const struct figures_change unknown = {NAN, NAN, NAN};
    struct figures_latency ack[2] = {figures_latency(before, "queue", WINDOW_START),
                                     figures_latency(now, "queue", WINDOW_START)};

    if (now->uptime_s < before->uptime_s)
        return unknown;
    return (struct figures_change){
        .acked_per_s = rate_between(ack[0].count, ack[1].count, seconds),
        .stored_per_s = rate_between(before->completed, now->completed, seconds),
        .ack_mean_ms = mean_between(&ack[0], &ack[1]),
    };
}
