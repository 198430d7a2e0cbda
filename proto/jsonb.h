/* JSON as PostgreSQL prints a jsonb, as MessagePack. Pure. */
#ifndef PROTO_JSONB_H
#define PROTO_JSONB_H

#include <msgpack.h>

#include "proto/slice.h"

/* More than any value that came in through the wire (JSON_MAX_DEPTH). */
#define JSONB_MAX_DEPTH 66

/* Appends one value. A whole number that fits 64 bits becomes an integer, any other a float 64.
 * json.data[json.len] must be NUL. 0, -ENOMEM, or -EBADMSG (text that PostgreSQL does not print, or
 * nested deeper than JSONB_MAX_DEPTH), and then out holds rubbish at its end. */
int jsonb_pack(msgpack_sbuffer *out, struct slice json) __attribute__((warn_unused_result));

#endif
