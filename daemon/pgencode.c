/* Values in PostgreSQL's binary format. Everything in it is big-endian.
 *
 * An array is: dimensions, a has-nulls flag, the element type, then length and lower bound of each
 * dimension, then the elements, each with its length (-1 for NULL). A row of COPY is the number of
 * its fields, then the fields, each like an element.
 */
#include "daemon/pgencode.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* 2000-01-01, where PostgreSQL counts from. */
#define PG_EPOCH_US INT64_C(946684800000000)
#define CAPACITY_MIN 65536

void pgparams_done(struct pgparams *p)
{
    free(p->data);
    memset(p, 0, sizeof *p);
}

void pgparams_reset(struct pgparams *p)
{
    p->len = 0;
    p->count = 0;
    p->failed = false;
}

/* Room for len more bytes at the end, or NULL. */
static uint8_t *reserve(struct pgparams *p, size_t len)
{
    size_t capacity = p->capacity > 0 ? p->capacity : CAPACITY_MIN;
    uint8_t *data;

    if (p->failed || len > INT_MAX || p->len > INT_MAX - len) {
        p->failed = true;
        return NULL;
    }
    while (capacity < p->len + len)
        capacity *= 2;
    if (capacity > p->capacity) {
        data = realloc(p->data, capacity);
        if (data == NULL) {
            p->failed = true;
            return NULL;
        }
        p->data = data;
        p->capacity = capacity;
    }
    p->len += len;
    return p->data + p->len - len;
}

static uint8_t *put_int4(uint8_t *at, uint32_t value)
{
    uint32_t big = htobe32(value);

    memcpy(at, &big, sizeof big);
    return at + sizeof big;
}

static void open_param(struct pgparams *p)
{
    assert(p->count < PGPARAMS_MAX);
    p->start[p->count++] = p->len;
}

static void put(struct pgparams *p, const void *data, size_t len)
{
    uint8_t *at = reserve(p, len);

    if (at != NULL)
        memcpy(at, data, len);
}

static void put_int2(struct pgparams *p, int16_t value)
{
    uint16_t big = htobe16((uint16_t)value);

    put(p, &big, sizeof big);
}

void pgparams_int2(struct pgparams *p, int16_t value)
{
    open_param(p);
    put_int2(p, value);
}

void pgparams_copy_begin(struct pgparams *p)
{
    static const char head[19] = "PGCOPY\n\377\r\n\0\0\0\0\0\0\0\0"; /* no flags, no extension */

    put(p, head, sizeof head);
}

void pgparams_copy_row(struct pgparams *p, int16_t fields)
{
    put_int2(p, fields);
}

void pgparams_copy_end(struct pgparams *p)
{
    put_int2(p, -1);
}

void pgparams_array(struct pgparams *p, Oid element, size_t count)
{
    uint8_t *at;

    assert(count > 0 && count <= INT_MAX);
    open_param(p);
    at = reserve(p, 20);
    if (at == NULL)
        return;
    at = put_int4(at, 1); /* dimensions */
    at = put_int4(at, 1); /* may hold NULLs */
    at = put_int4(at, element);
    at = put_int4(at, (uint32_t)count);
    put_int4(at, 1); /* lower bound */
}

/* Room for an element of len bytes behind its length. */
static uint8_t *open_element(struct pgparams *p, size_t len)
{
    uint8_t *at = reserve(p, 4 + len);

    return at != NULL ? put_int4(at, (uint32_t)len) : NULL;
}

static void add_null(struct pgparams *p)
{
    uint8_t *at = reserve(p, 4);

    if (at != NULL)
        put_int4(at, UINT32_MAX);
}

void pgparams_add(struct pgparams *p, const void *data, size_t len)
{
    uint8_t *at = open_element(p, len);

    if (at != NULL && len > 0)
        memcpy(at, data, len);
}

void pgparams_add_text(struct pgparams *p, struct slice text)
{
    if (text.data == NULL)
        add_null(p);
    else
        pgparams_add(p, text.data, text.len);
}

void pgparams_add_jsonb(struct pgparams *p, struct slice json)
{
    uint8_t *at;

    if (json.data == NULL) {
        add_null(p);
        return;
    }
    at = open_element(p, 1 + json.len);
    if (at == NULL)
        return;
    at[0] = 1; /* jsonb's version */
    memcpy(at + 1, json.data, json.len);
}

