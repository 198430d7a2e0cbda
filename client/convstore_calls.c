/* libconvstore's calls with more than one conversation or none: store_many, ping, stats and any
 * other method. They wait; on the wire they are requests like all others. */
#include "client/convstore_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* ---- store_many ---- */

/* One message of a store_many. Freed by its answer. */
struct chunk {
    unsigned *outstanding;
    struct convstore_result *results; /* of the whole call */
    size_t count;
    size_t items[]; /* where each of the message's conversations stands in results */
};

static void set_result(struct convstore_result *result, const struct cs_failure *failure)
{
    result->code = failure->code;
    result->retry_after_ms = failure->retry_after_ms;
    memcpy(result->text, failure->text, sizeof result->text);
}

/* Calls visit for each [index, error]; false where the list is not of that form. */
static bool each_error(struct reader errors, size_t count,
                       void (*visit)(void *context, size_t index, const struct cs_failure *failure),
                       void *context)
{
    struct value list, pair, index;

    if (reader_next(&errors, &list) != 0 || list.type != VALUE_ARRAY)
        return false;
    for (uint32_t i = 0; i < list.count; i++) {
        struct cs_failure failure;

        if (reader_next(&errors, &pair) != 0 || pair.type != VALUE_ARRAY || pair.count != 2 ||
            reader_next(&errors, &index) != 0 || index.type != VALUE_UINT ||
            index.as_uint >= count || cs_error_decode(&errors, &failure) != 0)
            return false;
        visit(context, (size_t)index.as_uint, &failure);
    }
    return true;
}

static void visit_result(void *context, size_t index, const struct cs_failure *failure)
{
    struct chunk *chunk = context;

    set_result(&chunk->results[chunk->items[index]], failure);
}

static void visit_retry(void *context, size_t index, const struct cs_failure *failure)
{
    (void)index;
    if (cs_code_wants_retry(failure->code))
        *(struct cs_failure *)context = *failure;
}

/* One conversation that could not be made durable sends the whole message again: the others carry
 * their ids and are known already. */
static bool many_wants_retry(const struct cs_reply *reply, struct cs_failure *ret)
{
    struct reader errors;

    ret->code = 0;
    return cs_map_find(reply->result, "errors", &errors) &&
           each_error(errors, CS_STORE_MANY_ITEMS, visit_retry, ret) && ret->code != 0;
}

/* Each id that is confirmed makes its conversation stored; what the answer leaves out stays
 * unconfirmed. */
static bool read_ids(struct chunk *chunk, struct reader ids)
{
    struct value list, id;

    if (reader_next(&ids, &list) != 0 || list.type != VALUE_ARRAY || list.count != chunk->count)
        return false;
    for (size_t i = 0; i < chunk->count; i++) {
        struct convstore_result *result = &chunk->results[chunk->items[i]];

        if (reader_next(&ids, &id) != 0)
            return false;
        if (id.type == VALUE_STR && slice_equals(id.bytes, result->id)) {
            result->code = 0;
            result->text[0] = '\0';
        }
    }
    return true;
}

static void on_many_reply(struct convstore *c, struct cs_request *r, const struct cs_reply *reply)
{
    struct chunk *chunk = r->context;
    struct cs_failure failure = reply->failure;
    struct reader ids, errors;

    (void)c;
    if (failure.code == 0)
        cs_fail(&failure, CONVSTORE_BAD_REPLY, "the answer does not name the conversation's id");
    for (size_t i = 0; i < chunk->count; i++)
        set_result(&chunk->results[chunk->items[i]], &failure);
    if (reply->failure.code == 0 && cs_map_find(reply->result, "ids", &ids) &&
        read_ids(chunk, ids) && cs_map_find(reply->result, "errors", &errors))
        (void)!each_error(errors, chunk->count, visit_result, chunk);
    (*chunk->outstanding)--;
    free(chunk);
}

/* Gathers the next message's conversations from *next on, and leaves *next behind them. What is
 * refused here has its result at once. Returns about how many bytes they need. */
static size_t gather(const struct convstore_conversation *items, size_t count, size_t *next,
                     struct chunk *chunk)
{
    size_t bytes = 64;

