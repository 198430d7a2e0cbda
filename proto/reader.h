/* Reads MessagePack values one after another from a message that scan_value() has found whole.
 * Allocates nothing; slices point into the message. msgpack-c's unpacker is not used here because
 * it refuses to nest deeper than 32 and the wire allows metadata 64 deep. */
#ifndef PROTO_READER_H
#define PROTO_READER_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/slice.h"

struct reader {
    const uint8_t *at;
    const uint8_t *end;
};

enum value_type {
    VALUE_NIL,
    VALUE_BOOL,
    VALUE_UINT,  /* any integer >= 0, whatever its encoding */
    VALUE_INT,   /* any integer < 0 */
    VALUE_FLOAT, /* float 32; as_double holds it exactly */
    VALUE_DOUBLE,
    VALUE_STR,
    VALUE_BIN,
    VALUE_ARRAY,
    VALUE_MAP,
    VALUE_EXT,
};

struct value {
    enum value_type type;
    union {
        bool as_bool;
        uint64_t as_uint;
        int64_t as_int;
        double as_double;
        struct slice bytes; /* STR, BIN, EXT */
        uint32_t count;     /* ARRAY: elements; MAP: pairs; they follow */
    };
    int8_t ext_type;
};

void reader_init(struct reader *r, const void *data, size_t len);

/* The next value's header, and its payload where it is a scalar. 0, or -EBADMSG at the end or where
 * the bytes are no MessagePack. */
int reader_next(struct reader *r, struct value *ret) __attribute__((warn_unused_result));

/* Passes one whole value, nested ones included. Same errors. */
int reader_skip(struct reader *r) __attribute__((warn_unused_result));

/* "a string", "nil", "an array": for error texts. */
const char *value_type_name(enum value_type type);

#endif
