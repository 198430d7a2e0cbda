/* Where does the next MessagePack value in a stream end? Looks at headers only, allocates nothing,
 * and can be resumed: each byte is looked at once, however small the pieces that it comes in (the
 * 2 to 6 bytes of a header that is cut apart: once for each piece). */
#ifndef PROTO_SCAN_H
#define PROTO_SCAN_H

#include <stddef.h>
#include <stdint.h>

#define SCAN_MAX_DEPTH 72 /* 64 of metadata, and what stands around it */

enum scan_result {
    SCAN_COMPLETE,  /* a whole value: its length is in *ret_len */
    SCAN_PARTIAL,   /* give more bytes */
    SCAN_BAD,       /* byte 0xc1, which is no MessagePack */
    SCAN_TOO_DEEP,  /* nested beyond SCAN_MAX_DEPTH */
    SCAN_TOO_MANY,  /* more elements than max_elements, counted from the headers' claims */
    SCAN_TOO_LARGE, /* longer than max_bytes, or would be by a header's claim */
};

struct scan {
    size_t offset;                 /* bytes of this value that were passed already */
    uint64_t skip;                 /* payload bytes still to pass */
    uint32_t elements;             /* values seen or claimed so far */
    uint32_t wanted;               /* values claimed and not begun: a byte each at least */
    uint32_t depth;                /* open arrays and maps */
    uint32_t open[SCAN_MAX_DEPTH]; /* values that each open one still wants */
};

/* Starts a new value. */
void scan_reset(struct scan *s);

/* data points at the value's first byte, len at all that has arrived of it, the bytes of earlier
 * calls included (they may have moved). On SCAN_COMPLETE *ret_len is the value's length and s is
 * reset. A value of max_bytes is allowed, one of max_bytes + 1 is SCAN_TOO_LARGE, found as soon as
 * a header claims it: so after SCAN_PARTIAL len is always below max_bytes. Both limits are 1 at
 * least. Results other than COMPLETE and PARTIAL are final for this stream. */
enum scan_result scan_value(struct scan *s, const void *data, size_t len, size_t max_bytes,
                            uint32_t max_elements, size_t *ret_len)
    __attribute__((warn_unused_result));

#endif
