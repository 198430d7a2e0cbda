/* libconvstore's handle: opening, settings, errors, and conversations one by one, waited for or
 * many in flight. What happens to them on the way is convstore_pipe.c's.
 *
 * Belongs to one thread at a time. The one hard thing: callbacks run in the middle of other calls,
 * so that in_callback closes every door but convstore_submit(), which only appends. */
#include "client/convstore_internal.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#ifndef CONVSTORE_VERSION
#define CONVSTORE_VERSION "unknown"
#endif

/* ---- the handle ---- */

static const char *default_path(void)
{
    const char *path = getenv("CONVSTORE_SOCKET");

    return path != NULL && path[0] != '\0' ? path : CONVSTORE_DEFAULT_SOCKET;
}

int convstore_open(const char *path, struct convstore **ret)
{
    struct convstore *c;

    if (path == NULL)
        path = default_path();
    if (path[0] == '\0' || strlen(path) >= sizeof((struct sockaddr_un *)NULL)->sun_path)
        return CONVSTORE_INVALID_ARGUMENT;
    c = calloc(1, sizeof *c);
    if (c == NULL)
        return CONVSTORE_NO_MEMORY;
    c->fd = -1;
    c->timeout_ms = CONVSTORE_DEFAULT_TIMEOUT_MS;
    c->failure.retry_after_ms = -1;
    scan_reset(&c->scan);
    c->path = strdup(path);
    if (c->path == NULL ||
        cs_window_init(c, CONVSTORE_DEFAULT_WINDOW, CONVSTORE_DEFAULT_WINDOW_BYTES) != 0) {
        free(c->path);
        free(c);
        return CONVSTORE_NO_MEMORY;
    }
    *ret = c;
    return 0;
}

void convstore_close(struct convstore *c)
{
    if (c == NULL)
        return;
    assert(!c->in_callback);
    c->in_callback = true; /* what is submitted now would have nowhere to go */
    c->closing = true;
    cs_pipe_done(c);
    free(c->json);
    free(c->path);
    free(c);
}

void convstore_set_timeout(struct convstore *c, unsigned timeout_ms)
{
    c->timeout_ms = timeout_ms > 0 ? timeout_ms : 1;
}

int convstore_set_window(struct convstore *c, unsigned messages, size_t bytes)
{
    if (c->pending > 0)
        return cs_fail(&c->failure, CONVSTORE_WINDOW_FULL,
                       "the window cannot change while messages are in flight");
    if (messages == 0 || messages > CONVSTORE_WINDOW_MAX || bytes == 0)
        return cs_fail(&c->failure, CONVSTORE_INVALID_ARGUMENT,
                       "a window holds 1 to %d messages and at least one byte",
                       CONVSTORE_WINDOW_MAX);
    return cs_window_init(c, messages, bytes);
}

int convstore_connect(struct convstore *c)
{
    int64_t deadline_ms = cs_now_ms() + c->timeout_ms;
    int code = cs_call_begin(c);

    if (code != 0 || c->fd >= 0)
        return code;
    /* A full backlog is a daemon that is busy, not one that is missing. */
    while ((code = cs_pipe_connect(c)) != 0 && c->backlog_full && cs_now_ms() < deadline_ms)
        poll(NULL, 0, CS_BACKOFF_MIN_MS);
    if (code != 0)
        c->failure = c->lost;
    return code;
}

const char *convstore_error_text(const struct convstore *c)
{
    return c->failure.text;
}

int convstore_retry_after_ms(const struct convstore *c)
{
    return c->failure.retry_after_ms;
}

unsigned convstore_pending(const struct convstore *c)
{
    return c->pending;
}

unsigned convstore_reconnects(const struct convstore *c)
{
    return c->reconnects;
}

const char *convstore_version(void)
{
    return CONVSTORE_VERSION;
}

