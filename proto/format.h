/* The first bytes of a MessagePack value, decoded in one place for scan.c and reader.c. */
#ifndef PROTO_FORMAT_H
#define PROTO_FORMAT_H

#include <stddef.h>
#include <stdint.h>

#include "proto/reader.h"

struct header {
    enum value_type type; /* VALUE_UINT and VALUE_INT tell the encoding here, not the sign */
    uint8_t tag;
    uint8_t size;      /* bytes of the header: tag, length, ext type */
    uint64_t payload;  /* bytes that follow the header */
    uint64_t children; /* values that follow it: elements, or two for each pair of a map */
};

/* 0; -EAGAIN where more than len bytes are needed (ret->size says how many; 1 when len is 0);
 * -EBADMSG for byte 0xc1, which MessagePack never uses. */
int format_header(const uint8_t *at, size_t len, struct header *ret)
    __attribute__((warn_unused_result));

/* n bytes (1 to 8), most significant first. */
uint64_t format_big_endian(const uint8_t *at, size_t n);

#endif
