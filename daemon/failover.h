/* A standby that was promoted may lack the last commits of the primary it stood in for: what is
 * still in the journal's done segments (journal.retain_ms) is then written once more. Loop. */
#ifndef DAEMON_FAILOVER_H
#define DAEMON_FAILOVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct server;

struct failover {
    uint32_t timeline;  /* of the server's WAL as last seen; 0: not known yet */
    bool connected;     /* seen in this process, not only read from the file */
    uint64_t change_ns; /* uv_hrtime() of the last change; 0: none */
    uint64_t last_seq;  /* the replay under way is over when all up to here ... */
    size_t remaining;   /* ... that many, have come to their end; 0: none under way */
    uint64_t replayed;  /* records, since the start */
};

/* Reads which timeline the last daemon on this journal saw; call after journal_open(). */
void failover_start(struct server *server);

/* A try of a batch is over, on a connection to this timeline; settled: rows came to their end in
 * it. */
void failover_on_timeline(struct server *server, uint32_t timeline, bool settled);

/* A conversation has come to its end. */
void failover_on_settled(struct server *server, uint64_t seq);

#endif
