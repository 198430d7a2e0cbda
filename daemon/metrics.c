/* Every figure under a name of Prometheus's conventions: convstore_ before it, base units, _total
 * behind what only grows. Names and labels are an interface: config/grafana-dashboard.json and
 * config/prometheus-alerts.yml ask for them, and so do others' dashboards. */
#include "daemon/metrics.h"

#include <errno.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <uv.h>

#include "daemon/exposition.h"
#include "daemon/figures.h"
#include "daemon/server.h"

#define MS 1e3
#define US 1e6
#define NS 1e9

static void write_build(FILE *out)
{
    exposition_family(out, "convstore_build_info", "gauge", "1, with the daemon's version.");
    exposition_sample(out, "convstore_build_info", 1, "version", CONVSTORE_VERSION, NULL);
}

static double cpu_seconds(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / US;
}

/* The names that every Prometheus client library gives them. */
static void write_process(FILE *out, const struct server *server)
{
    struct timespec now;
    size_t resident = 0;

    clock_gettime(CLOCK_REALTIME, &now);
    uv_resident_set_memory(&resident);
    exposition_gauge(out, "process_start_time_seconds", "When the daemon started, since 1970.",
                     (double)now.tv_sec + (double)now.tv_nsec / NS -
                         (double)(uv_hrtime() - server->started_ns) / NS);
    exposition_counter(out, "process_cpu_seconds_total", "CPU time used.", cpu_seconds());
    exposition_gauge(out, "process_resident_memory_bytes", "Memory in use.", (double)resident);
}

static void write_conversations(FILE *out, const struct stats *stats)
{
    exposition_counter(out, "convstore_conversations_accepted_total",
                       "Conversations made durable and acknowledged.", (double)stats->accepted);
    exposition_counter(out, "convstore_conversations_completed_total",
                       "Conversations that became rows, duplicates and replays included.",
                       (double)stats->written);
    exposition_counter(out, "convstore_conversations_duplicate_total",
                       "Conversations that a client sent again.", (double)stats->duplicates);
    exposition_counter(out, "convstore_conversations_replayed_total",
                       "Conversations whose row was there already because the daemon tried twice.",
                       (double)stats->replayed);
    exposition_counter(out, "convstore_conversations_failed_total",
                       "Conversations that the database refused for good.", (double)stats->failed);
    exposition_counter(out, "convstore_conversations_rejected_total",
                       "Conversations refused at the door.", (double)stats->rejected);
    exposition_counter(out, "convstore_notifications_refused_total",
                       "Notifications refused, whose sender cannot be told.",
                       (double)stats->notifications_refused);
}

static void write_queue(FILE *out, struct server *server, const struct figures *f)
{
    exposition_gauge(out, "convstore_connections", "Open connections, both sockets.",
                     (double)sessions_count(server->sessions));
    exposition_gauge(out, "convstore_queue_conversations",
                     "Conversations that wait for a batch, in memory or in the journal only.",
                     (double)f->queued);
    exposition_gauge(out, "convstore_queue_oldest_seconds",
                     "Age of the oldest conversation that is no row yet.",
                     (double)f->oldest_queued_ms / MS);
    exposition_gauge(out, "convstore_queue_memory_bytes",
                     "Memory of the conversations on their way to the database.",
                     (double)f->batcher.bytes);
    exposition_gauge(out, "convstore_queue_memory_max_bytes", "queue.max_queue_bytes.",
                     (double)server->config->queue.max_queue_bytes);
    exposition_gauge(out, "convstore_processing_conversations",
                     "Conversations in a batch under way.", (double)f->batcher.processing);
    exposition_gauge(out, "convstore_batches", "Batches under way.", f->batcher.batches);
    exposition_gauge(out, "convstore_dead_letters",
                     "Rows of convstore.dead_letters, whoever wrote them.",
                     (double)dead_letters_count(server));
}

static void write_journal_work(FILE *out, const struct journal_stats *j)
{
    exposition_counter(out, "convstore_journal_syncs_total", "Groups written and synced.",
                       (double)j->syncs);
    exposition_counter(out, "convstore_journal_records_total", "Records in those groups.",
                       (double)j->records);
    exposition_counter(out, "convstore_journal_moved_records_total",
                       "Records written again so that their segment could go.", (double)j->moved);
    exposition_gauge(out, "convstore_journal_recovered_records",
                     "Conversations that the last start found waiting.", (double)j->recovered);
    exposition_gauge(out, "convstore_journal_damages",
                     "Places that the last start found damaged and set aside.", (double)j->damages);
    exposition_gauge(out, "convstore_journal_start_sync_p99_seconds",
                     "99th percentile of the disk's syncs, as measured at the start.",
                     (double)j->probe_p99_ns / NS);
}

