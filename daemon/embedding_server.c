/* Embedding servers over HTTP, in two dialects: Ollama's POST /api/embed, and POST /v1/embeddings
 * of OpenAI and all that speak like it (llama.cpp, vLLM, text-embeddings-inference, LiteLLM). All
 * inputs of a request go in one body. Owns the connection and the body's buffer; lives on one embed
 * worker.
 *
 * The hard thing: one bad input fails its whole request, and the reply does not say which. Such a
 * request is halved until the culprit stands alone (at most twice as many requests as inputs, all
 * within embedding.timeout_ms), so that it costs its own vector only. When time or the server runs
 * out in the middle, what was answered stays and the rest is -EAGAIN. A status of 500 may be the
 * server's own trouble: then an input is blamed only where others of its request were answered.
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
#include "daemon/embedding_key.h"
#include "daemon/embedding_reply.h"
#include "daemon/embedding_text.h"
#include "daemon/json_text.h"

/* The model stays loaded over quiet hours; the server's own default is five minutes, and loading
 * can take minutes. */
#define KEEP_ALIVE "30m"

/* What a reply may weigh: a float takes at most about 26 characters as JSON. */
#define REPLY_BASE_BYTES 65536
#define REPLY_FLOAT_BYTES 32

struct dialect {
    const char *path;
    /* What goes into the body between the model and the inputs. */
    void (*write_options)(struct json_text *body, const struct config *config);
    int (*read_reply)(struct slice body, struct embed_input *const inputs[], size_t count,
                      uint32_t dimension, char error[256]);
};

struct server {
    struct embedder base; /* first: an embedder is cast to this */
    const struct dialect *dialect;
    const struct config *config;
    const char *url;
    struct embedding_http *http; /* NULL: made in the next run */
    struct json_text body;
};

/* One embedder_run(). */
struct run {
    struct server *server;
    struct embed_request *request;
    struct embed_input **wanted; /* the inputs that are not blank */
    uint64_t deadline_ms;
    struct embed_input *doubted; /* failed alone, and no other was answered since */
    size_t answered;
};

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void write_dimensions(struct json_text *body, const struct config *config)
{
    char dimensions[48];

    if (config->embedding.dimensions == 0)
        return;
    snprintf(dimensions, sizeof dimensions, ",\"dimensions\":%llu",
             (unsigned long long)config->embedding.dimensions);
    json_text_raw(body, dimensions);
}

static void write_ollama_options(struct json_text *body, const struct config *config)
{
    json_text_raw(body, ",\"truncate\":false,\"keep_alive\":\"" KEEP_ALIVE "\"");
    write_dimensions(body, config);
}

/* Some servers refuse encoding_format, so it is sent only where it is configured. */
static void write_openai_options(struct json_text *body, const struct config *config)
{
    const char *format = config->embedding.encoding_format;

    write_dimensions(body, config);
    if (strcmp(format, "default") == 0)
        return;
    json_text_raw(body, ",\"encoding_format\":\"");
    json_text_raw(body, format);
    json_text_raw(body, "\"");
}

static int write_body(const struct run *run, size_t start, size_t count)
{
    const struct config *config = run->server->config;
    struct json_text *t = &run->server->body;
    struct slice prefix = {run->request->prefix, strlen(run->request->prefix)};

    json_text_clear(t);
    json_text_raw(t, "{\"model\":\"");
    json_text_escaped(t, (struct slice){config->embedding.model, strlen(config->embedding.model)});
    json_text_raw(t, "\"");
    run->server->dialect->write_options(t, config);
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
        rc = embedding_http_post(run->server->http,
                                 (struct slice){run->server->body.data, run->server->body.len},
                                 reply_max, (long)(run->deadline_ms - now), &reply, request->error);
    else
        snprintf(request->error, sizeof request->error, "out of memory for the request");
    request->timed_out = rc == -ETIMEDOUT;
    if (rc != 0)
        return rc == -EINVAL ? REPLY_CONFIG : REPLY_TRANSIENT;
    class = embedding_reply_classify(reply.status, reply.body);
    if (class != REPLY_VECTORS && class != REPLY_TOO_LONG && class != REPLY_BAD_INPUT)
        note_status(request, &reply);
    if (class != REPLY_VECTORS)
        return class;
    rc = run->server->dialect->read_reply(reply.body, run->wanted + start, count,
                                          request->dimension, request->error);
    if (rc == 0)
        return REPLY_VECTORS;
    leave_unanswered(run, start, count);
    return rc == -EDOM ? REPLY_CONFIG : REPLY_TRANSIENT;
}

