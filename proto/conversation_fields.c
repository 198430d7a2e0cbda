/* One conversation map of the wire -> checked fields. Pure; runs on the loop; what it returns
 * points into the message and into the caller's json_buffer.
 *
 * The hard thing: what passes here must never be refused by PostgreSQL afterwards (a batch that
 * fails late costs its neighbours), and what does not pass must say which field and why without
 * ever showing a text's content. */
#include <assert.h>
#include <stdio.h>

#include "proto/format.h"
#include "proto/message.h"
#include "proto/utf8.h"
#include "proto/uuid.h"

#define TIMESTAMP_EXT (-1)
#define NANOSECONDS_MAX 999999999u

/* 4713-01-01 BC is where PostgreSQL begins. It ends with 294276-12-31, but microseconds since 1970
 * leave 64 bits in 294247, so the last whole year before that is the limit here. */
#define CREATED_AT_MIN_S (-210863520000)
#define CREATED_AT_END_S 9223371244800
static_assert(CREATED_AT_END_S <= INT64_MAX / 1000000, "in microseconds it fits 64 bits");

enum field { ID, USER_ID, PLATFORM, TRANSCRIPT, SUMMARY, METADATA, CREATED_AT, FIELD_COUNT };

static const char *const field_names[FIELD_COUNT] = {
    [ID] = "id",
    [USER_ID] = "user_id",
    [PLATFORM] = "platform",
    [TRANSCRIPT] = "transcript",
    [SUMMARY] = "summary",
    [METADATA] = "metadata",
    [CREATED_AT] = "created_at",
};

/* Where the decoder stands: what its error texts need. */
struct decoder {
    struct reader *reader;
    struct json_buffer *json;
    struct wire_error *err;
    const char *item;  /* "conversations[3]" */
    const char *field; /* "user_id" */
};

static int __attribute__((format(printf, 3, 4)))
fail(struct decoder *d, enum wire_code code, const char *format, ...)
{
    char why[160];
    va_list args;

    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    if (d->field == NULL)
        return wire_fail(d->err, code, "%s: %s", d->item, why);
    return wire_fail(d->err, code, "%s.%s: %s", d->item, d->field, why);
}

static int fail_key(struct decoder *d, const char *why, struct slice key)
{
    char quoted[WIRE_QUOTE_SIZE];

    return fail(d, WIRE_INVALID_ARGUMENT, "%s %s", why, wire_quote(key, quoted));
}

static int read_value(struct decoder *d, struct value *ret)
{
    if (reader_next(d->reader, ret) != 0)
        return fail(d, WIRE_INVALID_ARGUMENT, "not MessagePack");
    return 0;
}

static int check_text(struct decoder *d, struct slice text)
{
    ssize_t bad = utf8_first_bad(text.data, text.len);

    if (bad < 0)
        return 0;
    if (text.data[bad] == '\0')
        return fail(d, WIRE_INVALID_ARGUMENT, "NUL at byte %zd; text must not hold any", bad);
    return fail(d, WIRE_INVALID_ARGUMENT, "invalid UTF-8 at byte %zd", bad);
}

/* A text of 1 to max_bytes bytes. */
static int decode_short_text(struct decoder *d, size_t max_bytes, struct slice *ret)
{
    struct value v;

    if (read_value(d, &v) != 0)
        return -1;
    if (v.type != VALUE_STR)
        return fail(d, WIRE_INVALID_ARGUMENT, "must be a string of 1 to %zu bytes, got %s",
                    max_bytes, value_type_name(v.type));
    if (v.bytes.len == 0 || v.bytes.len > max_bytes)
        return fail(d, v.bytes.len == 0 ? WIRE_INVALID_ARGUMENT : WIRE_TOO_LARGE,
                    "must be a string of 1 to %zu bytes, got %zu bytes", max_bytes, v.bytes.len);
    *ret = v.bytes;
    return check_text(d, v.bytes);
}

static int decode_transcript(struct decoder *d, struct slice *ret)
{
    struct value v;

    if (read_value(d, &v) != 0)
        return -1;
    if (v.type != VALUE_STR)
        return fail(d, WIRE_INVALID_ARGUMENT, "must be a string of at least 1 byte, got %s",
                    value_type_name(v.type));
    if (v.bytes.len == 0)
        return fail(d, WIRE_INVALID_ARGUMENT, "must be a string of at least 1 byte, got 0 bytes");
    *ret = v.bytes;
    return check_text(d, v.bytes);
}

