/* The first bytes of a MessagePack value: one table of its formats. Pure, any thread.
 *
 * The hard thing: scan.c decides from this table how many bytes a message has, reader.c walks the
 * same bytes. Were they to disagree, a client could hide one message inside another, so both ask
 * here. */
#include "proto/format.h"

#include <errno.h>

struct format {
    uint8_t type;
    uint8_t length_bytes; /* of the length or count that follows the tag */
    uint8_t ext_bytes;    /* 1 where an ext type stands in the header */
    uint8_t payload;      /* where its length is fixed */
};

/* Tags 0xc0 to 0xdf; all others say everything in one byte. 0xc1 is never used. */
static const struct format formats[32] = {
    [0x00] = {VALUE_NIL, 0, 0, 0},    [0x02] = {VALUE_BOOL, 0, 0, 0},
    [0x03] = {VALUE_BOOL, 0, 0, 0},   [0x04] = {VALUE_BIN, 1, 0, 0},
    [0x05] = {VALUE_BIN, 2, 0, 0},    [0x06] = {VALUE_BIN, 4, 0, 0},
    [0x07] = {VALUE_EXT, 1, 1, 0},    [0x08] = {VALUE_EXT, 2, 1, 0},
    [0x09] = {VALUE_EXT, 4, 1, 0},    [0x0a] = {VALUE_FLOAT, 0, 0, 4},
    [0x0b] = {VALUE_DOUBLE, 0, 0, 8}, [0x0c] = {VALUE_UINT, 0, 0, 1},
    [0x0d] = {VALUE_UINT, 0, 0, 2},   [0x0e] = {VALUE_UINT, 0, 0, 4},
    [0x0f] = {VALUE_UINT, 0, 0, 8},   [0x10] = {VALUE_INT, 0, 0, 1},
    [0x11] = {VALUE_INT, 0, 0, 2},    [0x12] = {VALUE_INT, 0, 0, 4},
    [0x13] = {VALUE_INT, 0, 0, 8},    [0x14] = {VALUE_EXT, 0, 1, 1},
    [0x15] = {VALUE_EXT, 0, 1, 2},    [0x16] = {VALUE_EXT, 0, 1, 4},
    [0x17] = {VALUE_EXT, 0, 1, 8},    [0x18] = {VALUE_EXT, 0, 1, 16},
    [0x19] = {VALUE_STR, 1, 0, 0},    [0x1a] = {VALUE_STR, 2, 0, 0},
    [0x1b] = {VALUE_STR, 4, 0, 0},    [0x1c] = {VALUE_ARRAY, 2, 0, 0},
    [0x1d] = {VALUE_ARRAY, 4, 0, 0},  [0x1e] = {VALUE_MAP, 2, 0, 0},
    [0x1f] = {VALUE_MAP, 4, 0, 0},
};

uint64_t format_big_endian(const uint8_t *at, size_t n)
{
    uint64_t value = 0;

    while (n-- > 0)
        value = value << 8 | *at++;
    return value;
}

/* Puts a length or count where its type wants it. */
static void set_length(struct header *h, uint64_t length)
{
    if (h->type == VALUE_ARRAY)
        h->children = length;
    else if (h->type == VALUE_MAP)
        h->children = 2 * length;
    else
        h->payload = length;
}

/* The formats that carry their length or value in the tag. */
static void short_header(uint8_t tag, struct header *ret)
{
    if (tag < 0x80) {
        ret->type = VALUE_UINT;
    } else if (tag < 0x90) {
        ret->type = VALUE_MAP;
        set_length(ret, tag & 0x0f);
    } else if (tag < 0xa0) {
        ret->type = VALUE_ARRAY;
        set_length(ret, tag & 0x0f);
    } else if (tag < 0xc0) {
        ret->type = VALUE_STR;
        set_length(ret, tag & 0x1f);
    } else {
        ret->type = VALUE_INT; /* 0xe0 to 0xff: -32 to -1 */
    }
}

int format_header(const uint8_t *at, size_t len, struct header *ret)
{
    const struct format *f;

    *ret = (struct header){.type = VALUE_NIL, .size = 1};
    if (len == 0)
        return -EAGAIN;
    ret->tag = at[0];
    if (ret->tag < 0xc0 || ret->tag >= 0xe0) {
        short_header(ret->tag, ret);
        return 0;
    }
    if (ret->tag == 0xc1)
        return -EBADMSG;
    f = &formats[ret->tag - 0xc0];
    ret->type = f->type;
    ret->size = (uint8_t)(1 + f->length_bytes + f->ext_bytes);
    ret->payload = f->payload;
    if (len < ret->size)
        return -EAGAIN;
    if (f->length_bytes > 0)
        set_length(ret, format_big_endian(at + 1, f->length_bytes));
    return 0;
}
