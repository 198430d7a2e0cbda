/* One question, one answer, over a connection outside pipeline mode: as text, or with a statement
 * that the connection keeps. Nobody remembers which statements a connection has: it is asked, and
 * prepares what it does not know, so that a pooler or a new connection makes no difference. */
#include "daemon/pgconn.h"

#include <assert.h>
#include <string.h>

#define NO_SUCH_STATEMENT "26000"
#define TEXT 25 /* the type, fixed for ever in PostgreSQL's catalogue */

static bool result_is_good(const PGresult *result)
{
    ExecStatusType status = PQresultStatus(result);

    return status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK;
}

/* What was sent, answered. */
static int collect(PGconn *conn, PGresult **ret, struct pg_error *err)
{
    PGresult *last = NULL, *result = NULL;
    bool failed = false;

    if (pgconn_flush(conn, err) != 0)
        return -1;
    for (;;) {
        if (pgconn_next(conn, &result, err) != 0) {
            PQclear(last);
            return -1;
        }
        if (result == NULL)
            break;
        if (!failed && !result_is_good(result)) {
            failed = true;
            pg_error_from_result(err, result);
        }
        PQclear(last);
        last = result;
    }
    if (!failed && last != NULL) {
        if (ret != NULL)
            *ret = last;
        else
            PQclear(last);
        return 0;
    }
    if (!failed)
        pg_error_from_conn(err, conn);
    PQclear(last);
    return -1;
}

int pgconn_query(PGconn *conn, const char *sql, int param_count, const char *const *params,
                 PGresult **ret, struct pg_error *err)
{
    int sent = params != NULL
                   ? PQsendQueryParams(conn, sql, param_count, NULL, params, NULL, NULL, 0)
                   : PQsendQuery(conn, sql);

    if (sent)
        return collect(conn, ret, err);
    pg_error_from_conn(err, conn);
    return -1;
}

int pgconn_query_prepared(PGconn *conn, const char *name, const char *sql, int param_count,
                          const char *const *params, PGresult **ret, struct pg_error *err)
{
    const Oid types[PGCONN_PARAMS_MAX] = {TEXT, TEXT, TEXT, TEXT, TEXT,
                                          TEXT, TEXT, TEXT, TEXT, TEXT};

    assert(param_count <= PGCONN_PARAMS_MAX);
    for (int look = 0;; look++) {
        if (!PQsendQueryPrepared(conn, name, param_count, params, NULL, NULL, 0))
            break;
        if (collect(conn, ret, err) == 0)
            return 0;
        if (look > 0 || strcmp(err->sqlstate, NO_SUCH_STATEMENT) != 0)
            return -1;
        *err = (struct pg_error){0};
        if (!PQsendPrepare(conn, name, sql, param_count, types))
            break;
        if (collect(conn, ret, err) != 0)
            return -1;
        PQclear(*ret);
    }
    pg_error_from_conn(err, conn);
    return -1;
}
