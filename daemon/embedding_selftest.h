/* A first look at an embedding server: is it there, does it know the model, how long are its
 * vectors, and are those of a batch as good as single ones? Worker side. */
#ifndef DAEMON_EMBEDDING_SELFTEST_H
#define DAEMON_EMBEDDING_SELFTEST_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/embedding.h"

/* Below this cosine between a text's vector made alone and made in a batch something is wrong with
 * one of them: Ollama has given such in batches of 16 and more (its issue 6262). */
#define SELFTEST_COSINE_MIN 0.99

enum selftest_state {
    SELFTEST_DUE,     /* the server has not answered one yet */
    SELFTEST_PASSED,  /* all is well */
    SELFTEST_WARNING, /* it works, but a person should look */
};
const char *selftest_state_name(enum selftest_state state);

struct embedding_selftest {
    enum selftest_state state;
    double cosine;        /* of the two vectors */
    uint64_t duration_ns; /* of the single one */
    char text[256];       /* what was found, for people; "" before the first */
};

/* Two requests: one text alone, then the same among others. Fills in *ret; outcome, retry_after_ms
 * and error of *request tell how the last one went; it has no inputs, before and after. Its prefix
 * and dimension are set. */
void embedding_selftest_run(struct embedder *e, struct embed_request *request,
                            struct embedding_selftest *ret);

#endif
