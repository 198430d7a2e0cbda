/* Providers of embeddings behind one small interface. Worker side: an embedder lives on one embed
 * worker and owns its CURL handle. */
#ifndef DAEMON_EMBEDDING_H
#define DAEMON_EMBEDDING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/config.h"
#include "proto/slice.h"

#define BUILTIN_DIMENSION 768

enum embed_outcome {
    EMBED_DONE,      /* every input has its vector or its own error */
    EMBED_TRANSIENT, /* none: try again after retry_after_ms or a backoff */
    EMBED_LIMITED,   /* none: the same, because too much was asked for (429) */
    EMBED_CONFIG,    /* none: 401, 403, 404, wrong dimension: a person must look */
};

struct embed_input {
    struct slice text; /* without prefix */
    float *values;     /* the caller's, dimension floats; filled in on success */
    int error; /* out: 0; -E2BIG too long for the model; -EINVAL refused, blank or not finite;
                  -EAGAIN the server failed before this one's turn: try again */
};

struct embed_request {
    struct embed_input *inputs;
    size_t count;
    const char *prefix;
    uint32_t dimension;
    bool suspect; /* a server crashed or failed with one of these inputs: if again, seek which */

    enum embed_outcome outcome; /* out */
    bool crashed;               /* out: what runs the model died, or failed with status 500 */
    bool timed_out;             /* out: EMBED_TRANSIENT because the answer took too long */
    int retry_after_ms;         /* out: -1 none named */
    char error[256];            /* out: for logs and stats; no text content */
};

struct embedder;

/* Several URLs stand in embedding.url, separated by commas. */
#define EMBEDDING_URLS_MAX 16

/* The provider that config names, at this one of its URLs (the builtin one needs none); NULL for
 * "none" or when memory is short. config and url outlive it. */
struct embedder *embedder_new(const struct config *config, const char *url);
void embedder_free(struct embedder *e); /* takes NULL */

/* One request for all inputs. Blocks its thread for embedding.timeout_ms at most. */
void embedder_run(struct embedder *e, struct embed_request *request);

/* Signed feature hashing of words, word pairs and character trigrams into BUILTIN_DIMENSION
 * dimensions, L2-normalised (Weinberger et al. 2009). Finds shared words, not meaning. The same
 * bits on every machine; a text without letters and digits gets a fixed unit vector. Any thread. */
void embedding_builtin(struct slice text, float ret[BUILTIN_DIMENSION]);

#endif
