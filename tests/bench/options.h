/* The command line of convstore-bench. */
#ifndef TESTS_BENCH_OPTIONS_H
#define TESTS_BENCH_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#define OPTIONS_LIST_MAX 32

enum target { TARGET_CONVSTORED, TARGET_REDIS, TARGET_BEANSTALKD };

struct options_list {
    double values[OPTIONS_LIST_MAX];
    unsigned count;
};

struct options {
    const char *command;
    enum target target;
    const char *socket;
    unsigned port;         /* of beanstalkd, on 127.0.0.1 */
    const char *conninfo;  /* of the PostgreSQL peers */
    const char *dir;       /* of raw */
    const char *down, *up; /* shell commands of outage and replay */
    uint32_t connections, depth, size, clients;
    uint64_t count, seed;
    double rate, seconds, warmup_s, drain_s; /* warmup_s below 0: a tenth of seconds, 2 at most */
    struct options_list batches;
    /* What saturate and open go through, each with each; the first ones are connections, size and
     * rate above. */
    struct options_list sweep_connections, sweep_sizes, sweep_rates;
    bool wait_stored, json, quiet;
};

/* 0; 1 when help was asked for and printed; -1 when something is wrong, and then it was said. */
int options_parse(struct options *ret, int argc, char **argv) __attribute__((warn_unused_result));

uint64_t options_warmup_ns(const struct options *o);
uint64_t options_run_ns(const struct options *o);

#endif
