/* Owns nothing; runs on an embed worker, within the embedder's own time-outs. */
#include "daemon/embedding_selftest.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BATCH 20 /* over the size at which bad batches have been seen */
#define PLACE 17 /* of the text within it */

static const char *const texts[BATCH] = {
    "How do I reset my password?",
    "The train to the airport leaves at nine.",
    "Two eggs, a cup of flour, and a pinch of salt.",
    "Her phone has been offline since yesterday.",
    "Which insurance covers a broken window?",
    "The invoice was paid twice by mistake.",
    "Can you translate this sentence into French?",
    "It rained all week, so the match was moved.",
    "A table for four, please, near the window.",
    "The parcel went to the wrong address.",
    "My account was charged after I cancelled.",
    "What is the capital of Mongolia?",
    "The printer says that it is out of paper.",
    "We would like to extend our stay by a night.",
    "Is there a discount for students?",
    "The meeting is on the third floor.",
    "I lost my card and need a new one.",
    "The cat sleeps on the warm radiator.", /* PLACE */
    "When does the museum open on Sundays?",
    "Please call me back tomorrow morning.",
};

const char *selftest_state_name(enum selftest_state state)
{
    switch (state) {
    case SELFTEST_DUE:
        return "due";
    case SELFTEST_PASSED:
        return "passed";
    case SELFTEST_WARNING:
        return "warning";
    }
    abort();
}

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static double cosine(const float *a, const float *b, uint32_t dimension)
{
    double dot = 0, aa = 0, bb = 0;

    for (uint32_t i = 0; i < dimension; i++) {
        dot += (double)a[i] * (double)b[i];
        aa += (double)a[i] * (double)a[i];
        bb += (double)b[i] * (double)b[i];
    }
    return aa > 0 && bb > 0 ? dot / sqrt(aa * bb) : 0;
}

/* One request for texts [first, first + count); true: all have their vectors. */
static bool ask(struct embedder *e, struct embed_request *request, size_t first, size_t count,
                float *values)
{
    struct embed_input inputs[BATCH];

    for (size_t i = 0; i < count; i++)
        inputs[i] = (struct embed_input){.text = {texts[first + i], strlen(texts[first + i])},
                                         .values = values + i * request->dimension};
    request->inputs = inputs;
    request->count = count;
    embedder_run(e, request);
    request->inputs = NULL;
    request->count = 0;
    for (size_t i = 0; i < count && request->outcome == EMBED_DONE; i++)
        if (inputs[i].error != 0) {
            snprintf(request->error, sizeof request->error,
                     "it gives no vector for a plain sentence");
            request->outcome = EMBED_TRANSIENT;
        }
    return request->outcome == EMBED_DONE;
}

void embedding_selftest_run(struct embedder *e, struct embed_request *request,
                            struct embedding_selftest *ret)
{
    float *values = calloc((BATCH + 1) * (size_t)request->dimension, sizeof *values);
    uint64_t started = now_ns();

    *ret = (struct embedding_selftest){.state = SELFTEST_DUE};
    if (values == NULL) {
        snprintf(request->error, sizeof request->error, "out of memory for the self-test");
        request->outcome = EMBED_TRANSIENT;
    } else if (ask(e, request, PLACE, 1, values)) {
        ret->duration_ns = now_ns() - started;
        if (ask(e, request, 0, BATCH, values + request->dimension)) {
            ret->cosine = cosine(values, values + (size_t)(PLACE + 1) * request->dimension,
                                 request->dimension);
            ret->state = ret->cosine >= SELFTEST_COSINE_MIN ? SELFTEST_PASSED : SELFTEST_WARNING;
        }
    }
    if (ret->state == SELFTEST_DUE)
        snprintf(ret->text, sizeof ret->text, "%.200s", request->error);
    else if (ret->state == SELFTEST_WARNING)
        snprintf(ret->text, sizeof ret->text,
                 "a text's vector differs when it is made in a batch (cosine %.3f): update the "
                 "server, or set embedding.request_inputs = 1",
                 ret->cosine);
    else
        snprintf(ret->text, sizeof ret->text, "%u dimensions, %.1f ms, cosine %.4f",
                 request->dimension, (double)ret->duration_ns / 1e6, ret->cosine);
    free(values);
}
