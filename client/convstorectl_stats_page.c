/* The page of `stats`: a title, the alerts, one block for each part of the daemon in two columns of
 * name and number, and a table of the operations with their windows. 80 columns wide, ASCII. */
#include "client/convstorectl_stats_page.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define FIELD_COLUMN 13 /* where a block's fields begin */
#define FIELD_WIDTH 30
#define FIELD_GAP 5
#define NAME_COLUMNS 13       /* of an operation; the daemon's own have up to 12 */
#define OPERATION_NAME_MAX 65 /* and those of services up to 64 */

/* ---- colours ---- */

enum page_style stats_page_health_style(const char *health)
{
    if (strcmp(health, "healthy") == 0)
        return STYLE_GOOD;
    return strcmp(health, "warning") == 0 ? STYLE_WARN : STYLE_BAD;
}

enum page_style stats_page_state_style(const char *state)
{
    static const char *const good[] = {"up", "ok", "closed", "passed"};
    static const char *const neutral[] = {"", "off", "untried", "due"};

    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        if (strcmp(state, good[i]) == 0)
            return STYLE_GOOD;
    }
    for (size_t i = 0; i < sizeof neutral / sizeof neutral[0]; i++) {
        if (strcmp(state, neutral[i]) == 0)
            return STYLE_PLAIN;
    }
    return STYLE_BAD;
}

enum page_style stats_page_bad_above_zero(int64_t count)
{
    return count > 0 ? STYLE_BAD : STYLE_PLAIN;
}

/* ---- title and alerts ---- */

void stats_page_title(struct page *page, const struct figures *figures)
{
    char age[UNITS_SIZE], connections[UNITS_SIZE];

    page_put(page, STYLE_HEADING, "convstored %s", figures->version);
    page_put(page, STYLE_PLAIN, "  ");
    page_put(page, stats_page_health_style(figures->health), "%s",
             figures->health[0] != '\0' ? figures->health : "health unknown");
    page_put(page, STYLE_PLAIN, "  up %s  %s connection%s", units_age(age, figures->uptime_s),
             units_count(connections, figures->connections), figures->connections == 1 ? "" : "s");
}

void stats_page_alerts(struct page *page, const struct figures *figures, int64_t now_ms)
{
    char age[UNITS_SIZE];

    for (size_t i = 0; i < figures->alert_count; i++) {
        const struct figures_alert *alert = &figures->alerts[i];

        page_put(page, stats_page_health_style(alert->severity), "%s", alert->severity);
        page_to(page, 10);
        page_put(page, STYLE_HEADING, "%s", alert->name);
        if (alert->since_ms >= 0 && now_ms >= alert->since_ms)
            page_put(page, STYLE_PLAIN, " for %s",
                     units_age(age, (now_ms - alert->since_ms) / 1000));
        page_put(page, STYLE_PLAIN, ": %s", alert->text);
        page_end_line(page);
        if (alert->action[0] == '\0')
            continue;
        page_to(page, 10);
        page_put(page, STYLE_PLAIN, "do: %s", alert->action);
        page_end_line(page);
    }
}

/* ---- blocks ---- */

struct block {
    struct page *page;
    const char *title;
    int fields;
};

static void put_field(struct block *block, const char *name, enum page_style style,
                      const char *value)
{
    struct page *page = block->page;
    int column = FIELD_COLUMN;

    if (block->fields % 2 == 1) {
        column += FIELD_WIDTH + FIELD_GAP;
    } else {
        if (block->fields > 0)
            page_end_line(page);
        else
            page_put(page, STYLE_HEADING, "%s", block->title);
    }
    page_to(page, column);
    page_put(page, STYLE_FAINT, "%s", name);
    page_right(page, column + FIELD_WIDTH, style, value[0] != '\0' ? value : "-");
    block->fields++;
}

static void put_count(struct block *block, const char *name, enum page_style style, int64_t count)
{
    char buffer[UNITS_SIZE];

    put_field(block, name, style, units_count(buffer, count));
}

static void put_rate(struct block *block, const char *name, double per_s)
{
    char buffer[UNITS_SIZE];

    put_field(block, name, STYLE_PLAIN, units_rate(buffer, per_s));
}

/* What went wrong last stands under its block until all is well again. */
static void end_block(struct block *block, const char *state, const char *last_error)
{
    page_end_line(block->page);
    if (last_error[0] == '\0' || stats_page_state_style(state) == STYLE_GOOD)
        return;
    page_to(block->page, FIELD_COLUMN);
    page_put(block->page, STYLE_FAINT, "last error");
    page_put(block->page, STYLE_PLAIN, "  %s", last_error);
    page_end_line(block->page);
}

