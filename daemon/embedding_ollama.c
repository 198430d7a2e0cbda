/* Ollama's POST /api/embed: all inputs of a request in one body. Owns the connection and the
 * body's buffer; lives on one embed worker.
 *
 * The hard thing: one bad input fails its whole request, and the reply does not say which. Such a
 * request is halved until the culprit stands alone (at most twice as many requests as inputs, all
 * within embedding.timeout_ms), so that it costs its own vector only. When time or the server runs
 * out in the middle, what was answered stays and the rest is -EAGAIN.
 *
 * Invariant: an input's values count only when its error is 0. */
#include "daemon/embedding_provider.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/embedding_http.h"
#include "daemon/embedding_reply.h"
#include "daemon/embedding_text.h"
#include "daemon/json_text.h"

/* The model stays loaded over quiet hours; the server's own default is five minutes, and loading
 * can take minutes. */
#define KEEP_ALIVE "30m"

/* What a reply may weigh: a float takes at most about 26 characters as JSON. */
#define REPLY_BASE_BYTES 65536
#define REPLY_FLOAT_BYTES 32

struct ollama {
    struct embedder base; /* first: an embedder is cast to this */
    const struct config *config;
    struct embedding_http *http;
    struct json_text body;
};

/* One embedder_run(). */
struct run {
    struct ollama *ollama;
    struct embed_request *request;
    struct embed_input **wanted; /* the inputs that are not blank */
    uint64_t deadline_ms;
};

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static int write_body(const struct run *run, size_t start, size_t count)
{
    const struct config *config = run->ollama->config;
    struct json_text *t = &run->ollama->body;
    struct slice prefix = {run->request->prefix, strlen(run->request->prefix)};
    char dimensions[48];

    json_text_clear(t);
    json_text_raw(t, "{\"model\":\"");
    json_text_escaped(t, (struct slice){config->embedding.model, strlen(config->embedding.model)});
    json_text_raw(t, "\",\"truncate\":false,\"keep_alive\":\"" KEEP_ALIVE "\"");
    if (config->embedding.dimensions != 0) {
        snprintf(dimensions, sizeof dimensions, ",\"dimensions\":%llu",
                 (unsigned long long)config->embedding.dimensions);
        json_text_raw(t, dimensions);
    }
    json_text_raw(t, ",\"input\":[");
    for (size_t i = start; i < start + count; i++) {
        json_text_raw(t, i == start ? "\"" : ",\"");
        json_text_escaped(t, prefix);
        json_text_escaped(t, run->wanted[i]->text);
        json_text_raw(t, "\"");
    }
    json_text_raw(t, "]}");
    return t->no_memory ? -ENOMEM : 0;
}

/* No vector for any of these inputs now. */
static void leave_unanswered(const struct run *run, size_t start, size_t count)
{
    for (size_t i = start; i < start + count; i++)
        run->wanted[i]->error = -EAGAIN;
}

static void note_status(struct embed_request *request, const struct http_reply *reply)
{
    char message[128];

    embedding_reply_message(reply->body, message);
    snprintf(request->error, sizeof request->error, "status %ld%s%s", reply->status,
             message[0] != '\0' ? ": " : "", message);
    request->retry_after_ms = reply->retry_after_ms;
}

/* One request for these inputs; the class of its answer. */
static enum reply_class ask(const struct run *run, size_t start, size_t count)
{
    struct embed_request *request = run->request;
    size_t reply_max =
        REPLY_BASE_BYTES + count * (request->dimension + 16) * (size_t)REPLY_FLOAT_BYTES;
    uint64_t now = now_ms();
    struct http_reply reply;
    enum reply_class class;
    int rc;

