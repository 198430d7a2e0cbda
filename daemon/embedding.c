/* The providers of embeddings, by name. Owns nothing itself: an embedder belongs to the embed
 * worker that made it. */
#include "daemon/embedding.h"

#include <assert.h>
#include <string.h>

#include "daemon/embedding_provider.h"

struct embedder *embedder_new(const struct config *config, const char *url)
{
    const char *provider = config->embedding.provider;

    if (strcmp(provider, "builtin") == 0)
        return embedder_new_builtin(config);
    if (strcmp(provider, "ollama") == 0)
        return embedder_new_ollama(config, url);
    if (strcmp(provider, "openai") == 0)
        return embedder_new_openai(config, url);
    assert(strcmp(provider, "none") == 0); /* config.c lets no other through */
    return NULL;
}

void embedder_free(struct embedder *e)
{
    if (e != NULL)
        e->ops->free(e);
}

void embedder_run(struct embedder *e, struct embed_request *request)
{
    assert(request->count > 0 && request->dimension > 0);
    request->crashed = false;
    request->retry_after_ms = -1;
    request->error[0] = '\0';
    for (size_t i = 0; i < request->count; i++)
        request->inputs[i].error = 0;
    e->ops->run(e, request);
}
