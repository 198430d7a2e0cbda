/* What a person sees while a benchmark runs: a line that renews itself on a terminal, a plain line
 * every ten seconds elsewhere. To stderr, so that stdout holds results alone. */
#ifndef TESTS_BENCH_PROGRESS_H
#define TESTS_BENCH_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    const char *title;
    bool terminal, quiet;
    uint64_t start_ns, end_ns, next_ns; /* of the run; of the next line */
    uint64_t last_ns, last_acked;
};

void progress_start(struct progress *p, const char *title, bool quiet, uint64_t run_ns);

/* Called often; prints when it is time. */
void progress_tick(struct progress *p, uint64_t now_ns, uint64_t acked);

void progress_end(struct progress *p);

#endif
