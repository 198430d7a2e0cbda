/* The stats map is packed section by section; each section's count of keys stands beside its keys.
 */
#include "daemon/report.h"

#include <stdlib.h>
#include <time.h>

#include "daemon/backfill.h"
#include "daemon/journal.h"
#include "daemon/recovery.h"
#include "daemon/server.h"
#include "proto/reply.h"

void report_ping(const struct server *server, struct session *s, uint32_t msgid)
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
    pack_str(pk, server->config->journal.durability);
}

#define SLOW_SYNC_NS 5000000u

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

/* Arrival of the oldest conversation that is not a row, in memory or on disk; 0: none. */
static int64_t oldest_us(const struct batcher_status *batcher, const struct journal_stats *journal)
{
    int64_t memory = batcher->oldest_arrived_us, disk = journal->oldest_on_disk_us;

    if (memory == 0 || disk == 0)
        return memory > disk ? memory : disk;
    return memory < disk ? memory : disk;
}

static void pack_alert(msgpack_packer *pk, const char *name, const char *severity, const char *text)
{
    msgpack_pack_map(pk, 3);
    pack_text(pk, "name", name);
    pack_text(pk, "severity", severity);
    pack_text(pk, "text", text);
}

static bool batches_differ(const struct endpoints *endpoints)
{
    for (unsigned i = 0; i < endpoints->count; i++)
        if (endpoints->list[i].selftest.state == SELFTEST_WARNING)
            return true;
    return false;
}

/* health and alerts: what a person must know now. */
static void pack_health(msgpack_packer *pk, const struct batcher_status *batcher,
                        const struct embedding_stage_stats *embedding,
                        const struct journal_stats *journal)
{
    const struct {
        bool raised;
        bool critical;
        const char *name, *text;
    } alerts[] = {
        {batcher->database == DATABASE_DOWN, true, "database_down", batcher->last_error},
        {batcher->database == DATABASE_STOPPED, true, "database_stopped", batcher->last_error},
        {journal->full, true, "journal_full",
         "services get QUEUE_FULL until the database catches up"},
        {journal->damages > 0, false, "journal_damaged",
         "records were set aside at the start: convstorectl journal names the files"},
        {journal->probe_p99_ns > SLOW_SYNC_NS, false, "journal_slow_sync",
         "a sync of the journal's disk took over 5 ms at the start: acknowledgements take longer"},
        {embedding->state == EMBEDDING_FAILING, false, "embedder_down", embedding->last_error},
        {batches_differ(embedding->endpoints), false, "embedder_batches_differ",
         "a server gives other vectors in batches than alone: see embedding.servers"},
        {batcher->found.fsync_off, false, "database_fsync_off",
         "the server runs with fsync=off: a crash there can lose committed rows"},
    };
    size_t raised = 0;
    bool critical = false;

    for (size_t i = 0; i < sizeof alerts / sizeof alerts[0]; i++) {
        raised += alerts[i].raised;
        critical = critical || (alerts[i].raised && alerts[i].critical);
    }
    pack_text(pk, "health", critical ? "critical" : raised > 0 ? "warning" : "healthy");
    pack_str(pk, "alerts");
    msgpack_pack_array(pk, raised);
    for (size_t i = 0; i < sizeof alerts / sizeof alerts[0]; i++)
        if (alerts[i].raised)
            pack_alert(pk, alerts[i].name, alerts[i].critical ? "critical" : "warning",
                       alerts[i].text);
}

