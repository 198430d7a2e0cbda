/* Threads with a connection each, questions in the order in which they came. The hard thing is a
 * connection that is no longer what it was: after an error that leaves a transaction open it is
 * rolled back, and where that fails, or the server is gone, the connection is made anew for the
 * next question. A connection is its thread's, everything else the loop's. */
#include "daemon/queries.h"

#include <errno.h>
#include <stdlib.h>

#include "daemon/schema.h"

/* What one thread owns. */
struct connection {
    const struct queries *queries;
    PGconn *conn; /* NULL: none */
};

struct queries {
    struct handoff *threads;
    struct pgwriter_config config;
    const char *session_sql;
    struct connection connections[];
};

/* On the thread. */

static void disconnect(struct connection *c)
{
    PQfinish(c->conn);
    c->conn = NULL;
}

static int set_up(struct connection *c, struct pg_error *err)
{
    PGresult *result;

    if (schema_ensure(c->conn, c->queries->config.auto_migrate, err) != 0)
        return -1;
    if (c->queries->session_sql == NULL)
        return 0;
    if (pgconn_query(c->conn, c->queries->session_sql, 0, NULL, &result, err) != 0)
        return -1;
    PQclear(result);
    return 0;
}

static int connect_and_check(struct connection *c, struct pg_error *err)
{
    struct pgconn_settings settings;

    if (c->conn != NULL && pgconn_alive(c->conn))
        return 0;
    disconnect(c);
    if (pgconn_open(c->queries->config.conninfo, &c->conn, &settings, err) != 0)
        return -1;
    if (set_up(c, err) == 0)
        return 0;
    disconnect(c);
    return -1;
}

static void after_error(struct connection *c, const struct pg_error *err)
{
    struct pg_error ignored;
    PGresult *result;

    if (err->fault != PG_FAULT_DATA && err->fault != PG_FAULT_PASSING) {
        disconnect(c); /* gone, or a server that is none for us any more */
        return;
    }
    if (PQtransactionStatus(c->conn) == PQTRANS_IDLE)
        return;
    if (pgconn_query(c->conn, "ROLLBACK", 0, NULL, &result, &ignored) == 0)
        PQclear(result);
    else
        disconnect(c);
}

static void run_query(void *state, struct handoff_job *job)
{
    struct connection *c = state;
    struct query *query = (struct query *)job;

    query->error = (struct pg_error){0};
    if (query->due_ns != 0 && uv_hrtime() >= query->due_ns) {
        pg_error_set(&query->error, PG_FAULT_PASSING, "the database did not come to it in time");
        return;
    }
    if (connect_and_check(c, &query->error) != 0)
        return;
    if (query->run(query, c->conn) != 0)
        after_error(c, &query->error);
}

static void *thread_start(void *owner, unsigned index)
{
    return &((struct queries *)owner)->connections[index];
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

int queries_start(uv_loop_t *loop, const struct pgwriter_config *config,
                  const struct queries_options *options, struct queries **ret)
{
    static const struct handoff_ops ops = {.thread_start = thread_start,
                                           .thread_stop = thread_stop,
                                           .run = run_query,
                                           .done = on_done};
    struct queries *q = calloc(1, sizeof *q + options->connections * sizeof q->connections[0]);
    int rc;

    if (q == NULL)
        return -ENOMEM;
    q->config = *config;
    q->session_sql = options->session_sql;
    for (unsigned i = 0; i < options->connections; i++)
        q->connections[i].queries = q;
    rc = handoff_start(loop, options->name, &ops, q, options->connections, &q->threads);
    if (rc != 0) {
        free(q);
        return rc;
    }
    *ret = q;
    return 0;
}

int queries_submit(struct queries *q, struct query *query)
{
    if (handoff_in_flight(q->threads) >= QUERIES_WAITING_MAX)
        return -EAGAIN;
    handoff_submit(q->threads, &query->job);
    return 0;
}

bool queries_are_busy(const struct queries *q)
{
    return handoff_in_flight(q->threads) > 0;
}

static void on_closed(void *owner)
{
    free(owner);
}

void queries_close(struct queries *q)
{
    if (q != NULL)
        handoff_close(q->threads, on_closed);
}
