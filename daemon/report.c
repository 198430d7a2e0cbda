/* The stats map is packed section by section; each section's count of keys stands beside its keys.
 */
#include "daemon/report.h"

#include <stdlib.h>
#include <time.h>

#include "daemon/server.h"
#include "proto/reply.h"

void report_ping(struct session *s, uint32_t msgid)
{
    msgpack_packer *pk = session_reply(s);

    reply_begin(pk, msgid);
    msgpack_pack_map(pk, 4);
    pack_str(pk, "server");
    pack_str(pk, "convstored");
    pack_str(pk, "version");
    pack_str(pk, CONVSTORE_VERSION);
    pack_str(pk, "protocol");
    msgpack_pack_int(pk, 1);
    pack_str(pk, "durability");
    pack_str(pk, "memory");
}

static void pack_number(msgpack_packer *pk, const char *key, uint64_t number)
{
    pack_str(pk, key);
    msgpack_pack_uint64(pk, number);
}

static void pack_ms(msgpack_packer *pk, const char *key, double microseconds)
{
    pack_str(pk, key);
    msgpack_pack_double(pk, microseconds / 1000);
}

static void pack_text(msgpack_packer *pk, const char *key, const char *text)
{
    pack_str(pk, key);
    pack_str(pk, text);
}

static uint64_t age_ms(int64_t arrived_us)
{
    struct timespec now;
    int64_t age_us;

    if (arrived_us == 0)
        return 0;
    clock_gettime(CLOCK_REALTIME, &now);
    age_us = (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000 - arrived_us;
    return age_us > 0 ? (uint64_t)age_us / 1000 : 0;
}

static void pack_alert(msgpack_packer *pk, const char *name, const char *severity, const char *text)
{
    msgpack_pack_map(pk, 3);
    pack_text(pk, "name", name);
    pack_text(pk, "severity", severity);
    pack_text(pk, "text", text);
}

/* health and alerts: what a person must know now. */
static void pack_health(msgpack_packer *pk, const struct batcher_status *batcher,
                        const struct embedding_stage_stats *embedding)
{
    bool database = batcher->database == DATABASE_DOWN || batcher->database == DATABASE_STOPPED;
    bool embedder = embedding->state == EMBEDDING_FAILING;
    bool fsync_off = batcher->found.fsync_off;

    pack_text(pk, "health", database ? "critical" : embedder || fsync_off ? "warning" : "healthy");
    pack_str(pk, "alerts");
    msgpack_pack_array(pk, (size_t)database + embedder + fsync_off);
    if (database)
        pack_alert(pk, batcher->database == DATABASE_DOWN ? "database_down" : "database_stopped",
                   "critical", batcher->last_error);
    if (embedder)
        pack_alert(pk, "embedder_down", "warning", embedding->last_error);
    if (fsync_off)
        pack_alert(pk, "database_fsync_off", "warning",
                   "the server runs with fsync=off: a crash there can lose committed rows");
}

static void pack_cache(msgpack_packer *pk, const struct embedding_stage_stats *embedding)
{
    uint64_t looked_up = embedding->cache.hits + embedding->cache.misses;

    pack_str(pk, "cache");
    msgpack_pack_map(pk, 4);
    pack_number(pk, "entries", embedding->cache.entries);
    pack_number(pk, "hits", embedding->cache.hits);
    pack_number(pk, "misses", embedding->cache.misses);
    pack_str(pk, "hit_rate");
    msgpack_pack_double(pk, looked_up > 0 ? (double)embedding->cache.hits / (double)looked_up : 0);
}

static void pack_database(msgpack_packer *pk, const struct batcher_status *batcher)
{
    pack_str(pk, "database");
    msgpack_pack_map(pk, 4);
    pack_text(pk, "state", database_state_name(batcher->database));
    pack_text(pk, "last_error", batcher->last_error);
    pack_number(pk, "server_version", (uint64_t)batcher->found.server_version);
    pack_text(pk, "pgvector", batcher->found.pgvector_version);
}

static const char *embedding_state_text(enum embedding_state state)
{
    switch (state) {
    case EMBEDDING_OFF:
        return "off";
    case EMBEDDING_OK:
        return "ok";
    case EMBEDDING_FAILING:
        return "failing";
    }
    abort();
}

static void pack_embedding(msgpack_packer *pk, const struct server *server,
                           const struct embedding_stage_stats *embedding)
{
    pack_str(pk, "embedding");
    msgpack_pack_map(pk, 5);
    pack_text(pk, "provider", server->config->embedding.provider);
    pack_text(pk, "state", embedding_state_text(embedding->state));
    pack_text(pk, "last_error", embedding->last_error);
    pack_number(pk, "requests", embedding->requests);
    pack_number(pk, "inputs", embedding->inputs);
}

static void pack_operation(msgpack_packer *pk, const struct stats *stats, enum operation operation)
{
    const struct histogram *h = &stats->operations[operation];

    pack_str(pk, operation_name(operation));
    msgpack_pack_map(pk, 7);
    pack_number(pk, "count", h->count);
    pack_number(pk, "errors", stats->errors[operation]);
    pack_ms(pk, "mean_ms", h->count > 0 ? (double)h->sum / (double)h->count : 0);
    pack_ms(pk, "p50_ms", (double)histogram_quantile(h, 0.50));
    pack_ms(pk, "p95_ms", (double)histogram_quantile(h, 0.95));
    pack_ms(pk, "p99_ms", (double)histogram_quantile(h, 0.99));
    pack_ms(pk, "max_ms", (double)h->max);
}

static void pack_counters(msgpack_packer *pk, const struct server *server,
                          const struct batcher_status *batcher)
{
    const struct stats *stats = &server->stats;

    pack_text(pk, "version", CONVSTORE_VERSION);
    pack_number(pk, "uptime_s", (uv_hrtime() - server->started_ns) / 1000000000u);
    pack_number(pk, "connections", sessions_count(server->sessions));
    pack_number(pk, "queued", batcher->queued);
    pack_number(pk, "processing", batcher->processing);
    pack_number(pk, "completed", stats->completed);
    pack_number(pk, "failed", stats->failed);
    pack_number(pk, "dead_letters", stats->failed);
    pack_number(pk, "duplicates", stats->duplicates);
    pack_number(pk, "replayed", stats->replayed);
    pack_number(pk, "rejected", stats->rejected);
    pack_number(pk, "embedding_backlog", batcher->without_vector);
    pack_number(pk, "oldest_queued_ms", age_ms(batcher->oldest_arrived_us));
}

void report_stats(const struct server *server, struct session *s, uint32_t msgid)
{
    struct batcher_status batcher = batcher_status(server->batcher);
    struct embedding_stage_stats embedding;
    msgpack_packer *pk = session_reply(s);

    embedding_stage_stats(server->embedding, &embedding);
    reply_begin(pk, msgid);
    msgpack_pack_map(pk, 19);
    pack_counters(pk, server, &batcher);   /* 12 */
    pack_health(pk, &batcher, &embedding); /* 2 */
    pack_cache(pk, &embedding);
    pack_database(pk, &batcher);
    pack_embedding(pk, server, &embedding);
    pack_str(pk, "operations");
    msgpack_pack_map(pk, OPERATION_COUNT);
    for (int i = 0; i < OPERATION_COUNT; i++)
        pack_operation(pk, &server->stats, (enum operation)i);
}
