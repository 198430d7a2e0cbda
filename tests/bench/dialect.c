/* See dialect.h. The one hard thing is to be cheap: an ack of convstored is recognised by its fixed
 * bytes, and only what looks different is decoded. */
#include "tests/bench/dialect.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/error.h"
#include "proto/reader.h"
#include "proto/scan.h"

#define REPLY_ELEMENTS_MAX 65536

size_t dialect_len(const struct dialect *d, const struct payload *p)
{
    return d->head_len + d->batch * payload_len(p) + d->tail_len;
}

void dialect_put(const struct dialect *d, struct payload *p, uint32_t tag, uint8_t *out)
{
    size_t len = payload_len(p);

    memcpy(out, d->head, d->head_len);
    if (d->tagged)
        for (int i = 0; i < 4; i++)
            out[d->tag_at + (size_t)i] = (uint8_t)(tag >> (24 - 8 * i));
    out += d->head_len;
    for (uint32_t i = 0; i < d->batch; i++, out += len)
        payload_put(p, out);
    memcpy(out, d->tail, d->tail_len);
}

static void add(uint8_t *buffer, size_t *len, const void *data, size_t n, size_t max)
{
    assert(*len + n <= max);
    memcpy(buffer + *len, data, n);
    *len += n;
}
#define ADD_HEAD(d, literal)                                                                       \
    add((d)->head, &(d)->head_len, literal, sizeof(literal) - 1, DIALECT_HEAD_MAX)
#define ADD_TAIL(d, literal)                                                                       \
    add((d)->tail, &(d)->tail_len, literal, sizeof(literal) - 1, DIALECT_TAIL_MAX)

/* convstored */

/* The bytes of [1, msgid, nil, {"id": …36 characters…}] around the msgid. */
#define ACK_HEAD "\x94\x01"
#define ACK_TAIL "\xc0\x81\xa2id\xd9\x24"
#define ACK_TAIL_LEN (sizeof ACK_TAIL - 1 + PAYLOAD_ID_LEN)

/* A msgid as the daemon writes it: the shortest form. Its length, or 0. */
static size_t read_tag(const uint8_t *at, size_t len, uint32_t *ret)
{
    size_t n = len == 0 ? 0 : at[0] < 0x80 ? 1 : at[0] >= 0xcc && at[0] <= 0xce ? 2 : 0;

    if (n == 1)
        *ret = at[0];
    if (n != 2)
        return n;
    n = 1 + ((size_t)1 << (at[0] - 0xcc));
    if (len < n)
        return 0;
    *ret = 0;
    for (size_t i = 1; i < n; i++)
        *ret = *ret << 8 | at[i];
    return n;
}

/* The length of an ack of one conversation, 0 where it is anything else or not all there. */
static size_t read_ack(const uint8_t *data, size_t len, uint32_t *ret_tag)
{
    size_t n = sizeof ACK_HEAD - 1, tag_len;

    if (len < n || memcmp(data, ACK_HEAD, n) != 0)
        return 0;
    tag_len = read_tag(data + n, len - n, ret_tag);
    n += tag_len;
    if (tag_len == 0 || len - n < ACK_TAIL_LEN ||
        memcmp(data + n, ACK_TAIL, sizeof ACK_TAIL - 1) != 0)
        return 0;
    return n + ACK_TAIL_LEN;
}

static int expect(struct reader *r, enum value_type type, struct value *ret)
{
    return reader_next(r, ret) == 0 && ret->type == type ? 0 : -EBADMSG;
}

/* [code, name, text, retry_after_ms or nil], behind its array's header. */
static int read_error(struct reader *r, struct dialect_reply *ret)
{
    struct value code = {0}, name = {0}, text = {0}, retry = {0};

    if (expect(r, VALUE_UINT, &code) != 0 || expect(r, VALUE_STR, &name) != 0 ||
        expect(r, VALUE_STR, &text) != 0 || reader_next(r, &retry) != 0)
        return -EBADMSG;
    ret->outcome = code.as_uint == WIRE_QUEUE_FULL ? OUTCOME_REFUSED : OUTCOME_FAILED;
    ret->retry_after_ms = retry.type == VALUE_UINT ? (uint32_t)retry.as_uint : 0;
    snprintf(ret->text, sizeof ret->text, "%.*s: %.*s", (int)name.bytes.len, name.bytes.data,
             (int)text.bytes.len, text.bytes.data);
    return 0;
}

/* {"id": …}, or {"ids": […], "errors": [[index, error], …]} of which some may tell of refusals. */
static int read_result(struct reader *r, uint32_t pairs, struct dialect_reply *ret)
{
    struct value key = {0}, list = {0}, item = {0};

    for (uint32_t i = 0; i < pairs; i++) {
        if (expect(r, VALUE_STR, &key) != 0)
            return -EBADMSG;
        if (!slice_equals(key.bytes, "errors")) {
            if (reader_skip(r) != 0)
                return -EBADMSG;
            continue;
        }
        if (expect(r, VALUE_ARRAY, &list) != 0)
            return -EBADMSG;
        ret->refused_items = list.count;
        for (uint32_t k = 0; k < list.count; k++)
            if (expect(r, VALUE_ARRAY, &item) != 0 || expect(r, VALUE_UINT, &item) != 0 ||
                expect(r, VALUE_ARRAY, &item) != 0 || read_error(r, ret) != 0)
                return -EBADMSG;
        ret->outcome = OUTCOME_ACKED; /* of the others */
    }
    return 0;
}

