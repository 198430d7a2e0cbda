/* libconvstore: hands finished conversations to convstored over its Unix socket.
 *
 *     struct convstore *store;
 *     struct convstore_conversation c = {.user_id = convstore_str("u1"),
 *                                        .platform = convstore_str("web"),
 *                                        .transcript = convstore_str("User: hello")};
 *     char id[CONVSTORE_ID_SIZE];
 *
 *     if (convstore_open(NULL, &store) != 0)
 *         return;
 *     if (convstore_store(store, &c, CONVSTORE_DURABLE, id) != 0)
 *         fprintf(stderr, "not stored: %s\n", convstore_error_text(store));
 *     convstore_close(store);
 *
 * Exactly once: a conversation without an id gets a UUIDv7 before the first try, and every resend
 * carries that id, so that a lost connection, a full queue or a restarting daemon costs time but
 * neither loses a conversation nor stores it twice. All of that happens inside the call's time-out.
 *
 * Threads: a handle is for one thread at a time; different handles are independent. The library
 * starts no thread and raises no signal (SIGPIPE included). After fork(2) a handle belongs to the
 * parent; the child opens its own.
 *
 * Errors: 0 (CONVSTORE_OK) or a code of enum convstore_code; convstore_error_text() says what
 * happened and to what. Functions that return const pointers keep the memory: it is good until the
 * next call with the same handle. */
#ifndef CONVSTORE_H
#define CONVSTORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CONVSTORE_DEFAULT_SOCKET "/run/convstore/convstore.sock"
#define CONVSTORE_DEFAULT_TIMEOUT_MS 5000
#define CONVSTORE_DEFAULT_WINDOW 1024                     /* conversations in flight */
#define CONVSTORE_DEFAULT_WINDOW_BYTES (64 * 1024 * 1024) /* and their bytes */
#define CONVSTORE_WINDOW_MAX 65536
#define CONVSTORE_ID_SIZE 37 /* 36 characters of a UUID and a NUL */
#define CONVSTORE_TEXT_SIZE 256

/* 1 to 99 come from the daemon as PROTOCOL.md numbers them (a newer daemon may send others than
 * those named here); 100 and above are the library's own. */
enum convstore_code {
    CONVSTORE_OK = 0,
    CONVSTORE_INVALID_ARGUMENT = 1, /* the text names the field */
    CONVSTORE_TOO_LARGE = 2,
    CONVSTORE_QUEUE_FULL = 3,    /* was tried again until the time-out */
    CONVSTORE_SHUTTING_DOWN = 4, /* was tried again until the time-out */
    CONVSTORE_UNAVAILABLE = 5,
    CONVSTORE_NOT_FOUND = 6,
    CONVSTORE_PERMISSION_DENIED = 7,
    CONVSTORE_UNKNOWN_METHOD = 8,
    CONVSTORE_STORAGE_FAILED = 9, /* was tried again until the time-out; it may have survived */
    CONVSTORE_INTERNAL = 10,
    CONVSTORE_CANNOT_CONNECT = 100, /* until the time-out */
    CONVSTORE_TIMED_OUT = 101,      /* no answer; a conversation may or may not have been stored */
    CONVSTORE_BAD_REPLY = 102,      /* what answers there does not speak the protocol */
    CONVSTORE_NO_MEMORY = 103,
    CONVSTORE_WINDOW_FULL = 104, /* too much in flight: call convstore_process() first */
    CONVSTORE_CANCELLED = 105,   /* convstore_close() came before the answer */
};

/* When a store is answered. */
enum convstore_wait {
    CONVSTORE_DURABLE = 0, /* when the daemon has it on disk: the usual choice */
    CONVSTORE_STORED = 1,  /* when it is a row in the database */
};

/* UTF-8 that need not end in NUL. data NULL: absent. */
struct convstore_text {
    const char *data;
    size_t len;
};

