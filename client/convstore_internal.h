/* What the library's own files share; nothing of it is exported. */
#ifndef CONVSTORE_INTERNAL_H
#define CONVSTORE_INTERNAL_H

#include <limits.h>
#include <msgpack.h>

#include "client/convstore.h"
#include "proto/reader.h"
#include "proto/scan.h"
#include "proto/uuid.h"

#define CS_REPLY_MAX_BYTES (64 * 1024 * 1024)
#define CS_REPLY_MAX_ELEMENTS (16 * 1024 * 1024)
#define CS_STORE_MANY_ITEMS 1000          /* of one message, by PROTOCOL.md */
#define CS_STORE_MANY_BYTES (1024 * 1024) /* of one message; far below the daemon's limit */
#define CS_BACKOFF_MIN_MS 10              /* before the first try again */
#define CS_BACKOFF_MAX_MS 1000            /* doubled up to this, with jitter */
#define CS_RETRY_AFTER_MAX_MS 2000        /* a longer wish of the daemon's is cut to this */

struct cs_failure {
    int code;
    int retry_after_ms; /* -1: none */
    char text[CONVSTORE_TEXT_SIZE];
};

/* One answer: the daemon's, or the library's own when it gives up. */
struct cs_reply {
    struct cs_failure failure; /* code 0: a result */
    struct reader result;      /* before the result value; only with code 0 */
    bool has_msgid;
    uint32_t msgid;
};

/* One message in flight. Owned by the pipe from cs_window_add() on, which frees it. */
struct cs_request {
    struct cs_request *next, *prev; /* in queued or in sent */
    uint64_t sequence;              /* order of submission */
    uint32_t msgid;                 /* its low 16 bits are the slot */
    bool sent;                      /* it is in the list of sent ones */
    bool left; /* some of its bytes have left, now or on an earlier connection */
    int64_t deadline_ms;
    int retry_code; /* of the last answer that asked for another try; 0: none yet */
    char *data;     /* the encoded message */
    size_t len;

    /* Called once, when r has left the pipe; the pipe frees r afterwards. */
    void (*on_reply)(struct convstore *c, struct cs_request *r, const struct cs_reply *reply);
    /* May be NULL: the failure inside a good reply for which r must be sent again; false: none. */
    bool (*wants_retry)(const struct cs_reply *reply, struct cs_failure *ret);
    void *context;            /* of on_reply, or of on_ack */
    convstore_on_ack *on_ack; /* of a submitted conversation */
    char id[CONVSTORE_ID_SIZE];
};

struct cs_list {
    struct cs_request *head, *tail;
};

struct convstore {
    char *path;
    unsigned timeout_ms;
    bool in_callback;
    bool closing;
    struct cs_failure failure; /* of the last call */

    /* The connection (convstore_pipe.c). */
    int fd; /* -1: none */
    bool was_connected;
    bool backlog_full;      /* the last try failed because too many wait to be accepted */
    bool drop;              /* the connection must go once what has arrived is read */
    struct cs_failure lost; /* why there is no connection, or was none last time; code 0: nothing */
    struct cs_failure retry; /* the last answer that asked for another try */
    unsigned attempts;       /* tries in a row without one good answer */
    unsigned reconnects;
    int64_t connect_at_ms; /* not before */
    int64_t resume_at_ms;  /* nothing is sent before: the daemon asked for patience */
    unsigned pauses;       /* such wishes in a row */
    uint64_t jitter;

    char *in; /* received, not yet read */
    size_t in_len, in_capacity;
    struct scan scan;

    struct cs_list queued; /* to be sent, oldest first */
    size_t head_offset;    /* bytes of queued.head that are sent already */
    struct cs_list sent;   /* waiting for their answers */
    struct cs_request **slots;
    uint32_t *free_slots; /* a stack of window - pending entries */
    unsigned window;
    size_t window_bytes;
    unsigned pending;
    size_t pending_bytes;
    uint64_t sequence;
    int64_t next_deadline_ms; /* no request expires before; may be early, never late */
    uint64_t completed;

    char *json; /* the last result as text */
    size_t json_len, json_capacity;
};

/* ---- convstore_window.c: which requests are in flight ---- */

/* Makes a new window, which must be empty. NO_MEMORY: the old one stays. */
int cs_window_init(struct convstore *c, unsigned window, size_t bytes)
    __attribute__((warn_unused_result));

