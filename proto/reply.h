/* Writing MessagePack-RPC messages with msgpack-c's packer into one growable buffer. */
#ifndef PROTO_REPLY_H
#define PROTO_REPLY_H

#include <msgpack.h>
#include <stdbool.h>
#include <stdint.h>

#include "proto/error.h"
#include "proto/slice.h"

/* [1, msgid, nil, <the result: the caller packs exactly one value>] */
void reply_begin(msgpack_packer *pk, uint32_t msgid);

/* [1, msgid, [code, name, text, retry_after_ms], nil]; has_msgid false: msgid nil. */
void reply_error(msgpack_packer *pk, bool has_msgid, uint32_t msgid, const struct wire_error *err);

/* The error array alone, for store_many's list. */
void pack_error(msgpack_packer *pk, const struct wire_error *err);

void pack_str(msgpack_packer *pk, const char *text);
void pack_slice(msgpack_packer *pk, struct slice s); /* nil where data is NULL */
void pack_id(msgpack_packer *pk, const uint8_t id[16]);
void pack_time(msgpack_packer *pk, int64_t us); /* microseconds since 1970, as a timestamp */

#endif