/* Read during the call only; nothing of it is kept. Clear it to zero (or use designated
 * initialisers) before filling it in. */
struct convstore_conversation {
    const char *id; /* a UUID's 36 characters, or NULL: one is made */
    struct convstore_text user_id;
    struct convstore_text platform;
    struct convstore_text transcript;
    struct convstore_text summary;  /* optional */
    struct convstore_text metadata; /* optional: one MessagePack map, encoded */
    bool has_created_at;            /* false: the time of arrival */
    int64_t created_at_us;          /* microseconds since 1970 (UTC) */
};

/* What became of one conversation. */
struct convstore_result {
    int code;                       /* 0: durable (or stored, where that was asked for) */
    int retry_after_ms;             /* the daemon's wish; -1: none */
    char id[CONVSTORE_ID_SIZE];     /* empty where the conversation was refused before it got one */
    char text[CONVSTORE_TEXT_SIZE]; /* why not; empty when code is 0 */
};

struct convstore_server {
    char server[32];
    char version[32];
    unsigned protocol;
    char durability[16]; /* "fsync", "os", … */
};

/* The numbers that a service looks at; the JSON has all of them. -1 where the daemon sent none. */
struct convstore_stats {
    int64_t queued, processing, completed, failed, dead_letters;
    int64_t oldest_queued_ms;
    int64_t connections;
    char health[16]; /* "healthy", "warning", "critical"; empty: not sent */
};

struct convstore;

/* Makes a handle for the daemon behind the socket at path; NULL: $CONVSTORE_SOCKET, else
 * CONVSTORE_DEFAULT_SOCKET. Does not connect: the first call does, so that a service may start
 * before its daemon. INVALID_ARGUMENT (a path too long for a Unix socket) or NO_MEMORY. */
int convstore_open(const char *path, struct convstore **ret);

/* Connects now where there is no connection, and tells at once when no daemon listens there, where
 * other calls would try again until their time-out. CANNOT_CONNECT. */
int convstore_connect(struct convstore *c);

/* Closes and frees. What is still in flight gets its callback with CANCELLED (it may have reached
 * the daemon): call convstore_wait() first. NULL is allowed. Not from a callback. */
void convstore_close(struct convstore *c);

/* How long each later call, and each later submitted conversation, may take in all, with every
 * connect and resend. At least 1 ms; CONVSTORE_DEFAULT_TIMEOUT_MS until set. */
void convstore_set_timeout(struct convstore *c, unsigned timeout_ms);

/* How much may be in flight: messages (1 to CONVSTORE_WINDOW_MAX) and their bytes, which also
 * bounds the largest message that can be sent. Only while nothing is in flight, else WINDOW_FULL;
 * INVALID_ARGUMENT, NO_MEMORY. */
int convstore_set_window(struct convstore *c, unsigned messages, size_t bytes);

/* Stores one conversation and waits for the answer. ret_id may be NULL; it is set as soon as the id
 * is known, so that a caller may try again with it after a time-out. */
int convstore_store(struct convstore *c, const struct convstore_conversation *conversation,
                    enum convstore_wait wait, char ret_id[CONVSTORE_ID_SIZE]);

/* Stores count conversations, in as many messages as the protocol's limits need, and waits for all.
 * They are independent of one another: ret_results[i] tells of items[i]. 0 when all are stored,
 * else the first code that is not 0. */
int convstore_store_many(struct convstore *c, const struct convstore_conversation *items,
                         size_t count, enum convstore_wait wait,
                         struct convstore_result *ret_results);

/* Who answers there. */
int convstore_ping(struct convstore *c, struct convstore_server *ret);

/* The daemon's statistics. Each output may be NULL. *ret_json: the whole map as JSON. */
int convstore_stats(struct convstore *c, struct convstore_stats *ret, const char **ret_json);

/* ---- Reading back: each answer is JSON, as PROTOCOL.md names its keys ---- */

