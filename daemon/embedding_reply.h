/* What an embedding server answered: bytes -> checked vectors, or the class of the failure. Pure,
 * any thread; the bytes are not trusted. */
#ifndef DAEMON_EMBEDDING_REPLY_H
#define DAEMON_EMBEDDING_REPLY_H

#include <stddef.h>
#include <stdint.h>

#include "daemon/embedding.h"
#include "proto/slice.h"

enum reply_class {
    REPLY_VECTORS,   /* status 200: read it */
    REPLY_TRANSIENT, /* the server's passing trouble */
    REPLY_LIMITED,   /* the same, for too many requests */
    REPLY_FAILED,    /* the same, or one of the inputs, time and again: status 500 */
    REPLY_CRASHED,   /* the same: what runs the model died, perhaps of one of the inputs */
    REPLY_CONFIG,    /* a person must look: no such model, no permission, no such address */
    REPLY_TOO_LONG,  /* one of the inputs is over the model's context */
    REPLY_BAD_INPUT, /* one of the inputs is refused, or its vector was not finite */
};

enum reply_class embedding_reply_classify(long status, struct slice body);

/* The server's own words from an error body, for logs: one line of printable ASCII, "" where there
 * is none. */
void embedding_reply_message(struct slice body, char ret[128]);

/* Reads Ollama's {"embeddings": [[number, …], …], …} into the inputs, in their order. A vector that
 * is short, long, zero or not finite costs its own input (-EINVAL). 0; -EBADMSG: no such reply, or
 * another count of vectors than inputs; -EDOM: no vector has the dimension. error (256 bytes) is
 * filled where it is not 0, and then the inputs hold nothing of use. */
int embedding_reply_ollama(struct slice body, struct embed_input *const inputs[], size_t count,
                           uint32_t dimension, char error[256]) __attribute__((warn_unused_result));

/* The same for {"data": [{"index": n, "embedding": …}, …], …}, placed by index: numbers, or their
 * bytes (little endian) in base64, by what comes. */
int embedding_reply_openai(struct slice body, struct embed_input *const inputs[], size_t count,
                           uint32_t dimension, char error[256]) __attribute__((warn_unused_result));

#endif
