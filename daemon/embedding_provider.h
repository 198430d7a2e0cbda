/* What a provider of embeddings is to embedding.c. Worker side. */
#ifndef DAEMON_EMBEDDING_PROVIDER_H
#define DAEMON_EMBEDDING_PROVIDER_H

#include "daemon/embedding.h"

struct embedder_ops {
    /* Fills in the request's outputs; retry_after_ms is -1, error "" and every input's error 0 on
     * entry. */
    void (*run)(struct embedder *e, struct embed_request *request);
    void (*free)(struct embedder *e);
};

/* The first member of each provider's own struct. */
struct embedder {
    const struct embedder_ops *ops;
};

/* NULL when memory is short. config and url outlive the embedder. */
struct embedder *embedder_new_builtin(const struct config *config);
struct embedder *embedder_new_ollama(const struct config *config, const char *url);
struct embedder *embedder_new_openai(const struct config *config, const char *url);

#endif
