/* The end of the daemon: SIGTERM or SIGINT, the drain into the database, and closing in order.
 * Loop. */
#ifndef DAEMON_DRAIN_H
#define DAEMON_DRAIN_H

#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "daemon/pgwriter.h"

struct server;

struct drain {
    uv_signal_t sigterm, sigint;
    uv_timer_t end_timer;      /* the reason to end has come; acted on from the loop */
    uv_timer_t deadline_timer; /* batch.drain_timeout_ms */
    uv_timer_t progress_timer;
    size_t seen;          /* outstanding when progress was last looked at */
    unsigned quiet_looks; /* of these in a row, without progress */
    uint64_t lost_ns;     /* uv_hrtime() when a try first found no database; 0: it answered since */
    unsigned idle_polls;  /* looks at whether nothing is under way any more */
};

/* Listens for SIGTERM and SIGINT. */
void drain_start(struct server *server);

/* A conversation has come to its end; one try of a batch is over: the drain may be too. */
void drain_on_settled(struct server *server);
void drain_on_write(struct server *server, uint64_t duration_ns, enum write_outcome outcome);

#endif