    while (*next < count && chunk->count < CS_STORE_MANY_ITEMS) {
        size_t i = *next;
        size_t size = cs_conversation_size(&items[i]);
        struct cs_failure failure = {.retry_after_ms = -1};
        uint8_t id[16];

        if (chunk->count > 0 && bytes + size > CS_STORE_MANY_BYTES)
            break;
        (*next)++;
        chunk->results[i].id[0] = '\0';
        if (cs_conversation_check(&items[i], "conversation", id, &failure) != 0) {
            set_result(&chunk->results[i], &failure);
            continue;
        }
        uuid_format(id, chunk->results[i].id);
        chunk->items[chunk->count++] = i;
        bytes += size;
    }
    return bytes;
}

static struct cs_request *pack_chunk(struct convstore *c,
                                     const struct convstore_conversation *items,
                                     struct chunk *chunk, size_t bytes, enum convstore_wait wait,
                                     int *ret_code)
{
    struct cs_request *r;
    struct cs_buffer b;
    msgpack_packer pk;

    cs_buffer_init(&b, &pk, bytes);
    cs_pack_request(&pk, "store_many");
    msgpack_pack_array(&pk, wait == CONVSTORE_STORED ? 2 : 1);
    msgpack_pack_array(&pk, chunk->count);
    for (size_t i = 0; i < chunk->count; i++) {
        size_t item = chunk->items[i];
        uint8_t id[16];
        int rc = uuid_parse(chunk->results[item].id, UUID_TEXT_LEN, id);

        assert(rc == 0); /* gather() has formatted it */
        cs_pack_conversation(&pk, &items[item], id);
    }
    if (wait == CONVSTORE_STORED)
        cs_pack_stored_options(&pk, c->timeout_ms);
    r = cs_request_new(c, &b, ret_code);
    if (r != NULL) {
        r->on_reply = on_many_reply;
        r->wants_retry = many_wants_retry;
        r->context = chunk;
    }
    return r;
}

/* Sends one message's worth of items. Its failures stand in the results. */
static void submit_chunk(struct convstore *c, const struct convstore_conversation *items,
                         size_t count, size_t *next, enum convstore_wait wait, struct chunk *chunk,
                         int64_t deadline_ms)
{
    size_t bytes = gather(items, count, next, chunk);
    struct cs_request *r = NULL;
    int code = 0;

    if (chunk->count > 0)
        r = pack_chunk(c, items, chunk, bytes, wait, &code);
    if (r != NULL)
        code = cs_submit_waiting(c, r, deadline_ms);
    if (r != NULL && code == 0) {
        (*chunk->outstanding)++; /* and the answer frees chunk */
        return;
    }
    for (size_t i = 0; i < chunk->count; i++)
        set_result(&chunk->results[chunk->items[i]], &c->failure);
    free(chunk);
}

static void fail_rest(struct convstore_result *results, size_t from, size_t count,
                      const struct cs_failure *failure)
{
    for (size_t i = from; i < count; i++) {
        results[i].id[0] = '\0';
        set_result(&results[i], failure);
    }
}

int convstore_store_many(struct convstore *c, const struct convstore_conversation *items,
                         size_t count, enum convstore_wait wait,
                         struct convstore_result *ret_results)
{
    int64_t deadline_ms = cs_now_ms() + c->timeout_ms;
    unsigned outstanding = 0;
    size_t next = 0;
    int code = cs_call_begin(c);

    if (code != 0)
        return code;
    while (next < count) {
        size_t most = count - next < CS_STORE_MANY_ITEMS ? count - next : CS_STORE_MANY_ITEMS;
        struct chunk *chunk = malloc(sizeof *chunk + most * sizeof chunk->items[0]);

        if (chunk == NULL) {
            (void)cs_fail(&c->failure, CONVSTORE_NO_MEMORY, "no memory for the message");
            fail_rest(ret_results, next, count, &c->failure);
            break;
        }
        *chunk = (struct chunk){.outstanding = &outstanding, .results = ret_results};
        submit_chunk(c, items, count, &next, wait, chunk, deadline_ms);
    }
    cs_run(c, &outstanding);
    for (size_t i = 0; i < count; i++) {
        if (ret_results[i].code != 0) {
            code = cs_fail(&c->failure, ret_results[i].code, "%s", ret_results[i].text);
            c->failure.retry_after_ms = ret_results[i].retry_after_ms;
            return code;
        }
    }
    return 0;
}

/* ---- ping, stats, call ---- */

struct call {
    unsigned outstanding;
    struct cs_failure failure;
    void (*read)(struct reader result, void *out); /* may be NULL */
    void *out;
};

static void on_call_reply(struct convstore *c, struct cs_request *r, const struct cs_reply *reply)
{
    struct call *call = r->context;
    struct reader result = reply->result;

    call->outstanding = 0;
    call->failure = reply->failure;
    if (reply->failure.code != 0)
        return;
    if (cs_json_from_reply(c, &result) != 0)
        call->failure = c->failure;
    else if (call->read != NULL)
        call->read(reply->result, call->out);
}

