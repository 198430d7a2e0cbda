/* What goes over the wire: conversations and requests into MessagePack, answers out of it. Pure: no
 * state, no system calls but the clock and randomness behind a new id.
 *
 * The daemon judges a conversation; here only that is refused which would break the message itself
 * (metadata that is not one whole value) or the promise of exactly once (an id that is none). */
#include "client/convstore_internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/slice.h"

#define WAIT_MAX_MS 86400000u /* the longest that the protocol takes */

int cs_fail(struct cs_failure *ret, int code, const char *format, ...)
{
    va_list args;

    ret->code = code;
    ret->retry_after_ms = -1;
    va_start(args, format);
    vsnprintf(ret->text, sizeof ret->text, format, args);
    va_end(args);
    return code;
}

bool cs_code_wants_retry(int code)
{
    return code == CONVSTORE_QUEUE_FULL || code == CONVSTORE_SHUTTING_DOWN ||
           code == CONVSTORE_STORAGE_FAILED;
}

/* ---- packing ---- */

static int write_buffer(void *data, const char *bytes, size_t len)
{
    struct cs_buffer *b = data;

    if (!b->failed && len > b->capacity - b->len) {
        size_t capacity = b->capacity * 2 + len;
        char *grown = realloc(b->data, capacity);

        b->failed = grown == NULL;
        if (!b->failed) {
            b->data = grown;
            b->capacity = capacity;
        }
    }
    if (b->failed)
        return -1;
    memcpy(b->data + b->len, bytes, len);
    b->len += len;
    return 0;
}

void cs_buffer_init(struct cs_buffer *b, msgpack_packer *pk, size_t expected)
{
    *b = (struct cs_buffer){.data = malloc(expected), .capacity = expected};
    b->failed = b->data == NULL;
    msgpack_packer_init(pk, b, write_buffer);
}

static void pack_text(msgpack_packer *pk, const char *data, size_t len)
{
    msgpack_pack_str(pk, len);
    msgpack_pack_str_body(pk, data, len);
}

static void pack_key(msgpack_packer *pk, const char *key)
{
    pack_text(pk, key, strlen(key));
}

void cs_pack_request(msgpack_packer *pk, const char *method)
{
    static const char msgid[5] = {(char)0xce, 0, 0, 0, 0}; /* always in its long form */

    msgpack_pack_array(pk, 4);
    msgpack_pack_int(pk, 0);
    pk->callback(pk->data, msgid, sizeof msgid);
    pack_key(pk, method);
}

void cs_pack_stored_options(msgpack_packer *pk, unsigned timeout_ms)
{
    msgpack_pack_map(pk, 2);
    pack_key(pk, "wait");
    pack_key(pk, "stored");
    pack_key(pk, "timeout_ms");
    msgpack_pack_unsigned_int(pk, timeout_ms < WAIT_MAX_MS ? timeout_ms : WAIT_MAX_MS);
}

static int check_id(const char *id, const char *field, uint8_t ret[16], struct cs_failure *failure)
{
    if (id == NULL) {
        uuid_make_v7(ret);
        return 0;
    }
    if (uuid_parse(id, strlen(id), ret) == 0)
        return 0;
    return cs_fail(failure, CONVSTORE_INVALID_ARGUMENT, "%s.id is not a UUID of 36 characters",
                   field);
}

/* One whole map and nothing behind it: its bytes go into the message as they are. */
static int check_metadata(struct convstore_text metadata, const char *field, struct cs_failure *ret)
{
    struct scan scan;
    struct reader reader;
    struct value value;
    size_t len = 0;

    if (metadata.data == NULL)
        return 0;
    scan_reset(&scan);
    if (metadata.len == 0 ||
        scan_value(&scan, metadata.data, metadata.len, metadata.len, UINT32_MAX, &len) !=
            SCAN_COMPLETE ||
        len != metadata.len)
        return cs_fail(ret, CONVSTORE_INVALID_ARGUMENT,
                       "%s.metadata is not one whole MessagePack value (nested at most %d deep)",
                       field, SCAN_MAX_DEPTH);
    reader_init(&reader, metadata.data, metadata.len);
    if (reader_next(&reader, &value) != 0 || value.type != VALUE_MAP)
        return cs_fail(ret, CONVSTORE_INVALID_ARGUMENT, "%s.metadata must be a map", field);
    return 0;
}

/* The formats know lengths up to 2^32 - 1 only. */
static int check_lengths(const struct convstore_conversation *conversation, const char *field,
                         struct cs_failure *ret)
{
    const struct convstore_text texts[] = {conversation->user_id, conversation->platform,
                                           conversation->transcript, conversation->summary};

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        if (texts[i].data != NULL && texts[i].len > UINT32_MAX)
            return cs_fail(ret, CONVSTORE_TOO_LARGE, "%s holds a text over 4 GiB", field);
    }
    return 0;
}

int cs_conversation_check(const struct convstore_conversation *conversation, const char *field,
                          uint8_t id[16], struct cs_failure *ret)
{
    int code = check_id(conversation->id, field, id, ret);

    if (code == 0)
        code = check_lengths(conversation, field, ret);
    if (code == 0)
        code = check_metadata(conversation->metadata, field, ret);
    return code;
}