static void pack_journal(msgpack_packer *pk, const struct journal_stats *journal)
{
    pack_str(pk, "journal");
    msgpack_pack_map(pk, 8);
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
    msgpack_pack_map(pk, 5);
    pack_text(pk, "state", database_state_name(batcher->database));
    pack_text(pk, "last_error", batcher->last_error);
    pack_number(pk, "server_version", (uint64_t)batcher->found.server_version);
    pack_text(pk, "pgvector", batcher->found.pgvector_version);
    pack_number(pk, "timeline", batcher->found.timeline);
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

static struct backfill_status status_of_backfill(const struct server *server)
{
    if (server->backfill == NULL)
        return (struct backfill_status){.backlog = 0};
    return backfill_status(server->backfill);
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

static void pack_embedding(msgpack_packer *pk, const struct server *server,
                           const struct embedding_stage_stats *embedding)
{
    struct backfill_status backfill = status_of_backfill(server);

    pack_str(pk, "embedding");
    msgpack_pack_map(pk, 8);
    pack_text(pk, "provider", server->config->embedding.provider);
    pack_text(pk, "state", embedding_state_text(embedding->state));
    pack_text(pk, "last_error", embedding->last_error);
    pack_number(pk, "requests", embedding->requests);
    pack_number(pk, "inputs", embedding->inputs);
    pack_number(pk, "filled_in_later", backfill.filled);
    pack_number(pk, "put_off", backfill.put_off);
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

static void pack_counters(msgpack_packer *pk, const struct server *server, uint64_t dead_letters,
                          const struct batcher_status *batcher, const struct journal_stats *journal)
{
    const struct stats *stats = &server->stats;
    /* Durable and in no batch: in memory, or behind the journal's read cursor. */
    uint64_t queued =
        journal->waiting > batcher->processing ? journal->waiting - batcher->processing : 0;

    pack_text(pk, "version", CONVSTORE_VERSION);
    pack_number(pk, "uptime_s", (uv_hrtime() - server->started_ns) / 1000000000u);
    pack_number(pk, "connections", sessions_count(server->sessions));
    pack_number(pk, "queued", queued);
    pack_number(pk, "processing", batcher->processing);
    pack_number(pk, "completed", stats->completed);
    pack_number(pk, "failed", stats->failed);
    pack_number(pk, "dead_letters", dead_letters);
    pack_number(pk, "duplicates", stats->duplicates);
    pack_number(pk, "replayed", stats->replayed);
    pack_number(pk, "rejected", stats->rejected);
    pack_number(pk, "embedding_backlog", status_of_backfill(server).backlog);
    pack_number(pk, "oldest_queued_ms", age_ms(oldest_us(batcher, journal)));
}

static void pack_damage(msgpack_packer *pk, const struct journal_damage *damage)
{
    msgpack_pack_map(pk, 5);
    pack_text(pk, "kind", damage_kind_name(damage->kind));
    pack_number(pk, "segment", damage->segment);
    pack_number(pk, "offset", damage->offset);
    pack_number(pk, "bytes", damage->bytes);
    pack_text(pk, "file", damage->file);
}

void report_journal(const struct server *server, struct session *s, uint32_t msgid)
{
    struct batcher_status batcher = batcher_status(server->batcher);
    struct journal_stats journal;
    msgpack_packer *pk = session_reply(s);

    journal_stats(server->journal, &journal);
    reply_begin(pk, msgid);
    msgpack_pack_map(pk, 18);
    pack_text(pk, "directory", server->config->journal.directory);
    pack_text(pk, "durability", server->config->journal.durability);
    pack_number(pk, "bytes", journal.bytes);
    pack_number(pk, "max_bytes", server->config->journal.max_bytes);
    pack_number(pk, "segments", journal.segments);
    pack_number(pk, "prepared_segments", journal.spares);
    pack_number(pk, "waiting", journal.waiting);
    pack_number(pk, "waiting_on_disk", journal.waiting_on_disk);
    pack_number(pk, "oldest_ms", age_ms(oldest_us(&batcher, &journal)));
    pack_number(pk, "unsynced_bytes", journal.unsynced_bytes);
    pack_number(pk, "syncs", journal.syncs);
    pack_number(pk, "records", journal.records);
    pack_number(pk, "moved", journal.moved);
    pack_number(pk, "recovered", journal.recovered);
    pack_ms(pk, "sync_p50_ms_at_start", (double)journal.probe_p50_ns / 1000);
    pack_ms(pk, "sync_p99_ms_at_start", (double)journal.probe_p99_ns / 1000);
    pack_number(pk, "damages", journal.damages);
    pack_str(pk, "damage");
    msgpack_pack_array(pk, journal.damage_count);
    for (unsigned i = 0; i < journal.damage_count; i++)
        pack_damage(pk, &journal.damage[i]);
}

void report_stats(struct server *server, struct session *s, uint32_t msgid)
{
    struct batcher_status batcher = batcher_status(server->batcher);
    struct embedding_stage_stats embedding;
    struct journal_stats journal;
    msgpack_packer *pk = session_reply(s);

    journal_stats(server->journal, &journal);
    embedding_stage_stats(server->embedding, &embedding);
    reply_begin(pk, msgid);
    msgpack_pack_map(pk, 20);
    pack_counters(pk, server, dead_letters_count(server), &batcher, &journal); /* 12 */
    pack_health(pk, &batcher, &embedding, &journal);                           /* 2 */
    pack_journal(pk, &journal);
    pack_cache(pk, &embedding);
    pack_database(pk, &batcher);
    pack_embedding(pk, server, &embedding);
    pack_str(pk, "operations");
    msgpack_pack_map(pk, server->stats.operation_count);
    for (unsigned i = 0; i < server->stats.operation_count; i++)
        pack_operation(pk, &server->stats, i);
}
