/* MessagePack-RPC messages and the options of their methods: bytes -> checked structs. Pure; runs
 * on the loop. What stands in a conversation is checked in conversation_fields.c.
 *
 * The hard thing: an error must be answered under the request's msgid wherever the bytes still hold
 * one, so the msgid is taken first and the message's form is judged afterwards. */
#include "proto/message.h"

#define TIMEOUT_MAX_MS 86400000u /* a day */

/* "any unsigned encoding": a signed one is refused even where its number is positive. */
static bool is_unsigned_encoding(uint8_t tag)
{
    return tag < 0x80 || (tag >= 0xcc && tag <= 0xcf);
}

static bool read_msgid(struct reader *r, uint32_t *ret)
{
    struct value v;

    if (r->at == r->end || !is_unsigned_encoding(*r->at) || reader_next(r, &v) != 0 ||
        v.as_uint > UINT32_MAX)
        return false;
    *ret = (uint32_t)v.as_uint;
    return true;
}

/* The array's header and the type; 0 where there is no such thing. */
static uint32_t read_head(struct reader *r, uint64_t *ret_type)
{
    struct value array, type;

    if (reader_next(r, &array) != 0 || array.type != VALUE_ARRAY || array.count == 0)
        return 0;
    if (reader_next(r, &type) != 0 || type.type != VALUE_UINT)
        return 0;
    *ret_type = type.as_uint;
    return array.count;
}

static int parse_call(struct reader *r, struct message *m, struct wire_error *err)
{
    struct value method, params;

    /* pynvim announces itself with a notification whose method is a bin. */
    if (reader_next(r, &method) != 0 ||
        (method.type != VALUE_STR && (method.type != VALUE_BIN || m->type != MESSAGE_NOTIFICATION)))
        return wire_fail(err, WIRE_INVALID_ARGUMENT, "message: the method must be a string");
    if (reader_next(r, &params) != 0 || params.type != VALUE_ARRAY)
        return wire_fail(err, WIRE_INVALID_ARGUMENT, "message: params must be an array");
    m->method = method.bytes;
    m->param_count = params.count;
    m->params = *r;
    return 0;
}

int message_parse(const void *data, size_t len, struct message *ret, struct wire_error *err)
{
    struct reader r;
    uint64_t type = 0;
    uint32_t count;

    reader_init(&r, data, len);
    *ret = (struct message){0};
    count = read_head(&r, &type);
    if (count == 0 || type > MESSAGE_NOTIFICATION)
        return wire_fail(err, WIRE_INVALID_ARGUMENT,
                         "message: must be an array that begins with 0 (request) or 2 "
                         "(notification)");
    ret->type = (enum message_type)type;
    if (ret->type == MESSAGE_RESPONSE)
        return wire_fail(err, WIRE_INVALID_ARGUMENT, "message: a client may not send responses");
    if (ret->type == MESSAGE_NOTIFICATION) {
        if (count != 3)
            return wire_fail(err, WIRE_INVALID_ARGUMENT,
                             "message: a notification has 3 elements, got %u", count);
        return parse_call(&r, ret, err);
    }
    ret->has_msgid = count > 1 && read_msgid(&r, &ret->msgid);
    if (count != 4)
        return wire_fail(err, WIRE_INVALID_ARGUMENT, "message: a request has 4 elements, got %u",
                         count);
    if (!ret->has_msgid)
        return wire_fail(err, WIRE_INVALID_ARGUMENT,
                         "message: the msgid must be an unsigned integer of at most 32 bits");
    return parse_call(&r, ret, err);
}

bool message_peek_msgid(const void *data, size_t len, uint32_t *ret_msgid)
{
    struct reader r;
    uint64_t type;
    uint32_t count;

    reader_init(&r, data, len);
    count = read_head(&r, &type);
    return count > 1 && type == MESSAGE_REQUEST && read_msgid(&r, ret_msgid);
}

