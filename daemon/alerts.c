#include "daemon/alerts.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/schema.h"

/* How much better than its threshold a figure must be to count as well again. */
#define MARGIN 0.1

enum unit { UNIT_NUMBER, UNIT_MS, UNIT_PERCENT, UNIT_BYTES, UNIT_STATE };

struct rule {
    const char *name;
    enum unit unit;
    bool less_is_worse;
    enum alert_severity state; /* UNIT_STATE: how severe */
    const char *figure;
    const char *title; /* what the figure is; not for states */
    const char *action;
};

static const struct rule rules[ALERT_COUNT] = {
    [ALERT_QUEUE_DEPTH] =
        {"queue_depth", UNIT_NUMBER, false, ALERT_NONE, "queued", "conversations that wait",
         "more comes in than the database takes: look at operations.batch_insert and database"},
    [ALERT_QUEUE_AGE] = {"queue_age", UNIT_MS, false, ALERT_NONE, "oldest_queued_ms",
                         "age of the oldest conversation that waits",
                         "see whether the database takes rows: operations.batch_insert, database"},
    [ALERT_ACK_SLOW] =
        {"ack_slow", UNIT_MS, false, ALERT_NONE, "operations.queue.last_minute.p99_ms",
         "p99 of acknowledgements in the last minute",
         "compare operations.journal_sync: a slow disk, or no processor time for the daemon"},
    [ALERT_JOURNAL_SLOW_SYNC] =
        {"journal_slow_sync", UNIT_MS, false, ALERT_NONE,
         "operations.journal_sync.last_minute.p99_ms",
         "p99 of the journal's syncs in the last minute",
         "give journal.directory a disk of its own, or one that syncs faster"},
    [ALERT_JOURNAL_SLOW_DISK] =
        {"journal_slow_disk", UNIT_MS, false, ALERT_NONE, "journal.sync_p99_ms_at_start",
         "p99 of the syncs that were timed at the start",
         "it bounds every acknowledgement: give journal.directory a faster disk; if the disk was "
         "only busy then, restart"},
    [ALERT_JOURNAL_SIZE] =
        {"journal_size", UNIT_PERCENT, false, ALERT_NONE, "journal.bytes",
         "part of journal.max_bytes that is in use",
         "at 100 % services get QUEUE_FULL: let the database catch up, or raise journal.max_bytes"},
    [ALERT_DISK_SPACE] = {"disk_space", UNIT_BYTES, true, ALERT_NONE, "journal.disk_free_bytes",
                          "space left on the journal's disk",
                          "free some: without it services get QUEUE_FULL"},
    [ALERT_DATABASE_SLOW] =
        {"database_slow", UNIT_MS, false, ALERT_NONE, "operations.batch_insert.last_minute.p99_ms",
         "p99 of writing a batch in the last minute",
         "look at the server: disk, locks, other load; or make batch.batch_size smaller"},
    [ALERT_FAILURE_RATE] = {"failure_rate", UNIT_PERCENT, false, ALERT_NONE,
                            "operations.end_to_end.last_5_minutes.errors",
                            "conversations that the database refused in the last five minutes",
                            "convstorectl dead-letters list says why"},
    [ALERT_DEAD_LETTERS] = {"dead_letters", UNIT_NUMBER, false, ALERT_NONE, "dead_letters",
                            "conversations that the database refused for good",
                            "convstorectl dead-letters list; then retry or drop them"},
    [ALERT_EMBEDDING_SLOW] =
        {"embedding_slow", UNIT_MS, false, ALERT_NONE, "operations.embedding.last_minute.p99_ms",
         "p99 of requests to the embedder in the last minute",
         "give it more processor or a smaller model, or name more servers in embedding.url"},
    [ALERT_EMBEDDING_BACKLOG] = {"embedding_backlog", UNIT_NUMBER, false, ALERT_NONE,
                                 "embedding_backlog", "rows whose vector is due",
                                 "the embedder does not keep up: see embedding.servers"},
    [ALERT_CACHE_HIT_RATE] = {"cache_hit_rate", UNIT_PERCENT, true, ALERT_NONE, "cache.hit_rate",
                              "hits of the embedding cache in the last minute",
                              "raise cache.embedding_cache_size"},
    [ALERT_DATABASE_DOWN] =
        {"database_down", UNIT_STATE, false, ALERT_CRITICAL, "database.state", NULL,
         "start it; conversations are accepted and wait, the daemon connects by "
         "itself"},
    [ALERT_DATABASE_STOPPED] = {"database_stopped", UNIT_STATE, false, ALERT_CRITICAL,
                                "database.state", NULL,
                                "mend what the text says; it is tried again every few seconds"},
    [ALERT_DATABASE_FSYNC_OFF] = {"database_fsync_off", UNIT_STATE, false, ALERT_WARNING,
                                  "database", NULL, "set fsync = on in postgresql.conf and reload"},
    [ALERT_PGVECTOR_OLD] = {"pgvector_old", UNIT_STATE, false, ALERT_WARNING, "database.pgvector",
                            NULL,
                            "install pgvector " SCHEMA_PGVECTOR_MIN
                            " or newer, ALTER EXTENSION vector UPDATE; then "
                            "convstorectl migrate-vectors"},
    [ALERT_JOURNAL_FULL] = {"journal_full", UNIT_STATE, false, ALERT_CRITICAL, "journal.bytes",
                            NULL,
                            "let the database catch up, free the disk, or raise journal.max_bytes"},
    [ALERT_JOURNAL_DAMAGED] = {"journal_damaged", UNIT_STATE, false, ALERT_WARNING,
                               "journal.damages", NULL,
                               "convstorectl journal names the files; look at the disk"},
    [ALERT_EMBEDDER_DOWN] = {"embedder_down", UNIT_STATE, false, ALERT_WARNING, "embedding.state",
                             NULL, "start it; texts are stored and get their vectors later"},
    [ALERT_EMBEDDER_BATCHES_DIFFER] =
        {"embedder_batches_differ", UNIT_STATE, false, ALERT_WARNING, "embedding.servers", NULL,
         "update that server, or set embedding.request_inputs = 1; then reload"},
};

