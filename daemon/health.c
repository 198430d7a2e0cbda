#include "daemon/health.h"

#include <time.h>

#include "daemon/figures.h"
#include "daemon/log.h"
#include "daemon/schema.h"
#include "daemon/server.h"

#define INTERVAL_MS 1000

static void on_change(const struct alert *alert, enum alert_severity before)
{
    switch (alert->severity) {
    case ALERT_NONE:
        log_info("alert.cleared name=%s severity=%s value=%g", alert->name,
                 alert_severity_name(before), alert->value);
        return;
    case ALERT_WARNING:
        if (before == ALERT_CRITICAL)
            log_warning("alert.eased name=%s severity=warning text=\"%s\"", alert->name,
                        alert->text);
        else
            log_warning("alert.raised name=%s severity=warning text=\"%s\" action=\"%s\"",
                        alert->name, alert->text, alert->action);
        return;
    case ALERT_CRITICAL:
        log_error("alert.raised name=%s severity=critical text=\"%s\" action=\"%s\"", alert->name,
                  alert->text, alert->action);
    }
}

static void set_number(struct alert_figure *f, double value, uint64_t warning, uint64_t critical)
{
    *f = (struct alert_figure){
        .known = true, .value = value, .warning = (double)warning, .critical = (double)critical};
}

static void set_state(struct alert_figure *f, bool is_so, const char *text)
{
    *f = (struct alert_figure){.known = true, .value = is_so, .text = text};
}

/* Too few samples say nothing. */
static void set_p99(struct alert_figure *f, const struct server *server, enum operation operation,
                    uint64_t warning_ms, uint64_t critical_ms)
{
    struct stats_figures figures;

    stats_figures(&server->stats, operation, STATS_LAST_MINUTE, &figures);
    set_number(f, (double)figures.p99 / 1000, warning_ms, critical_ms);
    f->known = figures.count >= server->config->alerts.min_samples;
}

static void set_failure_rate(struct alert_figure *f, const struct server *server)
{
    const struct config *config = server->config;
    struct stats_figures figures;

    stats_figures(&server->stats, OPERATION_END_TO_END, STATS_LAST_5_MINUTES, &figures);
    set_number(f, figures.count > 0 ? 100.0 * (double)figures.errors / (double)figures.count : 0,
               config->alerts.failure_rate_warning_percent,
               config->alerts.failure_rate_critical_percent);
    f->known = figures.count >= config->alerts.min_samples;
}

static void set_hit_rate(struct alert_figure *f, const struct server *server,
                         const struct embedding_cache_stats *cache)
{
    const struct config *config = server->config;
    const struct health *health = &server->health;
    uint64_t hits = cache->hits - health->cache[health->cache_at].hits;
    uint64_t misses = cache->misses - health->cache[health->cache_at].misses;

    set_number(f, hits + misses > 0 ? 100.0 * (double)hits / (double)(hits + misses) : 0,
               config->alerts.cache_hit_rate_warning_percent,
               config->alerts.cache_hit_rate_critical_percent);
    f->known = hits + misses >= config->alerts.min_samples;
}

static void read_numbers(const struct server *server, const struct figures *figures,
                         struct alert_figure *ret)
{
    const struct config *config = server->config;
    /* Done segments that only retain_ms keeps give way when there is need. */
    uint64_t journal_bytes = figures->journal.bytes - figures->journal.retained_bytes;

    set_number(&ret[ALERT_QUEUE_DEPTH], (double)figures->queued, config->alerts.queue_depth_warning,
               config->alerts.queue_depth_critical);
    set_number(&ret[ALERT_QUEUE_AGE], (double)figures->oldest_queued_ms,
               config->alerts.queue_age_warning_ms, config->alerts.queue_age_critical_ms);
    set_number(
        &ret[ALERT_JOURNAL_SIZE], 100.0 * (double)journal_bytes / (double)config->journal.max_bytes,
        config->alerts.journal_size_warning_percent, config->alerts.journal_size_critical_percent);
    set_number(&ret[ALERT_JOURNAL_SLOW_DISK], (double)figures->journal.probe_p99_ns / 1e6,
               config->alerts.start_sync_p99_warning_ms, config->alerts.start_sync_p99_critical_ms);
    set_number(&ret[ALERT_DISK_SPACE], (double)figures->disk_free_bytes,
               config->alerts.disk_space_warning_bytes, config->alerts.disk_space_critical_bytes);
    set_number(&ret[ALERT_DEAD_LETTERS], (double)figures->dead_letters,
               config->alerts.dead_letters_warning, config->alerts.dead_letters_critical);
    set_number(&ret[ALERT_EMBEDDING_BACKLOG], (double)figures->backfill.backlog,
               config->alerts.embedding_backlog_warning, config->alerts.embedding_backlog_critical);
}

