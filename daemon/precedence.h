/* Acknowledgements before rows where both cannot be had: when more comes in than all writers can
 * store, and acks are slow, half of the writers rest. The backlog grows in any case then; what they
 * leave of processors and disk is the acks'. Loop. */
#ifndef DAEMON_PRECEDENCE_H
#define DAEMON_PRECEDENCE_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#define PRECEDENCE_SLOW_NS 5000000u /* an ack that took longer is a slow one */

struct server;

struct precedence {
    uv_timer_t timer;
    uint64_t accepted, slow, completed; /* at the last look, since the start */
    uint64_t rows;                      /* of a second in which all writers wrote */
    unsigned overloaded;                /* seconds on end */
    unsigned held;                      /* seconds that writers have rested; 0: they do not */
};

/* One second more, by the totals since the start. True: half of the writers are to rest. */
bool precedence_decide(struct precedence *p, uint64_t accepted, uint64_t slow, uint64_t completed);

/* Looks once a second. 0 or a negative errno. */
int precedence_start(struct server *server) __attribute__((warn_unused_result));
void precedence_close(struct server *server);

#endif
