/* The commands that measure a running daemon while something is taken away from it by the
 * operator's own commands (--down, --up): its database, or the daemon itself. Main thread.
 *
 * The hard thing is to say what a time is of. Catching up is counted from the moment when --up
 * began, as people wait for it; the drain from the last look at which no row had come, so that a
 * server's start and the daemon's next try to reach it are not in its rate. A start is counted from
 * when the daemon's end of a connection was gone or, where --up starts it, from when that began.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/convstore.h"
#include "tests/bench/clock.h"
#include "tests/bench/commands.h"
#include "tests/bench/hook.h"
#include "tests/bench/report.h"
#include "tests/bench/setting.h"

#define CATCH_UP_S 600           /* at most, where --drain says nothing */
#define GONE_MS 60000            /* for the daemon to end once --down has */
#define BACK_S 600               /* for it to answer again */
#define LOOK_NS (10 * NS_PER_MS) /* between two looks at stats, which cost the daemon time */
#define KNOCK_NS NS_PER_MS       /* between two tries to connect */

static void pause_ns(long ns)
{
    clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){.tv_nsec = ns}, NULL);
}

/* Looks until nothing is queued any more: catch_up since from_ns, and drain. */
static int catch_up(struct convstore *store, const struct options *o, uint64_t from_ns,
                    json_t *result)
{
    double limit_s = o->drain_s > 0 ? o->drain_s : CATCH_UP_S;
    uint64_t now_ns, idle_ns, deadline = from_ns + (uint64_t)(limit_s * (double)NS_PER_S);
    json_t *now = counts_ask(store, &now_ns);
    int64_t before = counts_completed(now), rows;
    bool empty;

    idle_ns = now_ns;
    while (now != NULL && counts_queued(now) > 0 && now_ns < deadline) {
        if (counts_completed(now) == before)
            idle_ns = now_ns;
        pause_ns(LOOK_NS);
        json_decref(now);
        now = counts_ask(store, &now_ns);
    }
    if (now == NULL)
        return -1;
    rows = counts_completed(now) - before;
    empty = counts_queued(now) == 0;
    counts_report_rate(result, "catch_up", rows, now_ns - from_ns, empty);
    counts_report_rate(result, "drain", rows, now_ns - idle_ns, empty);
    json_decref(now);
    if (!empty)
        fprintf(stderr, "convstore-bench: not all are rows after %.0f s: see convstorectl health\n",
                limit_s);
    return empty ? 0 : -1;
}

/* A handle that waits for the daemon as long as a start may take. */
static int open_store(const struct options *o, struct convstore **ret)
{
    if (convstore_open(o->socket, ret) != 0) {
        fprintf(stderr, "convstore-bench: %s: cannot be opened\n", o->socket);
        return -1;
    }
    convstore_set_timeout(*ret, BACK_S * 1000);
    return 0;
}

/* The load while --down is at work. */
static int run_without_database(const struct options *o, json_t *report, json_t **ret_result)
{
    struct options load = *o;
    struct setting s;
    int status;

    load.drain_s = 0; /* nothing drains before the database is back */
    load.warmup_s = 0;
    status = setting_init(&s, &load, 1, false);
    s.load.rate = o->rate;
    if (status == 0) {
        pid_t down = hook_start(o->down);

        status = setting_run(&s, o->command, report, ret_result);
        if (hook_wait(down, "--down") != 0)
            status = -1;
    }
    setting_done(&s);
    if (status == 0 &&
        counts_get(*ret_result, "rows", "count") * 2 > counts_get(*ret_result, NULL, "acked")) {
        fprintf(stderr, "convstore-bench: most became rows meanwhile: --down has to take the "
                        "database away soon after the begin\n");
        status = -1;
    }
    return status;
}

