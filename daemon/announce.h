/* The line at the start and the one at the end. Loop. */
#ifndef DAEMON_ANNOUNCE_H
#define DAEMON_ANNOUNCE_H

struct server;

/* Version, the configuration in force in short, what the journal held. What the database is, is
 * known at the first connection: see database.up. */
void announce_start(const struct server *server);

/* Why it ends, and the totals. */
void announce_end(const struct server *server, const char *reason);

#endif