static int decode_summary(struct decoder *d, struct slice *ret)
{
    struct value v;

    if (read_value(d, &v) != 0)
        return -1;
    if (v.type == VALUE_NIL)
        return 0;
    if (v.type != VALUE_STR)
        return fail(d, WIRE_INVALID_ARGUMENT, "must be a string or nil, got %s",
                    value_type_name(v.type));
    *ret = v.bytes;
    return check_text(d, v.bytes);
}

static int decode_metadata(struct decoder *d, struct slice *ret)
{
    struct reader ahead = *d->reader;
    struct value v;
    char name[80];

    if (reader_next(&ahead, &v) == 0 && v.type == VALUE_NIL) {
        *d->reader = ahead;
        return 0;
    }
    snprintf(name, sizeof name, "%s.%s", d->item, d->field);
    if (json_from_msgpack(d->reader, name, d->json, d->err) != 0)
        return -1;
    *ret = (struct slice){d->json->data, d->json->len};
    return 0;
}

static int decode_id(struct decoder *d, struct conversation_fields *ret)
{
    struct value v;

    if (read_value(d, &v) != 0)
        return -1;
    if (v.type == VALUE_NIL)
        return 0;
    if (v.type == VALUE_BIN && v.bytes.len == sizeof ret->id)
        memcpy(ret->id, v.bytes.data, sizeof ret->id);
    else if (v.type != VALUE_STR || uuid_parse(v.bytes.data, v.bytes.len, ret->id) != 0)
        return fail(d, WIRE_INVALID_ARGUMENT,
                    "must be a UUID: a string of 36 characters or binary of 16 bytes");
    ret->has_id = true;
    return 0;
}

/* Seconds and the nanoseconds that come on top of them (before 1970 too, so cutting those down to
 * microseconds always rounds towards the past). */
static int set_timestamp(struct decoder *d, int64_t seconds, uint32_t nanoseconds,
                         struct conversation_fields *ret)
{
    if (nanoseconds > NANOSECONDS_MAX)
        return fail(d, WIRE_INVALID_ARGUMENT, "nanoseconds must be at most %u, got %u",
                    NANOSECONDS_MAX, nanoseconds);
    if (seconds < CREATED_AT_MIN_S || seconds >= CREATED_AT_END_S)
        return fail(d, WIRE_INVALID_ARGUMENT, "must be from 4713-01-01 BC to 294246-12-31");
    ret->has_created_at = true;
    ret->created_at_us = seconds * 1000000 + nanoseconds / 1000;
    return 0;
}

static int decode_timestamp(struct decoder *d, const struct value *v,
                            struct conversation_fields *ret)
{
    const uint8_t *bytes = (const uint8_t *)v->bytes.data;
    uint64_t both;

    if (v->ext_type != TIMESTAMP_EXT)
        return fail(d, WIRE_INVALID_ARGUMENT,
                    "must be a timestamp (extension -1) or integer milliseconds, got extension %d",
                    v->ext_type);
    switch (v->bytes.len) {
    case 4:
        return set_timestamp(d, (int64_t)format_big_endian(bytes, 4), 0, ret);
    case 8:
        both = format_big_endian(bytes, 8);
        return set_timestamp(d, (int64_t)(both & 0x3ffffffff), (uint32_t)(both >> 34), ret);
    case 12:
        return set_timestamp(d, (int64_t)format_big_endian(bytes + 4, 8),
                             (uint32_t)format_big_endian(bytes, 4), ret);
    default:
        return fail(d, WIRE_INVALID_ARGUMENT, "a timestamp has 4, 8 or 12 bytes, got %zu",
                    v->bytes.len);
    }
}

static int decode_created_at(struct decoder *d, struct conversation_fields *ret)
{
    struct value v;
    int64_t ms, seconds;

    if (read_value(d, &v) != 0)
        return -1;
    if (v.type == VALUE_NIL)
        return 0;
    if (v.type == VALUE_EXT)
        return decode_timestamp(d, &v, ret);
    if (v.type != VALUE_UINT && v.type != VALUE_INT)
        return fail(d, WIRE_INVALID_ARGUMENT,
                    "must be a timestamp (extension -1) or integer milliseconds, got %s",
                    value_type_name(v.type));
    /* A number beyond int64 is out of range in any case. */
    ms = v.type == VALUE_UINT && v.as_uint > INT64_MAX ? INT64_MAX : v.as_int;
    seconds = ms / 1000;
    ms %= 1000;
    if (ms < 0) {
        seconds--;
        ms += 1000;
    }
    return set_timestamp(d, seconds, (uint32_t)ms * 1000000, ret);
}