static void put_conversations(struct page *page, const struct figures *f,
                              const struct figures_change *change)
{
    struct block queue = {page, "queue", 0}, stored = {page, "stored", 0};
    enum figures_window window = figures_recent(f);
    struct figures_latency ack = figures_latency(f, "queue", window);
    struct figures_latency row = figures_latency(f, "end_to_end", window);
    char buffer[UNITS_SIZE];

    put_count(&queue, "queued", STYLE_PLAIN, f->queued);
    put_field(&queue, "oldest", STYLE_PLAIN, units_ms(buffer, (double)f->oldest_queued_ms));
    put_count(&queue, "in batches", STYLE_PLAIN, f->processing);
    put_rate(&queue, "acknowledged",
             change != NULL ? change->acked_per_s : figures_rate(f, &ack, window));
    end_block(&queue, "", "");
    put_count(&stored, "completed", STYLE_PLAIN, f->completed);
    put_rate(&stored, "stored",
             change != NULL ? change->stored_per_s : figures_rate(f, &row, window));
    put_count(&stored, "failed", stats_page_bad_above_zero(f->failed), f->failed);
    put_count(&stored, "dead letters", stats_page_bad_above_zero(f->dead_letters), f->dead_letters);
    put_count(&stored, "duplicates", STYLE_PLAIN, f->duplicates);
    put_count(&stored, "rejected", STYLE_PLAIN, f->rejected);
    end_block(&stored, "", "");
}

static void put_journal(struct page *page, const struct figures *f)
{
    struct block block = {page, "journal", 0};
    char buffer[UNITS_SIZE];

    put_field(&block, "size", STYLE_PLAIN, units_bytes(buffer, f->journal.bytes));
    put_field(&block, "disk free", STYLE_PLAIN, units_bytes(buffer, f->journal.disk_free_bytes));
    put_count(&block, "segments", STYLE_PLAIN, f->journal.segments);
    put_count(&block, "syncs", STYLE_PLAIN, f->journal.syncs);
    put_field(&block, "records a sync", STYLE_PLAIN,
              units_mean(buffer, f->journal.records_per_sync));
    put_count(&block, "waiting on disk", STYLE_PLAIN, f->journal.waiting_on_disk);
    put_count(&block, "damages", stats_page_bad_above_zero(f->journal.damages), f->journal.damages);
    put_count(&block, "recovered", STYLE_PLAIN, f->journal.recovered);
    end_block(&block, "", "");
}

static void put_cache(struct page *page, const struct figures *f)
{
    struct block block = {page, "cache", 0};
    char buffer[UNITS_SIZE];

    put_count(&block, "entries", STYLE_PLAIN, f->cache.entries);
    put_field(&block, "hit rate", STYLE_PLAIN, units_share(buffer, f->cache.hit_rate));
    put_count(&block, "hits", STYLE_PLAIN, f->cache.hits);
    put_count(&block, "misses", STYLE_PLAIN, f->cache.misses);
    end_block(&block, "", "");
}

const char *stats_page_server_version(char buffer[UNITS_SIZE], int64_t version)
{
    if (version <= 0)
        return strcpy(buffer, "-");
    snprintf(buffer, UNITS_SIZE, "%d.%d", (int)(version / 10000), (int)(version % 10000));
    return buffer;
}

static void put_database(struct page *page, const struct figures *f)
{
    struct block block = {page, "database", 0};
    char buffer[UNITS_SIZE];

    put_field(&block, "state", stats_page_state_style(f->database.state), f->database.state);
    put_field(&block, "PostgreSQL", STYLE_PLAIN,
              stats_page_server_version(buffer, f->database.server_version));
    put_field(&block, "pgvector", STYLE_PLAIN, f->database.pgvector);
    put_count(&block, "timeline", STYLE_PLAIN, f->database.timeline);
    if (f->database.pace > 0)
        put_rate(&block, "pace", (double)f->database.pace);
    end_block(&block, f->database.state, f->database.last_error);
}

size_t stats_page_server_count(const struct figures *figures)
{
    bool within = strcmp(figures->embedding.provider, "builtin") == 0 ||
                  strcmp(figures->embedding.provider, "none") == 0;

    return within ? 0 : figures->embedding.server_count;
}

static void put_servers(struct page *page, const struct figures *f)
{
    char count[UNITS_SIZE];

    for (size_t i = 0; i < stats_page_server_count(f); i++) {
        const struct figures_server *server = &f->embedding.servers[i];

        page_to(page, FIELD_COLUMN);
        page_put(page, STYLE_PLAIN, "%s  ", server->url);
        page_put(page, stats_page_state_style(server->state), "%s", server->state);
        page_put(page, STYLE_PLAIN, ", %s requests", units_count(count, server->requests));
        page_put(page, stats_page_bad_above_zero(server->failures), ", %s failures",
                 units_count(count, server->failures));
        page_end_line(page);
        if (strcmp(server->self_test, "warning") == 0) {
            page_to(page, FIELD_COLUMN + 2);
            page_put(page, STYLE_WARN, "self-test: %s", server->self_test_text);
            page_end_line(page);
        }
        if (strcmp(server->state, "closed") != 0 && server->last_error[0] != '\0') {
            page_to(page, FIELD_COLUMN + 2);
            page_put(page, STYLE_PLAIN, "last error: %s", server->last_error);
            page_end_line(page);
        }
    }
}

