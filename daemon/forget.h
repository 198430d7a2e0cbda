/* forget: a user's conversations, or one of them, erased from everywhere. Loop. */
#ifndef DAEMON_FORGET_H
#define DAEMON_FORGET_H

#include <stdbool.h>
#include <sys/queue.h>
#include <uv.h>

#include "daemon/conversation.h"
#include "daemon/forgotten.h"

#define FORGETS_MAX 16
#define FORGET_WAIT_MS 30000 /* for what is in memory to come to its end */

struct forget;
struct rpc;
struct server;

struct forgets {
    struct forgotten forgotten;
    LIST_HEAD(, forget) waiting; /* for conversations in memory */
    unsigned count;              /* all that are not freed */
    struct conversation_list dropped;
    uv_timer_t timer; /* ends what is in dropped */
};

/* After the journal's start. 0; or -1 with one line in error. */
int forgets_start(struct server *server, char error[512]) __attribute__((warn_unused_result));
void forgets_close(struct server *server);

void forget_handle(struct rpc *rpc);

/* A conversation that comes from the journal. true: it is forgotten, and ownership passes. */
bool forget_takes(struct server *server, struct conversation *c);

/* A conversation that has come to its end in the database, before it is freed. */
void forget_on_settled(struct server *server, const struct conversation *c);

/* The database may be one that never heard of what was removed: it is removed once more. */
void forget_again(struct server *server);

bool forget_any(const struct server *server);
void forget_end_all(struct server *server);

#endif
