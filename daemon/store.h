/* store and store_many: from checked parameters to accepted conversations, and their calls' ends.
 * Loop. */
#ifndef DAEMON_STORE_H
#define DAEMON_STORE_H

#include "daemon/conversation.h"
#include "daemon/pgwriter.h"
#include "daemon/rpc.h"

void store_handle(struct rpc *rpc);
void store_many_handle(struct rpc *rpc);

/* A conversation is durable: settles its call, or has it wait for the row. c->call is NULL
 * afterwards. */
void store_on_durable(struct server *server, struct conversation *c);

/* A conversation that will never be durable: its call hears STORAGE_FAILED. */
void store_on_lost(struct conversation *c);

/* The conversation of this number is a row or a dead letter: settles the call that waits for it, if
 * any. */
void store_on_settled(struct server *server, uint64_t seq, enum row_verdict verdict);

/* Every call that still waits is told that the daemon ends. */
void store_end_all(struct server *server);

#endif
