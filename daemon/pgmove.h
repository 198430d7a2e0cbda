/* Vectors of one model from one way of storing them to another, while daemons work. On the thread
 * that owns the connection, outside any transaction. All return 0; or -1 with *err. */
#ifndef DAEMON_PGMOVE_H
#define DAEMON_PGMOVE_H

#include <stdbool.h>

#include "daemon/pgmodels.h"

/* Gives convstore.embeddings the columns of a pgvector that has appeared, where they are missing
 * and auto_migrate allows it; other daemons notice within PGWRITER_LOOK_MS. */
int pgmove_begin(PGconn *conn, const struct embedding_model *model, bool auto_migrate,
                 bool *ret_added, struct pg_error *err) __attribute__((warn_unused_result));

/* The next slice of the walk over all vectors: those of this model that are stored another way than
 * it wants become its own (walk->done). Behind the last slice the backlog follows (walk->backlog).
 */
int pgmove_slice(PGconn *conn, const struct embedding_model *model, struct pgmodels_walk *walk,
                 struct pg_error *err) __attribute__((warn_unused_result));

#endif
