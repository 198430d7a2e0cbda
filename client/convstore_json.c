/* MessagePack -> JSON text for whatever a daemon of any version sends as a result. Pure.
 *
 * Nothing is refused that MessagePack can hold: bin becomes base64, a timestamp RFC 3339 text,
 * another ext {"ext": type, "data": base64}, a key that is no string its own JSON in quotes, NaN
 * and the infinities null, bytes that are no UTF-8 U+FFFD. Keys keep their order. */
#include "client/convstore_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "proto/utf8.h"

static int put(struct convstore *c, const void *data, size_t len)
{
    if (len >= c->json_capacity - c->json_len) { /* one byte stays for the NUL */
        size_t capacity = c->json_capacity * 2 + len + 256;
        char *json = realloc(c->json, capacity);

        if (json == NULL)
            return -ENOMEM;
        c->json = json;
        c->json_capacity = capacity;
    }
    if (len > 0)
        memcpy(c->json + c->json_len, data, len);
    c->json_len += len;
    c->json[c->json_len] = '\0';
    return 0;
}

__attribute__((format(printf, 2, 3))) static int put_format(struct convstore *c, const char *format,
                                                            ...)
{
    char text[64];
    va_list args;
    int len;

    va_start(args, format);
    len = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return put(c, text, len < (int)sizeof text ? (size_t)len : sizeof text - 1);
}

static int put_escaped_byte(struct convstore *c, unsigned char byte)
{
    static const char short_forms[] = "\"\"\\\\\bb\ff\nn\rr\tt";

    for (const char *at = short_forms; *at != '\0'; at += 2) {
        if ((unsigned char)*at == byte)
            return put_format(c, "\\%c", at[1]);
    }
    return put_format(c, "\\u%04x", byte);
}

static bool is_plain(unsigned char byte)
{
    return byte >= 0x20 && byte != '"' && byte != '\\' && byte != 0x7f;
}

/* text is well-formed UTF-8. */
static int put_escaped(struct convstore *c, const char *text, size_t len)
{
    size_t from = 0;

    for (size_t i = 0; i < len; i++) {
        if (is_plain((unsigned char)text[i]))
            continue;
        if (put(c, text + from, i - from) != 0 || put_escaped_byte(c, (unsigned char)text[i]) != 0)
            return -ENOMEM;
        from = i + 1;
    }
    return put(c, text + from, len - from);
}

static int put_string(struct convstore *c, struct slice s)
{
    if (put(c, "\"", 1) != 0)
        return -ENOMEM;
    while (s.len > 0) {
        ssize_t bad = utf8_first_bad(s.data, s.len);
        size_t good = bad < 0 ? s.len : (size_t)bad;

        if (put_escaped(c, s.data, good) != 0)
            return -ENOMEM;
        if (bad >= 0 && put_format(c, "%s", s.data[good] == '\0' ? "\\u0000" : "\\ufffd") != 0)
            return -ENOMEM;
        good += bad >= 0;
        s.data += good;
        s.len -= good;
    }
    return put(c, "\"", 1);
}

static int put_base64(struct convstore *c, struct slice s)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *in = (const unsigned char *)s.data;

    if (put(c, "\"", 1) != 0)
        return -ENOMEM;
    for (size_t i = 0; i < s.len; i += 3) {
        size_t left = s.len - i;
        uint32_t bits = (uint32_t)in[i] << 16 | (left > 1 ? (uint32_t)in[i + 1] << 8 : 0) |
                        (left > 2 ? (uint32_t)in[i + 2] : 0);
        char out[4] = {digits[bits >> 18], digits[bits >> 12 & 63],
                       left > 1 ? digits[bits >> 6 & 63] : '=', left > 2 ? digits[bits & 63] : '='};

        if (put(c, out, sizeof out) != 0)
            return -ENOMEM;
    }
    return put(c, "\"", 1);
}

static uint64_t big_endian(const char *data, size_t len)
{
    uint64_t n = 0;

    for (size_t i = 0; i < len; i++)
        n = n << 8 | (unsigned char)data[i];
    return n;
}

/* The three forms of MessagePack's timestamp: 4, 8 or 12 bytes. */
static bool read_timestamp(struct slice s, int64_t *ret_seconds, uint32_t *ret_ns)
{
    *ret_ns = 0;
    if (s.len == 4) {
        *ret_seconds = (int64_t)big_endian(s.data, 4);
    } else if (s.len == 8) {
        *ret_ns = (uint32_t)(big_endian(s.data, 8) >> 34);
        *ret_seconds = (int64_t)(big_endian(s.data, 8) & 0x3ffffffffULL);
    } else if (s.len == 12) {
        *ret_ns = (uint32_t)big_endian(s.data, 4);
        *ret_seconds = (int64_t)big_endian(s.data + 4, 8);
    } else {
        return false;
    }
    return *ret_ns < 1000000000;
}

