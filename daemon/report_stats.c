/* The stats map, packed section by section; each section's count of keys stands beside its keys. */
#include "daemon/report.h"

#include "daemon/figures.h"
#include "daemon/report_pack.h"
#include "daemon/server.h"
#include "proto/reply.h"

static void pack_counters(msgpack_packer *pk, const struct server *server,
                          const struct figures *figures)
{
    const struct stats *stats = &server->stats;

    pack_text(pk, "version", CONVSTORE_VERSION);
    pack_number(pk, "uptime_s", (uv_hrtime() - server->started_ns) / 1000000000u);
    pack_number(pk, "connections", sessions_count(server->sessions));
    pack_number(pk, "queued", figures->queued);
    pack_number(pk, "processing", figures->batcher.processing);
    pack_number(pk, "completed", stats->completed);
    pack_number(pk, "failed", stats->failed);
    pack_number(pk, "dead_letters", figures->dead_letters);
    pack_number(pk, "duplicates", stats->duplicates);
    pack_number(pk, "replayed", stats->replayed);
    pack_number(pk, "rejected", stats->rejected);
    pack_number(pk, "embedding_backlog", figures->backfill.backlog);
    pack_number(pk, "oldest_queued_ms", figures->oldest_queued_ms);
}

static void pack_alert(msgpack_packer *pk, const struct alert *alert)
{
    msgpack_pack_map(pk, 8);
    pack_text(pk, "name", alert->name);
    pack_text(pk, "severity", alert_severity_name(alert->severity));
    pack_text(pk, "text", alert->text);
    pack_text(pk, "figure", alert->figure);
    pack_str(pk, "value");
    msgpack_pack_double(pk, alert->value);
    pack_str(pk, "threshold");
    msgpack_pack_double(pk, alert->threshold);
    pack_number(pk, "since_ms", alert->since_ms);
    pack_text(pk, "action", alert->action);
}

static void pack_health(msgpack_packer *pk, const struct alerts *alerts)
{
    pack_text(pk, "health", alert_health_name(alerts_worst(alerts)));
    pack_str(pk, "alerts");
    msgpack_pack_array(pk, alerts_raised(alerts));
    for (enum alert_id id = 0; id < ALERT_COUNT; id++)
        if (alerts_get(alerts, id)->severity != ALERT_NONE)
            pack_alert(pk, alerts_get(alerts, id));
}

static void pack_journal(msgpack_packer *pk, const struct figures *figures)
{
    const struct journal_stats *journal = &figures->journal;

    pack_str(pk, "journal");
    msgpack_pack_map(pk, 10);
    pack_number(pk, "bytes", journal->bytes);
    pack_number(pk, "segments", journal->segments);
    pack_number(pk, "syncs", journal->syncs);
    pack_str(pk, "records_per_sync");
    msgpack_pack_double(pk,
                        journal->syncs > 0 ? (double)journal->records / (double)journal->syncs : 0);
    pack_number(pk, "waiting_on_disk", journal->waiting_on_disk);
    pack_number(pk, "moved", journal->moved);
    pack_number(pk, "recovered", journal->recovered);
    pack_number(pk, "damages", journal->damages);
    pack_number(pk, "disk_free_bytes", figures->disk_free_bytes);
    pack_ms(pk, "sync_p99_ms_at_start", (double)journal->probe_p99_ns / 1000);
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
    msgpack_pack_map(pk, 6);
    pack_text(pk, "state", database_state_name(batcher->database));
    pack_text(pk, "last_error", batcher->last_error);
    pack_number(pk, "server_version", (uint64_t)batcher->found.server_version);
    pack_text(pk, "pgvector", batcher->found.pgvector_version);
    pack_number(pk, "timeline", batcher->found.timeline);
    pack_number(pk, "pace", batcher->rows_per_second);
}

static void pack_selftest(msgpack_packer *pk, const struct embedding_selftest *selftest)
{
    pack_str(pk, "self_test");
    msgpack_pack_map(pk, 2);
    pack_text(pk, "state", selftest_state_name(selftest->state));
    pack_text(pk, "text", selftest->text);
}