/* Brings the database back, also where there is no result, and watches the daemon catch up. */
static int recover(const struct options *o, struct convstore *store, json_t *result)
{
    uint64_t from_ns = 0;
    json_t *stats = counts_ask(store, &from_ns);
    pid_t up;
    int status = -1;

    from_ns = clock_ns();
    up = hook_start(o->up);
    if (result != NULL && stats != NULL) {
        json_object_set_new(result, "journal_bytes",
                            json_integer((json_int_t)counts_get(stats, "journal", "bytes")));
        status = catch_up(store, o, from_ns, result);
    }
    if (hook_wait(up, "--up") != 0)
        status = -1;
    json_decref(stats);
    return status;
}

int command_outage(const struct options *o, json_t *report)
{
    struct convstore *store;
    json_t *result = NULL;
    int status = open_store(o, &store);

    if (status != 0)
        return status;
    /* Nothing is taken away from a daemon that is not there. */
    if (convstore_connect(store) != 0) {
        fprintf(stderr, "convstore-bench: %s: %s\n", o->socket, convstore_error_text(store));
        convstore_close(store);
        return -1;
    }
    status = run_without_database(o, report, &result);
    if (recover(o, store, result) != 0)
        status = -1;
    convstore_close(store);
    return status;
}

/* Waits for the daemon to hang up. */
static int wait_until_gone(int fd)
{
    struct pollfd end = {.fd = fd, .events = POLLIN};
    int n = poll(&end, 1, GONE_MS);

    if (n > 0)
        return 0;
    fprintf(stderr, "convstore-bench: the daemon runs on after --down: %s\n",
            n == 0 ? "give a command that ends it" : strerror(errno));
    return -1;
}

/* Waits until somebody listens again and answers; its stats. */
static json_t *wait_until_back(struct convstore *store, uint64_t *ret_ns)
{
    uint64_t deadline = clock_ns() + BACK_S * NS_PER_S;

    while (convstore_connect(store) != 0 && clock_ns() < deadline)
        pause_ns(KNOCK_NS);
    return counts_ask(store, ret_ns);
}

/* The daemon is gone: waits for its successor and adds replay to the report. */
static int await_start(const struct options *o, json_t *report)
{
    struct convstore *store;
    uint64_t from_ns = clock_ns(), back_ns;
    json_t *stats, *result;
    pid_t up = 0;
    int status = open_store(o, &store);

    if (status != 0)
        return status;
    if (o->up != NULL)
        up = hook_start(o->up);
    stats = wait_until_back(store, &back_ns);
    if (stats != NULL) {
        int64_t recovered = (int64_t)counts_get(stats, "journal", "recovered");

        result = report_add(report, o->command, "convstored");
        counts_report_rate(result, "replay", recovered, back_ns - from_ns, true);
        if (recovered == 0)
            fprintf(stderr, "convstore-bench: nothing waited in the journal: stop the database "
                            "before, or raise --count\n");
        if (o->drain_s > 0)
            status = catch_up(store, o, back_ns, result);
    } else {
        status = -1;
    }
    if (o->up != NULL && hook_wait(up, "--up") != 0)
        status = -1;
    json_decref(stats);
    convstore_close(store);
    return status;
}

int command_replay(const struct options *o, json_t *report)
{
    struct options load = *o;
    struct setting s;
    json_t *result;
    int fd, status;

    load.drain_s = 0;
    load.warmup_s = 0;
    status = setting_init(&s, &load, 1, false);
    s.load.count = o->count;
    if (status == 0)
        status = setting_run(&s, "fill", report, &result);
    setting_done(&s);
    if (status != 0)
        return status;
    fd = load_connect(o->socket);
    if (fd < 0) {
        fprintf(stderr, "convstore-bench: %s: %s\n", o->socket, strerror(-fd));
        return -1;
    }
    status = hook_wait(hook_start(o->down), "--down");
    if (status == 0)
        status = wait_until_gone(fd);
    close(fd);
    if (status == 0)
        status = await_start(o, report);
    return status;
}
