/* The commands that the load generator carries out on a server that is well. Main thread; paced has
 * a second one. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/clock.h"
#include "tests/bench/commands.h"
#include "tests/bench/report.h"
#include "tests/bench/setting.h"

#define ROUNDS_MAX 10000

static int run_loop(const struct options *o, const char *name, json_t *report, json_t **ret_result)
{
    struct setting s;
    int status = setting_init(&s, o, o->batches.count == 1 ? (uint32_t)o->batches.values[0] : 1,
                              o->wait_stored);

    s.load.rate = o->rate;
    s.load.count = o->count;
    /* What ends by its count is measured from the first message on. */
    if (o->count > 0)
        s.load.warmup_ns = 0;
    if (status == 0)
        status = setting_run(&s, name, report, ret_result);
    setting_done(&s);
    return status;
}

int command_single(const struct options *o, json_t *report)
{
    struct options closed = *o;
    json_t *result;

    closed.rate = 0;
    return run_loop(&closed, o->command, report, &result);
}

/* Adds what a list goes through to the name of a run. */
static void name_step(char *name, size_t size, const struct options_list *list, double value,
                      const char *unit)
{
    size_t len = strlen(name);

    if (list->count > 1)
        snprintf(name + len, size - len, ", %.10g %s", value, unit);
}

/* One run of a sweep. */
static int run_step(const struct options *o, json_t *report)
{
    char name[128];
    json_t *result = NULL;
    int status;

    snprintf(name, sizeof name, "%s", o->command);
    name_step(name, sizeof name, &o->sweep_connections, o->connections, "connections");
    name_step(name, sizeof name, &o->sweep_sizes, o->size, "bytes");
    name_step(name, sizeof name, &o->sweep_rates, o->rate, "a second");
    status = run_loop(o, name, report, &result);
    if (result != NULL)
        json_object_set_new(result, "size", json_integer(o->size));
    return status;
}

/* saturate has no rate of its own. Without lists it is one run. */
int command_saturate(const struct options *o, json_t *report)
{
    struct options step = *o;
    int status = 0;

    for (unsigned c = 0; c < o->sweep_connections.count; c++)
        for (unsigned s = 0; s < o->sweep_sizes.count; s++)
            for (unsigned r = 0; status == 0 && r < o->sweep_rates.count; r++) {
                step.connections = (uint32_t)o->sweep_connections.values[c];
                step.size = (uint32_t)o->sweep_sizes.values[s];
                step.rate = o->sweep_rates.values[r];
                status = run_step(&step, report);
                step.seed++; /* No text comes twice. */
            }
    return status;
}

/* One message on every connection at once, again and again on new connections. */
int command_concurrent(const struct options *o, json_t *report)
{
    struct setting s;
    struct load_result *all = calloc(1, sizeof *all);
    struct histogram *rounds = calloc(1, sizeof *rounds);
    json_t *result = NULL;
    int status = setting_init(&s, o, 1, o->wait_stored);

    if (status == 0)
        status = counts_begin(&s.counts, o);
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
        if (all->text[0] != '\0')
            fprintf(stderr, "convstore-bench: %s: %s\n", o->command, all->text);
    }
    if (counts_end(&s.counts, o, result) != 0)
        status = -1;
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
    struct options others = *o;
    json_t *result;
    pthread_t thread;
    void *good = NULL;
    int status = setting_init(&acks, o, 1, false);

    others.seed++; /* Their texts differ. */
    if (status == 0)
        status = setting_init(&stored, &others, 1, true);
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
    struct options step = *o;
    int status = 0;

    for (unsigned i = 0; status == 0 && i < o->batches.count; i++) {
        struct setting s;
        json_t *result;
        char name[32];

        status = setting_init(&s, &step, (uint32_t)o->batches.values[i], true);
        snprintf(name, sizeof name, "batch of %.0f", o->batches.values[i]);
        if (status == 0)
            status = setting_run(&s, name, report, &result);
        setting_done(&s);
        step.seed++;
    }
    return status;
}
