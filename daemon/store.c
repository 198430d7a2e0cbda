/* A conversation is decoded straight from the message into its packed form: one copy. The slices of
 * its fields are valid only while the handler runs. */
#include "daemon/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "daemon/call.h"
#include "daemon/server.h"
#include "proto/uuid.h"

static int64_t wall_clock_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* Decodes the next conversation of the message. 0 and *ret; or -1 with *err. */
static int read_conversation(struct rpc *rpc, const char *field, struct conversation **ret,
                             struct wire_error *err)
{
    struct conversation_fields fields;

    if (conversation_decode(&rpc->message->params, field, &rpc->server->json, &fields, err) != 0)
        return -1;
    if (!fields.has_id)
        uuid_make_v7(fields.id);
    *ret = conversation_new(&fields, fields.id, wall_clock_us());
    if (*ret == NULL)
        return wire_fail(err, WIRE_INTERNAL, "out of memory; send again");
    (*ret)->read_ns = session_readable_ns(rpc->session);
    return 0;
}

static int read_options(struct rpc *rpc, struct store_options *ret, struct wire_error *err)
{
    *ret = (struct store_options){0};
    if (rpc->message->param_count < 2)
        return 0;
    return store_options_decode(&rpc->message->params, ret, err);
}

/* Gives the conversation to the server; from here on its call is settled by events. */
static void take(struct rpc *rpc, struct conversation *c, struct call *call, uint32_t index)
{
    struct wire_error err;

    c->call = call;
    c->call_index = index;
    if (call != NULL)
        call_set_id(call, index, conversation_header(c)->id);
    if (server_take(rpc->server, c, &err) == WIRE_OK)
        return;
    conversation_free(c);
    rpc->server->stats.rejected++;
    if (call != NULL)
        call_settle(call, index, &err);
}

void store_handle(struct rpc *rpc)
{
    struct store_options options;
    struct conversation *c = NULL;
    struct call *call = NULL;
    struct wire_error err;

    if (read_conversation(rpc, "conversation", &c, &err) != 0 ||
        read_options(rpc, &options, &err) != 0 ||
        server_room(rpc->server, 1, c->packed_len, &err) != WIRE_OK)
        goto refuse;
    if (rpc_wants_answer(rpc)) {
        call =
            call_new(rpc->server->loop, rpc->session, rpc->message->msgid, CALL_STORE, 1, &options);
        if (call == NULL) {
            wire_fail(&err, WIRE_INTERNAL, "out of memory; send again");
            goto refuse;
        }
    }
    take(rpc, c, call, 0);
    return;

refuse:
    conversation_free(c);
    rpc->server->stats.rejected++;
    rpc_refuse(rpc, &err);
}

/* One item of store_many, decoded before any is taken: the reader must have passed all of them to
 * reach the options. */
struct item {
    struct conversation *conversation; /* NULL: refused */
    struct wire_error *error;
};

static void free_items(struct item *items, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        conversation_free(items[i].conversation);
        free(items[i].error);
    }
    free(items);
}

/* A refused item costs only itself: the reader is put behind it. */
static int read_item(struct rpc *rpc, uint32_t index, struct item *item, struct wire_error *err)
{
    struct reader next = rpc->message->params;
    struct wire_error why;
    char field[32];

    if (reader_skip(&next) != 0)
        return wire_fail(err, WIRE_INVALID_ARGUMENT, "conversations: not MessagePack");
    snprintf(field, sizeof field, "conversations[%u]", index);
    if (read_conversation(rpc, field, &item->conversation, &why) != 0) {
        item->error = malloc(sizeof *item->error);
        if (item->error == NULL)
            return wire_fail(err, WIRE_INTERNAL, "out of memory; send again");
        *item->error = why;
    }
    rpc->message->params = next;
    return 0;
}

/* Reads the list. 0 with *ret_items (the caller frees) and *ret_bytes of the accepted; or -1 with
 * *err. */
