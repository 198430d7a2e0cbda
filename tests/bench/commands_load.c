/* The commands that the load generator carries out. Main thread; paced has a second one.
 *
 * Beside its own count of answers, each asks the daemon's stats before and after: how many rows
 * came to be meanwhile, and with --drain how fast the rest follows when nothing more comes in.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/convstore.h"
#include "tests/bench/clock.h"
#include "tests/bench/commands.h"
#include "tests/bench/load.h"
#include "tests/bench/report.h"

#define ROUNDS_MAX 10000
#define DRAIN_POLL_NS (10 * NS_PER_MS)

/* A run with all that it needs. */
struct setting {
    struct dialect dialect;
    struct load_options load;
    struct load_result *result;
    struct progress progress;
};

static int setting_init(struct setting *s, const struct options *o, uint32_t batch,
                        bool wait_stored)
{
    memset(s, 0, sizeof *s);
    s->load = (struct load_options){
        .dialect = &s->dialect,
        .payload = payload_new(o->size, o->seed),
        .socket = o->socket,
        .port = o->port,
        .connections = o->connections,
        .depth = o->depth,
        .warmup_ns = options_warmup_ns(o),
        .run_ns = options_run_ns(o),
        .progress = &s->progress,
    };
    s->result = calloc(1, sizeof *s->result);
    if (s->load.payload == NULL || s->result == NULL) {
        fprintf(stderr, "convstore-bench: out of memory\n");
        return -1;
    }
    if (o->target == TARGET_REDIS)
        dialect_redis(&s->dialect, s->load.payload);
    else if (o->target == TARGET_BEANSTALKD)
        dialect_beanstalkd(&s->dialect, s->load.payload);
    else
        dialect_convstore(&s->dialect, batch, wait_stored);
    progress_start(&s->progress, o->command, o->quiet, s->load.warmup_ns + s->load.run_ns);
    return 0;
}

static void setting_done(struct setting *s)
{
    payload_free(s->load.payload);
    free(s->result);
}

/* Runs and reports it. */
static int setting_run(struct setting *s, const char *name, json_t *report, json_t **ret_result)
{
    int status = load_run(&s->load, s->result);

    progress_end(&s->progress);
    *ret_result = report_add(report, name, s->dialect.name);
    report_load(*ret_result, &s->load, s->result);
    if (status != 0)
        fprintf(stderr, "convstore-bench: %s: %s\n", name, s->result->text);
    return status;
}

/* Rows, by the daemon's own count */

struct rows {
    struct convstore *store; /* NULL: the target is no convstored */
    struct convstore_stats before, after;
    uint64_t before_ns, after_ns;
};

static int rows_read(struct rows *r, struct convstore_stats *ret, uint64_t *ret_ns)
{
    if (convstore_stats(r->store, ret, NULL) != 0) {
        fprintf(stderr, "convstore-bench: stats: %s\n", convstore_error_text(r->store));
        return -1;
    }
    *ret_ns = clock_ns();
    return 0;
}

/* What has been accepted and is no row yet. */
static int64_t queued(const struct convstore_stats *stats)
{
    return stats->queued + stats->processing;
}

static int rows_begin(struct rows *r, const struct options *o)
{
    memset(r, 0, sizeof *r);
    if (o->target != TARGET_CONVSTORED || o->socket == NULL)
        return 0;
    if (convstore_open(o->socket, &r->store) != 0 || convstore_connect(r->store) != 0) {
        fprintf(stderr, "convstore-bench: %s: %s\n", o->socket,
                r->store != NULL ? convstore_error_text(r->store) : "cannot be opened");
        return -1;
    }
    return rows_read(r, &r->before, &r->before_ns);
}

static void report_rate(json_t *result, const char *key, int64_t rows, uint64_t ns, bool complete)
{
    double seconds = (double)ns / (double)NS_PER_S;

    json_object_set_new(result, key,
                        json_pack("{s:I, s:f, s:f, s:b}", "count", (json_int_t)rows, "seconds",
                                  seconds, "per_second", seconds > 0 ? (double)rows / seconds : 0,
                                  "complete", complete));
}

/* Waits until nothing is queued any more; reports the rows since the load ended, and all from the
 * first message to the last row. */
static int rows_drain(struct rows *r, const struct options *o, json_t *result)
{
    struct convstore_stats now = r->after;
    uint64_t now_ns = r->after_ns;
    uint64_t deadline = now_ns + (uint64_t)(o->drain_s * (double)NS_PER_S);
    bool empty;

    while (empty = queued(&now) == 0, !empty && now_ns < deadline) {
        clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){.tv_nsec = DRAIN_POLL_NS}, NULL);
        if (rows_read(r, &now, &now_ns) != 0)
            return -1;
    }
    report_rate(result, "drain", now.completed - r->after.completed, now_ns - r->after_ns, empty);
    report_rate(result, "end_to_end", now.completed - r->before.completed, now_ns - r->before_ns,
                empty);
    return 0;
}