const char *alert_severity_name(enum alert_severity severity)
{
    switch (severity) {
    case ALERT_NONE:
        return "none";
    case ALERT_WARNING:
        return "warning";
    case ALERT_CRITICAL:
        return "critical";
    }
    abort();
}

const char *alert_health_name(enum alert_severity worst)
{
    return worst == ALERT_NONE ? "healthy" : alert_severity_name(worst);
}

void alerts_init(struct alerts *a)
{
    memset(a, 0, sizeof *a);
    for (unsigned i = 0; i < ALERT_COUNT; i++) {
        a->list[i].name = rules[i].name;
        a->list[i].figure = rules[i].figure;
        a->list[i].action = rules[i].action;
    }
}

static bool is_beyond(const struct rule *rule, const struct alert_figure *f, double threshold)
{
    return f->known && (rule->less_is_worse ? f->value <= threshold : f->value >= threshold);
}

/* threshold 0: the level does not exist. */
static void update_level(struct alert_level *level, const struct rule *rule,
                         const struct alert_figure *f, double threshold,
                         const struct alerts_settings *settings, uint64_t now_ms)
{
    double margin = level->raised ? threshold * MARGIN : 0;
    bool beyond = is_beyond(rule, f, rule->less_is_worse ? threshold + margin : threshold - margin);
    uint64_t after_ms = level->raised ? settings->clear_after_ms : settings->raise_after_ms;

    if (threshold <= 0) {
        *level = (struct alert_level){.raised = false};
        return;
    }
    if (beyond == level->raised) {
        level->changing = false;
        return;
    }
    if (!level->changing)
        level->changing_ms = now_ms;
    level->changing = true;
    if (now_ms - level->changing_ms >= after_ms)
        *level = (struct alert_level){.raised = beyond};
}

