/* The control methods embeddings, reembed and migrate_vectors: which ways of making vectors the
 * database knows, and going from one to another. Loop. */
#ifndef DAEMON_EMBEDDINGS_H
#define DAEMON_EMBEDDINGS_H

struct rpc;

void embeddings_handle(struct rpc *rpc);
void reembed_handle(struct rpc *rpc);
void migrate_vectors_handle(struct rpc *rpc);

#endif
