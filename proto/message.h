/* MessagePack-RPC messages and the conversation inside a store: bytes -> checked structs. */
#ifndef PROTO_MESSAGE_H
#define PROTO_MESSAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/error.h"
#include "proto/json.h"
#include "proto/reader.h"
#include "proto/slice.h"

#define USER_ID_MAX_BYTES 256
#define PLATFORM_MAX_BYTES 64
#define METADATA_MAX_BYTES (256 * 1024) /* as JSON */
#define STORE_MANY_MAX 1000

enum message_type { MESSAGE_REQUEST = 0, MESSAGE_RESPONSE = 1, MESSAGE_NOTIFICATION = 2 };

struct message {
    enum message_type type;
    bool
        has_msgid; /* a request's; set as soon as it could be read, even when the rest is refused */
    uint32_t msgid;
    struct slice method;
    uint32_t param_count;
    struct reader params; /* stands before the first parameter */
};

/* data, len: one whole value as scan_value() found it. 0; or -1 with *err filled, and then
 * ret->has_msgid tells whether the error can be answered under the request's own msgid. Every -1 is
 * a breach of the RPC form: the caller answers and closes. */
int message_parse(const void *data, size_t len, struct message *ret, struct wire_error *err)
    __attribute__((warn_unused_result));

/* The first bytes of a message that will never be read whole (too large, too deep): its msgid, when
 * they hold one. */
bool message_peek_msgid(const void *data, size_t len, uint32_t *ret_msgid);

/* What a service says of a conversation. The slices point into the message, metadata into the
 * json_buffer that was given. */
struct conversation_fields {
    bool has_id;
    uint8_t id[16];
    struct slice user_id;
    struct slice platform;
    struct slice transcript;
    struct slice summary;  /* data NULL: none */
    struct slice metadata; /* JSON text; data NULL: none */
    bool has_created_at;
    int64_t created_at_us; /* since 1970 */
};

/* Reads and checks one conversation map. field is its name in error texts ("conversation" or
 * "conversations[3]"). 0, or -1 with *err; the reader then stands anywhere. */
int conversation_decode(struct reader *r, const char *field, struct json_buffer *json,
                        struct conversation_fields *ret, struct wire_error *err)
    __attribute__((warn_unused_result));

/* One field of a conversation where another method has it; field is its name in error texts. Text:
 * 1 to max_bytes bytes. Id and time may be nil: then *ret_given is false. */
int field_decode_text(struct reader *r, const char *field, size_t max_bytes, struct slice *ret,
                      struct wire_error *err) __attribute__((warn_unused_result));
int field_decode_id(struct reader *r, const char *field, bool *ret_given, uint8_t ret[16],
                    struct wire_error *err) __attribute__((warn_unused_result));
int field_decode_time(struct reader *r, const char *field, bool *ret_given, int64_t *ret_us,
                      struct wire_error *err) __attribute__((warn_unused_result));

/* The options map of store and store_many. */
struct store_options {
    bool wait_stored;    /* wait: "stored"; "durable" is the default and may be named */
    uint32_t timeout_ms; /* 0: none given */
};
int store_options_decode(struct reader *r, struct store_options *ret, struct wire_error *err)
    __attribute__((warn_unused_result));

/* The options map of flush: {timeout_ms}. */
int flush_options_decode(struct reader *r, uint32_t *ret_timeout_ms, struct wire_error *err)
    __attribute__((warn_unused_result));

#endif
