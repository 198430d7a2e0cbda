/* Acknowledgements before rows where both cannot be had: when as much comes in as is stored, or
 * more, and acks are slow, rows are written at a slower pace, as long as more comes in for it. What
 * the writers leave of processors and disk is the acks'; the backlog waits. Loop. */
#ifndef DAEMON_PRECEDENCE_H
#define DAEMON_PRECEDENCE_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#define PRECEDENCE_SLOW_NS 5000000u /* an ack that took longer is a slow one */

struct server;

struct precedence {
    uv_timer_t timer;
    unsigned ticks;                   /* of it; some of them are looks */
    uint64_t accepted, slow, written; /* at the last look, since the start */
    uint64_t rows;                    /* of the best look without a pace, forgotten slowly */
    uint64_t before;                  /* what came in in a look of the overload before the pace */
    unsigned overloaded;              /* looks on end */
    unsigned rest;   /* looks before the next pace, since the last one did not pay */
    unsigned paced;  /* looks since the pace began; 0: there is none */
    unsigned unpaid; /* of them, the latest on end in which no more came in for it */
};

/* One look more, by the totals since the start; busy: more than a batch waits. Returns the pace
 * from now on in rows a second; 0: none. */
uint64_t precedence_pace(struct precedence *p, uint64_t accepted, uint64_t slow, uint64_t written,
                         bool busy);

/* Looks twice a second, and RUSH_LOOKS_PER_SECOND times for a rush (rush.h). 0 or a negative errno.
 */
int precedence_start(struct server *server) __attribute__((warn_unused_result));
void precedence_close(struct server *server);

#endif
