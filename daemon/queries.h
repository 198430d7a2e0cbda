/* Questions to the database beside the writing of batches: threads of their own, each with a
 * connection, which count in database.max_connections. There is one set for operators and one for
 * what services read. Loop, but for what is said to run on the thread. */
#ifndef DAEMON_QUERIES_H
#define DAEMON_QUERIES_H

#include <stdbool.h>
#include <uv.h>

#include "daemon/handoff.h"
#include "daemon/pgconn.h"
#include "daemon/pgwriter.h"

#define QUERIES_CONNECTIONS 1   /* of the operators' set */
#define QUERIES_WAITING_MAX 256 /* more are refused by queries_submit() */

struct queries;

struct queries_options {
    const char *name; /* of the threads */
    unsigned connections;
    const char *session_sql; /* run on each new connection; NULL: nothing */
};

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
    uint64_t due_ns; /* by uv_hrtime(); not begun after it; 0: any time */
};

/* The strings of config and options outlive it. 0 or a negative errno. Connects with the first
 * question. */
int queries_start(uv_loop_t *loop, const struct pgwriter_config *config,
                  const struct queries_options *options, struct queries **ret)
    __attribute__((warn_unused_result));

/* 0, or -EAGAIN where QUERIES_WAITING_MAX wait already, and then the query stays the caller's. */
int queries_submit(struct queries *q, struct query *query) __attribute__((warn_unused_result));

/* Whether a question is under way, for which queries_close() would wait. */
bool queries_are_busy(const struct queries *q);

/* Waits for the questions that were submitted and has them answered; takes NULL. */
void queries_close(struct queries *q);

#endif
