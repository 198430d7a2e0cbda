/* The dashboard as a page. Each part is a small page of its own; when the screen is too low for all
 * of them they give up lines in a fixed order, least missed first, so that health, alerts and
 * trends are what a terminal of a few lines still shows. What is too wide is cut by the page. */
#include "client/convstorectl_top_view.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/convstorectl_stats_page.h"

#define TWO_COLUMNS_FROM 96 /* screen columns for two trends side by side */
#define TREND_LABEL 19      /* columns of a trend's name and number */
#define STATE_COLUMN 11
#define NAME_COLUMNS_MAX 28 /* of an operation */

enum part { PART_TITLE, PART_ALERTS, PART_TRENDS, PART_STATE, PART_SERVERS, PART_TABLE, PART_KEYS };
#define PARTS (PART_KEYS + 1)

/* ---- trends ---- */

void trends_add(struct trends *trends, const struct figures *figures,
                const struct figures_change *change)
{
    enum figures_window window = figures_recent(figures);
    struct figures_latency ack = figures_latency(figures, "queue", window);
    struct figures_latency row = figures_latency(figures, "end_to_end", window);
    const double values[TREND_COUNT] = {
        [TREND_ACKED] = change != NULL ? change->acked_per_s : NAN,
        [TREND_STORED] = change != NULL ? change->stored_per_s : NAN,
        [TREND_QUEUED] = figures->queued >= 0 ? (double)figures->queued : NAN,
        [TREND_ACK_MEAN] = change != NULL ? change->ack_mean_ms : NAN,
        [TREND_ACK_P99] = ack.count > 0 ? ack.p99_ms : NAN,
        [TREND_ROW_P99] = row.count > 0 ? row.p99_ms : NAN,
    };

    if (trends->count == TREND_SAMPLES) {
        trends->count--;
        for (int i = 0; i < TREND_COUNT; i++)
            memmove(trends->values[i], trends->values[i] + 1,
                    trends->count * sizeof trends->values[i][0]);
    }
    for (int i = 0; i < TREND_COUNT; i++)
        trends->values[i][trends->count] = values[i];
    trends->count++;
}

static void put_trend(const struct top_view *v, struct page *page, enum trend trend, int column,
                      int width)
{
    static const char *const names[TREND_COUNT] = {"acked", "stored",  "queued",
                                                   "ack",   "ack p99", "row p99"};
    const struct trends *trends = v->trends;
    double last = trends->count > 0 ? trends->values[trend][trends->count - 1] : NAN;
    char number[UNITS_SIZE], spark[3 * TREND_SAMPLES + 1];

    if (trend == TREND_ACKED || trend == TREND_STORED)
        units_rate(number, last);
    else if (trend == TREND_QUEUED)
        units_count(number, isnan(last) ? -1 : (int64_t)last);
    else
        units_ms(number, last);
    page_put(page, STYLE_FAINT, "%s", names[trend]);
    page_right(page, column + TREND_LABEL, STYLE_HEADING, number);
    width -= TREND_LABEL + 1;
    units_sparkline(spark, trends->values[trend], trends->count,
                    width < TREND_SAMPLES ? width : TREND_SAMPLES, v->utf8);
    page_to(page, column + TREND_LABEL + 1);
    page_text(page, STYLE_GOOD, spark);
}

static void draw_trends(const struct top_view *v, struct page *page)
{
    bool pairs = v->columns >= TWO_COLUMNS_FROM;
    int width = pairs ? (v->columns - 2) / 2 : v->columns;
    int lines = pairs ? TREND_COUNT / 2 : TREND_COUNT;

    for (int i = 0; i < lines; i++) {
        put_trend(v, page, (enum trend)i, 0, width);
        if (pairs) {
            page_to(page, width + 2);
            put_trend(v, page, (enum trend)(i + lines), width + 2, width);
        }
        page_end_line(page);
    }
}

/* ---- title, alerts, state ---- */

static void draw_title(const struct top_view *v, struct page *page)
{
    char right[80];

    if (v->figures != NULL && v->trouble == NULL)
        stats_page_title(page, v->figures);
    else
        page_put(page, STYLE_BAD, "convstored not reachable, trying again");
    snprintf(right, sizeof right, "%severy %g s  %s", v->paused ? "PAUSED  " : "", v->interval_s,
             v->clock);
    page_right(page, v->columns, v->paused ? STYLE_WARN : STYLE_FAINT, right);
    page_end_line(page);
}