static ssize_t read_convstore(const uint8_t *data, size_t len, struct dialect_reply *ret)
{
    size_t n = read_ack(data, len, &ret->tag);
    struct scan scan;
    struct reader r;
    struct value head = {0}, type = {0}, msgid = {0}, error = {0};

    if (n > 0)
        return (ssize_t)n;
    scan_reset(&scan);
    switch (scan_value(&scan, data, len, DIALECT_REPLY_MAX, REPLY_ELEMENTS_MAX, &n)) {
    case SCAN_PARTIAL:
        return 0;
    case SCAN_COMPLETE:
        break;
    default:
        return -EBADMSG;
    }
    reader_init(&r, data, n);
    if (expect(&r, VALUE_ARRAY, &head) != 0 || head.count != 4 ||
        expect(&r, VALUE_UINT, &type) != 0 || type.as_uint != 1 ||
        expect(&r, VALUE_UINT, &msgid) != 0 || reader_next(&r, &error) != 0)
        return -EBADMSG;
    ret->tag = (uint32_t)msgid.as_uint;
    if (error.type == VALUE_ARRAY)
        return read_error(&r, ret) == 0 ? (ssize_t)n : -EBADMSG;
    if (error.type != VALUE_NIL || expect(&r, VALUE_MAP, &head) != 0 ||
        read_result(&r, head.count, ret) != 0)
        return -EBADMSG;
    return (ssize_t)n;
}

void dialect_convstore(struct dialect *d, uint32_t batch, bool wait_stored)
{
    assert(batch >= 1 && batch <= DIALECT_BATCH_MAX);
    *d = (struct dialect){
        .name = "convstored", .tagged = true, .tag_at = 3, .batch = batch, .read = read_convstore};
    ADD_HEAD(d, "\x94\x00\xce....");
    if (batch == 1)
        ADD_HEAD(d, "\xa5store");
    else
        ADD_HEAD(d, "\xaastore_many");
    if (wait_stored)
        ADD_HEAD(d, "\x92");
    else
        ADD_HEAD(d, "\x91");
    if (batch > 1) {
        const uint8_t array[] = {0xdc, (uint8_t)(batch >> 8), (uint8_t)batch};

        add(d->head, &d->head_len, array, sizeof array, DIALECT_HEAD_MAX);
    }
    if (wait_stored)
        ADD_TAIL(d, "\x81\xa4wait\xa6stored");
}

/* Redis and beanstalkd answer in lines. */

/* The length of the line at data with its CRLF, or 0. */
static size_t line_len(const uint8_t *data, size_t len)
{
    const uint8_t *end = memchr(data, '\n', len);

    return end == NULL ? 0 : (size_t)(end - data) + 1;
}

static void fail_with_line(const uint8_t *line, size_t len, struct dialect_reply *ret)
{
    ret->outcome = OUTCOME_FAILED;
    while (len > 0 && (line[len - 1] == '\n' || line[len - 1] == '\r'))
        len--;
    snprintf(ret->text, sizeof ret->text, "%.*s", (int)len, (const char *)line);
}

/* $<length>\r\n<the entry's id>\r\n, or -<error>\r\n. */
static ssize_t read_redis(const uint8_t *data, size_t len, struct dialect_reply *ret)
{
    size_t head = line_len(data, len), body;

    if (head == 0)
        return len > 1024 ? -EBADMSG : 0;
    if (data[0] == '-') {
        fail_with_line(data, head, ret);
        return (ssize_t)head;
    }
    body = (size_t)strtoul((const char *)data + 1, NULL, 10) + 2;
    if (data[0] != '$' || body > 64)
        return -EBADMSG;
    return len < head + body ? 0 : (ssize_t)(head + body);
}

void dialect_redis(struct dialect *d, const struct payload *p)
{
    *d = (struct dialect){.name = "redis", .batch = 1, .read = read_redis};
    d->head_len = (size_t)snprintf((char *)d->head, sizeof d->head,
                                   "*5\r\n$4\r\nXADD\r\n$13\r\nconversations\r\n$1\r\n*\r\n"
                                   "$1\r\nc\r\n$%zu\r\n",
                                   payload_len(p));
    ADD_TAIL(d, "\r\n");
}

static ssize_t read_beanstalkd(const uint8_t *data, size_t len, struct dialect_reply *ret)
{
    size_t n = line_len(data, len);

    if (n == 0)
        return len > 1024 ? -EBADMSG : 0;
    if (n < 10 || memcmp(data, "INSERTED ", 9) != 0)
        fail_with_line(data, n, ret);
    return (ssize_t)n;
}

void dialect_beanstalkd(struct dialect *d, const struct payload *p)
{
    *d = (struct dialect){.name = "beanstalkd", .batch = 1, .read = read_beanstalkd};
    d->head_len =
        (size_t)snprintf((char *)d->head, sizeof d->head, "put 0 0 600 %zu\r\n", payload_len(p));
    ADD_TAIL(d, "\r\n");
}
