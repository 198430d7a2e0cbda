/* A store or store_many whose reply is due later: it counts the conversations that are not settled
 * yet, and answers when the last one is, or when its time is up. Loop. */
#ifndef DAEMON_CALL_H
#define DAEMON_CALL_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "proto/error.h"
#include "proto/message.h"

struct call;
struct session;

enum call_kind {
    CALL_STORE,      /* answers {id} or an error */
    CALL_STORE_MANY, /* answers {ids, errors} */
};

/* Holds the session until the reply is out. count items are due. NULL when memory is short. */
struct call *call_new(uv_loop_t *loop, struct session *s, uint32_t msgid, enum call_kind kind,
                      uint32_t count, const struct store_options *options);

/* Names the id of one item, before it is settled. */
void call_set_id(struct call *call, uint32_t index, const uint8_t id[16]);

/* true: the items are due when they are rows; false: when they are durable. */
bool call_waits_stored(const struct call *call);

/* true: its time was up, and the reply is out. */
bool call_is_answered(const struct call *call);

/* One item has come to its end: err NULL, or why not (copied). With the last one the reply goes out
 * and the call is gone: whoever settles an item forgets the call. */
void call_settle(struct call *call, uint32_t index, const struct wire_error *err);

#endif
