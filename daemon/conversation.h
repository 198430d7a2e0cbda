/* One finished conversation on its way from the socket to the row.
 *
 * A single allocation with one owner at a time: session -> journal -> backlog -> batch -> (freed
 * when its row is committed). Threads hand it over by move; nobody looks at it after giving it
 * away. The texts stand once, in the packed form, which is also the payload of its journal record.
 */
#ifndef DAEMON_CONVERSATION_H
#define DAEMON_CONVERSATION_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "proto/message.h"
#include "proto/slice.h"

struct call;

/* The packed form: this header in little endian, then user_id, platform, transcript, summary and
 * metadata without separators. Version 1 of the journal's payload. */
struct packed_conversation {
    uint8_t id[16];
    uint8_t content_hash[16]; /* XXH3-128 of what the client said, id and user apart */
    int64_t created_at_us;    /* since 1970 */
    int64_t arrived_at_us;    /* since 1970; created_at where the client named none */
    uint32_t flags;           /* PACKED_… */
    uint32_t user_id_len;
    uint32_t platform_len;
    uint32_t transcript_len;
    uint32_t summary_len;
    uint32_t metadata_len;
};

#define PACKED_HAS_SUMMARY 1u
#define PACKED_HAS_METADATA 2u
#define PACKED_HAS_CREATED_AT 4u /* the client's own, so part of the content */

struct conversation {
    struct conversation *next;        /* in whatever list its owner keeps */
    LIST_ENTRY(conversation) pending; /* the loop's, see pending.h */
    uint64_t seq;                     /* the journal's number for it; 0 before it has one */
    uint64_t read_ns;                 /* uv_hrtime() when its message came; 0 after a replay */
    struct call *call;                /* the request that waits for it, or NULL */
    uint32_t call_index;              /* its place in that request's list */
    uint32_t attempts;                /* batches that it was in and that failed */
    bool replayed; /* read back from the journal, or its batch was tried before */
    uint32_t packed_len;
    _Alignas(8) uint8_t packed[]; /* packed_len bytes */
};

/* A new conversation from checked fields; the texts are copied. id: the client's or one made by the
 * caller. NULL when memory is short. Any thread. */
struct conversation *conversation_new(const struct conversation_fields *fields,
                                      const uint8_t id[16], int64_t now_us);

/* A conversation from packed bytes that were read back; every length is checked against len. 0,
 * -ENOMEM, or -EBADMSG where the bytes are no packed conversation. Any thread. */
int conversation_unpack(const void *packed, size_t len, struct conversation **ret)
    __attribute__((warn_unused_result));

void conversation_free(struct conversation *c); /* takes NULL */

/* What it holds; the slices live as long as it does. summary and metadata: data NULL where absent.
 */
const struct packed_conversation *conversation_header(const struct conversation *c);
struct slice conversation_user_id(const struct conversation *c);
struct slice conversation_platform(const struct conversation *c);
struct slice conversation_transcript(const struct conversation *c);
struct slice conversation_summary(const struct conversation *c);
struct slice conversation_metadata(const struct conversation *c);

/* Bytes of memory that it takes: what the queue's byte bound counts. */
size_t conversation_bytes(const struct conversation *c);

/* Orders by user_id, then id: the order of the primary key. */
int conversation_compare(const struct conversation *a, const struct conversation *b);

/* A first-in first-out list of conversations, with its bytes counted. */
struct conversation_list {
    struct conversation *head, *tail;
    size_t count;
    size_t bytes;
};
void conversation_list_push(struct conversation_list *list, struct conversation *c);
void conversation_list_push_front(struct conversation_list *list, struct conversation *c);
struct conversation *conversation_list_pop(struct conversation_list *list); /* NULL when empty */

#endif