static int put_ext(struct convstore *c, const struct value *v)
{
    int64_t seconds;
    uint32_t ns;
    struct tm tm;
    time_t at;

    if (v->ext_type == -1 && read_timestamp(v->bytes, &seconds, &ns)) {
        at = (time_t)seconds;
        if (gmtime_r(&at, &tm) != NULL && tm.tm_year > -1900 && tm.tm_year <= 9999 - 1900)
            return put_format(c, "\"%04d-%02d-%02dT%02d:%02d:%02d.%06uZ\"", tm.tm_year + 1900,
                              tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec,
                              ns / 1000);
    }
    if (put_format(c, "{\"ext\":%d,\"data\":", v->ext_type) != 0 || put_base64(c, v->bytes) != 0)
        return -ENOMEM;
    return put(c, "}", 1);
}

static int put_double(struct convstore *c, double d)
{
    char text[40];

    if (!isfinite(d))
        return put(c, "null", 4);
    for (int digits = 15; digits <= 17; digits += 2) { /* the shorter one where it is exact */
        snprintf(text, sizeof text, "%.*g", digits, d);
        if (strtod(text, NULL) == d)
            break;
    }
    if (strpbrk(text, ".e") == NULL) /* a real stays a real */
        strcat(text, ".0");
    return put(c, text, strlen(text));
}

static int put_value(struct convstore *c, struct reader *r);

static int put_key(struct convstore *c, struct reader *r)
{
    struct reader ahead = *r;
    struct value v;
    size_t from = c->json_len;
    char *inner;
    int rc;

    if (reader_next(&ahead, &v) != 0)
        return -EBADMSG;
    rc = put_value(c, r);
    if (rc != 0 || v.type == VALUE_STR)
        return rc;
    inner = strdup(c->json + from);
    if (inner == NULL)
        return -ENOMEM;
    c->json_len = from;
    rc = put_string(c, (struct slice){inner, strlen(inner)});
    free(inner);
    return rc;
}

static int put_container(struct convstore *c, struct reader *r, const struct value *v)
{
    bool map = v->type == VALUE_MAP;
    int rc = put(c, map ? "{" : "[", 1);

    for (uint32_t i = 0; rc == 0 && i < v->count; i++) {
        if (i > 0)
            rc = put(c, ",", 1);
        if (rc == 0 && map)
            rc = put_key(c, r);
        if (rc == 0 && map)
            rc = put(c, ":", 1);
        if (rc == 0)
            rc = put_value(c, r);
    }
    return rc != 0 ? rc : put(c, map ? "}" : "]", 1);
}

/* Recursion ends at SCAN_MAX_DEPTH, which every message was scanned with. */
static int put_value(struct convstore *c, struct reader *r)
{
    struct value v;

    if (reader_next(r, &v) != 0)
        return -EBADMSG;
    switch (v.type) {
    case VALUE_NIL:
        return put(c, "null", 4);
    case VALUE_BOOL:
        return put_format(c, "%s", v.as_bool ? "true" : "false");
    case VALUE_UINT:
        return put_format(c, "%" PRIu64, v.as_uint);
    case VALUE_INT:
        return put_format(c, "%" PRId64, v.as_int);
    case VALUE_FLOAT:
    case VALUE_DOUBLE:
        return put_double(c, v.as_double);
    case VALUE_STR:
        return put_string(c, v.bytes);
    case VALUE_BIN:
        return put_base64(c, v.bytes);
    case VALUE_ARRAY:
    case VALUE_MAP:
        return put_container(c, r, &v);
    case VALUE_EXT:
        return put_ext(c, &v);
    }
    return -EBADMSG;
}

int cs_json_from_reply(struct convstore *c, struct reader *r)
{
    int rc;

    c->json_len = 0;
    rc = put_value(c, r);
    if (rc == -ENOMEM)
        return cs_fail(&c->failure, CONVSTORE_NO_MEMORY, "no memory for the answer as JSON");
    if (rc != 0)
        return cs_fail(&c->failure, CONVSTORE_BAD_REPLY,
                       "the answer is no whole MessagePack value");
    return 0;
}