static void put_embedding(struct page *page, const struct figures *f)
{
    struct block block = {page, "embedding", 0};

    put_field(&block, "state", stats_page_state_style(f->embedding.state), f->embedding.state);
    put_field(&block, "provider", STYLE_PLAIN, f->embedding.provider);
    put_count(&block, "requests", STYLE_PLAIN, f->embedding.requests);
    put_count(&block, "texts", STYLE_PLAIN, f->embedding.inputs);
    put_count(&block, "backlog", STYLE_PLAIN, f->embedding.backlog);
    put_count(&block, "filled in later", STYLE_PLAIN, f->embedding.filled_in_later);
    end_block(&block, f->embedding.state, f->embedding.last_error);
    put_servers(page, f);
}

/* ---- the table of operations ---- */

int stats_page_name_column(const struct figures *figures, int most)
{
    int column = NAME_COLUMNS;

    for (size_t i = 0; i < figures->operation_count; i++) {
        int width = page_width(figures->operations[i].name) + 1;

        column = width > column ? width : column;
    }
    return column < most ? column : most;
}

void stats_page_table_heading(struct page *page, int column, const char *marked)
{
    static const struct {
        const char *name;
        int width;
    } columns[] = {{"over", 5}, {"rate", 10}, {"p50", 8},    {"p95", 8},
                   {"p99", 8},  {"max", 8},   {"errors", 8}, {"count", 12}};

    for (size_t i = 0; i < sizeof columns / sizeof columns[0]; i++) {
        column += columns[i].width;
        page_right(page, column, strcmp(columns[i].name, marked) == 0 ? STYLE_HEADING : STYLE_FAINT,
                   columns[i].name);
    }
    page_end_line(page);
}

void stats_page_table_row(struct page *page, int column, const struct figures *figures,
                          const struct figures_latency *latency, enum figures_window window)
{
    static const char *const windows[WINDOW_COUNT] = {"1 min", "5 min", "all"};
    const double measures[] = {latency->p50_ms, latency->p95_ms, latency->p99_ms, latency->max_ms};
    char cell[UNITS_SIZE];

    page_right(page, column += 5, STYLE_FAINT, windows[window]);
    page_right(page, column += 10, STYLE_PLAIN,
               units_rate(cell, figures_rate(figures, latency, window)));
    for (size_t i = 0; i < sizeof measures / sizeof measures[0]; i++)
        page_right(page, column += 8, STYLE_PLAIN,
                   units_ms(cell, latency->count > 0 ? measures[i] : NAN));
    page_right(page, column += 8, stats_page_bad_above_zero(latency->errors),
               units_count(cell, latency->errors));
    page_right(page, column + 12, STYLE_PLAIN, units_count(cell, latency->count));
    page_end_line(page);
}

/* A window that holds all that the longer ones hold is left to them. */
static bool tells_something(const struct figures_operation *operation, enum figures_window window)
{
    int64_t count = operation->windows[window].count;

    for (enum figures_window longer = window + 1; longer < WINDOW_COUNT; longer++) {
        if (operation->windows[longer].count == count)
            return false;
    }
    return count >= 0;
}

static void put_operations(struct page *page, const struct figures *f)
{
    int column = stats_page_name_column(f, OPERATION_NAME_MAX);

    page_put(page, STYLE_HEADING, "operations");
    stats_page_table_heading(page, column, "");
    for (size_t i = 0; i < f->operation_count; i++) {
        const struct figures_operation *operation = &f->operations[i];

        page_put(page, STYLE_PLAIN, "%s", operation->name);
        for (enum figures_window window = 0; window < WINDOW_COUNT; window++) {
            if (tells_something(operation, window))
                stats_page_table_row(page, column, f, &operation->windows[window], window);
        }
    }
}

void stats_page(struct page *page, const struct figures *figures,
                const struct figures_change *change)
{
    stats_page_title(page, figures);
    page_end_line(page);
    stats_page_alerts(page, figures, (int64_t)time(NULL) * 1000);
    page_end_line(page);
    put_conversations(page, figures, change);
    put_journal(page, figures);
    put_cache(page, figures);
    put_database(page, figures);
    put_embedding(page, figures);
    page_end_line(page);
    put_operations(page, figures);
}