static void pack_endpoints(msgpack_packer *pk, const struct endpoints *endpoints)
{
    char url[128];

    pack_str(pk, "servers");
    msgpack_pack_array(pk, endpoints->count);
    for (unsigned i = 0; i < endpoints->count; i++) {
        const struct endpoint *endpoint = &endpoints->list[i];

        endpoint_shown_url(endpoint->url, url);
        msgpack_pack_map(pk, 6);
        pack_text(pk, "url", url);
        pack_text(pk, "state", breaker_state_name(endpoint->breaker.state));
        pack_text(pk, "last_error", endpoint->last_error);
        pack_number(pk, "requests", endpoint->requests);
        pack_number(pk, "failures", endpoint->failures);
        pack_selftest(pk, &endpoint->selftest);
    }
}

static void pack_embedding(msgpack_packer *pk, const struct config *config,
                           const struct figures *figures)
{
    const struct embedding_stage_stats *embedding = &figures->embedding;

    pack_str(pk, "embedding");
    msgpack_pack_map(pk, 10);
    pack_text(pk, "provider", config->embedding.provider);
    pack_text(pk, "state", embedding_state_name(embedding->state));
    pack_text(pk, "last_error", embedding->last_error);
    pack_number(pk, "requests", embedding->requests);
    pack_number(pk, "inputs", embedding->inputs);
    pack_number(pk, "filled_in_later", figures->backfill.filled);
    pack_number(pk, "put_off", figures->backfill.put_off);
    pack_text(pk, "storage", figures->backfill.storage);
    pack_str(pk, "movable");
    figures->backfill.movable ? msgpack_pack_true(pk) : msgpack_pack_false(pk);
    pack_endpoints(pk, embedding->endpoints);
}

static void pack_figures(msgpack_packer *pk, const struct stats *stats, unsigned i,
                         enum stats_window window)
{
    struct stats_figures figures;

    stats_figures(stats, i, window, &figures);
    pack_number(pk, "count", figures.count);
    pack_number(pk, "errors", figures.errors);
    pack_ms(pk, "mean_ms", figures.mean);
    pack_ms(pk, "p50_ms", (double)figures.p50);
    pack_ms(pk, "p95_ms", (double)figures.p95);
    pack_ms(pk, "p99_ms", (double)figures.p99);
    pack_ms(pk, "max_ms", (double)figures.max);
}

static void pack_operation(msgpack_packer *pk, const struct stats *stats, unsigned i)
{
    pack_str(pk, stats_name(stats, i));
    msgpack_pack_map(pk, 9);
    pack_figures(pk, stats, i, STATS_SINCE_START); /* 7 */
    pack_str(pk, "last_minute");
    msgpack_pack_map(pk, 7);
    pack_figures(pk, stats, i, STATS_LAST_MINUTE);
    pack_str(pk, "last_5_minutes");
    msgpack_pack_map(pk, 7);
    pack_figures(pk, stats, i, STATS_LAST_5_MINUTES);
}

void report_stats(struct server *server, struct session *s, uint32_t msgid)
{
    msgpack_packer *pk = session_reply(s);
    struct figures figures;

    dead_letters_count(server); /* for the next time: it asks the database */
    figures_gather(server, &figures);
    health_look(server, &figures);
    reply_begin(pk, msgid);
    msgpack_pack_map(pk, 20);
    pack_counters(pk, server, &figures);     /* 13 */
    pack_health(pk, &server->health.alerts); /* 2 */
    pack_journal(pk, &figures);
    pack_cache(pk, &figures.embedding);
    pack_database(pk, &figures.batcher);
    pack_embedding(pk, server->config, &figures);
    pack_str(pk, "operations");
    msgpack_pack_map(pk, server->stats.operation_count);
    for (unsigned i = 0; i < server->stats.operation_count; i++)
        pack_operation(pk, &server->stats, i);
}
