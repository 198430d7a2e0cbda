/* See setting.h. */
#include "tests/bench/setting.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/report.h"

int setting_init(struct setting *s, const struct options *o, uint32_t batch, bool wait_stored)
{
    memset(s, 0, sizeof *s);
    s->options = o;
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

void setting_done(struct setting *s)
{
    payload_free(s->load.payload);
    free(s->result);
}

int setting_run(struct setting *s, const char *name, json_t *report, json_t **ret_result)
{
    int status = counts_begin(&s->counts, s->options);

    *ret_result = NULL;
    if (status == 0) {
        status = load_run(&s->load, s->result);
        progress_end(&s->progress);
        *ret_result = report_add(report, name, s->dialect.name);
        report_load(*ret_result, &s->load, s->result);
        if (status != 0)
            fprintf(stderr, "convstore-bench: %s: %s\n", name, s->result->text);
    }
    if (counts_end(&s->counts, s->options, *ret_result) != 0)
        status = -1;
    return status;
}
