/* One table: method -> who may call it, how many parameters, handler. Loop. */
#ifndef DAEMON_RPC_H
#define DAEMON_RPC_H

#include <stdbool.h>
#include <stddef.h>

#include "proto/message.h"

struct server;
struct session;

/* One request or notification while its handler runs. */
struct rpc {
    struct server *server;
    struct session *session;
    struct message *message;
    const struct rpc_method *method;
};

struct rpc_method {
    const char *name;
    void (*handle)(struct rpc *rpc);
    bool control_only;
    unsigned min_params, max_params;
};

/* Handles one whole message from a session. */
void rpc_dispatch(struct server *server, struct session *s, const void *data, size_t len);

/* true: the peer wants an answer; false: it is a notification, and rpc_refuse() only counts and
 * logs. */
bool rpc_wants_answer(const struct rpc *rpc);

/* Answers the request with an error, or counts a notification's. */
void rpc_refuse(struct rpc *rpc, const struct wire_error *err);

#endif
