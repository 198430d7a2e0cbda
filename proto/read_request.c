/* The options of the methods that read. One table says which key belongs to which method; a key
 * that is unknown, doubled or missing is named. Pure. */
#include "proto/read_request.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "proto/uuid.h"

#define LIST 1u
#define SEARCH 2u
#define FORGET 4u

struct option {
    const char *name;
    unsigned methods, required;
    int (*decode)(struct reader *r, const char *field, struct read_request *ret,
                  struct wire_error *err);
};

static void copy(struct slice from, char *to)
{
    memcpy(to, from.data, from.len);
    to[from.len] = '\0';
}

static int decode_user_id(struct reader *r, const char *field, struct read_request *ret,
                          struct wire_error *err)
{
    struct slice text;

    if (field_decode_text(r, field, USER_ID_MAX_BYTES, &text, err) != 0)
        return -1;
    copy(text, ret->user_id);
    return 0;
}

static int decode_id(struct reader *r, const char *field, struct read_request *ret,
                     struct wire_error *err)
{
    return field_decode_id(r, field, &ret->has_id, ret->id, err);
}

static int decode_platform(struct reader *r, const char *field, struct read_request *ret,
                           struct wire_error *err)
{
    struct slice text;

    if (field_decode_text(r, field, PLATFORM_MAX_BYTES, &text, err) != 0)
        return -1;
    copy(text, ret->platform);
    return 0;
}

static int decode_query(struct reader *r, const char *field, struct read_request *ret,
                        struct wire_error *err)
{
    struct slice text;

    if (field_decode_text(r, field, QUERY_MAX_BYTES, &text, err) != 0)
        return -1;
    copy(text, ret->query);
    return 0;
}

static int decode_limit(struct reader *r, const char *field, struct read_request *ret,
                        struct wire_error *err)
{
    struct value v;

    if (reader_next(r, &v) != 0 || v.type != VALUE_UINT || v.as_uint < 1 ||
        v.as_uint > READ_LIMIT_MAX)
        return wire_fail(err, WIRE_INVALID_ARGUMENT, "%s: must be an integer from 1 to %d", field,
                         READ_LIMIT_MAX);
    ret->limit = (uint32_t)v.as_uint;
    return 0;
}

static int decode_mode(struct reader *r, const char *field, struct read_request *ret,
                       struct wire_error *err)
{
    static const char *const names[] = {NULL, "vector", "text", "hybrid"};
    struct value v;

    if (reader_next(r, &v) == 0 && v.type == VALUE_STR)
        for (int mode = SEARCH_VECTOR; mode <= SEARCH_HYBRID; mode++)
            if (slice_equals(v.bytes, names[mode])) {
                ret->mode = mode;
                return 0;
            }
    return wire_fail(err, WIRE_INVALID_ARGUMENT, "%s: must be \"vector\", \"text\" or \"hybrid\"",
                     field);
}

static int decode_since(struct reader *r, const char *field, struct read_request *ret,
                        struct wire_error *err)
{
    return field_decode_time(r, field, &ret->has_since, &ret->since_us, err);
}

static int decode_until(struct reader *r, const char *field, struct read_request *ret,
                        struct wire_error *err)
{
    return field_decode_time(r, field, &ret->has_until, &ret->until_us, err);
}

void read_cursor_format(int64_t created_at_us, const char *id, char ret[CURSOR_SIZE])
{
    snprintf(ret, CURSOR_SIZE, "%" PRId64 "/%.36s", created_at_us, id);
}

static int parse_cursor(struct slice text, struct read_request *ret)
{
    char buffer[CURSOR_SIZE];
    char *end;

    if (text.len >= sizeof buffer)
        return -1;
    copy(text, buffer);
    ret->before_us = strtoll(buffer, &end, 10);
    if (end == buffer || *end != '/')
        return -1;
    return uuid_parse(end + 1, strlen(end + 1), ret->before_id);
}

/* A cursor, or a point in time: then the page begins before all that is as old. */
static int decode_before(struct reader *r, const char *field, struct read_request *ret,
                         struct wire_error *err)
{
    struct reader ahead = *r;
    struct value v;

