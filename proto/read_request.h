/* What is asked with status, get, list, search and forget: params -> checked structs. */
#ifndef PROTO_READ_REQUEST_H
#define PROTO_READ_REQUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/error.h"
#include "proto/message.h"
#include "proto/reader.h"

#define READ_LIMIT_MAX 100
#define READ_LIMIT_DEFAULT 20
#define QUERY_MAX_BYTES 4000

enum search_mode { SEARCH_DEFAULT, SEARCH_VECTOR, SEARCH_TEXT, SEARCH_HYBRID };

/* A copy of its own: the message is gone when the answer comes. Texts end in NUL. */
struct read_request {
    char user_id[USER_ID_MAX_BYTES + 1];
    bool has_id;
    uint8_t id[16];
    uint32_t limit;

    /* list: conversations older than this, or as old and with a greater id. */
    bool has_before;
    int64_t before_us;
    uint8_t before_id[16];

    /* search */
    enum search_mode mode;
    char query[QUERY_MAX_BYTES + 1];
    char platform[PLATFORM_MAX_BYTES + 1]; /* "": any */
    bool has_since, has_until;
    int64_t since_us, until_us; /* since <= created_at < until */
};

/* [user_id, id] */
int read_request_decode_key(struct reader *r, struct read_request *ret, struct wire_error *err)
    __attribute__((warn_unused_result));

/* One map each: [{user_id, limit?, before?}], [{user_id, query, …}], [{user_id, id?}]. */
int read_request_decode_list(struct reader *r, struct read_request *ret, struct wire_error *err)
    __attribute__((warn_unused_result));
int read_request_decode_search(struct reader *r, struct read_request *ret, struct wire_error *err)
    __attribute__((warn_unused_result));
int read_request_decode_forget(struct reader *r, struct read_request *ret, struct wire_error *err)
    __attribute__((warn_unused_result));

/* The cursor of list as text: where a page ends and the next begins. */
#define CURSOR_SIZE 64
void read_cursor_format(int64_t created_at_us, const char *id, char ret[CURSOR_SIZE]);

#endif
