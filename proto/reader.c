/* Reads the values of one whole message in order. Pure, any thread; owns nothing.
 *
 * The hard thing: it must be safe on any bytes, also on those that no scan has seen, so every
 * length is compared with what is left before it is used, and reader_skip() keeps one count of the
 * values that it still owes instead of recursing.
 *
 * Invariant: at <= end; a call that fails leaves the reader where it stood. */
#include "proto/reader.h"

#include <assert.h>
#include <errno.h>

#include "proto/format.h"

void reader_init(struct reader *r, const void *data, size_t len)
{
    assert(data != NULL || len == 0);
    r->at = data;
    r->end = len > 0 ? r->at + len : r->at;
}

/* Passes a header and checks that its payload is all there. */
static int next_header(struct reader *r, struct header *ret, const uint8_t **ret_payload)
{
    size_t left = (size_t)(r->end - r->at);

    if (format_header(r->at, left, ret) != 0)
        return -EBADMSG;
    left -= ret->size;
    if (ret->payload > left)
        return -EBADMSG;
    *ret_payload = r->at + ret->size;
    r->at += ret->size + ret->payload;
    return 0;
}

/* A signed encoding may hold a positive number: then it is a VALUE_UINT like any other. */
static void set_signed(struct value *v, int64_t number)
{
    if (number >= 0) {
        v->type = VALUE_UINT;
        v->as_uint = (uint64_t)number;
    } else {
        v->type = VALUE_INT;
        v->as_int = number;
    }
}

static int64_t sign_extend(uint64_t bits, size_t bytes)
{
    unsigned shift = (unsigned)(64 - 8 * bytes);

    return (int64_t)(bits << shift) >> shift;
}

static double to_double(const struct header *h, uint64_t bits)
{
    uint32_t bits32 = (uint32_t)bits;
    double wide;
    float narrow;

    if (h->type == VALUE_DOUBLE) {
        memcpy(&wide, &bits, sizeof wide);
        return wide;
    }
    memcpy(&narrow, &bits32, sizeof narrow);
    return (double)narrow;
}

static void set_number(struct value *v, const struct header *h, const uint8_t *payload)
{
    uint64_t bits = format_big_endian(payload, (size_t)h->payload);

    if (h->type == VALUE_UINT)
        v->as_uint = h->payload == 0 ? h->tag : bits;
    else if (h->type == VALUE_INT)
        set_signed(v, h->payload == 0 ? (int8_t)h->tag : sign_extend(bits, (size_t)h->payload));
    else
        v->as_double = to_double(h, bits);
}

int reader_next(struct reader *r, struct value *ret)
{
    struct header h;
    const uint8_t *payload;

    if (next_header(r, &h, &payload) != 0)
        return -EBADMSG;
    *ret = (struct value){.type = h.type};
    switch (h.type) {
    case VALUE_NIL:
        break;
    case VALUE_BOOL:
        ret->as_bool = h.tag == 0xc3;
        break;
    case VALUE_UINT:
    case VALUE_INT:
    case VALUE_FLOAT:
    case VALUE_DOUBLE:
        set_number(ret, &h, payload);
        break;
    case VALUE_EXT:
        ret->ext_type = (int8_t)payload[-1];
        ret->bytes = (struct slice){(const char *)payload, (size_t)h.payload};
        break;
    case VALUE_STR:
    case VALUE_BIN:
        ret->bytes = (struct slice){(const char *)payload, (size_t)h.payload};
        break;
    case VALUE_ARRAY:
        ret->count = (uint32_t)h.children;
        break;
    case VALUE_MAP:
        ret->count = (uint32_t)(h.children / 2);
        break;
    }
    return 0;
}

int reader_skip(struct reader *r)
{
    struct reader ahead = *r;
    uint64_t owed = 1;

    while (owed > 0) {
        struct header h;
        const uint8_t *payload;

        if (next_header(&ahead, &h, &payload) != 0)
            return -EBADMSG;
        owed += h.children - 1;
        /* Every value takes a byte: this also keeps the sum of hostile counts from wrapping. */
        if (owed > (uint64_t)(ahead.end - ahead.at))
            return -EBADMSG;
    }
    *r = ahead;
    return 0;
}

const char *value_type_name(enum value_type type)
{
    switch (type) {
    case VALUE_NIL:
        return "nil";
    case VALUE_BOOL:
        return "a boolean";
    case VALUE_UINT:
    case VALUE_INT:
        return "an integer";
    case VALUE_FLOAT:
    case VALUE_DOUBLE:
        return "a float";
    case VALUE_STR:
        return "a string";
    case VALUE_BIN:
        return "binary";
    case VALUE_ARRAY:
        return "an array";
    case VALUE_MAP:
        return "a map";
    case VALUE_EXT:
        return "an extension";
    }
    assert(!"a value_type that does not exist");
    return "";
}
