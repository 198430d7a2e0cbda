/* convstorectl top: the live dashboard. One loop: sample, draw, wait for the next time or a key. */
#include "client/convstorectl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "client/convstorectl_terminal.h"
#include "client/convstorectl_top_view.h"
#include "client/convstorectl_watch.h"

const char ctl_top_help[] =
    "Usage: convstorectl top [OPTION…]\n"
    "\n"
    "The daemon live on the terminal: throughput and latency as they change, queue, journal, "
    "cache,\n"
    "database, embedder, alerts, and the operations in a table. Goes on over a restart of the "
    "daemon.\n"
    "\n"
    "Options:\n"
    "  --interval SECONDS  how often (default 1; 0.2 to 86400)\n"
    "  --color WHEN        auto (default: unless $NO_COLOR is set), always or never\n"
    "\n"
    "Keys: q quit, p or space pause, s sort, w window, + faster, - slower, h help.\n"
    "\n"
    "Examples:\n"
    "  convstorectl top\n"
    "  convstorectl --socket /run/convstore/convstore.sock top --interval 0.5\n";

struct top {
    struct watch watch;
    struct trends trends;
    struct top_view view;
    char clock[16];
    int64_t due_us;
    bool shown; /* the terminal is ours */
    bool over;
};

static void sample(struct top *top)
{
    struct top_view *view = &top->view;
    bool sampled = watch_sample(&top->watch);
    time_t now = time(NULL);
    struct tm local;

    view->trouble = sampled ? NULL : top->watch.trouble;
    view->now_ms = (int64_t)now * 1000;
    if (sampled) {
        view->figures = &top->watch.now;
        strftime(top->clock, sizeof top->clock, "%T", localtime_r(&now, &local));
        trends_add(&top->trends, view->figures, top->watch.has_change ? &top->watch.change : NULL);
    }
    top->due_us = ctl_now_us() + (int64_t)(view->interval_s * 1e6);
}

static void draw(struct top *top)
{
    struct page page = {.colour = top->view.colour};

    if (!top->shown)
        return;
    terminal_size(&top->view.rows, &top->view.columns);
    top_view_draw(&top->view, &page);
    if (terminal_show(&page, top->view.rows) != 0)
        top->over = true; /* the terminal has gone */
    page_done(&page);
}

/* To the next step of the interval, in either direction. */
static void change_interval(struct top *top, bool faster)
{
    static const double steps[] = {0.2, 0.5, 1, 2, 5, 10, 30, 60};
    const int count = (int)(sizeof steps / sizeof steps[0]);
    int at = 0;

    if (faster) {
        at = count - 1;
        while (at > 0 && steps[at] >= top->view.interval_s)
            at--;
    } else {
        while (at < count - 1 && steps[at] <= top->view.interval_s)
            at++;
    }
    top->view.interval_s = steps[at];
    top->due_us = ctl_now_us() + (int64_t)(steps[at] * 1e6);
}

static void on_key(struct top *top, char key)
{
    struct top_view *view = &top->view;
    bool helped = view->help;

    view->help = false;
    switch (key) {
    case 'q':
    case 'Q':
        top->over = true;
        return;
    case 'p':
    case ' ':
        view->paused = !view->paused;
        return;
    case 's':
        view->sort = view->sort == SORT_COUNT ? SORT_AS_SENT : view->sort + 1;
        return;
    case 'w':
        view->window = view->window == WINDOW_START ? WINDOW_MINUTE : view->window + 1;
        return;
    case '+':
    case '=':
    case '-':
        change_interval(top, key != '-');
        return;
    case 'h':
    case '?':
        view->help = !helped;
        return;
    default:
        return; /* Ctrl-L too: every key draws anew */
    }
}

static void on_event(struct top *top, enum watch_event event, char key)
{
    switch (event) {
    case WATCH_DUE:
        if (top->view.paused)
            top->due_us = ctl_now_us() + (int64_t)(top->view.interval_s * 1e6);
        else
            sample(top);
        return;
    case WATCH_KEY:
        on_key(top, key);
        return;
    case WATCH_RESIZE:
        return;
    case WATCH_STOP:
        terminal_leave();
        watch_stop();
        top->shown = terminal_enter();
        return;
    case WATCH_RESUME:
        /* Whoever stopped us may have changed the terminal's modes meanwhile. */
        terminal_leave();
        top->shown = terminal_enter();
        return;
    case WATCH_END:
        top->over = true;
        return;
    }
    abort();
}

static int read_options(struct ctl *ctl, int argc, char **argv, struct top_view *view)
{
    int status = watch_options(ctl, argc, argv, "interval", &view->interval_s, &view->colour);

    if (status == CTL_OK && (isatty(STDIN_FILENO) != 1 || isatty(STDOUT_FILENO) != 1))
        return ctl_usage(ctl, "top needs a terminal; stats --watch does not");
    return status;
}

int ctl_run_top(struct ctl *ctl, int argc, char **argv)
{
    static struct top top; /* the trends are too large for some stacks */
    enum watch_event event;
    char key = 0;
    int status;

    top.view = (struct top_view){.trends = &top.trends, .clock = top.clock, .interval_s = 1};
    status = read_options(ctl, argc, argv, &top.view);
    if (status == CTL_OK)
        status = watch_open(&top.watch, ctl, true);
    if (status != CTL_OK)
        return status;
    top.view.utf8 = terminal_utf8();
    top.shown = terminal_enter();
    sample(&top);
    while (!top.over) {
        draw(&top);
        event = watch_wait(&top.watch, top.due_us, &key);
        on_event(&top, event, key);
    }
    terminal_leave();
    watch_close(&top.watch);
    return CTL_OK;
}