const char *convstore_code_name(int code)
{
    static const struct {
        int code;
        const char *name;
    } names[] = {
        {CONVSTORE_OK, "OK"},
        {CONVSTORE_INVALID_ARGUMENT, "INVALID_ARGUMENT"},
        {CONVSTORE_TOO_LARGE, "TOO_LARGE"},
        {CONVSTORE_QUEUE_FULL, "QUEUE_FULL"},
        {CONVSTORE_SHUTTING_DOWN, "SHUTTING_DOWN"},
        {CONVSTORE_UNAVAILABLE, "UNAVAILABLE"},
        {CONVSTORE_NOT_FOUND, "NOT_FOUND"},
        {CONVSTORE_PERMISSION_DENIED, "PERMISSION_DENIED"},
        {CONVSTORE_UNKNOWN_METHOD, "UNKNOWN_METHOD"},
        {CONVSTORE_STORAGE_FAILED, "STORAGE_FAILED"},
        {CONVSTORE_INTERNAL, "INTERNAL"},
        {CONVSTORE_CANNOT_CONNECT, "CANNOT_CONNECT"},
        {CONVSTORE_TIMED_OUT, "TIMED_OUT"},
        {CONVSTORE_BAD_REPLY, "BAD_REPLY"},
        {CONVSTORE_NO_MEMORY, "NO_MEMORY"},
        {CONVSTORE_WINDOW_FULL, "WINDOW_FULL"},
        {CONVSTORE_CANCELLED, "CANCELLED"},
    };

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (names[i].code == code)
            return names[i].name;
    }
    return "UNKNOWN";
}

/* ---- what the waiting calls share ---- */

int cs_call_begin(struct convstore *c)
{
    if (c->in_callback)
        return cs_fail(&c->failure, CONVSTORE_INVALID_ARGUMENT,
                       "a callback may call convstore_submit() only");
    c->failure = (struct cs_failure){.retry_after_ms = -1};
    return 0;
}

struct cs_request *cs_request_new(struct convstore *c, struct cs_buffer *b, int *ret_code)
{
    struct cs_request *r = b->failed ? NULL : calloc(1, sizeof *r);

    if (r == NULL) {
        free(b->data);
        *ret_code = cs_fail(&c->failure, CONVSTORE_NO_MEMORY, "no memory for the message");
        return NULL;
    }
    r->data = b->data;
    r->len = b->len;
    b->data = NULL;
    return r;
}

void cs_request_free(struct cs_request *r)
{
    free(r->data);
    free(r);
}

static int room_for(struct convstore *c, size_t len)
{
    int code = cs_window_room(c, len);

    if (code == CONVSTORE_TOO_LARGE)
        return cs_fail(&c->failure, code, "the message of %zu bytes is over the window of %zu", len,
                       c->window_bytes);
    if (code != 0)
        return cs_fail(&c->failure, code, "%u messages with %zu bytes are in flight already",
                       c->pending, c->pending_bytes);
    return 0;
}

int cs_submit_waiting(struct convstore *c, struct cs_request *r, int64_t deadline_ms)
{
    int64_t now = cs_now_ms();
    int code;

    while ((code = room_for(c, r->len)) == CONVSTORE_WINDOW_FULL && now < deadline_ms) {
        cs_pipe_turn(c, (int)(deadline_ms - now > INT_MAX ? INT_MAX : deadline_ms - now));
        now = cs_now_ms();
    }
    if (code != 0) {
        cs_request_free(r);
        return code;
    }
    cs_window_add(c, r, deadline_ms);
    return 0;
}

void cs_run(struct convstore *c, const unsigned *outstanding)
{
    while (*outstanding > 0) {
        assert(c->pending > 0);
        cs_pipe_turn(c, -1);
    }
}

/* ---- one conversation ---- */

/* The daemon must confirm this very conversation. */
static bool confirms(const struct cs_request *r, const struct cs_reply *reply)
{
    struct reader at;
    struct value v;

    return cs_map_find(reply->result, "id", &at) && reader_next(&at, &v) == 0 &&
           v.type == VALUE_STR && slice_equals(v.bytes, r->id);
}

static void on_store_reply(struct convstore *c, struct cs_request *r, const struct cs_reply *reply)
{
    struct cs_failure failure = reply->failure;
    struct convstore_result result;
    bool nested = c->in_callback;

    if (failure.code == 0 && !confirms(r, reply))
        cs_fail(&failure, CONVSTORE_BAD_REPLY, "the answer does not name the conversation's id");
    result.code = failure.code;
    result.retry_after_ms = failure.retry_after_ms;
    memcpy(result.id, r->id, sizeof result.id);
    memcpy(result.text, failure.text, sizeof result.text);
    c->in_callback = true;
    r->on_ack(r->context, &result);
    c->in_callback = nested;
}

