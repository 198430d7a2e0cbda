/* One pipeline. The hard thing is a connection that dies in the middle: what the server had
 * answered before is still in the socket and still counts (rows that it names as committed are
 * committed), so a failure to send does not end the reading.
 *
 * Invariant: steps[] holds, in order, exactly what the server owes an answer to.
 */
#include "daemon/pgpipe.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

void pgpipe_done(struct pgpipe *p)
{
    free(p->steps);
    memset(p, 0, sizeof *p);
}

/* Room for one more step, before anything is sent that would be owed an answer. */
static bool reserve_step(struct pgpipe *p)
{
    size_t capacity = p->capacity > 0 ? p->capacity * 2 : 64;
    struct pgstep *steps;

    if (p->error.fault != PG_FAULT_NONE)
        return false;
    if (p->count < p->capacity)
        return true;
    steps = realloc(p->steps, capacity * sizeof *steps);
    if (steps == NULL) {
        pg_error_no_memory(&p->error);
        return false;
    }
    p->steps = steps;
    p->capacity = capacity;
    return true;
}

/* ret: what the send function said. */
static void sent(struct pgpipe *p, struct pgstep step, int ret)
{
    if (ret == -ENOMEM) {
        pg_error_no_memory(&p->error);
        return;
    }
    if (ret != 0) {
        pg_error_from_conn(&p->error, p->conn);
        return;
    }
    p->steps[p->count++] = step;
    if (pgconn_flush(p->conn, &p->error) != 0)
        assert(p->error.fault != PG_FAULT_NONE);
}

void pgpipe_send(struct pgpipe *p, struct pgstep step, const char *statement,
                 const struct pgparams *params)
{
    static const struct pgparams none;

    assert(step.kind != PGSTEP_SYNC);
    if (reserve_step(p))
        sent(p, step, pgparams_send(params != NULL ? params : &none, p->conn, statement));
}

void pgpipe_prepare(struct pgpipe *p, struct pgstep step, const char *statement, const char *sql,
                    int type_count, const Oid *types)
{
    assert(step.kind != PGSTEP_SYNC);
    if (reserve_step(p))
        sent(p, step, PQsendPrepare(p->conn, statement, sql, type_count, types) ? 0 : -EIO);
}

void pgpipe_sync(struct pgpipe *p)
{
    if (reserve_step(p))
        sent(p, (struct pgstep){.kind = PGSTEP_SYNC}, PQpipelineSync(p->conn) ? 0 : -EIO);
}

/* One answer. 0, or -1 when it will not come. */
static int collect_one(struct pgpipe *p, const struct pgstep *step, pgpipe_on_result on_result,
                       void *arg, struct pg_error *err)
{
    PGresult *result;
    bool good;

    if (pgconn_next(p->conn, &result, err) != 0)
        return -1;
    if (step->kind == PGSTEP_SYNC) {
        good = PQresultStatus(result) == PGRES_PIPELINE_SYNC;
    } else {
        good = result != NULL && PQresultStatus(result) != PGRES_PIPELINE_SYNC;
        if (good && PQresultErrorField(result, PG_DIAG_SQLSTATE) == NULL &&
            PQresultStatus(result) == PGRES_FATAL_ERROR)
            good = false; /* libpq's own: the connection is gone */
        if (good)
            on_result(arg, step, result);
    }
    PQclear(result);
    if (!good) {
        pg_error_from_conn(err, p->conn);
        return -1;
    }
    if (step->kind == PGSTEP_SYNC)
        return 0;
    if (pgconn_next(p->conn, &result, err) != 0)
        return -1;
    PQclear(result);
    if (result == NULL)
        return 0;
    pg_error_set(err, PG_FAULT_UNREACHABLE, "an answer that nothing was asked for");
    return -1;
}

int pgpipe_collect(struct pgpipe *p, pgpipe_on_result on_result, void *arg, struct pg_error *err)
{
    struct pg_error sending = p->error;
    int ret = 0;

    /* After a failed send there is no sync, and a server that lives keeps its answers for ever. One
     * that is known to be gone gives what it had said, and then ends. */
    if (sending.fault == PG_FAULT_NONE || PQstatus(p->conn) == CONNECTION_BAD)
        for (size_t i = 0; ret == 0 && i < p->count; i++)
            ret = collect_one(p, &p->steps[i], on_result, arg, err);
    p->count = 0;
    p->error = (struct pg_error){0};
    if (sending.fault == PG_FAULT_NONE)
        return ret;
    *err = sending;
    return -1;
}
