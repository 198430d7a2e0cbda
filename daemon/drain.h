/* The end of the daemon: SIGTERM or SIGINT, the drain into the database, and closing in order.
 * Loop. */
#ifndef DAEMON_DRAIN_H
#define DAEMON_DRAIN_H

#include "daemon/pgwriter.h"

struct server;

/* Listens for SIGTERM and SIGINT. */
void drain_start(struct server *server);

/* A conversation has come to its end; one try of a batch is over: the drain may be too. */
void drain_on_settled(struct server *server);
void drain_on_write(struct server *server, enum write_outcome outcome);

#endif