static int decode_wait(const struct value *v, struct store_options *ret, struct wire_error *err)
{
    if (v->type == VALUE_NIL)
        return 0;
    if (v->type == VALUE_STR && slice_equals(v->bytes, "stored"))
        ret->wait_stored = true;
    else if (v->type != VALUE_STR || !slice_equals(v->bytes, "durable"))
        return wire_fail(err, WIRE_INVALID_ARGUMENT,
                         "options.wait: must be \"durable\" or \"stored\"");
    return 0;
}

static int decode_timeout(const struct value *v, uint32_t *ret_timeout_ms, struct wire_error *err)
{
    if (v->type == VALUE_NIL)
        return 0;
    if (v->type != VALUE_UINT || v->as_uint == 0 || v->as_uint > TIMEOUT_MAX_MS)
        return wire_fail(err, WIRE_INVALID_ARGUMENT,
                         "options.timeout_ms: must be an integer from 1 to %u", TIMEOUT_MAX_MS);
    *ret_timeout_ms = (uint32_t)v->as_uint;
    return 0;
}

static int bad_option(const struct value *key, const char *why, struct wire_error *err)
{
    char quoted[WIRE_QUOTE_SIZE];

    return wire_fail(err, WIRE_INVALID_ARGUMENT, "options: %s %s", why,
                     wire_quote(key->bytes, quoted));
}

/* One key and its value. seen: a bit for each option that was there already. */
static int decode_option(struct reader *r, bool takes_wait, unsigned *seen,
                         struct store_options *ret, struct wire_error *err)
{
    struct value key, v;
    bool is_wait, is_timeout;
    unsigned bit;

    if (reader_next(r, &key) != 0)
        return wire_fail(err, WIRE_INVALID_ARGUMENT, "options: not MessagePack");
    if (key.type != VALUE_STR)
        return wire_fail(err, WIRE_INVALID_ARGUMENT, "options: keys must be strings, got %s",
                         value_type_name(key.type));
    is_wait = takes_wait && slice_equals(key.bytes, "wait");
    is_timeout = slice_equals(key.bytes, "timeout_ms");
    if (!is_wait && !is_timeout)
        return bad_option(&key, "unknown key", err);
    bit = is_wait ? 1u : 2u;
    if ((*seen & bit) != 0)
        return bad_option(&key, "duplicate key", err);
    *seen |= bit;
    if (reader_next(r, &v) != 0)
        return wire_fail(err, WIRE_INVALID_ARGUMENT, "options: not MessagePack");
    return is_wait ? decode_wait(&v, ret, err) : decode_timeout(&v, &ret->timeout_ms, err);
}

static int decode_options(struct reader *r, bool takes_wait, struct store_options *ret,
                          struct wire_error *err)
{
    struct value map;
    unsigned seen = 0;

    *ret = (struct store_options){0};
    if (reader_next(r, &map) != 0)
        return wire_fail(err, WIRE_INVALID_ARGUMENT, "options: not MessagePack");
    if (map.type == VALUE_NIL)
        return 0;
    if (map.type != VALUE_MAP)
        return wire_fail(err, WIRE_INVALID_ARGUMENT, "options: must be a map or nil, got %s",
                         value_type_name(map.type));
    /* A claim of many pairs costs nothing: the third key is unknown or a duplicate. */
    for (uint32_t i = 0; i < map.count; i++)
        if (decode_option(r, takes_wait, &seen, ret, err) != 0)
            return -1;
    return 0;
}

int store_options_decode(struct reader *r, struct store_options *ret, struct wire_error *err)
{
    return decode_options(r, true, ret, err);
}

int flush_options_decode(struct reader *r, uint32_t *ret_timeout_ms, struct wire_error *err)
{
    struct store_options options;

    if (decode_options(r, false, &options, err) != 0)
        return -1;
    *ret_timeout_ms = options.timeout_ms;
    return 0;
}