static int rows_end(struct rows *r, const struct options *o, json_t *result)
{
    int status = 0;

    if (r->store != NULL && result != NULL) {
        status = rows_read(r, &r->after, &r->after_ns);
        if (status == 0) {
            json_object_set_new(result, "queued_before", json_integer(queued(&r->before)));
            json_object_set_new(result, "queued_after", json_integer(queued(&r->after)));
            report_rate(result, "rows", r->after.completed - r->before.completed,
                        r->after_ns - r->before_ns, true);
        }
        if (status == 0 && o->drain_s > 0)
            status = rows_drain(r, o, result);
    }
    convstore_close(r->store);
    return status;
}

/* The commands */

static int run_loop(const struct options *o, json_t *report, double rate, uint64_t count)
{
    struct setting s;
    struct rows rows = {0};
    json_t *result = NULL;
    int status = setting_init(&s, o, o->size_count == 1 ? o->sizes[0] : 1, o->wait_stored);

    if (status == 0)
        status = rows_begin(&rows, o);
    s.load.rate = rate;
    s.load.count = count;
    /* What ends by its count is measured from the first message on. */
    if (count > 0)
        s.load.warmup_ns = 0;
    if (status == 0)
        status = setting_run(&s, o->command, report, &result);
    if (rows_end(&rows, o, result) != 0)
        status = -1;
    setting_done(&s);
    return status;
}

int command_single(const struct options *o, json_t *report)
{
    return run_loop(o, report, 0, o->count);
}

/* saturate has no rate of its own. */
int command_saturate(const struct options *o, json_t *report)
{
    return run_loop(o, report, o->rate, o->count);
}

/* One message on every connection at once, again and again on new connections. */
int command_concurrent(const struct options *o, json_t *report)
{
    struct setting s;
    struct load_result *all = calloc(1, sizeof *all);
    struct histogram *rounds = calloc(1, sizeof *rounds);
    json_t *result;
    int status = setting_init(&s, o, 1, o->wait_stored);

    if (all == NULL || rounds == NULL)
        status = -1;
    s.load.warmup_ns = 0;
    s.load.count = o->connections;
    for (uint64_t i = 0; status == 0 && i < o->count && i < ROUNDS_MAX; i++) {
        status = load_run(&s.load, s.result);
        load_result_add(all, s.result);
        histogram_record(rounds, (uint64_t)(s.result->elapsed_s * (double)NS_PER_S));
    }
    progress_end(&s.progress);
    if (all != NULL && rounds != NULL) {
        result = report_add(report, o->command, s.dialect.name);
        report_load(result, &s.load, all);
        report_latency(result, "all_acked_us", rounds);
        if (status != 0)
            fprintf(stderr, "convstore-bench: %s: %s\n", o->command, all->text);
    }
    setting_done(&s);
    free(all);
    free(rounds);
    return status;
}

static void *run_in_thread(void *argument)
{
    struct setting *s = argument;

    return load_run(&s->load, s->result) == 0 ? s : NULL;
}

/* Two streams side by side at the same pace: one asks for the ack, one for the row. */
int command_paced(const struct options *o, json_t *report)
{
    struct setting acks = {0}, stored = {0};
    json_t *result;
    pthread_t thread;
    void *good = NULL;
    int status = setting_init(&acks, o, 1, false);

    if (status == 0)
        status = setting_init(&stored, o, 1, true);
    acks.load.warmup_ns = stored.load.warmup_ns = 0;
    acks.load.rate = stored.load.rate = (double)o->count / o->seconds;
    stored.load.progress = NULL;
    if (status == 0 && pthread_create(&thread, NULL, run_in_thread, &stored) == 0) {
        status = setting_run(&acks, "paced, acknowledged", report, &result);
        pthread_join(thread, &good);
        report_load(report_add(report, "paced, a row", stored.dialect.name), &stored.load,
                    stored.result);
        if (good == NULL)
            status = -1;
    }
    setting_done(&acks);
    setting_done(&stored);
    return status;
}

/* Each size by itself, one message at a time, answered when its rows are committed. */
int command_batch(const struct options *o, json_t *report)
{
    int status = 0;

    for (unsigned i = 0; status == 0 && i < o->size_count; i++) {
        struct setting s;
        json_t *result;
        char name[32];

        status = setting_init(&s, o, o->sizes[i], true);
        snprintf(name, sizeof name, "batch of %u", o->sizes[i]);
        if (status == 0)
            status = setting_run(&s, name, report, &result);
        setting_done(&s);
    }
    return status;
}