    if (now >= run->deadline_ms) {
        snprintf(request->error, sizeof request->error, "timed out while one bad input was sought");
        return REPLY_TRANSIENT;
    }
    rc = write_body(run, start, count);
    if (rc == 0)
        rc = embedding_http_post(run->ollama->http,
                                 (struct slice){run->ollama->body.data, run->ollama->body.len},
                                 reply_max, (long)(run->deadline_ms - now), &reply, request->error);
    else
        snprintf(request->error, sizeof request->error, "out of memory for the request");
    if (rc != 0)
        return rc == -EINVAL ? REPLY_CONFIG : REPLY_TRANSIENT;
    class = embedding_reply_classify(reply.status, reply.body);
    if (class == REPLY_TRANSIENT || class == REPLY_CONFIG)
        note_status(request, &reply);
    if (class != REPLY_VECTORS)
        return class;
    rc = embedding_reply_ollama(reply.body, run->wanted + start, count, request->dimension,
                                request->error);
    if (rc == 0)
        return REPLY_VECTORS;
    leave_unanswered(run, start, count);
    return rc == -EDOM ? REPLY_CONFIG : REPLY_TRANSIENT;
}

/* Asks for these inputs, and halves the request where one of them is at fault. EMBED_DONE where
 * each has its answer; else the rest was not asked for. */
static enum embed_outcome ask_or_halve(const struct run *run, size_t start, size_t count)
{
    enum embed_outcome outcome;

    switch (ask(run, start, count)) {
    case REPLY_VECTORS:
        return EMBED_DONE;
    case REPLY_TRANSIENT:
        return EMBED_TRANSIENT;
    case REPLY_CONFIG:
        return EMBED_CONFIG;
    case REPLY_TOO_LONG:
        if (count == 1)
            return run->wanted[start]->error = -E2BIG, EMBED_DONE;
        break;
    case REPLY_BAD_INPUT:
        if (count == 1)
            return run->wanted[start]->error = -EINVAL, EMBED_DONE;
        break;
    }
    outcome = ask_or_halve(run, start, count / 2);
    if (outcome != EMBED_DONE)
        return outcome;
    return ask_or_halve(run, start + count / 2, count - count / 2);
}

/* Blank inputs are refused by the server: they are left out. */
static size_t choose_wanted(const struct run *run)
{
    size_t count = 0;

    for (size_t i = 0; i < run->request->count; i++) {
        struct embed_input *input = &run->request->inputs[i];

        if (embedding_text_is_blank(input->text))
            input->error = -EINVAL;
        else
            run->wanted[count++] = input;
    }
    leave_unanswered(run, 0, count);
    return count;
}

static void ollama_run(struct embedder *e, struct embed_request *request)
{
    struct ollama *o = (struct ollama *)e;
    struct run run = {o, request, NULL, now_ms() + o->config->embedding.timeout_ms};
    size_t answered = 0, count;

    run.wanted = calloc(request->count, sizeof run.wanted[0]);
    if (run.wanted == NULL) {
        snprintf(request->error, sizeof request->error, "out of memory for the request");
        request->outcome = EMBED_TRANSIENT;
        return;
    }
    count = choose_wanted(&run);
    request->outcome = count > 0 ? ask_or_halve(&run, 0, count) : EMBED_DONE;
    for (size_t i = 0; i < count; i++)
        answered += run.wanted[i]->error != -EAGAIN;
    if (request->outcome == EMBED_TRANSIENT && answered > 0)
        request->outcome = EMBED_DONE; /* the rest is -EAGAIN, one by one */
    free(run.wanted);
}

static void ollama_free(struct embedder *e)
{
    struct ollama *o = (struct ollama *)e;

    embedding_http_free(o->http);
    json_text_done(&o->body);
    free(o);
}

struct embedder *embedder_new_ollama(const struct config *config)
{
    static const struct embedder_ops ops = {ollama_run, ollama_free};
    struct ollama *o = calloc(1, sizeof *o);

    if (o == NULL)
        return NULL;
    o->base.ops = &ops;
    o->config = config;
    o->http = embedding_http_new(config->embedding.url, "/api/embed");
    if (o->http == NULL) {
        free(o);
        return NULL;
    }
    return &o->base;
}
