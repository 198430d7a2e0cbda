/* What services read back: status, get, list, search. They have connections, a queue and a deadline
 * of their own, so that they delay neither acks nor writes. Loop. */
#ifndef DAEMON_READ_H
#define DAEMON_READ_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <uv.h>

#include "daemon/config.h"
#include "daemon/pgwriter.h"

#define READS_WAITING_MAX 256        /* more are refused */
#define READS_UNREAD_MAX (64u << 20) /* no more results for those who do not read theirs */

struct embedding_stage;
struct queries;
struct read;
struct rpc;
struct server;

struct reads {
    struct server *server;
    struct queries *queries;
    /* Makes the vectors of queries: with another prefix than documents have, and not behind them in
     * their queue. NULL: no vectors are made. */
    struct embedding_stage *embedding;
    struct config config; /* of that stage at its start: the daemon's, but for a few values */
    const char *language; /* of the first configuration: a reload cannot take it from a thread */
    TAILQ_HEAD(, read) waiting; /* for their answer, the oldest first */
    unsigned count;             /* all that are not freed */
    uv_timer_t timer;
    char session_sql[512];
};

/* How many of database.max_connections they have. */
unsigned reads_connections(const struct config *config);

/* 0 or a negative errno. connection and its strings outlive it. */
int reads_start(struct reads *reads, struct server *server,
                const struct pgwriter_config *connection) __attribute__((warn_unused_result));

/* server->config is another one. */
void reads_reconfigure(struct reads *reads);

/* Answers those whose vector is being made, and makes no more. True: the embedder is at none. */
bool reads_stop(struct reads *reads);

/* Answers everybody, waiting for what the database and the embedder are at. on_closed runs when the
 * embedding stage is gone, at once where there is none. */
void reads_close(struct reads *reads, void (*on_closed)(void *owner));

void reads_clear_cache(struct reads *reads);

void status_handle(struct rpc *rpc);
void get_handle(struct rpc *rpc);
void list_handle(struct rpc *rpc);
void search_handle(struct rpc *rpc);

#endif
