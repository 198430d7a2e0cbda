/* A MessagePack map as JSON text, fit for PostgreSQL's jsonb. */
#ifndef PROTO_JSON_H
#define PROTO_JSON_H

#include "proto/error.h"
#include "proto/reader.h"

#define JSON_MAX_DEPTH 64

/* A growable buffer that is reused from message to message. */
struct json_buffer {
    char *data;
    size_t len;
    size_t capacity;
};

/* Reads one value (which must be a map) from r and replaces buffer's content with its JSON. Keys
 * come out sorted by bytes, so that the same map gives the same text whatever order a client packed
 * it in (the content hash is made from this text). Refused, with field as the name in err's text:
 * keys that are not str, duplicate keys, bin, ext, NaN, infinities, bad UTF-8, NUL, nesting beyond
 * JSON_MAX_DEPTH. 0, or -1 with *err filled (INTERNAL when memory is short). */
int json_from_msgpack(struct reader *r, const char *field, struct json_buffer *buffer,
                      struct wire_error *err) __attribute__((warn_unused_result));

void json_buffer_done(struct json_buffer *buffer);

#endif