/* Whether a message of len bytes would be taken now: 0, WINDOW_FULL or TOO_LARGE. */
int cs_window_room(const struct convstore *c, size_t len) __attribute__((warn_unused_result));

/* Takes ownership of r, gives it a msgid, writes it into r's bytes and queues r. There must be
 * room. */
void cs_window_add(struct convstore *c, struct cs_request *r, int64_t deadline_ms);

/* Takes r out of its list and its slot; the caller owns it again. */
void cs_window_remove(struct convstore *c, struct cs_request *r);

/* NULL where nothing of that msgid is in flight. */
struct cs_request *cs_window_find(const struct convstore *c, uint32_t msgid);

void cs_list_append(struct cs_list *list, struct cs_request *r);
void cs_list_insert_before(struct cs_list *list, struct cs_request *at, struct cs_request *r);
void cs_list_remove(struct cs_list *list, struct cs_request *r);

/* ---- convstore_pipe.c: requests on their way over one connection ---- */

int64_t cs_now_ms(void);
void cs_pipe_done(struct convstore *c);
int cs_pipe_connect(struct convstore *c) __attribute__((warn_unused_result));

/* One turn: gives up what is over its time, connects, sends, waits at most wait_ms, receives. */
void cs_pipe_turn(struct convstore *c, int wait_ms);

/* When the pipe has something to do by itself, in ms from now; -1: never. */
int cs_pipe_timeout_ms(const struct convstore *c, int64_t now);
short cs_pipe_events(const struct convstore *c, int64_t now);

/* ---- convstore_wire.c: bytes <-> structs ---- */

/* A message being packed. Packing goes on without memory, and failed tells at the end. */
struct cs_buffer {
    char *data; /* malloc'd; the caller's */
    size_t len, capacity;
    bool failed;
};
void cs_buffer_init(struct cs_buffer *b, msgpack_packer *pk, size_t expected);

/* [0, msgid, method, …] up to the method; the msgid is filled in by cs_window_add(). */
#define CS_MSGID_OFFSET 3
void cs_pack_request(msgpack_packer *pk, const char *method);
void cs_pack_stored_options(msgpack_packer *pk, unsigned timeout_ms); /* wait: "stored" */

/* Checks what would break the message itself or the promise of an id; all else is the daemon's to
 * judge. id receives the conversation's own or a new one. field: its name in error texts. */
int cs_conversation_check(const struct convstore_conversation *conversation, const char *field,
                          uint8_t id[16], struct cs_failure *ret)
    __attribute__((warn_unused_result));
void cs_pack_conversation(msgpack_packer *pk, const struct convstore_conversation *conversation,
                          const uint8_t id[16]);
size_t cs_conversation_size(const struct convstore_conversation *conversation); /* about */

/* data, len: one whole value. 0, or -EBADMSG where it is no response. */
int cs_reply_decode(const void *data, size_t len, struct cs_reply *ret)
    __attribute__((warn_unused_result));

/* The value of key in the map at map; false: no map, or none of that key. */
bool cs_map_find(struct reader map, const char *key, struct reader *ret);

/* Reads one error value. */
int cs_error_decode(struct reader *r, struct cs_failure *ret) __attribute__((warn_unused_result));

bool cs_code_wants_retry(int code);

/* Fills *ret and returns code. */
int cs_fail(struct cs_failure *ret, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* ---- convstore.c: what the waiting calls share ---- */

/* Opens a call: 0, or INVALID_ARGUMENT from within a callback. */
int cs_call_begin(struct convstore *c) __attribute__((warn_unused_result));

/* Makes a request of b's bytes, which it takes over in every case. NULL: *code is NO_MEMORY. */
struct cs_request *cs_request_new(struct convstore *c, struct cs_buffer *b, int *ret_code);
void cs_request_free(struct cs_request *r);

/* Waits for room until the deadline and submits r; takes ownership in every case. */
int cs_submit_waiting(struct convstore *c, struct cs_request *r, int64_t deadline_ms)
    __attribute__((warn_unused_result));

/* Turns the pipe until *outstanding is 0; the deadlines of what it counts bound that. */
void cs_run(struct convstore *c, const unsigned *outstanding);

/* ---- convstore_json.c ---- */

/* Replaces c->json with the next value's JSON. 0, BAD_REPLY or NO_MEMORY. */
int cs_json_from_reply(struct convstore *c, struct reader *r) __attribute__((warn_unused_result));

#endif