void pgparams_add_int2(struct pgparams *p, int16_t value)
{
    uint16_t big = htobe16((uint16_t)value);

    pgparams_add(p, &big, sizeof big);
}

void pgparams_add_int4(struct pgparams *p, int32_t value)
{
    uint8_t *at = open_element(p, 4);

    if (at != NULL)
        put_int4(at, (uint32_t)value);
}

void pgparams_add_int8(struct pgparams *p, int64_t value)
{
    uint64_t big = htobe64((uint64_t)value);

    pgparams_add(p, &big, sizeof big);
}

void pgparams_add_time(struct pgparams *p, int64_t us)
{
    int64_t since_2000;

    /* The lowest number means -infinity to PostgreSQL: one above it is refused instead. */
    if (__builtin_sub_overflow(us, PG_EPOCH_US, &since_2000) || since_2000 == INT64_MIN)
        since_2000 = INT64_MIN + 1;
    pgparams_add_int8(p, since_2000);
}

static uint32_t float_bits(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    return htobe32(bits);
}

/* An element of dimension values of value_size bytes each behind pgvector's head; where they go. */
static uint8_t *open_vector(struct pgparams *p, uint32_t dimension, size_t value_size)
{
    uint16_t head[2] = {htobe16((uint16_t)dimension), 0};
    uint8_t *at = open_element(p, sizeof head + dimension * value_size);

    assert(dimension <= UINT16_MAX);
    return at != NULL ? mempcpy(at, head, sizeof head) : NULL;
}

void pgparams_add_vector(struct pgparams *p, const float *values, uint32_t dimension)
{
    uint8_t *at = open_vector(p, dimension, sizeof(uint32_t));

    for (uint32_t i = 0; at != NULL && i < dimension; i++) {
        uint32_t bits = float_bits(values[i]);

        at = mempcpy(at, &bits, sizeof bits);
    }
}

/* IEEE half precision, rounded to the nearest, ties to even. */
static uint16_t half_bits(float value)
{
    uint32_t bits, sign, rounded;
    float scaled;

    memcpy(&bits, &value, sizeof bits);
    sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits >= 0x47800000) /* 2^16 and more, infinity, NaN */
        return (uint16_t)(sign | (bits > 0x7f800000 ? 0x7e00 : 0x7c00));
    if (bits < 0x38800000) { /* subnormal: counted in units of 2^-24, by float's own rounding */
        memcpy(&scaled, &bits, sizeof bits);
        scaled += 0.5f; /* a float whose last place is 2^-24 */
        memcpy(&bits, &scaled, sizeof bits);
        return (uint16_t)(sign | (bits - 0x3f000000));
    }
    /* The exponent to half's bias, then half of the last place that stays: a carry is right. */
    rounded = bits - 0x38000000 + 0xfff + (bits >> 13 & 1);
    return (uint16_t)(sign | rounded >> 13);
}

void pgparams_add_halfvec(struct pgparams *p, const float *values, uint32_t dimension)
{
    uint8_t *at = open_vector(p, dimension, sizeof(uint16_t));

    for (uint32_t i = 0; at != NULL && i < dimension; i++) {
        uint16_t bits = htobe16(half_bits(values[i]));

        at = mempcpy(at, &bits, sizeof bits);
    }
}

void pgparams_add_floats(struct pgparams *p, const float *values, size_t count)
{
    uint8_t *at = reserve(p, count * 8);

    for (size_t i = 0; at != NULL && i < count; i++) {
        uint32_t bits = float_bits(values[i]);

        at = put_int4(at, 4);
        memcpy(at, &bits, sizeof bits);
        at += sizeof bits;
    }
}

int pgparams_send(const struct pgparams *p, PGconn *conn, const char *statement)
{
    const char *values[PGPARAMS_MAX];
    int lengths[PGPARAMS_MAX], formats[PGPARAMS_MAX];

    if (p->failed)
        return -ENOMEM;
    for (size_t i = 0; i < p->count; i++) {
        size_t end = i + 1 < p->count ? p->start[i + 1] : p->len;

        values[i] = (const char *)p->data + p->start[i];
        lengths[i] = (int)(end - p->start[i]);
        formats[i] = 1;
    }
    return PQsendQueryPrepared(conn, statement, (int)p->count, values, lengths, formats, 1) ? 0
                                                                                            : -EIO;
}
