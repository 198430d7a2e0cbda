/* Text first, vector later: fills in the vectors of rows that were stored without, whoever left
 * them and whenever. Loop; one worker of its own with one connection. */
#ifndef DAEMON_BACKFILL_H
#define DAEMON_BACKFILL_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "daemon/config.h"
#include "daemon/embedding_stage.h"
#include "daemon/pgwriter.h"

struct backfill;

/* Starts the worker. writer: how it connects and which model; its strings outlive this, config
 * lives until the next backfill_reconfigure().
 * The stage is closed after it. 0 or a negative errno. */
int backfill_start(uv_loop_t *loop, const struct config *config,
                   const struct pgwriter_config *writer, struct embedding_stage *stage,
                   struct backfill **ret) __attribute__((warn_unused_result));

/* Another snapshot from now on. */
void backfill_reconfigure(struct backfill *b, const struct config *config);

/* total: the rows that this daemon has put into the backlog since its start. Where there are more
 * than the last time, they are looked at soon. */
void backfill_nudge(struct backfill *b, uint64_t total);

/* Somebody else has put so many rows into the backlog: it is looked at and counted anew soon. */
void backfill_wake(struct backfill *b, uint64_t more);

struct backfill_status {
    uint64_t backlog; /* rows that wait: counted every few seconds, and kept up to date with what
                         this daemon does in between */
    uint64_t filled;  /* rows settled, since the start */
    uint64_t put_off; /* tries of a row that gave no vector */
    char last_error[256]; /* of its database connection; "" when all is well */
    char storage[16];     /* of vectors, as pgwriter_found() says; "" before the first connection */
    bool movable;         /* pgvector is there and they are not stored as wanted */
};
struct backfill_status backfill_status(const struct backfill *b);

/* Begins no more and gives back what it holds. true: it is idle now, and backfill_close() will not
 * block; false: ask again a little later. */
bool backfill_stop(struct backfill *b);

/* Ends it, after the worker's current query where there is one (blocks the loop as long).
 * on_closed runs when all is freed. */
void backfill_close(struct backfill *b, void (*on_closed)(void *owner), void *owner);

#endif
