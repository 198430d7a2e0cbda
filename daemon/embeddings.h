/* The control methods embeddings and reembed: which ways of making vectors the database knows, and
 * moving from one to another. Loop. */
#ifndef DAEMON_EMBEDDINGS_H
#define DAEMON_EMBEDDINGS_H

struct rpc;

void embeddings_handle(struct rpc *rpc);
void reembed_handle(struct rpc *rpc);

#endif
