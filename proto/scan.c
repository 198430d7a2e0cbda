/* Finds the end of the next MessagePack value in a stream. Pure; the session that reads the stream
 * owns the struct, on the loop.
 *
 * The hard thing: a few hostile bytes may claim anything (four billion elements, gigabytes, arrays
 * in arrays that multiply), so nothing is believed until it fits both limits, and each open array
 * or map costs four bytes here whatever it claims.
 *
 * Invariants between calls, as long as no limit was broken:
 *   offset + skip + wanted <= max_bytes   (each value that is still wanted takes a byte at least)
 *   elements <= max_elements              (so no sum of claims can overflow 32 bits)
 *   wanted is the sum of open[0 .. depth-1], or 1 before the first byte. */
#include "proto/scan.h"

#include <assert.h>
#include <errno.h>

#include "proto/format.h"

void scan_reset(struct scan *s)
{
    s->offset = 0;
    s->skip = 0;
    s->elements = 1;
    s->wanted = 1;
    s->depth = 0;
}

/* Books a header whose claims are within the limits. */
static void pass_header(struct scan *s, const struct header *h)
{
    s->offset += h->size;
    s->skip = h->payload;
    s->elements += (uint32_t)h->children;
    s->wanted += (uint32_t)h->children - 1;
    if (s->depth > 0)
        s->open[s->depth - 1]--;
    if (h->children > 0) {
        s->open[s->depth++] = (uint32_t)h->children;
        return;
    }
    while (s->depth > 0 && s->open[s->depth - 1] == 0)
        s->depth--;
}

/* SCAN_COMPLETE: one more header was passed. */
static enum scan_result next_header(struct scan *s, const uint8_t *at, size_t len, size_t max_bytes,
                                    uint32_t max_elements)
{
    struct header h;
    int rc = format_header(at, len, &h);
    uint64_t least = (uint64_t)s->offset + h.size + s->wanted - 1;

    if (rc == -EBADMSG)
        return SCAN_BAD;
    if (least > max_bytes)
        return SCAN_TOO_LARGE;
    if (rc == -EAGAIN)
        return SCAN_PARTIAL;
    if ((h.type == VALUE_ARRAY || h.type == VALUE_MAP) && s->depth == SCAN_MAX_DEPTH)
        return SCAN_TOO_DEEP;
    if (h.children > max_elements - s->elements)
        return SCAN_TOO_MANY;
    if (least + h.payload + h.children > max_bytes)
        return SCAN_TOO_LARGE;
    pass_header(s, &h);
    return SCAN_COMPLETE;
}

enum scan_result scan_value(struct scan *s, const void *data, size_t len, size_t max_bytes,
                            uint32_t max_elements, size_t *ret_len)
{
    const uint8_t *bytes = data;

    assert(max_bytes > 0 && max_elements > 0);
    assert(len >= s->offset); /* the bytes of earlier calls are part of data */
    while (s->wanted > 0 || s->skip > 0) {
        size_t left = len - s->offset;

        if (left == 0)
            return SCAN_PARTIAL;
        if (s->skip > 0) {
            size_t step = left < s->skip ? left : (size_t)s->skip;

            s->offset += step;
            s->skip -= step;
        } else {
            enum scan_result result =
                next_header(s, bytes + s->offset, left, max_bytes, max_elements);

            if (result != SCAN_COMPLETE)
                return result;
        }
    }
    *ret_len = s->offset;
    scan_reset(s);
    return SCAN_COMPLETE;
}
