/* The schema convstore: its migrations, who runs them, and what a connection finds there. */
#ifndef DAEMON_SCHEMA_H
#define DAEMON_SCHEMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/pgconn.h"
#include "daemon/pgwriter.h"

#define SCHEMA_SERVER_VERSION_MIN 140000
#define SCHEMA_PGVECTOR_MIN "0.7" /* has halfvec; the migrations say it too */

/* The version that this program needs, and the SQL of each step to it (1 … SCHEMA_VERSION), for
 * those who apply it by hand. Each step runs in one transaction. */
#define SCHEMA_VERSION 2
#define SCHEMA_PGVECTOR 2 /* the step that adds pgvector's columns, also when it comes later */
const char *schema_sql(int version);

/* What a role of its own needs where the tables belong to another. */
const char *schema_grants(void);

/* The version of the schema that is there, 0 where there is none, once server version and encoding
 * are found good. Changes nothing. 0, or -1 with *err. */
int schema_version(PGconn *conn, int *ret, struct pg_error *err)
    __attribute__((warn_unused_result));

/* Checks server version and encoding; then makes or migrates the schema where it is older than this
 * program and auto_migrate allows it. Daemons that start together do it once: the others poll for
 * their turn. A newer schema is fine, migrations only add. 0; or -1 with *err, and then the
 * connection may be inside a failed transaction: close it. */
int schema_ensure(PGconn *conn, bool auto_migrate, struct pg_error *err)
    __attribute__((warn_unused_result));

/* How the vectors of a model are stored here: convstore.embeddings has a column for each way. */
struct schema_vectors {
    char storage[16];     /* "vector", "halfvec", "real"; "" when there is no table */
    char column[32];      /* of convstore.embeddings */
    Oid type, array_type; /* of the column, and of an array of it */
    char pgvector_version[32];
    bool pgvector_old; /* there, but older than SCHEMA_PGVECTOR_MIN */
    bool movable;      /* storage is not the wanted one, and pgvector is there: "migrate-vectors" */
};

/* wanted: "vector", "halfvec" or "real". Where there is no such column, what is found instead is
 * the column `embedding`. 0, or -1 with *err. */
int schema_vectors(PGconn *conn, const char *wanted, struct schema_vectors *ret,
                   struct pg_error *err) __attribute__((warn_unused_result));

/* The row of embedding_models for this way of making vectors; made when it is not there. Any number
 * of daemons may ask at once. 0, or -1 with *err. */
int schema_model_id(PGconn *conn, const struct embedding_model *model, const char *storage,
                    int16_t *ret, struct pg_error *err) __attribute__((warn_unused_result));

#endif
