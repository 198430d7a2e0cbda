/* convstore.embedding_models in SQL: which models there are, filling in one, dropping one. On the
 * thread that owns the connection, outside any transaction. All return 0; or -1 with *err. */
#ifndef DAEMON_PGMODELS_H
#define DAEMON_PGMODELS_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/pgconn.h"
#include "daemon/pgwriter.h"
#include "daemon/schema.h"

/* The columns of the list, in text form. */
enum pgmodels_column {
    PGMODELS_ID,
    PGMODELS_PROVIDER,
    PGMODELS_MODEL,
    PGMODELS_DIMENSION,
    PGMODELS_PREFIX,
    PGMODELS_SOURCE,
    PGMODELS_STORAGE,
    PGMODELS_VECTORS,
    PGMODELS_BACKLOG,
    PGMODELS_CURRENT, /* "t": the one that this daemon makes vectors with */
    PGMODELS_COLUMNS,
};

/* The model's row, made where it is not there yet, and how its vectors are stored. *ret is 0 and
 * *ret_vectors untouched where no vectors are made. */
int pgmodels_current(PGconn *conn, const struct embedding_model *model, int16_t *ret,
                     struct schema_vectors *ret_vectors, struct pg_error *err)
    __attribute__((warn_unused_result));

/* PQclear(*ret) is the caller's. */
int pgmodels_list(PGconn *conn, const struct embedding_model *current, PGresult **ret,
                  struct pg_error *err) __attribute__((warn_unused_result));

/* A walk over all conversations, or all vectors, in the order of their keys. Set to zero it is at
 * the begin. */
struct pgmodels_walk {
    char user_id[257];
    char id[37];
    bool over;        /* out */
    uint64_t seen;    /* out: conversations, or vectors, that were looked at */
    uint64_t done;    /* out: put into the backlog, or vectors removed or moved */
    uint64_t backlog; /* out: rows of the backlog moved */
};

/* Whether there is such a model, and whether it is the current one. *model_id 0 asks for that, and
 * gets its number (0 where no vectors are made). */
int pgmodels_find(PGconn *conn, const struct embedding_model *current, int16_t *model_id,
                  bool *ret_exists, bool *ret_current, struct pg_error *err)
    __attribute__((warn_unused_result));

/* Puts the conversations of the next slice that have no vector of this model into the backlog. */
int pgmodels_fill(PGconn *conn, int16_t model_id, struct pgmodels_walk *walk, struct pg_error *err)
    __attribute__((warn_unused_result));

/* Removes the model's vectors in the next slice; with the last, its backlog and itself. */
int pgmodels_drop(PGconn *conn, int16_t model_id, struct pgmodels_walk *walk, struct pg_error *err)
    __attribute__((warn_unused_result));

/* A slice of a walk over all vectors: keys above the walk's place, up to this one. */
struct pgmodels_slice {
    const char *from_id; /* with the walk's user_id: its begin */
    char user_id[257];
    char id[37];
    uint64_t seen; /* vectors in it; 0: the walk is at its end */
};
int pgmodels_next_slice(PGconn *conn, const struct pgmodels_walk *walk, struct pgmodels_slice *ret,
                        struct pg_error *err) __attribute__((warn_unused_result));
void pgmodels_advance(struct pgmodels_walk *walk, const struct pgmodels_slice *slice);

#endif