static void write_journal(FILE *out, const struct config *config, const struct figures *f)
{
    const struct journal_stats *j = &f->journal;

    exposition_gauge(out, "convstore_journal_bytes", "Segments in use.", (double)j->bytes);
    exposition_gauge(out, "convstore_journal_max_bytes", "journal.max_bytes.",
                     (double)config->journal.max_bytes);
    exposition_gauge(out, "convstore_journal_full",
                     "1 while services get QUEUE_FULL, of journal.max_bytes or of the disk.",
                     j->full);
    exposition_gauge(out, "convstore_journal_segments", "Segment files in use.",
                     (double)j->segments);
    exposition_gauge(out, "convstore_journal_waiting_records",
                     "Conversations that are durable and no rows yet.", (double)j->waiting);
    exposition_gauge(out, "convstore_journal_waiting_on_disk_records",
                     "Of those, conversations that are not in memory.", (double)j->waiting_on_disk);
    exposition_gauge(out, "convstore_journal_unsynced_bytes", "Bytes that wait for their sync.",
                     (double)j->unsynced_bytes);
    if (f->disk_free_bytes != UINT64_MAX)
        exposition_gauge(out, "convstore_journal_disk_free_bytes",
                         "Room left on the journal's disk.", (double)f->disk_free_bytes);
    write_journal_work(out, j);
}

static void write_cache(FILE *out, const struct config *config,
                        const struct embedding_cache_stats *cache)
{
    exposition_gauge(out, "convstore_cache_entries", "Vectors in the embedding cache.",
                     (double)cache->entries);
    exposition_gauge(out, "convstore_cache_max_entries", "cache.embedding_cache_size.",
                     (double)config->cache.embedding_cache_size);
    exposition_gauge(out, "convstore_cache_bytes", "Memory of the embedding cache.",
                     (double)cache->bytes);
    exposition_counter(out, "convstore_cache_hits_total", "Texts whose vector was there.",
                       (double)cache->hits);
    exposition_counter(out, "convstore_cache_misses_total", "Texts whose vector was not.",
                       (double)cache->misses);
    exposition_counter(out, "convstore_cache_evictions_total", "Vectors put out to make room.",
                       (double)cache->evictions);
}

static void write_database(FILE *out, const struct batcher_status *batcher)
{
    char version[32];

    exposition_gauge(out, "convstore_database_up", "1 where the last try to write succeeded.",
                     batcher->database == DATABASE_UP);
    exposition_family(out, "convstore_database_state", "gauge",
                      "1 for the state in force: stopped is reachable, but nothing can be "
                      "written.");
    for (int i = DATABASE_UNTRIED; i <= DATABASE_STOPPED; i++)
        exposition_sample(out, "convstore_database_state", (int)batcher->database == i, "state",
                          database_state_name((enum database_state)i), NULL);
    snprintf(version, sizeof version, "%d", batcher->found.server_version);
    exposition_family(out, "convstore_database_info", "gauge",
                      "1, with what the last connection found: versions of the server (150020 is "
                      "15.20) and of pgvector.");
    exposition_sample(out, "convstore_database_info", 1, "server_version", version, "pgvector",
                      batcher->found.pgvector_version, NULL);
    exposition_gauge(out, "convstore_database_timeline",
                     "Timeline of the server's WAL: a higher one is a promoted standby.",
                     batcher->found.timeline);
    exposition_gauge(out, "convstore_database_pace_rows_per_second",
                     "Rows a second that writers keep to while acknowledgements come first; 0: "
                     "no limit.",
                     (double)batcher->rows_per_second);
    exposition_counter(out, "convstore_rows_without_vector_total",
                       "Rows written without their vector, which goes into the backlog.",
                       (double)batcher->without_vector);
}

static void write_backlog(FILE *out, const struct backfill_status *backfill)
{
    exposition_gauge(out, "convstore_embedding_backlog_conversations",
                     "Rows whose vector is still due.", (double)backfill->backlog);
    exposition_counter(out, "convstore_embedding_backlog_filled_total",
                       "Rows of the backlog that got their vectors.", (double)backfill->filled);
    exposition_counter(out, "convstore_embedding_backlog_put_off_total",
                       "Tries of a row of the backlog that gave no vector.",
                       (double)backfill->put_off);
}

static void write_embedding(FILE *out, const struct embedding_stage_stats *e)
{
    exposition_family(out, "convstore_embedding_state", "gauge", "1 for the state in force.");
    for (int i = EMBEDDING_OFF; i <= EMBEDDING_FAILING; i++)
        exposition_sample(out, "convstore_embedding_state", (int)e->state == i, "state",
                          embedding_state_name((enum embedding_state)i), NULL);
    exposition_counter(out, "convstore_embedding_requests_total", "Requests that came back.",
                       (double)e->requests);
    exposition_counter(out, "convstore_embedding_request_failures_total",
                       "Of those, requests without an answer.", (double)e->failures);
    exposition_counter(out, "convstore_embedding_inputs_total", "Texts in those requests.",
                       (double)e->inputs);
    exposition_counter(out, "convstore_embedding_inputs_refused_total",
                       "Texts that the embedder refused.", (double)e->refused);
    exposition_counter(out, "convstore_embedding_inputs_late_total",
                       "Vectors that came when no batch waited any more.", (double)e->late);
    exposition_counter(out, "convstore_embedding_inputs_shed_total",
                       "Texts not asked for because too many were asked for already.",
                       (double)e->shed);
}