static int decode_field(struct decoder *d, enum field field, struct conversation_fields *ret)
{
    switch (field) {
    case ID:
        return decode_id(d, ret);
    case USER_ID:
        return decode_short_text(d, USER_ID_MAX_BYTES, &ret->user_id);
    case PLATFORM:
        return decode_short_text(d, PLATFORM_MAX_BYTES, &ret->platform);
    case TRANSCRIPT:
        return decode_transcript(d, &ret->transcript);
    case SUMMARY:
        return decode_summary(d, &ret->summary);
    case METADATA:
        return decode_metadata(d, &ret->metadata);
    case CREATED_AT:
        return decode_created_at(d, ret);
    case FIELD_COUNT:
        break;
    }
    assert(!"a field that does not exist");
    return -1;
}

static enum field find_field(struct slice key)
{
    enum field field = 0;

    while (field < FIELD_COUNT && !slice_equals(key, field_names[field]))
        field++;
    return field;
}

/* One key and its value. seen: a bit for each field that was there already. */
static int decode_pair(struct decoder *d, unsigned *seen, struct conversation_fields *ret)
{
    struct value key;
    enum field field;

    d->field = NULL;
    if (read_value(d, &key) != 0)
        return -1;
    if (key.type != VALUE_STR)
        return fail(d, WIRE_INVALID_ARGUMENT, "keys must be strings, got %s",
                    value_type_name(key.type));
    field = find_field(key.bytes);
    if (field == FIELD_COUNT)
        return fail_key(d, "unknown key", key.bytes);
    if ((*seen & 1u << field) != 0)
        return fail_key(d, "duplicate key", key.bytes);
    *seen |= 1u << field;
    d->field = field_names[field];
    return decode_field(d, field, ret);
}

int conversation_decode(struct reader *r, const char *field, struct json_buffer *json,
                        struct conversation_fields *ret, struct wire_error *err)
{
    static const enum field required[] = {USER_ID, PLATFORM, TRANSCRIPT};
    struct decoder d = {.reader = r, .json = json, .err = err, .item = field};
    struct value map;
    unsigned seen = 0;

    *ret = (struct conversation_fields){0};
    if (read_value(&d, &map) != 0)
        return -1;
    if (map.type != VALUE_MAP)
        return fail(&d, WIRE_INVALID_ARGUMENT, "must be a map, got %s", value_type_name(map.type));
    /* A claim of many pairs costs nothing: the eighth key is unknown or a duplicate. */
    for (uint32_t i = 0; i < map.count; i++)
        if (decode_pair(&d, &seen, ret) != 0)
            return -1;
    for (size_t i = 0; i < sizeof required / sizeof required[0]; i++) {
        d.field = field_names[required[i]];
        if ((seen & 1u << required[i]) == 0)
            return fail(&d, WIRE_INVALID_ARGUMENT, "missing");
    }
    return 0;
}

int field_decode_text(struct reader *r, const char *field, size_t max_bytes, struct slice *ret,
                      struct wire_error *err)
{
    struct decoder d = {.reader = r, .err = err, .item = field};

    return decode_short_text(&d, max_bytes, ret);
}

int field_decode_id(struct reader *r, const char *field, bool *ret_given, uint8_t ret[16],
                    struct wire_error *err)
{
    struct decoder d = {.reader = r, .err = err, .item = field};
    struct conversation_fields fields = {0};

    if (decode_id(&d, &fields) != 0)
        return -1;
    *ret_given = fields.has_id;
    memcpy(ret, fields.id, sizeof fields.id);
    return 0;
}

int field_decode_time(struct reader *r, const char *field, bool *ret_given, int64_t *ret_us,
                      struct wire_error *err)
{
    struct decoder d = {.reader = r, .err = err, .item = field};
    struct conversation_fields fields = {0};

    if (decode_created_at(&d, &fields) != 0)
        return -1;
    *ret_given = fields.has_created_at;
    *ret_us = fields.created_at_us;
    return 0;
}
