/* A MessagePack map as JSON text with sorted keys. Runs on the loop; owns its scratch for the
 * length of one call, the json_buffer is the caller's.
 *
 * The hard thing: work and memory stay bounded for any input. The input is read once, front to
 * back. Pairs are written as they come; a map whose keys came unsorted is put in order afterwards
 * by moving the finished text of its pairs, which costs a copy of the map's text. As a text is
 * inside at most JSON_MAX_DEPTH maps and never longer than METADATA_MAX_BYTES, all copying together
 * is bounded by JSON_MAX_DEPTH * METADATA_MAX_BYTES * 2 bytes (32 MiB), and the pairs that are
 * remembered by METADATA_MAX_BYTES / 4 (a pair takes four bytes of text: `"":0`).
 *
 * Invariants: out->len <= METADATA_MAX_BYTES; pairs[0 .. used-1] belong to the maps that are open,
 * the innermost map's last. */
#include "proto/json.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "proto/message.h"
#include "proto/utf8.h"

#define BUFFER_MIN 1024
#define PAIRS_MIN 32

struct pair {
    struct slice key;
    size_t begin, end; /* of `,"key":value` in the text */
};

struct writer {
    struct reader *reader;
    struct json_buffer *out;
    const char *field;
    struct slice key; /* the nearest one above the value, for error texts; data NULL at the top */
    struct wire_error *err;
    struct pair *pairs;
    size_t used, capacity;
    unsigned depth;
};

static int write_value(struct writer *w);

/* `conversation.metadata["key"]: why` */
static int __attribute__((format(printf, 3, 4)))
fail(struct writer *w, enum wire_code code, const char *format, ...)
{
    char why[128], quoted[WIRE_QUOTE_SIZE];
    va_list args;

    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    if (w->key.data == NULL)
        return wire_fail(w->err, code, "%s: %s", w->field, why);
    return wire_fail(w->err, code, "%s[%s]: %s", w->field, wire_quote(w->key, quoted), why);
}

static int out_of_memory(struct writer *w)
{
    return wire_fail(w->err, WIRE_INTERNAL, "%s: out of memory", w->field);
}

/* The next value; the scan has found the message whole, so a failure here means that the caller
 * gave bytes which no scan has seen. */
static int read_value(struct writer *w, struct value *ret)
{
    if (reader_next(w->reader, ret) != 0)
        return fail(w, WIRE_INVALID_ARGUMENT, "not MessagePack");
    return 0;
}

static int put(struct writer *w, const char *data, size_t len)
{
    struct json_buffer *out = w->out;

    if (len > METADATA_MAX_BYTES - out->len)
        return wire_fail(w->err, WIRE_TOO_LARGE, "%s: must be at most %d bytes as JSON", w->field,
                         METADATA_MAX_BYTES);
    if (len > out->capacity - out->len) {
        size_t capacity = out->capacity == 0 ? BUFFER_MIN : out->capacity;
        char *grown;

        while (capacity - out->len < len)
            capacity *= 2;
        grown = realloc(out->data, capacity);
        if (grown == NULL)
            return out_of_memory(w);
        out->data = grown;
        out->capacity = capacity;
    }
    memcpy(out->data + out->len, data, len);
    out->len += len;
    return 0;
}

static int put_char(struct writer *w, char c)
{
    return put(w, &c, 1);
}