/* This input failed alone. It may be the culprit, as the next answer will show; a second one
 * without any answer in between shows that it is the server. */
static enum embed_outcome doubt(struct run *run, struct embed_input *input)
{
    if (run->doubted != NULL)
        return EMBED_TRANSIENT;
    run->doubted = input;
    return EMBED_DONE;
}

static void blame(struct run *run)
{
    if (run->doubted != NULL)
        run->doubted->error = -EINVAL;
    run->doubted = NULL;
}

/* Asks for these inputs, and halves the request where one of them is at fault. EMBED_DONE where
 * each has its answer, or is in doubt; else the rest was not asked for. */
static enum embed_outcome ask_or_halve(struct run *run, size_t start, size_t count)
{
    enum embed_outcome outcome;

    switch (ask(run, start, count)) {
    case REPLY_VECTORS:
        run->answered += count;
        blame(run);
        return EMBED_DONE;
    case REPLY_FAILED:
        run->request->crashed = true;
        if (!run->request->suspect)
            return EMBED_TRANSIENT;
        if (count == 1)
            return doubt(run, run->wanted[start]);
        break;
    case REPLY_TRANSIENT:
        return EMBED_TRANSIENT;
    case REPLY_LIMITED:
        return EMBED_LIMITED;
    case REPLY_CRASHED:
        run->request->crashed = true;
        if (!run->request->suspect)
            return EMBED_TRANSIENT;
        if (count == 1)
            return run->wanted[start]->error = -EINVAL, EMBED_DONE;
        break;
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

/* The connection is made with the first request, for a key file that is mended to be seen. */
static bool open_http(struct server *server, struct embed_request *request)
{
    char key[EMBEDDING_KEY_MAX];

    if (server->http != NULL)
        return true;
    if (embedding_key_read(server->config, key, request->error) != 0) {
        request->outcome = EMBED_CONFIG;
        return false;
    }
    server->http = embedding_http_new(server->url, server->dialect->path, key);
    explicit_bzero(key, sizeof key);
    if (server->http != NULL)
        return true;
    snprintf(request->error, sizeof request->error, "out of memory for the connection");
    request->outcome = EMBED_TRANSIENT;
    return false;
}

static void server_run(struct embedder *e, struct embed_request *request)
{
    struct server *server = (struct server *)e;
    struct run run = {.server = server,
                      .request = request,
                      .deadline_ms = now_ms() + server->config->embedding.timeout_ms};
    size_t answered = 0, count;

    if (!open_http(server, request))
        return;
    run.wanted = calloc(request->count, sizeof run.wanted[0]);
    if (run.wanted == NULL) {
        snprintf(request->error, sizeof request->error, "out of memory for the request");
        request->outcome = EMBED_TRANSIENT;
        return;
    }
    count = choose_wanted(&run);
    request->outcome = count > 0 ? ask_or_halve(&run, 0, count) : EMBED_DONE;
    if (request->outcome == EMBED_DONE && run.answered > 0)
        blame(&run);
    for (size_t i = 0; i < count; i++)
        answered += run.wanted[i]->error != -EAGAIN;
    if (run.doubted != NULL && answered == 0)
        request->outcome = EMBED_TRANSIENT;
    if ((request->outcome == EMBED_TRANSIENT || request->outcome == EMBED_LIMITED) && answered > 0)
        request->outcome = EMBED_DONE; /* the rest is -EAGAIN, one by one */
    free(run.wanted);
}

static void server_free(struct embedder *e)
{
    struct server *server = (struct server *)e;

    embedding_http_free(server->http);
    json_text_done(&server->body);
    free(server);
}

static struct embedder *server_new(const struct config *config, const char *url,
                                   const struct dialect *dialect)
{
    static const struct embedder_ops ops = {server_run, server_free};
    struct server *server = calloc(1, sizeof *server);

    if (server == NULL)
        return NULL;
    server->base.ops = &ops;
    server->dialect = dialect;
    server->config = config;
    server->url = url;
    return &server->base;
}

struct embedder *embedder_new_ollama(const struct config *config, const char *url)
{
    static const struct dialect ollama = {"/api/embed", write_ollama_options,
                                          embedding_reply_ollama};

    return server_new(config, url, &ollama);
}

struct embedder *embedder_new_openai(const struct config *config, const char *url)
{
    static const struct dialect openai = {"/v1/embeddings", write_openai_options,
                                          embedding_reply_openai};

    return server_new(config, url, &openai);
}
