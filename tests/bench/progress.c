/* See progress.h. One thread. */
#include "tests/bench/progress.h"

#include <stdio.h>
#include <unistd.h>

#include "tests/bench/clock.h"

#define TERMINAL_NS (NS_PER_S / 2)
#define PLAIN_NS (10 * NS_PER_S)

void progress_start(struct progress *p, const char *title, bool quiet, uint64_t run_ns)
{
    uint64_t now = clock_ns();

    *p = (struct progress){
        .title = title, .terminal = isatty(STDERR_FILENO) == 1, .quiet = quiet, .start_ns = now};
    p->end_ns = now + run_ns;
    p->last_ns = now;
    p->next_ns = now + (p->terminal ? TERMINAL_NS : PLAIN_NS);
}

void progress_tick(struct progress *p, uint64_t now_ns, uint64_t acked)
{
    double rate;

    if (p == NULL || p->quiet || now_ns < p->next_ns)
        return;
    rate = (double)(acked - p->last_acked) / ((double)(now_ns - p->last_ns) / (double)NS_PER_S);
    fprintf(stderr, "%s%s: %3.0f of %.0f s  %9.0f/s  %llu in all%s", p->terminal ? "\r" : "",
            p->title, (double)(now_ns - p->start_ns) / (double)NS_PER_S,
            (double)(p->end_ns - p->start_ns) / (double)NS_PER_S, rate, (unsigned long long)acked,
            p->terminal ? "\033[K" : "\n");
    p->last_ns = now_ns;
    p->last_acked = acked;
    p->next_ns = now_ns + (p->terminal ? TERMINAL_NS : PLAIN_NS);
}

void progress_end(struct progress *p)
{
    if (p->terminal && !p->quiet)
        fprintf(stderr, "\r\033[K");
}