static void read_rates(const struct server *server, const struct figures *figures,
                       struct alert_figure *ret)
{
    const struct config *config = server->config;

    set_p99(&ret[ALERT_ACK_SLOW], server, OPERATION_QUEUE, config->alerts.ack_p99_warning_ms,
            config->alerts.ack_p99_critical_ms);
    set_p99(&ret[ALERT_JOURNAL_SLOW_SYNC], server, OPERATION_JOURNAL_SYNC,
            config->alerts.sync_p99_warning_ms, config->alerts.sync_p99_critical_ms);
    set_p99(&ret[ALERT_DATABASE_SLOW], server, OPERATION_BATCH_INSERT,
            config->alerts.database_p99_warning_ms, config->alerts.database_p99_critical_ms);
    set_p99(&ret[ALERT_EMBEDDING_SLOW], server, OPERATION_EMBEDDING,
            config->alerts.embedding_p99_warning_ms, config->alerts.embedding_p99_critical_ms);
    set_failure_rate(&ret[ALERT_FAILURE_RATE], server);
    set_hit_rate(&ret[ALERT_CACHE_HIT_RATE], server, &figures->embedding.cache);
}

/* Where texts go one by one nobody sees it. */
static bool batches_differ(const struct config *config, const struct endpoints *endpoints)
{
    if (config->embedding.request_inputs == 1)
        return false;
    for (unsigned i = 0; i < endpoints->count; i++)
        if (endpoints->list[i].selftest.state == SELFTEST_WARNING)
            return true;
    return false;
}

static void read_states(const struct config *config, const struct figures *figures,
                        struct alert_figure *ret)
{
    const struct batcher_status *batcher = &figures->batcher;

    set_state(&ret[ALERT_DATABASE_DOWN], batcher->database == DATABASE_DOWN, batcher->last_error);
    set_state(&ret[ALERT_DATABASE_STOPPED], batcher->database == DATABASE_STOPPED,
              batcher->last_error);
    set_state(&ret[ALERT_DATABASE_FSYNC_OFF], batcher->found.fsync_off,
              "the server runs with fsync=off: a crash there can lose committed rows");
    set_state(&ret[ALERT_PGVECTOR_OLD], batcher->found.pgvector_old,
              "pgvector is older than " SCHEMA_PGVECTOR_MIN
              ": vectors are stored as real[], and search compares them one by one");
    set_state(&ret[ALERT_JOURNAL_FULL], figures->journal.full,
              "services get QUEUE_FULL until the database catches up");
    set_state(&ret[ALERT_JOURNAL_DAMAGED], figures->journal.damages > 0,
              "records were unreadable at the start and set aside");
    set_state(&ret[ALERT_EMBEDDER_DOWN], figures->embedding.state == EMBEDDING_FAILING,
              figures->embedding.last_error);
    set_state(&ret[ALERT_EMBEDDER_BATCHES_DIFFER],
              batches_differ(config, figures->embedding.endpoints),
              "a server gives other vectors in batches than alone: see embedding.servers");
}

void health_look(struct server *server, const struct figures *figures)
{
    struct alert_figure read[ALERT_COUNT] = {{.known = false}};
    struct alerts_settings settings = {
        .raise_after_ms = server->config->alerts.raise_after_ms,
        .clear_after_ms = server->config->alerts.clear_after_ms,
    };
    struct timespec wall;

    clock_gettime(CLOCK_REALTIME, &wall);
    read_numbers(server, figures, read);
    read_rates(server, figures, read);
    read_states(server->config, figures, read);
    alerts_update(&server->health.alerts, read, &settings, uv_hrtime() / 1000000u,
                  (uint64_t)wall.tv_sec * 1000 + (uint64_t)wall.tv_nsec / 1000000u, on_change);
}

static void on_second(uv_timer_t *timer)
{
    struct server *server = timer->data;
    struct health *health = &server->health;
    struct figures figures;

    stats_turn(&server->stats, uv_hrtime() / 1000000000u);
    figures_gather(server, &figures);
    health_look(server, &figures);
    log_held_back(false);
    health->cache[health->cache_at].hits = figures.embedding.cache.hits;
    health->cache[health->cache_at].misses = figures.embedding.cache.misses;
    health->cache_at = (health->cache_at + 1) % HEALTH_SECONDS;
}

int health_start(struct server *server)
{
    struct health *health = &server->health;
    int rc = uv_timer_init(server->loop, &health->timer);

    health->timer.data = server;
    alerts_init(&health->alerts);
    return rc == 0 ? uv_timer_start(&health->timer, on_second, INTERVAL_MS, INTERVAL_MS) : rc;
}

void health_close(struct server *server)
{
    uv_close((uv_handle_t *)&server->health.timer, NULL);
}