/* What stands for c inside a JSON string; the length, 0 where c stands for itself. */
static size_t escape(char c, char ret[8])
{
    static const char plain[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    const char *found;

    if ((unsigned char)c >= 0x20 && c != '"' && c != '\\')
        return 0;
    found = c != '\0' ? strchr(plain, c) : NULL;
    if (found != NULL) {
        ret[0] = '\\';
        ret[1] = letters[found - plain];
        return 2;
    }
    return (size_t)snprintf(ret, 8, "\\u%04x", (unsigned char)c);
}

static int write_string(struct writer *w, struct slice text)
{
    ssize_t bad = utf8_first_bad(text.data, text.len);
    size_t plain = 0; /* where the run that needs no escape begins */

    if (bad >= 0)
        return fail(w, WIRE_INVALID_ARGUMENT, "%s at byte %zd of a string",
                    text.data[bad] == '\0' ? "NUL" : "invalid UTF-8", bad);
    if (put_char(w, '"') != 0)
        return -1;
    for (size_t i = 0; i < text.len; i++) {
        char escaped[8];
        size_t len = escape(text.data[i], escaped);

        if (len == 0)
            continue;
        if (put(w, text.data + plain, i - plain) != 0 || put(w, escaped, len) != 0)
            return -1;
        plain = i + 1;
    }
    if (put(w, text.data + plain, text.len - plain) != 0)
        return -1;
    return put_char(w, '"');
}

/* %g writes JSON's numbers as long as the program keeps the C locale's decimal point, and this one
 * never calls setlocale(). */
static int write_float(struct writer *w, const struct value *v)
{
    char text[32];
    int len;

    if (!isfinite(v->as_double))
        return fail(w, WIRE_INVALID_ARGUMENT, "JSON knows no %s",
                    isnan(v->as_double) ? "NaN" : "infinity");
    if (v->type == VALUE_FLOAT) {
        len = snprintf(text, sizeof text, "%.9g", v->as_double);
    } else {
        int digits = 15;

        do
            len = snprintf(text, sizeof text, "%.*g", digits, v->as_double);
        while (strtod(text, NULL) != v->as_double && digits++ < 17);
    }
    assert(len > 0 && (size_t)len < sizeof text);
    return put(w, text, (size_t)len);
}

static int write_integer(struct writer *w, const struct value *v)
{
    char text[24], *first = text + sizeof text;
    bool negative = v->type != VALUE_UINT && v->as_int < 0;
    uint64_t rest = v->type == VALUE_UINT ? v->as_uint : (uint64_t)v->as_int;

    if (negative)
        rest = -rest;
    do
        *--first = (char)('0' + rest % 10);
    while ((rest /= 10) > 0);
    if (negative)
        *--first = '-';
    return put(w, first, (size_t)(text + sizeof text - first));
}

static int write_array(struct writer *w, uint32_t count)
{
    if (put_char(w, '[') != 0)
        return -1;
    for (uint32_t i = 0; i < count; i++)
        if ((i > 0 && put_char(w, ',') != 0) || write_value(w) != 0)
            return -1;
    return put_char(w, ']');
}

/* By bytes; where one key begins with the other, the shorter first. */
static int compare_keys(struct slice a, struct slice b)
{
    int order = memcmp(a.data, b.data, a.len < b.len ? a.len : b.len);

    return order != 0 ? order : (a.len > b.len) - (a.len < b.len);
}

static int compare_pairs(const void *a, const void *b)
{
    return compare_keys(((const struct pair *)a)->key, ((const struct pair *)b)->key);
}

static int duplicate_key(struct writer *w, struct slice key)
{
    char quoted[WIRE_QUOTE_SIZE];

    return wire_fail(w->err, WIRE_INVALID_ARGUMENT, "%s: duplicate key %s", w->field,
                     wire_quote(key, quoted));
}

/* Puts the texts of the pairs from first on, which begin at body, into the order of their keys. */
static int sort_pairs(struct writer *w, size_t first, size_t body)
{
    size_t len = w->out->len - body;
    char *moved, *at;

    qsort(w->pairs + first, w->used - first, sizeof *w->pairs, compare_pairs);
    for (size_t i = first + 1; i < w->used; i++)
        if (compare_keys(w->pairs[i - 1].key, w->pairs[i].key) == 0)
            return duplicate_key(w, w->pairs[i].key);
    at = moved = malloc(len);
    if (moved == NULL)
        return out_of_memory(w);
    for (size_t i = first; i < w->used; i++) {
        size_t pair_len = w->pairs[i].end - w->pairs[i].begin;

        memcpy(at, w->out->data + w->pairs[i].begin, pair_len);
        at += pair_len;
    }
    assert(at == moved + len);
    memcpy(w->out->data + body, moved, len);
    free(moved);
    return 0;
}

static int remember_pair(struct writer *w, const struct pair *pair)
{
    if (w->used == w->capacity) {
        size_t capacity = w->capacity == 0 ? PAIRS_MIN : 2 * w->capacity;
        struct pair *grown = realloc(w->pairs, capacity * sizeof *grown);

        if (grown == NULL)
            return out_of_memory(w);
        w->pairs = grown;
        w->capacity = capacity;
    }
    w->pairs[w->used++] = *pair;
    return 0;
}

/* `,"key":value`: the comma also before the first, so that pairs can change places. */
static int write_pair(struct writer *w)
{
    struct slice above = w->key;
    struct pair pair = {.begin = w->out->len};
    struct value v;

    if (read_value(w, &v) != 0)
        return -1;
    if (v.type != VALUE_STR)
        return fail(w, WIRE_INVALID_ARGUMENT, "keys must be strings, got %s",
                    value_type_name(v.type));
    pair.key = w->key = v.bytes;
    if (put_char(w, ',') != 0 || write_string(w, pair.key) != 0 || put_char(w, ':') != 0 ||
        write_value(w) != 0)
        return -1;
    w->key = above;
    pair.end = w->out->len;
    return remember_pair(w, &pair);
}

static int write_map(struct writer *w, uint32_t count)
{
    size_t first = w->used, body = w->out->len;
    bool sorted = true;

    if (count == 0)
        return put(w, "{}", 2);
    for (uint32_t i = 0; i < count; i++) {
        if (write_pair(w) != 0)
            return -1;
        if (i > 0 && compare_pairs(&w->pairs[w->used - 2], &w->pairs[w->used - 1]) >= 0)
            sorted = false;
    }
    if (!sorted && sort_pairs(w, first, body) != 0)
        return -1;
    w->used = first;
    w->out->data[body] = '{'; /* where the first pair's comma stood */
    return put_char(w, '}');
}

static int write_nested(struct writer *w, const struct value *v)
{
    int rc;

    if (w->depth == JSON_MAX_DEPTH)
        return fail(w, WIRE_INVALID_ARGUMENT, "nested deeper than %d levels", JSON_MAX_DEPTH);
    w->depth++;
    rc = v->type == VALUE_MAP ? write_map(w, v->count) : write_array(w, v->count);
    w->depth--;
    return rc;
}

static int write_value(struct writer *w)
{
    struct value v;

    if (read_value(w, &v) != 0)
        return -1;
    switch (v.type) {
    case VALUE_NIL:
        return put(w, "null", 4);
    case VALUE_BOOL:
        return v.as_bool ? put(w, "true", 4) : put(w, "false", 5);
    case VALUE_UINT:
    case VALUE_INT:
        return write_integer(w, &v);
    case VALUE_FLOAT:
    case VALUE_DOUBLE:
        return write_float(w, &v);
    case VALUE_STR:
        return write_string(w, v.bytes);
    case VALUE_ARRAY:
    case VALUE_MAP:
        return write_nested(w, &v);
    case VALUE_BIN:
    case VALUE_EXT:
        break;
    }
    return fail(w, WIRE_INVALID_ARGUMENT, "JSON has no form for %s", value_type_name(v.type));
}

int json_from_msgpack(struct reader *r, const char *field, struct json_buffer *buffer,
                      struct wire_error *err)
{
    struct writer w = {.reader = r, .out = buffer, .field = field, .err = err};
    struct value v;
    int rc;

    buffer->len = 0;
    if (read_value(&w, &v) != 0)
        return -1;
    if (v.type != VALUE_MAP)
        return fail(&w, WIRE_INVALID_ARGUMENT, "must be a map, got %s", value_type_name(v.type));
    rc = write_nested(&w, &v);
    free(w.pairs);
    return rc;
}

void json_buffer_done(struct json_buffer *buffer)
{
    free(buffer->data);
    *buffer = (struct json_buffer){0};
}