static void draw_alerts(const struct top_view *v, struct page *page)
{
    if (v->trouble != NULL) {
        page_put(page, STYLE_PLAIN, "%s", v->trouble);
        page_end_line(page);
    } else if (v->figures != NULL) {
        stats_page_alerts(page, v->figures, v->now_ms);
    }
}

static void begin_state(struct page *page, const char *name)
{
    page_put(page, STYLE_HEADING, "%s", name);
    page_to(page, STATE_COLUMN);
}

static void draw_queue(const struct figures *f, struct page *page)
{
    char a[UNITS_SIZE], b[UNITS_SIZE], c[UNITS_SIZE], d[UNITS_SIZE];

    begin_state(page, "queue");
    page_put(page, STYLE_PLAIN, "%s queued, %s in batches, oldest %s", units_count(a, f->queued),
             units_count(b, f->processing), units_ms(c, (double)f->oldest_queued_ms));
    page_put(page, stats_page_bad_above_zero(f->dead_letters), ", %s dead letters",
             units_count(a, f->dead_letters));
    page_put(page, STYLE_PLAIN, ", %s rejected", units_count(a, f->rejected));
    page_end_line(page);
    begin_state(page, "journal");
    page_put(page, STYLE_PLAIN, "%s, %s of disk free, %s records a sync, %s waiting on disk",
             units_bytes(a, f->journal.bytes), units_bytes(b, f->journal.disk_free_bytes),
             units_mean(c, f->journal.records_per_sync),
             units_count(d, f->journal.waiting_on_disk));
    page_put(page, stats_page_bad_above_zero(f->journal.damages), ", %s damages",
             units_count(a, f->journal.damages));
    page_end_line(page);
}

static void draw_stores(const struct figures *f, struct page *page)
{
    char a[UNITS_SIZE], b[UNITS_SIZE];

    begin_state(page, "cache");
    page_put(page, STYLE_PLAIN, "%s entries, hit rate %s", units_count(a, f->cache.entries),
             units_share(b, f->cache.hit_rate));
    page_end_line(page);
    begin_state(page, "database");
    page_put(page, stats_page_state_style(f->database.state), "%s", f->database.state);
    page_put(page, STYLE_PLAIN, ", PostgreSQL %s",
             stats_page_server_version(a, f->database.server_version));
    page_put(page, STYLE_PLAIN, ", pgvector %s",
             f->database.pgvector[0] != '\0' ? f->database.pgvector : "-");
    page_end_line(page);
    begin_state(page, "embedding");
    page_put(page, stats_page_state_style(f->embedding.state), "%s", f->embedding.state);
    page_put(page, STYLE_PLAIN, ", %s, %s requests, %s waiting for a vector", f->embedding.provider,
             units_count(a, f->embedding.requests), units_count(b, f->embedding.backlog));
    page_end_line(page);
}

static void draw_servers(const struct figures *f, struct page *page)
{
    char a[UNITS_SIZE], b[UNITS_SIZE];

    for (size_t i = 0; i < stats_page_server_count(f); i++) {
        const struct figures_server *server = &f->embedding.servers[i];

        page_to(page, STATE_COLUMN);
        page_put(page, stats_page_state_style(server->state), "%-9s", server->state);
        page_put(page, STYLE_PLAIN, " %s: %s requests, %s failures", server->url,
                 units_count(a, server->requests), units_count(b, server->failures));
        if (strcmp(server->state, "closed") != 0 && server->last_error[0] != '\0')
            page_put(page, STYLE_PLAIN, ", %s", server->last_error);
        page_end_line(page);
    }
}

/* ---- the table of operations ---- */

static double sort_value(const struct figures_latency *latency, enum top_sort sort)
{
    switch (sort) {
    case SORT_AS_SENT:
        return 0;
    case SORT_RATE: /* in one window, rates stand as counts do */
    case SORT_COUNT:
        return (double)latency->count;
    case SORT_P99:
        return latency->count > 0 ? latency->p99_ms : -1;
    case SORT_MAX:
        return latency->count > 0 ? latency->max_ms : -1;
    case SORT_ERRORS:
        return (double)latency->errors;
    }
    abort();
}

/* Largest first, equal ones as they were sent: an insertion sort of indices. */
static void sort_operations(const struct top_view *v, enum figures_window window,
                            size_t order[FIGURES_OPERATIONS_MAX])
{
    const struct figures_operation *operations = v->figures->operations;

    for (size_t i = 0; i < v->figures->operation_count; i++) {
        double value = sort_value(&operations[i].windows[window], v->sort);
        size_t at = i;

        while (at > 0 && sort_value(&operations[order[at - 1]].windows[window], v->sort) < value) {
            order[at] = order[at - 1];
            at--;
        }
        order[at] = i;
    }
}

