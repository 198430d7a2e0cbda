/* What services read, in SQL, and its result packed for the wire. On the thread that owns the
 * connection, outside any transaction. All return 0; or -1 with *err. */
#ifndef DAEMON_PGREAD_H
#define DAEMON_PGREAD_H

#include <msgpack.h>
#include <stdbool.h>

#include "daemon/pgconn.h"
#include "daemon/pgwriter.h"
#include "proto/read_request.h"

struct pgread {
    const struct read_request *request;
    const struct embedding_model *model; /* dimension 0: no vectors are made */
    const char *language;                /* a text search configuration */
    const float *vector;                 /* the query's; NULL: mode "text" */
    bool found;                          /* out: false: there is no such conversation */
    msgpack_sbuffer out;                 /* out: the result, one value; the caller's to destroy */
};

int pgread_status(PGconn *conn, struct pgread *read, struct pg_error *err)
    __attribute__((warn_unused_result));
int pgread_get(PGconn *conn, struct pgread *read, struct pg_error *err)
    __attribute__((warn_unused_result));
int pgread_list(PGconn *conn, struct pgread *read, struct pg_error *err)
    __attribute__((warn_unused_result));

/* pgread_search.c */
int pgread_search(PGconn *conn, struct pgread *read, struct pg_error *err)
    __attribute__((warn_unused_result));

/* What the two files share: parts of SQL, and columns of a result as values. */

/* A timestamptz column as microseconds since 1970, and such a parameter as timestamptz. Hours
 * first: an interval is multiplied as a double, which holds neither part inexactly. */
#define SQL_MICROSECONDS(column) "(extract(epoch FROM " column ") * 1000000)::int8"
#define SQL_TIME(param)                                                                            \
    "timestamptz 'epoch' + " param "::int8 / 3600000000 * interval '1 hour'"                       \
    " + mod(" param "::int8, 3600000000) * interval '1 microsecond'"

/* Summaries in lists are cut, and a result ends where it would grow beyond the second: what is
 * left can be asked for with the next call. */
#define SQL_SUMMARY "left(c.summary, 2000)"
#define PGREAD_RESULT_BYTES (1024 * 1024)

struct pgread_row {
    msgpack_sbuffer *out;
    msgpack_packer pk;
    const PGresult *rows;
    int row;
    int error; /* the first negative errno; sticky */
};

struct pgread_row pgread_row(msgpack_sbuffer *out, const PGresult *rows);
void pgread_pack_text(struct pgread_row *r, const char *key, int column); /* nil for NULL */
void pgread_pack_time(struct pgread_row *r, const char *key, int column); /* microseconds */
void pgread_pack_int(struct pgread_row *r, const char *key, int column);
void pgread_pack_json(struct pgread_row *r, const char *key, int column);
int pgread_row_check(const struct pgread_row *r, struct pg_error *err)
    __attribute__((warn_unused_result));

#endif
