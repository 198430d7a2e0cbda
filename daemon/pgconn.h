/* A connection to PostgreSQL as this daemon wants it: how it is made, its settings, waiting with a
 * deadline, and what an error means for the caller. Any one thread; blocks it. */
#ifndef DAEMON_PGCONN_H
#define DAEMON_PGCONN_H

#include <stdbool.h>
#include <stdint.h>

#include <libpq-fe.h>

/* What to do about an error. */
enum pg_fault {
    PG_FAULT_NONE,
    PG_FAULT_PASSING,     /* 40, 53, lock or statement time-out: again after a pause */
    PG_FAULT_STALE,       /* the session no longer fits (prepared statement gone, read-only after a
                             failover): again on a new connection */
    PG_FAULT_UNREACHABLE, /* 08, 57P, 58, no answer: the connection is gone or of no use */
    PG_FAULT_DATA,        /* 22, 23, 54, XX and all others: may be the fault of one row */
    PG_FAULT_STOPPED,     /* 42, 28, 3D, 3F: a person must look */
};

#define PG_NO_MEMORY "HY001" /* SQL/CLI: the client has no memory */

struct pg_error {
    enum pg_fault fault;
    char sqlstate[6]; /* the server's or PG_NO_MEMORY; "" where there is none */
    char text[256]; /* the server's primary message (never DETAIL, which shows rows), or libpq's */
    bool refused;   /* one statement was refused, and the session goes on */
};

/* What a new connection found. */
struct pgconn_settings {
    bool fsync_off;
    uint32_t timeline;   /* changes when a standby is promoted; 0 on a server in recovery */
    int32_t incarnation; /* the same as before: the server has neither crashed nor been restarted */
};

/* Connects to the first host of conninfo that answers and takes writes, and sets the session up.
 * The password comes from conninfo, else from the credential "database_password" (daemon/secret.h).
 * Each host has connect_timeout seconds (10 by default). 0 with the connection in non-blocking
 * mode, outside pipeline mode; or -1 with *err. */
int pgconn_open(const char *conninfo, PGconn **ret, struct pgconn_settings *ret_settings,
                struct pg_error *err) __attribute__((warn_unused_result));

/* Of the monotonic clock. */
int64_t pgconn_now_ms(void);

/* False when the server has ended the connection while it was idle; when its last words have come
 * but not yet the end, the notice receiver has had them. */
bool pgconn_alive(PGconn *conn);

/* One round trip outside pipeline mode; params are text, NULL for none. 0 with the last result
 * (PQclear is the caller's; ret NULL: nobody wants it), or -1 with *err. */
int pgconn_query(PGconn *conn, const char *sql, int param_count, const char *const *params,
                 PGresult **ret, struct pg_error *err) __attribute__((warn_unused_result));

/* The same with a statement that this connection keeps under that name from the first time on; all
 * params are of type text. Outside a transaction: the first time begins with an error. */
#define PGCONN_PARAMS_MAX 10
int pgconn_query_prepared(PGconn *conn, const char *name, const char *sql, int param_count,
                          const char *const *params, PGresult **ret, struct pg_error *err)
    __attribute__((warn_unused_result));

/* Sends what libpq has queued, and reads meanwhile, so that neither side can wait for the other.
 * 0, or -1 with *err. */
int pgconn_flush(PGconn *conn, struct pg_error *err) __attribute__((warn_unused_result));

/* The next result (NULL: PQgetResult's own NULL). 0; or -1 with *err when the server has been
 * silent for too long; an error that came as a result is the caller's to see. */
int pgconn_next(PGconn *conn, PGresult **ret, struct pg_error *err)
    __attribute__((warn_unused_result));

/* Fills *err from a failed result, or from the connection's own state. */
void pg_error_from_result(struct pg_error *err, const PGresult *result);
void pg_error_from_conn(struct pg_error *err, PGconn *conn);
void pg_error_set(struct pg_error *err, enum pg_fault fault, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* This process is short of memory: passing trouble that no row is to blame for. */
void pg_error_no_memory(struct pg_error *err);

/* A pooler's word that it has lost the server (PgBouncer's 08P01 "server conn crashed?"): no answer
 * to what was asked, and the end of the connection follows. */
bool pg_result_tells_loss(const PGresult *result);

/* The class of a SQLSTATE. */
enum pg_fault pg_fault_of(const char *sqlstate);

#endif