static void write_value(enum unit unit, double value, char ret[32])
{
    static const char *const names[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    size_t name = 0;

    switch (unit) {
    case UNIT_NUMBER:
    case UNIT_STATE:
        snprintf(ret, 32, "%.0f", value);
        return;
    case UNIT_MS:
        snprintf(ret, 32, value < 100 ? "%.1f ms" : "%.0f ms", value);
        return;
    case UNIT_PERCENT:
        snprintf(ret, 32, "%.1f %%", value);
        return;
    case UNIT_BYTES:
        for (; value >= 1024 && name + 1 < sizeof names / sizeof names[0]; name++)
            value /= 1024;
        snprintf(ret, 32, name == 0 ? "%.0f %s" : "%.1f %s", value, names[name]);
        return;
    }
    abort();
}

static void write_text(struct alert *alert, const struct rule *rule, const char *state)
{
    char value[32], threshold[32];

    if (rule->unit == UNIT_STATE) {
        snprintf(alert->text, sizeof alert->text, "%s", state);
        return;
    }
    write_value(rule->unit, alert->value, value);
    write_value(rule->unit, alert->threshold, threshold);
    snprintf(alert->text, sizeof alert->text, "%s: %s, threshold %s", rule->title, value,
             threshold);
}

static enum alert_severity update_severity(struct alerts *a, unsigned i,
                                           const struct alert_figure *f,
                                           const struct alerts_settings *settings, uint64_t now_ms)
{
    if (rules[i].unit == UNIT_STATE)
        return f->known && f->value > 0 ? rules[i].state : ALERT_NONE;
    update_level(&a->warning[i], &rules[i], f, f->warning, settings, now_ms);
    update_level(&a->critical[i], &rules[i], f, f->critical, settings, now_ms);
    if (a->critical[i].raised)
        return ALERT_CRITICAL;
    return a->warning[i].raised ? ALERT_WARNING : ALERT_NONE;
}

void alerts_update(struct alerts *a, const struct alert_figure figures[ALERT_COUNT],
                   const struct alerts_settings *settings, uint64_t now_ms, uint64_t wall_ms,
                   void (*on_change)(const struct alert *alert, enum alert_severity before))
{
    for (unsigned i = 0; i < ALERT_COUNT; i++) {
        const struct alert_figure *f = &figures[i];
        struct alert *alert = &a->list[i];
        enum alert_severity before = alert->severity;

        alert->severity = update_severity(a, i, f, settings, now_ms);
        if (before == ALERT_NONE)
            alert->since_ms = wall_ms;
        if (f->known) /* else the value seen last stays: it is what was raised */
            alert->value = f->value;
        if (alert->severity != ALERT_NONE) {
            alert->threshold = rules[i].unit == UNIT_STATE         ? 1
                               : alert->severity == ALERT_CRITICAL ? f->critical
                                                                   : f->warning;
            write_text(alert, &rules[i], f->text);
        }
        if (alert->severity != before && on_change != NULL)
            on_change(alert, before);
    }
}

const struct alert *alerts_get(const struct alerts *a, enum alert_id id)
{
    assert(id < ALERT_COUNT);
    return &a->list[id];
}

size_t alerts_raised(const struct alerts *a)
{
    size_t raised = 0;

    for (unsigned i = 0; i < ALERT_COUNT; i++)
        raised += a->list[i].severity != ALERT_NONE;
    return raised;
}

enum alert_severity alerts_worst(const struct alerts *a)
{
    enum alert_severity worst = ALERT_NONE;

    for (unsigned i = 0; i < ALERT_COUNT; i++)
        if (a->list[i].severity > worst)
            worst = a->list[i].severity;
    return worst;
}