    if (reader_next(&ahead, &v) != 0 || v.type != VALUE_STR) {
        memset(ret->before_id, 0xff, sizeof ret->before_id);
        return field_decode_time(r, field, &ret->has_before, &ret->before_us, err);
    }
    *r = ahead;
    ret->has_before = true;
    if (parse_cursor(v.bytes, ret) != 0)
        return wire_fail(err, WIRE_INVALID_ARGUMENT,
                         "%s: must be the \"next\" of an earlier list, or a time", field);
    return 0;
}

static const struct option options[] = {
    {"user_id", LIST | SEARCH | FORGET, LIST | SEARCH | FORGET, decode_user_id},
    {"id", FORGET, 0, decode_id},
    {"limit", LIST | SEARCH, 0, decode_limit},
    {"before", LIST, 0, decode_before},
    {"query", SEARCH, SEARCH, decode_query},
    {"mode", SEARCH, 0, decode_mode},
    {"platform", SEARCH, 0, decode_platform},
    {"since", SEARCH, 0, decode_since},
    {"until", SEARCH, 0, decode_until},
};
#define OPTIONS (sizeof options / sizeof options[0])

/* One key and its value. seen: a bit for each option that was there already. */
static int decode_option(struct reader *r, unsigned method, unsigned *seen,
                         struct read_request *ret, struct wire_error *err)
{
    char quoted[WIRE_QUOTE_SIZE], field[32];
    struct reader ahead;
    struct value key, v;
    size_t i = 0;

    if (reader_next(r, &key) != 0 || key.type != VALUE_STR)
        return wire_fail(err, WIRE_INVALID_ARGUMENT, "options: keys must be strings");
    while (i < OPTIONS &&
           ((options[i].methods & method) == 0 || !slice_equals(key.bytes, options[i].name)))
        i++;
    if (i == OPTIONS || (*seen & 1u << i) != 0)
        return wire_fail(err, WIRE_INVALID_ARGUMENT, "options: %s key %s",
                         i == OPTIONS ? "unknown" : "duplicate", wire_quote(key.bytes, quoted));
    *seen |= 1u << i;
    ahead = *r;
    if ((options[i].required & method) == 0 && reader_next(&ahead, &v) == 0 &&
        v.type == VALUE_NIL) {
        *r = ahead; /* the same as leaving it out */
        return 0;
    }
    snprintf(field, sizeof field, "options.%s", options[i].name);
    return options[i].decode(r, field, ret, err);
}

static int decode_map(struct reader *r, unsigned method, struct read_request *ret,
                      struct wire_error *err)
{
    struct value map;
    unsigned seen = 0;

    *ret = (struct read_request){.limit = READ_LIMIT_DEFAULT};
    if (reader_next(r, &map) != 0 || map.type != VALUE_MAP)
        return wire_fail(err, WIRE_INVALID_ARGUMENT, "options: must be a map");
    for (uint32_t i = 0; i < map.count; i++)
        if (decode_option(r, method, &seen, ret, err) != 0)
            return -1;
    for (size_t i = 0; i < OPTIONS; i++)
        if ((options[i].required & method) != 0 && (seen & 1u << i) == 0)
            return wire_fail(err, WIRE_INVALID_ARGUMENT, "options.%s: missing", options[i].name);
    return 0;
}

int read_request_decode_key(struct reader *r, struct read_request *ret, struct wire_error *err)
{
    *ret = (struct read_request){0};
    if (decode_user_id(r, "user_id", ret, err) != 0 || decode_id(r, "id", ret, err) != 0)
        return -1;
    if (!ret->has_id)
        return wire_fail(err, WIRE_INVALID_ARGUMENT, "id: must be a UUID, got nil");
    return 0;
}

int read_request_decode_list(struct reader *r, struct read_request *ret, struct wire_error *err)
{
    return decode_map(r, LIST, ret, err);
}

int read_request_decode_search(struct reader *r, struct read_request *ret, struct wire_error *err)
{
    return decode_map(r, SEARCH, ret, err);
}

int read_request_decode_forget(struct reader *r, struct read_request *ret, struct wire_error *err)
{
    return decode_map(r, FORGET, ret, err);
}