/* A server's place in embedding.url and what may be shown of it. Two may differ in nothing else. */
struct server_labels {
    char number[16];
    char url[128];
};

static struct server_labels labels_of(const struct endpoints *endpoints, unsigned i)
{
    struct server_labels labels;

    snprintf(labels.number, sizeof labels.number, "%u", i + 1);
    endpoint_shown_url(endpoints->list[i].url, labels.url);
    return labels;
}

static void write_server_counter(FILE *out, const struct endpoints *endpoints, const char *name,
                                 const char *help, bool failures)
{
    exposition_family(out, name, "counter", help);
    for (unsigned i = 0; i < endpoints->count; i++) {
        const struct endpoint *endpoint = &endpoints->list[i];
        struct server_labels labels = labels_of(endpoints, i);

        exposition_sample(out, name, (double)(failures ? endpoint->failures : endpoint->requests),
                          "server", labels.number, "url", labels.url, NULL);
    }
}

static void write_servers(FILE *out, const struct endpoints *endpoints)
{
    exposition_family(out, "convstore_embedding_server_breaker", "gauge",
                      "1 for the state of the server's breaker: closed is in use, open is left "
                      "alone after failures.");
    for (unsigned i = 0; i < endpoints->count; i++) {
        struct server_labels labels = labels_of(endpoints, i);

        for (int state = BREAKER_CLOSED; state <= BREAKER_HALF_OPEN; state++)
            exposition_sample(out, "convstore_embedding_server_breaker",
                              (int)endpoints->list[i].breaker.state == state, "server",
                              labels.number, "url", labels.url, "state",
                              breaker_state_name((enum breaker_state)state), NULL);
    }
    write_server_counter(out, endpoints, "convstore_embedding_server_requests_total",
                         "Requests that came back from the server.", false);
    write_server_counter(out, endpoints, "convstore_embedding_server_failures_total",
                         "Of those, requests without an answer.", true);
}

static void write_operations(FILE *out, const struct stats *stats)
{
    exposition_family(
        out, "convstore_operation_duration_seconds", "histogram",
        "Durations of the daemon's operations (queue is message readable to answer sent) "
        "and of those that services record.");
    for (unsigned i = 0; i < stats->operation_count; i++)
        exposition_histogram(out, "convstore_operation_duration_seconds", "operation",
                             stats_name(stats, i), stats_histogram(stats, i));
    exposition_family(out, "convstore_operation_errors_total", "counter",
                      "Of those operations, the ones that failed.");
    for (unsigned i = 0; i < stats->operation_count; i++)
        exposition_sample(out, "convstore_operation_errors_total", (double)stats_errors(stats, i),
                          "operation", stats_name(stats, i), NULL);
}

static void write_alerts(FILE *out, const struct alerts *alerts)
{
    exposition_family(out, "convstore_health", "gauge", "1 for the state in force.");
    for (int i = ALERT_NONE; i <= ALERT_CRITICAL; i++)
        exposition_sample(out, "convstore_health", (int)alerts_worst(alerts) == i, "state",
                          alert_health_name((enum alert_severity)i), NULL);
    exposition_family(out, "convstore_alert", "gauge",
                      "1 while the alert is raised at that severity.");
    for (int id = 0; id < ALERT_COUNT; id++) {
        const struct alert *alert = alerts_get(alerts, (enum alert_id)id);

        for (int i = ALERT_WARNING; i <= ALERT_CRITICAL; i++)
            exposition_sample(out, "convstore_alert", (int)alert->severity == i, "name",
                              alert->name, "severity", alert_severity_name((enum alert_severity)i),
                              NULL);
    }
}

static void write_all(FILE *out, struct server *server)
{
    struct figures f;

    figures_gather(server, &f);
    health_look(server, &f);
    write_build(out);
    write_process(out, server);
    write_conversations(out, &server->stats);
    write_queue(out, server, &f);
    write_journal(out, server->config, &f);
    write_cache(out, server->config, &f.embedding.cache);
    write_database(out, &f.batcher);
    write_embedding(out, &f.embedding);
    write_servers(out, f.embedding.endpoints);
    write_backlog(out, &f.backfill);
    write_operations(out, &server->stats);
    write_alerts(out, &server->health.alerts);
}

int metrics_text(struct server *server, char **ret, size_t *ret_len)
{
    char *text = NULL;
    FILE *out = open_memstream(&text, ret_len);
    bool failed;

    if (out == NULL)
        return -ENOMEM;
    __fsetlocking(out, FSETLOCKING_BYCALLER); /* nobody else has it */
    write_all(out, server);
    failed = ferror(out) != 0;
    if (fclose(out) != 0 || failed) {
        free(text);
        return -ENOMEM;
    }
    *ret = text;
    return 0;
}