static void pack_text_field(msgpack_packer *pk, const char *key, struct convstore_text text)
{
    if (text.data == NULL)
        return;
    pack_key(pk, key);
    pack_text(pk, text.data, text.len);
}

static void pack_created_at(msgpack_packer *pk, int64_t us)
{
    int64_t seconds = us / 1000000;
    int64_t rest = us % 1000000;
    msgpack_timestamp stamp;

    if (rest < 0) { /* the fraction of a timestamp always counts forward */
        rest += 1000000;
        seconds--;
    }
    stamp.tv_sec = seconds;
    stamp.tv_nsec = (uint32_t)(rest * 1000);
    pack_key(pk, "created_at");
    msgpack_pack_timestamp(pk, &stamp);
}

void cs_pack_conversation(msgpack_packer *pk, const struct convstore_conversation *conversation,
                          const uint8_t id[16])
{
    const struct convstore_conversation *c = conversation;
    size_t keys = 1 + (c->user_id.data != NULL) + (c->platform.data != NULL) +
                  (c->transcript.data != NULL) + (c->summary.data != NULL) +
                  (c->metadata.data != NULL) + (c->has_created_at ? 1 : 0);

    msgpack_pack_map(pk, keys);
    pack_key(pk, "id");
    msgpack_pack_bin(pk, 16);
    msgpack_pack_bin_body(pk, id, 16);
    pack_text_field(pk, "user_id", c->user_id);
    pack_text_field(pk, "platform", c->platform);
    pack_text_field(pk, "transcript", c->transcript);
    pack_text_field(pk, "summary", c->summary);
    if (c->metadata.data != NULL) {
        pack_key(pk, "metadata");
        pk->callback(pk->data, c->metadata.data, c->metadata.len);
    }
    if (c->has_created_at)
        pack_created_at(pk, c->created_at_us);
}

size_t cs_conversation_size(const struct convstore_conversation *conversation)
{
    return 128 + conversation->user_id.len + conversation->platform.len +
           conversation->transcript.len + conversation->summary.len + conversation->metadata.len;
}

/* ---- answers ---- */

bool cs_map_find(struct reader map, const char *key, struct reader *ret)
{
    struct value head, v;

    if (reader_next(&map, &head) != 0 || head.type != VALUE_MAP)
        return false;
    for (uint32_t i = 0; i < head.count; i++) {
        struct reader at = map;

        if (reader_next(&at, &v) != 0 || reader_skip(&map) != 0)
            return false;
        if (v.type == VALUE_STR && slice_equals(v.bytes, key)) {
            *ret = map;
            return true;
        }
        if (reader_skip(&map) != 0)
            return false;
    }
    return false;
}

/* [code, name, text, retry_after_ms]. A server of another make may send anything as its error; a
 * string is taken as the text. */
int cs_error_decode(struct reader *r, struct cs_failure *ret)
{
    struct value head, code, text, after;

    if (reader_next(r, &head) != 0)
        return -EBADMSG;
    if (head.type == VALUE_STR) {
        cs_fail(ret, CONVSTORE_INTERNAL, "%.*s", head.bytes.len > 200 ? 200 : (int)head.bytes.len,
                head.bytes.data);
        return 0;
    }
    if (head.type != VALUE_ARRAY || head.count < 3 || reader_next(r, &code) != 0 ||
        code.type != VALUE_UINT || code.as_uint == 0 || code.as_uint >= CONVSTORE_CANNOT_CONNECT ||
        reader_skip(r) != 0 || reader_next(r, &text) != 0 || text.type != VALUE_STR)
        return -EBADMSG;
    cs_fail(ret, (int)code.as_uint, "%.*s",
            text.bytes.len >= sizeof ret->text ? (int)sizeof ret->text - 1 : (int)text.bytes.len,
            text.bytes.data);
    if (head.count == 3)
        return 0;
    if (reader_next(r, &after) != 0)
        return -EBADMSG;
    if (after.type == VALUE_UINT)
        ret->retry_after_ms = after.as_uint > INT_MAX ? INT_MAX : (int)after.as_uint;
    for (uint32_t i = 4; i < head.count; i++) {
        if (reader_skip(r) != 0)
            return -EBADMSG;
    }
    return 0;
}

int cs_reply_decode(const void *data, size_t len, struct cs_reply *ret)
{
    struct reader r;
    struct reader after_nil;
    struct value v;

    *ret = (struct cs_reply){.failure = {.retry_after_ms = -1}};
    reader_init(&r, data, len);
    if (reader_next(&r, &v) != 0 || v.type != VALUE_ARRAY || v.count != 4)
        return -EBADMSG;
    if (reader_next(&r, &v) != 0 || v.type != VALUE_UINT || v.as_uint != 1)
        return -EBADMSG;
    if (reader_next(&r, &v) != 0 ||
        (v.type != VALUE_NIL && (v.type != VALUE_UINT || v.as_uint > UINT32_MAX)))
        return -EBADMSG;
    ret->has_msgid = v.type == VALUE_UINT;
    ret->msgid = ret->has_msgid ? (uint32_t)v.as_uint : 0;
    after_nil = r;
    if (reader_next(&after_nil, &v) != 0)
        return -EBADMSG;
    if (v.type == VALUE_NIL) {
        ret->result = after_nil;
        return ret->has_msgid ? 0 : -EBADMSG;
    }
    return cs_error_decode(&r, &ret->failure);
}
