/* The one hard thing is its end: a call whose time is up has answered but is still named by its
 * conversations, so it is freed only when it has answered, nothing is due any more, and its timer's
 * handle is closed. */
#include "daemon/call.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/session.h"
#include "proto/reply.h"

struct call_item {
    uint8_t id[16];
    struct wire_error *error; /* owned, or &no_memory; NULL: none */
};

/* Stands in where an error could not be copied: an item that failed must never look stored. */
static struct wire_error no_memory = {
    .code = WIRE_INTERNAL, .retry_after_ms = -1, .text = "out of memory; send again"};

struct call {
    struct session *session; /* held; NULL once answered */
    uint32_t msgid;
    enum call_kind kind;
    bool wait_stored;
    bool timer_open;
    uv_timer_t timer; /* used with timeout_ms only */
    uint32_t timeout_ms;
    uint32_t due;
    uint32_t acked; /* settled well before the reply; timed when that is sent */
    uint64_t begun_ns;
    uint32_t count;
    struct call_item items[];
};

static void free_if_over(struct call *call)
{
    if (call->due > 0 || call->session != NULL || call->timer_open)
        return;
    for (uint32_t i = 0; i < call->count; i++)
        if (call->items[i].error != &no_memory)
            free(call->items[i].error);
    free(call);
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct call *call = handle->data;

    call->timer_open = false;
    free_if_over(call);
}

static void pack_many(msgpack_packer *pk, const struct call *call)
{
    uint32_t errors = 0;

    for (uint32_t i = 0; i < call->count; i++)
        errors += call->items[i].error != NULL;
    msgpack_pack_map(pk, 2);
    pack_str(pk, "ids");
    msgpack_pack_array(pk, call->count);
    for (uint32_t i = 0; i < call->count; i++)
        if (call->items[i].error != NULL)
            msgpack_pack_nil(pk);
        else
            pack_id(pk, call->items[i].id);
    pack_str(pk, "errors");
    msgpack_pack_array(pk, errors);
    for (uint32_t i = 0; i < call->count; i++)
        if (call->items[i].error != NULL) {
            msgpack_pack_array(pk, 2);
            msgpack_pack_uint32(pk, i);
            pack_error(pk, call->items[i].error);
        }
}

static void pack_answer(const struct call *call, const struct wire_error *error)
{
    msgpack_packer *pk = session_reply(call->session);

    if (error != NULL) {
        reply_error(pk, true, call->msgid, error);
        return;
    }
    reply_begin(pk, call->msgid);
    if (call->kind == CALL_STORE) {
        msgpack_pack_map(pk, 1);
        pack_str(pk, "id");
        pack_id(pk, call->items[0].id);
    } else {
        pack_many(pk, call);
    }
}

/* error: of the call as a whole, or NULL. */
static void answer(struct call *call, const struct wire_error *error)
{
    struct session *s = call->session;

    if (session_is_open(s))
        pack_answer(call, error);
    if (call->acked > 0)
        session_time_reply(s, call->begun_ns, call->acked);
    call->session = NULL;
    if (call->timer_open && !uv_is_closing((uv_handle_t *)&call->timer))
        uv_close((uv_handle_t *)&call->timer, on_timer_closed);
    session_release(s);
}

static void on_timeout(uv_timer_t *timer)
{
    struct call *call = timer->data;
    struct wire_error err;

    if (!call->wait_stored)
        wire_fail(&err, WIRE_UNAVAILABLE,
                  "%u of %u not durable within %u ms: the disk is slow; send again with the same "
                  "ids",
                  call->due, call->count, call->timeout_ms);
    else
        wire_fail(
            &err, WIRE_UNAVAILABLE,
            "accepted, but %u of %u not stored within %u ms; they still will be: send again with "
            "the same ids to wait on",
            call->due, call->count, call->timeout_ms);
    answer(call, &err);
}

static void start_timer(struct call *call, uv_loop_t *loop, uint32_t timeout_ms)
{
    int rc = uv_timer_init(loop, &call->timer);

    assert(rc == 0);
    call->timer.data = call;
    call->timer_open = true;
    call->timeout_ms = timeout_ms;
    rc = uv_timer_start(&call->timer, on_timeout, timeout_ms, 0);
    assert(rc == 0);
}

struct call *call_new(uv_loop_t *loop, struct session *s, uint32_t msgid, enum call_kind kind,
                      uint32_t count, const struct store_options *options)
{
    size_t items = count * sizeof(struct call_item);
    struct call *call = malloc(sizeof *call + items);

    assert(count > 0);
    if (call == NULL)
        return NULL;
    *call = (struct call){.session = s,
                          .msgid = msgid,
                          .kind = kind,
                          .wait_stored = options->wait_stored,
                          .due = count,
                          .count = count,
                          .begun_ns = session_readable_ns(s)};
    memset(call->items, 0, items);
    session_hold(s);
    if (options->timeout_ms > 0)
        start_timer(call, loop, options->timeout_ms);
    return call;
}

void call_set_id(struct call *call, uint32_t index, const uint8_t id[16])
{
    assert(index < call->count);
    memcpy(call->items[index].id, id, 16);
}

bool call_waits_stored(const struct call *call)
{
    return call->wait_stored;
}

bool call_is_answered(const struct call *call)
{
    return call->session == NULL;
}

void call_settle(struct call *call, uint32_t index, const struct wire_error *err)
{
    struct call_item *item = &call->items[index];

    assert(index < call->count && call->due > 0 && item->error == NULL);
    if (err != NULL) {
        item->error = malloc(sizeof *item->error);
        if (item->error != NULL)
            *item->error = *err;
        else
            item->error = &no_memory;
    }
    call->acked += err == NULL && !call->wait_stored && call->session != NULL;
    call->due--;
    if (call->due == 0 && call->session != NULL)
        answer(call, call->kind == CALL_STORE ? err : NULL);
    free_if_over(call);
}
