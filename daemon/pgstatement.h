/* The statements of the writer, and rows as their parameters. Each takes arrays and unnests them,
 * so that one statement carries many rows; an array of one row is the row-wise form. */
#ifndef DAEMON_PGSTATEMENT_H
#define DAEMON_PGSTATEMENT_H

#include "daemon/pgpipe.h"
#include "daemon/pgwriter.h"
#include "daemon/schema.h"

enum pgstatement {
    STATEMENT_BEGIN,
    STATEMENT_COMMIT,        /* of a failed transaction: rolls back, and says so in its tag */
    STATEMENT_BRIEF_LOCKS,   /* this transaction waits no longer than 0.1 s for a lock */
    STATEMENT_CONVERSATIONS, /* gives user_id, id of the rows that are new, in order */
    STATEMENT_HASHES, /* gives ordinal (from 1) and content_hash of the rows that are there */
    STATEMENT_DEAD_LETTERS,
    STATEMENT_VECTORS, /* this and the next only where vectors are made */
    STATEMENT_BACKLOG,
    STATEMENT_COUNT
};

/* A row that the server, or we, refuse for good. */
struct refusal {
    uint32_t row;
    char code[12]; /* SQLSTATE, or ID_REUSED, or NOT_STORED */
    char reason[200];
};

/* Queues the preparation of every statement that the model needs; step.kind is the statement. */
void pgstatement_prepare_all(struct pgpipe *pipe, const struct schema_vectors *vectors,
                             bool with_vectors);

/* A statement without parameters. */
void pgstatement_send(struct pgpipe *pipe, enum pgstatement statement);

/* These send as many statements as the rows (indexes into batch->rows) need, none larger than
 * SLICE_BYTES by more than one row. Each step says which part of rows it covers: first, count. */
void pgstatement_conversations(struct pgpipe *pipe, struct pgparams *params,
                               const struct write_batch *batch, const uint32_t *rows, size_t count);
void pgstatement_hashes(struct pgpipe *pipe, struct pgparams *params,
                        const struct write_batch *batch, const uint32_t *rows, size_t count);
/* error: why there is no vector; NULL for none. */
void pgstatement_backlog(struct pgpipe *pipe, struct pgparams *params,
                         const struct write_batch *batch, const uint32_t *rows, size_t count,
                         int16_t model_id, const char *error);
void pgstatement_vectors(struct pgpipe *pipe, struct pgparams *params,
                         const struct write_batch *batch, size_t first, size_t count,
                         int16_t model_id, const struct schema_vectors *how, uint32_t dimension);
/* One vector as an element or field, as the column wants it. Not for real[]. */
void pgstatement_add_vector(struct pgparams *p, const float *values,
                            const struct schema_vectors *how, uint32_t dimension);
void pgstatement_dead_letters(struct pgpipe *pipe, struct pgparams *params,
                              const struct write_batch *batch, const struct refusal *refusals,
                              size_t count);

#endif