/* Where a conversation is: {"state": "queued" | "stored" | "embedded" | "failed", …}; or itself.
 * NOT_FOUND. */
int convstore_status(struct convstore *c, const char *user_id, const char *id,
                     const char **ret_json);
int convstore_get(struct convstore *c, const char *user_id, const char *id, const char **ret_json);

/* Clear it to zero before filling it in; NULL, 0 and false: not given. */
struct convstore_query {
    const char *user_id;
    unsigned limit;     /* 1 to 100 */
    const char *before; /* list: the "next" of an earlier one */
    const char *query;  /* search, as all that follow */
    const char *mode;   /* "vector", "text", "hybrid" */
    const char *platform;
    bool has_since, has_until;
    int64_t since_us, until_us; /* microseconds since 1970 (UTC) */
};

/* A user's conversations, newest first; and those that fit a query, best first. */
int convstore_list(struct convstore *c, const struct convstore_query *query, const char **ret_json);
int convstore_search(struct convstore *c, const struct convstore_query *query,
                     const char **ret_json);

/* Calls any method. params: one MessagePack array, encoded (NULL, 0: no parameters). *ret_json: the
 * result as JSON; bin is base64, a timestamp is RFC 3339 text. After a lost connection the call is
 * sent again, so that the daemon may carry it out twice. */
int convstore_call(struct convstore *c, const char *method, const void *params, size_t params_len,
                   const char **ret_json);

/* ---- Many in flight: for importers, busy services and event loops ---- */

/* Called from convstore_process(), convstore_wait() and every waiting call, once for each submitted
 * conversation; result is good during the callback. It may call convstore_submit(), nothing else on
 * this handle. */
typedef void convstore_on_ack(void *context, const struct convstore_result *result);

/* Queues one conversation and returns at once; its bytes leave in the next convstore_process().
 * What is not answered when the connection is lost is sent again on the next one. WINDOW_FULL:
 * nothing was queued, call convstore_process(). Other codes: refused, on_ack will not be called.
 * ret_id may be NULL. */
int convstore_submit(struct convstore *c, const struct convstore_conversation *conversation,
                     enum convstore_wait wait, convstore_on_ack *on_ack, void *context,
                     char ret_id[CONVSTORE_ID_SIZE]);

/* Connects, sends, receives and calls back; returns after the first callbacks, when nothing is in
 * flight, or after timeout_ms (0: does not wait). Returns how many were answered or given up. */
unsigned convstore_process(struct convstore *c, unsigned timeout_ms);

/* convstore_process() until nothing is in flight; every conversation's own time-out bounds it. */
void convstore_wait(struct convstore *c);

/* How many are in flight. */
unsigned convstore_pending(const struct convstore *c);

/* For poll(2) loops: the descriptor to wait for (-1: none now) with *ret_events, and the time after
 * which to call convstore_process() anyway (*ret_timeout_ms; -1: never). Ask again after each call
 * with the handle: a reconnect changes the descriptor. */
int convstore_poll(const struct convstore *c, short *ret_events, int *ret_timeout_ms);

/* How often the connection was made anew after a loss. */
unsigned convstore_reconnects(const struct convstore *c);

/* ---- Errors ---- */

/* Of the last call that returned a code. Never NULL. */
const char *convstore_error_text(const struct convstore *c);
int convstore_retry_after_ms(const struct convstore *c); /* -1: none */

/* "QUEUE_FULL", "TIMED_OUT", … ; "UNKNOWN" for a code without a name here. */
const char *convstore_code_name(int code);

/* The library's version, "0.1.0". */
const char *convstore_version(void);

/* A NUL-terminated string as text. */
static inline struct convstore_text convstore_str(const char *s)
{
    struct convstore_text text = {s, 0};

    while (s != NULL && s[text.len] != '\0')
        text.len++;
    return text;
}

#ifdef __cplusplus
}
#endif

#endif
