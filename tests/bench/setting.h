/* One run of the load generator with all that it needs, made from the command line. */
#ifndef TESTS_BENCH_SETTING_H
#define TESTS_BENCH_SETTING_H

#include <jansson.h>

#include "tests/bench/counts.h"
#include "tests/bench/load.h"

struct setting {
    const struct options *options;
    struct dialect dialect;
    struct load_options load; /* the caller may change it before the run */
    struct load_result *result;
    struct progress progress;
    struct counts counts;
};

/* batch: conversations in a message. 0; or -1 without memory, and then it was said.
 * setting_done() is due either way. */
int setting_init(struct setting *s, const struct options *o, uint32_t batch, bool wait_stored)
    __attribute__((warn_unused_result));
void setting_done(struct setting *s);

/* Runs it, and adds the generator's figures and the daemon's to the report as *ret_result
 * (borrowed). 0; or -1 when it broke off, and then it was said. */
int setting_run(struct setting *s, const char *name, json_t *report, json_t **ret_result)
    __attribute__((warn_unused_result));

#endif