/* The answer stands in c->json, and call->read has seen it. */
static int run_call(struct convstore *c, const char *method, const void *params, size_t params_len,
                    struct call *call)
{
    int64_t deadline_ms = cs_now_ms() + c->timeout_ms;
    struct cs_request *r;
    struct cs_buffer b;
    msgpack_packer pk;
    int code = cs_call_begin(c);

    if (code != 0)
        return code;
    cs_buffer_init(&b, &pk, 64 + strlen(method) + params_len);
    cs_pack_request(&pk, method);
    if (params_len == 0)
        msgpack_pack_array(&pk, 0);
    else
        pk.callback(pk.data, params, params_len);
    r = cs_request_new(c, &b, &code);
    if (r == NULL)
        return code;
    call->outstanding = 1;
    r->on_reply = on_call_reply;
    r->context = call;
    code = cs_submit_waiting(c, r, deadline_ms);
    if (code != 0)
        return code;
    cs_run(c, &call->outstanding);
    c->failure = call->failure;
    return c->failure.code;
}

static void read_text(struct reader map, const char *key, char *ret, size_t size)
{
    struct reader at;
    struct value v;
    size_t len;

    ret[0] = '\0';
    if (!cs_map_find(map, key, &at) || reader_next(&at, &v) != 0 || v.type != VALUE_STR)
        return;
    len = v.bytes.len < size ? v.bytes.len : size - 1;
    memcpy(ret, v.bytes.data, len);
    ret[len] = '\0';
}

static int64_t read_int(struct reader map, const char *key)
{
    struct reader at;
    struct value v;

    if (!cs_map_find(map, key, &at) || reader_next(&at, &v) != 0 || v.type != VALUE_UINT)
        return -1;
    return v.as_uint > INT64_MAX ? INT64_MAX : (int64_t)v.as_uint;
}

static void read_server(struct reader result, void *out)
{
    struct convstore_server *server = out;
    int64_t protocol = read_int(result, "protocol");

    read_text(result, "server", server->server, sizeof server->server);
    read_text(result, "version", server->version, sizeof server->version);
    read_text(result, "durability", server->durability, sizeof server->durability);
    server->protocol = protocol > 0 && protocol <= INT_MAX ? (unsigned)protocol : 0;
}

int convstore_ping(struct convstore *c, struct convstore_server *ret)
{
    struct call call = {.read = ret != NULL ? read_server : NULL, .out = ret};

    return run_call(c, "ping", NULL, 0, &call);
}

static void read_stats(struct reader result, void *out)
{
    struct convstore_stats *stats = out;

    stats->queued = read_int(result, "queued");
    stats->processing = read_int(result, "processing");
    stats->completed = read_int(result, "completed");
    stats->failed = read_int(result, "failed");
    stats->dead_letters = read_int(result, "dead_letters");
    stats->oldest_queued_ms = read_int(result, "oldest_queued_ms");
    stats->connections = read_int(result, "connections");
    read_text(result, "health", stats->health, sizeof stats->health);
}

int convstore_stats(struct convstore *c, struct convstore_stats *ret, const char **ret_json)
{
    struct call call = {.read = ret != NULL ? read_stats : NULL, .out = ret};
    int code = run_call(c, "stats", NULL, 0, &call);

    if (code == 0 && ret_json != NULL)
        *ret_json = c->json;
    return code;
}

static bool is_one_array(const void *params, size_t len)
{
    struct scan scan;
    struct reader reader;
    struct value v;
    size_t whole = 0;

    scan_reset(&scan);
    if (scan_value(&scan, params, len, len, UINT32_MAX, &whole) != SCAN_COMPLETE || whole != len)
        return false;
    reader_init(&reader, params, len);
    return reader_next(&reader, &v) == 0 && v.type == VALUE_ARRAY;
}

int convstore_call(struct convstore *c, const char *method, const void *params, size_t params_len,
                   const char **ret_json)
{
    struct call call = {.read = NULL};
    int code;

    if (params_len > 0 && !is_one_array(params, params_len))
        return cs_fail(&c->failure, CONVSTORE_INVALID_ARGUMENT,
                       "params is not one whole MessagePack array");
    code = run_call(c, method, params, params_len, &call);
    if (code == 0 && ret_json != NULL)
        *ret_json = c->json;
    return code;
}
