/* Questions to the database beside the writing of batches: one thread with a connection of its own,
 * which counts in database.max_connections. Loop, but for what is said to run on the thread. */
#ifndef DAEMON_QUERIES_H
#define DAEMON_QUERIES_H

#include <stdbool.h>
#include <uv.h>

#include "daemon/handoff.h"
#include "daemon/pgconn.h"
#include "daemon/pgwriter.h"

#define QUERIES_CONNECTIONS 1
#define QUERIES_WAITING_MAX 256 /* more are refused by queries_submit() */

struct queries;

/* One question, embedded in what its owner needs for the answer. The thread has it from
 * queries_submit() until done. */
struct query {
    struct handoff_job job; /* first */
    /* On the thread, with a live connection on a schema that is there, outside any transaction. 0;
     * or -1 with query->error, and an open transaction is then rolled back. */
    int (*run)(struct query *query, PGconn *conn);
    /* On the loop. error.fault PG_FAULT_NONE: run returned 0. */
    void (*done)(struct query *query);
    struct pg_error error;
};

/* config and its strings outlive it. 0 or a negative errno. Connects with the first question. */
int queries_start(uv_loop_t *loop, const struct pgwriter_config *config, struct queries **ret)
    __attribute__((warn_unused_result));

/* 0, or -EAGAIN where QUERIES_WAITING_MAX wait already, and then the query stays the caller's. */
int queries_submit(struct queries *q, struct query *query) __attribute__((warn_unused_result));

/* Waits for the questions that were submitted and has them answered; takes NULL. */
void queries_close(struct queries *q);

#endif