/* Checks, packs. *ret_r is the caller's. */
static int make_store(struct convstore *c, const struct convstore_conversation *conversation,
                      enum convstore_wait wait, struct cs_request **ret_r)
{
    uint8_t id[16];
    struct cs_buffer b;
    msgpack_packer pk;
    int code = cs_conversation_check(conversation, "conversation", id, &c->failure);

    if (code != 0)
        return code;
    cs_buffer_init(&b, &pk, cs_conversation_size(conversation));
    cs_pack_request(&pk, "store");
    msgpack_pack_array(&pk, wait == CONVSTORE_STORED ? 2 : 1);
    cs_pack_conversation(&pk, conversation, id);
    if (wait == CONVSTORE_STORED)
        cs_pack_stored_options(&pk, c->timeout_ms);
    *ret_r = cs_request_new(c, &b, &code);
    if (*ret_r == NULL)
        return code;
    uuid_format(id, (*ret_r)->id);
    (*ret_r)->on_reply = on_store_reply;
    return 0;
}

int convstore_submit(struct convstore *c, const struct convstore_conversation *conversation,
                     enum convstore_wait wait, convstore_on_ack *on_ack, void *context,
                     char ret_id[CONVSTORE_ID_SIZE])
{
    struct cs_request *r;
    int code;

    if (c->closing)
        return cs_fail(&c->failure, CONVSTORE_CANCELLED, "the handle is being closed");
    /* Looked at before packing: a caller that tries often should find it cheap. */
    code = room_for(c, cs_conversation_size(conversation));
    if (code == 0)
        code = make_store(c, conversation, wait, &r);
    if (code != 0)
        return code;
    code = room_for(c, r->len);
    if (code != 0) {
        cs_request_free(r);
        return code;
    }
    r->on_ack = on_ack;
    r->context = context;
    if (ret_id != NULL)
        memcpy(ret_id, r->id, CONVSTORE_ID_SIZE);
    cs_window_add(c, r, cs_now_ms() + c->timeout_ms);
    return 0;
}

struct store_call {
    unsigned outstanding;
    struct cs_failure failure;
};

static void on_store_done(void *context, const struct convstore_result *result)
{
    struct store_call *call = context;

    call->outstanding = 0;
    call->failure.code = result->code;
    call->failure.retry_after_ms = result->retry_after_ms;
    memcpy(call->failure.text, result->text, sizeof call->failure.text);
}

int convstore_store(struct convstore *c, const struct convstore_conversation *conversation,
                    enum convstore_wait wait, char ret_id[CONVSTORE_ID_SIZE])
{
    struct store_call call = {.outstanding = 1};
    int64_t deadline_ms = cs_now_ms() + c->timeout_ms;
    struct cs_request *r;
    int code = cs_call_begin(c);

    if (code == 0)
        code = make_store(c, conversation, wait, &r);
    if (code != 0)
        return code;
    if (ret_id != NULL)
        memcpy(ret_id, r->id, CONVSTORE_ID_SIZE);
    r->on_ack = on_store_done;
    r->context = &call;
    code = cs_submit_waiting(c, r, deadline_ms);
    if (code != 0)
        return code;
    cs_run(c, &call.outstanding);
    c->failure = call.failure;
    return c->failure.code;
}

/* ---- many in flight ---- */

unsigned convstore_process(struct convstore *c, unsigned timeout_ms)
{
    int64_t now = cs_now_ms();
    int64_t until = now + timeout_ms;
    uint64_t before = c->completed;

    if (cs_call_begin(c) != 0)
        return 0;
    do {
        cs_pipe_turn(c, (int)(until - now > INT_MAX ? INT_MAX : until - now));
        now = cs_now_ms();
    } while (c->completed == before && c->pending > 0 && now < until);
    return (unsigned)(c->completed - before);
}

void convstore_wait(struct convstore *c)
{
    if (cs_call_begin(c) != 0)
        return;
    while (c->pending > 0)
        cs_pipe_turn(c, -1);
}

int convstore_poll(const struct convstore *c, short *ret_events, int *ret_timeout_ms)
{
    int64_t now = cs_now_ms();

    *ret_events = cs_pipe_events(c, now);
    *ret_timeout_ms = cs_pipe_timeout_ms(c, now);
    return c->fd;
}