static void draw_table(const struct top_view *v, struct page *page)
{
    static const char *const sorts[] = {"", "rate", "p99", "max", "errors", "count"};
    size_t order[FIGURES_OPERATIONS_MAX];
    int column = stats_page_name_column(v->figures, NAME_COLUMNS_MAX);
    /* An older daemon knows no windows. */
    enum figures_window window =
        figures_recent(v->figures) == WINDOW_MINUTE ? v->window : WINDOW_START;

    page_put(page, STYLE_HEADING, "operation");
    stats_page_table_heading(page, column, sorts[v->sort]);
    sort_operations(v, window, order);
    for (size_t i = 0; i < v->figures->operation_count; i++) {
        const struct figures_operation *operation = &v->figures->operations[order[i]];

        page_put(page, STYLE_PLAIN, "%.*s", column - 1, operation->name);
        stats_page_table_row(page, column, v->figures, &operation->windows[window], window);
    }
}

static void draw_keys(struct page *page)
{
    page_put(page, STYLE_FAINT, "q quit  p pause  s sort  w window  + faster  - slower  h help");
    page_end_line(page);
}

static void draw_help(struct page *page)
{
    static const char *const lines[] = {
        "q           quit",
        "p, space    pause and go on",
        "s           sort the table: as sent, rate, p99, max, errors, count",
        "w           the table's window: last minute, 5 minutes, since start",
        "+  -        faster, slower: 0.2 to 60 s",
        "h, ?        this help; any key closes it",
        "",
        "acked       conversations taken into the journal; ack: the mean of the last interval",
        "stored      rows committed; row p99: from a message's arrival to its row",
        "p99         99 of 100 took at most this long (in the last minute)",
    };

    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        page_put(page, STYLE_PLAIN, "%s", lines[i]);
        page_end_line(page);
    }
}

/* ---- what fits ---- */

static void draw_parts(const struct top_view *v, struct page parts[PARTS])
{
    for (int i = 0; i < PARTS; i++)
        parts[i] = (struct page){.colour = v->colour, .columns = v->columns};
    draw_title(v, &parts[PART_TITLE]);
    if (v->help) {
        draw_help(&parts[PART_STATE]);
        return;
    }
    draw_alerts(v, &parts[PART_ALERTS]);
    draw_trends(v, &parts[PART_TRENDS]);
    draw_keys(&parts[PART_KEYS]);
    if (v->figures == NULL)
        return;
    draw_queue(v->figures, &parts[PART_STATE]);
    draw_stores(v->figures, &parts[PART_STATE]);
    draw_servers(v->figures, &parts[PART_SERVERS]);
    draw_table(v, &parts[PART_TABLE]);
}

/* How many lines of each part are shown; *ret_blanks: whether empty lines stand between them. */
static void fit(const struct page parts[PARTS], int rows, int lines[PARTS], bool *ret_blanks)
{
    static const struct {
        enum part part;
        int least;
    } shrink[] = {{PART_TABLE, 4},  {PART_SERVERS, 0}, {PART_KEYS, 0},   {PART_STATE, 2},
                  {PART_ALERTS, 4}, {PART_TABLE, 0},   {PART_STATE, 0},  {PART_TRENDS, 2},
                  {PART_ALERTS, 1}, {PART_TRENDS, 0},  {PART_ALERTS, 0}, {PART_TITLE, 0}};
    int over = -rows;

    for (int i = 0; i < PARTS; i++)
        over += lines[i] = parts[i].lines;
    *ret_blanks = over + PARTS - 1 <= 0;
    for (size_t i = 0; i < sizeof shrink / sizeof shrink[0] && over > 0; i++) {
        int *of_part = &lines[shrink[i].part];
        int spare = *of_part - shrink[i].least;
        int taken = spare < over ? spare : over;

        if (taken > 0) {
            *of_part -= taken;
            over -= taken;
        }
    }
}

void top_view_draw(const struct top_view *view, struct page *page)
{
    struct page parts[PARTS];
    int lines[PARTS];
    bool blanks;

    assert(page->lines == 0 && view->rows > 0 && view->columns > 0);
    draw_parts(view, parts);
    fit(parts, view->rows, lines, &blanks);
    for (int i = 0; i < PARTS; i++) {
        /* The servers stand under the state of the embedding that they are part of. */
        if (blanks && i > 0 && lines[i] > 0 && i != PART_SERVERS)
            page_end_line(page);
        page_append(page, &parts[i], lines[i]);
        page_done(&parts[i]);
    }
}