static int read_items(struct rpc *rpc, struct item **ret_items, uint32_t *ret_count,
                      uint64_t *ret_bytes, struct wire_error *err)
{
    struct value list = {0};
    struct item *items;

    if (reader_next(&rpc->message->params, &list) != 0 || list.type != VALUE_ARRAY)
        return wire_fail(err, WIRE_INVALID_ARGUMENT, "conversations: must be an array, got %s",
                         value_type_name(list.type));
    if (list.count == 0 || list.count > STORE_MANY_MAX)
        return wire_fail(err, WIRE_INVALID_ARGUMENT,
                         "conversations: must be 1 to %d conversations, got %u", STORE_MANY_MAX,
                         list.count);
    items = calloc(list.count, sizeof *items);
    if (items == NULL)
        return wire_fail(err, WIRE_INTERNAL, "out of memory; send again");
    *ret_bytes = 0;
    for (uint32_t i = 0; i < list.count; i++) {
        if (read_item(rpc, i, &items[i], err) != 0) {
            free_items(items, list.count);
            return -1;
        }
        if (items[i].conversation != NULL)
            *ret_bytes += items[i].conversation->packed_len;
    }
    *ret_items = items;
    *ret_count = list.count;
    return 0;
}

static void take_items(struct rpc *rpc, struct item *items, uint32_t count, struct call *call)
{
    for (uint32_t i = 0; i < count; i++) {
        struct conversation *c = items[i].conversation;

        items[i].conversation = NULL; /* take() owns it now */
        if (c != NULL) {
            take(rpc, c, call, i);
        } else {
            rpc->server->stats.rejected++;
            if (call != NULL)
                call_settle(call, i, items[i].error);
        }
    }
}

void store_many_handle(struct rpc *rpc)
{
    struct store_options options;
    struct item *items = NULL;
    struct call *call = NULL;
    struct wire_error err;
    uint32_t count = 0;
    uint64_t bytes = 0;

    if (read_items(rpc, &items, &count, &bytes, &err) != 0 ||
        read_options(rpc, &options, &err) != 0 ||
        server_room(rpc->server, count, bytes, &err) != WIRE_OK)
        goto refuse;
    if (rpc_wants_answer(rpc)) {
        call = call_new(rpc->server->loop, rpc->session, rpc->message->msgid, CALL_STORE_MANY,
                        count, &options);
        if (call == NULL) {
            wire_fail(&err, WIRE_INTERNAL, "out of memory; send again");
            goto refuse;
        }
    }
    take_items(rpc, items, count, call);
    free_items(items, count);
    return;

refuse:
    free_items(items, count);
    rpc->server->stats.rejected += count > 0 ? count : 1;
    rpc_refuse(rpc, &err);
}

void store_on_durable(struct server *server, struct conversation *c)
{
    struct call *call = c->call;
    struct wire_error err;

    c->call = NULL;
    if (call == NULL || call_waits_stored(call) || call_is_answered(call))
        server_count_acks(server, c->read_ns, 1, uv_hrtime()); /* no reply goes out for it now */
    if (call == NULL)
        return;
    if (!call_waits_stored(call)) {
        call_settle(call, c->call_index, NULL);
    } else if (waiters_add(&server->waiters, c->seq, call, c->call_index) != 0) {
        wire_fail(&err, WIRE_INTERNAL, "out of memory: accepted, but its row cannot be waited for");
        call_settle(call, c->call_index, &err);
    }
}

void store_on_lost(struct conversation *c)
{
    struct call *call = c->call;
    struct wire_error err;

    c->call = NULL;
    if (call == NULL)
        return;
    wire_fail(&err, WIRE_STORAGE_FAILED,
              "the journal could not make it durable; send again with the same id");
    call_settle(call, c->call_index, &err);
}

void store_on_settled(struct server *server, uint64_t seq, enum row_verdict verdict)
{
    struct wire_error err;
    uint32_t index;
    struct call *call = waiters_take(&server->waiters, seq, &index);

    if (call == NULL)
        return;
    wire_fail(&err, WIRE_INVALID_ARGUMENT,
              "conversation: the database refused it; it is kept in convstore.dead_letters with "
              "the reason");
    call_settle(call, index, verdict == ROW_DEAD ? &err : NULL);
}

void store_end_all(struct server *server)
{
    struct wire_error err;
    struct call *call;
    uint32_t index;

    wire_fail(&err, WIRE_SHUTTING_DOWN, "accepted, but not a row before the daemon ended");
    while ((call = waiters_take(&server->waiters, 0, &index)) != NULL)
        call_settle(call, index, &err);
}
