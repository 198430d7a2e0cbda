/* convstorectl stats: how the daemon is, once or again and again. On a terminal the page stands
 * still and changes; elsewhere each one is appended, or is a line of JSON. */
#include "client/convstorectl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "client/convstorectl_stats_page.h"
#include "client/convstorectl_terminal.h"
#include "client/convstorectl_watch.h"

const char ctl_stats_help[] =
    "Usage: convstorectl stats [OPTION…]\n"
    "\n"
    "Shows how the daemon is: health and alerts, queue, journal, cache, database, embedder, and "
    "how\n"
    "long each operation takes (half of them at most p50, 99 of 100 at most p99). --json shows "
    "all\n"
    "that the daemon tells, in one object.\n"
    "\n"
    "Options:\n"
    "  --watch SECONDS    again every so many seconds (0.2 to 86400), until Ctrl-C: on a terminal\n"
    "                     the page changes in place, elsewhere pages follow one another, with "
    "--json\n"
    "                     one object a line; rates are then those since the page before; goes on\n"
    "                     over a restart of the daemon\n"
    "  --color WHEN       auto (default: on a terminal, unless $NO_COLOR is set), always or never\n"
    "\n"
    "Examples:\n"
    "  convstorectl stats\n"
    "  convstorectl stats --watch 2\n"
    "  convstorectl stats --json | jq '.operations.queue.p99_ms'\n"
    "  convstorectl stats --json --watch 10 >> stats.jsonl\n";

struct options {
    bool json, colour, watches;
    double interval_s;
};

static int read_options(struct ctl *ctl, int argc, char **argv, struct options *o)
{
    int status;

    *o = (struct options){.interval_s = 0};
    status = watch_options(ctl, argc, argv, "watch", &o->interval_s, &o->colour);
    o->watches = o->interval_s > 0;
    o->json = ctl->json;
    return status;
}

static int write_json(const char *json)
{
    int rc = terminal_write(json, strlen(json));

    return rc == 0 ? terminal_write("\n", 1) : rc;
}

/* ---- once ---- */

static int show_once(const struct options *o, const char *json)
{
    struct page page = {.colour = o->colour};
    struct figures figures;
    int rc;

    if (o->json || figures_read(json, &figures) != 0) {
        rc = write_json(json);
    } else {
        stats_page(&page, &figures, NULL);
        rc = terminal_write(page.data, page.len);
        figures_done(&figures);
        page_done(&page);
    }
    if (rc == 0)
        return CTL_OK;
    fprintf(stderr, "convstorectl: standard output: %s\n", strerror(-rc));
    return CTL_REFUSED;
}

static int run_once(const struct ctl *ctl, const struct options *o)
{
    struct convstore *c;
    const char *json;
    int status = ctl_open(ctl, false, CONVSTORE_DEFAULT_TIMEOUT_MS, &c);
    int code;

    if (status != CTL_OK)
        return status;
    code = convstore_stats(c, NULL, &json);
    status = code == 0 ? show_once(o, json) : ctl_failed(c, code);
    convstore_close(c);
    return status;
}

/* ---- again and again ---- */

/* The page changes in place; what does not fit is counted in the last line. */
static int show_in_place(const struct options *o, const struct watch *watch)
{
    struct page page = {.colour = o->colour}, cut = {.colour = o->colour};
    int rows, rc;

    terminal_size(&rows, &page.columns);
    cut.columns = page.columns;
    if (!watch->reachable) {
        page_put(&page, STYLE_BAD, "not reachable, trying again: %s", watch->trouble);
        page_end_line(&page);
    }
    if (watch->now_us != 0)
        stats_page(&page, &watch->now, watch->has_change ? &watch->change : NULL);
    if (page.lines > rows && rows > 1) {
        page_append(&cut, &page, rows - 1);
        page_put(&cut, STYLE_FAINT, "%d more lines: see convstorectl top", page.lines - rows + 1);
        page_end_line(&cut);
    }
    rc = terminal_show(cut.lines > 0 ? &cut : &page, rows);
    page_done(&page);
    page_done(&cut);
    return rc;
}

static int append_page(const struct options *o, const struct watch *watch)
{
    struct page page = {.colour = o->colour};
    char clock[32];
    time_t now = time(NULL);
    struct tm local;
    int rc;

    strftime(clock, sizeof clock, "%F %T", localtime_r(&now, &local));
    page_put(&page, STYLE_FAINT, "---- %s", clock);
    page_end_line(&page);
    stats_page(&page, &watch->now, watch->has_change ? &watch->change : NULL);
    rc = terminal_write(page.data, page.len);
    page_done(&page);
    return rc;
}

/* Where no page can say it, standard error does, once for each change. */
static void note_change(const struct watch *watch, bool was_reachable)
{
    if (watch->reachable && !was_reachable)
        fputs("convstorectl: reachable again\n", stderr);
    else if (!watch->reachable && was_reachable)
        fprintf(stderr, "convstorectl: not reachable, trying again: %s\n", watch->trouble);
}

static int show_sample(const struct options *o, struct watch *watch, bool *was_reachable)
{
    bool sampled = watch_sample(watch);

    if (!o->json && isatty(STDOUT_FILENO) == 1)
        return show_in_place(o, watch);
    note_change(watch, *was_reachable);
    *was_reachable = sampled;
    if (!sampled)
        return 0;
    return o->json ? write_json(watch->json) : append_page(o, watch);
}

/* The beat is kept, whatever a sample takes; beats that were missed are left out. */
static int64_t next_beat(int64_t due_us, int64_t interval_us)
{
    int64_t now_us = ctl_now_us();

    due_us += interval_us;
    return due_us > now_us ? due_us : now_us;
}

static int run_watch(const struct ctl *ctl, const struct options *o)
{
    int64_t due_us = ctl_now_us();
    bool was_reachable = true;
    enum watch_event event;
    struct watch watch;
    char key;
    int rc = 0;
    int status = watch_open(&watch, ctl, false);

    if (status != CTL_OK)
        return status;
    do {
        rc = show_sample(o, &watch, &was_reachable);
        due_us = next_beat(due_us, (int64_t)(o->interval_s * 1e6));
        do {
            event = rc == 0 ? watch_wait(&watch, due_us, &key) : WATCH_END;
        } while (event != WATCH_DUE && event != WATCH_END);
    } while (event == WATCH_DUE);
    if (rc == 0 && !o->json && isatty(STDOUT_FILENO) == 1)
        rc = terminal_write("\n", 1);
    watch_close(&watch);
    if (rc == 0 || rc == -EPIPE)
        return CTL_OK;
    fprintf(stderr, "convstorectl: standard output: %s\n", strerror(-rc));
    return CTL_REFUSED;
}

int ctl_run_stats(struct ctl *ctl, int argc, char **argv)
{
    struct options options;
    int status = read_options(ctl, argc, argv, &options);

    if (status != CTL_OK)
        return status;
    return options.watches ? run_watch(ctl, &options) : run_once(ctl, &options);
}
