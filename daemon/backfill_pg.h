/* The queries of the background filling of vectors, over a writer's connection: claim rows of
 * convstore.embedding_backlog, write what became of them. Lives on the backfill worker. */
#ifndef DAEMON_BACKFILL_PG_H
#define DAEMON_BACKFILL_PG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/pgconn.h"
#include "daemon/pgwriter.h"

#define BACKFILL_ROWS_MAX 256

/* One claimed row. */
struct backfill_claim {
    int64_t lease;    /* next_attempt_at as the claim set it, as the server sent it */
    int32_t attempts; /* this one included */

    /* What became of it; the loop fills it in. */
    bool done;         /* nothing is left to do: its vectors are there now, or there is no text */
    int32_t later_ms;  /* else: the next try */
    const char *error; /* and why; a literal or NULL */
};

/* Claimed rows with what their texts need: of the conversations only user_id, id, content_hash,
 * transcript and summary are set. rows[i] and claims[i] belong together. */
struct backfill_load {
    struct write_row rows[BACKFILL_ROWS_MAX];
    struct backfill_claim claims[BACKFILL_ROWS_MAX];
    size_t count;
    bool more; /* as many as were asked for: there may be more */
};
void backfill_load_clear(struct backfill_load *load);

/* Claims at most `limit` rows whose time has come, oldest first, for lease_ms: by then they are
 * settled, or anybody may claim them again. Of each text at most max_characters are read. Rows
 * whose conversation is gone are removed from the backlog. load is empty before. 0, or -1 with *err
 * (an empty load, and the leases run out). */
int backfill_pg_claim(struct pgwriter *w, size_t limit, uint64_t lease_ms, int32_t max_characters,
                      struct backfill_load *load, struct pg_error *err)
    __attribute__((warn_unused_result));

/* Writes the vectors and takes their rows out of the backlog, in one transaction, where the stored
 * content_hash still is the one that was claimed; puts the others off. batch: the rows that
 * `claims` belong to, with their vectors. Rows whose vectors the server refuses are put off alone.
 * 0, or -1 with *err: nothing of what was not committed counts, and the leases run out. */
int backfill_pg_settle(struct pgwriter *w, const struct write_batch *batch,
                       struct backfill_claim *claims, struct pg_error *err)
    __attribute__((warn_unused_result));

/* Rows in the backlog of this model. */
int backfill_pg_count(struct pgwriter *w, uint64_t *ret, struct pg_error *err)
    __attribute__((warn_unused_result));

#endif
