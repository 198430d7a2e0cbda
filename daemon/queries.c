/* One thread, one connection, questions in the order in which they came. The hard thing is a
 * connection that is no longer what it was: after an error that leaves a transaction open it is
 * rolled back, and where that fails, or the server is gone, the connection is made anew for the
 * next question. Everything but `conn` is the loop's. */
#include "daemon/queries.h"

#include <errno.h>
#include <stdlib.h>

#include "daemon/schema.h"

struct queries {
    struct handoff *thread;
    struct pgwriter_config config;
    PGconn *conn; /* the thread's; NULL: none */
};

/* On the thread. */

static void disconnect(struct queries *q)
{
    PQfinish(q->conn);
    q->conn = NULL;
}

static int connect_and_check(struct queries *q, struct pg_error *err)
{
    struct pgconn_settings settings;

    if (q->conn != NULL && pgconn_alive(q->conn))
        return 0;
    disconnect(q);
    if (pgconn_open(q->config.conninfo, &q->conn, &settings, err) != 0)
        return -1;
    if (schema_ensure(q->conn, q->config.auto_migrate, err) == 0)
        return 0;
    disconnect(q);
    return -1;
}

static void after_error(struct queries *q, const struct pg_error *err)
{
    struct pg_error ignored;
    PGresult *result;

    if (err->fault != PG_FAULT_DATA && err->fault != PG_FAULT_PASSING) {
        disconnect(q); /* gone, or a server that is none for us any more */
        return;
    }
    if (PQtransactionStatus(q->conn) == PQTRANS_IDLE)
        return;
    if (pgconn_query(q->conn, "ROLLBACK", 0, NULL, &result, &ignored) == 0)
        PQclear(result);
    else
        disconnect(q);
}

static void run_query(void *state, struct handoff_job *job)
{
    struct queries *q = state;
    struct query *query = (struct query *)job;

    query->error = (struct pg_error){0};
    if (connect_and_check(q, &query->error) != 0)
        return;
    if (query->run(query, q->conn) != 0)
        after_error(q, &query->error);
}

static void *thread_start(void *owner, unsigned index)
{
    (void)index;
    return owner;
}

static void thread_stop(void *owner, void *state)
{
    (void)owner;
    disconnect(state);
}

/* On the loop. */

static void on_done(void *owner, struct handoff_job *job)
{
    struct query *query = (struct query *)job;

    (void)owner;
    query->done(query);
}

int queries_start(uv_loop_t *loop, const struct pgwriter_config *config, struct queries **ret)
{
    static const struct handoff_ops ops = {.thread_start = thread_start,
                                           .thread_stop = thread_stop,
                                           .run = run_query,
                                           .done = on_done};
    struct queries *q = calloc(1, sizeof *q);
    int rc;

    if (q == NULL)
        return -ENOMEM;
    q->config = *config;
    rc = handoff_start(loop, "query", &ops, q, QUERIES_CONNECTIONS, &q->thread);
    if (rc != 0) {
        free(q);
        return rc;
    }
    *ret = q;
    return 0;
}

int queries_submit(struct queries *q, struct query *query)
{
    if (handoff_in_flight(q->thread) >= QUERIES_WAITING_MAX)
        return -EAGAIN;
    handoff_submit(q->thread, &query->job);
    return 0;
}

static void on_closed(void *owner)
{
    free(owner);
}

void queries_close(struct queries *q)
{
    if (q != NULL)
        handoff_close(q->thread, on_closed);
}
