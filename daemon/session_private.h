/* The inside of the sessions, for their own files: session.c (life and the set), session_read.c
 * (bytes to messages, and when to stop), session_write.c (replies). Loop. */
#ifndef DAEMON_SESSION_PRIVATE_H
#define DAEMON_SESSION_PRIVATE_H

#include <assert.h>
#include <sys/queue.h>

#include "daemon/inbox.h"
#include "daemon/session.h"
#include "proto/scan.h"

#define READ_BUFFER_BYTES (256 * 1024)
#define SESSION_MAGIC 0x5e5510c4u

enum session_state {
    SESSION_OPEN,    /* reads and answers */
    SESSION_ENDING,  /* reads no further; closes when nothing is due and all is written */
    SESSION_CLOSING, /* uv_close() is called; answers go nowhere */
};

/* The error that a session ends with, once the earlier replies are out. */
struct farewell {
    bool has_msgid;
    uint32_t msgid;
    struct wire_error error;
};

/* A reply whose time is taken when it is sent. */
struct timed_reply {
    uint64_t begun_ns;
    uint32_t count;
};

struct session {
    uint32_t magic;
    enum session_state state;
    struct sessions *set;
    uv_pipe_t pipe;
    bool handle_open; /* until its close callback */
    bool control;
    bool reading; /* uv_read_start() is in force */
    bool parked;  /* in set->parked */
    bool dirty;   /* in set->dirty */
    struct scan scan;
    struct inbox inbox;    /* a message that has not come whole, or what a stop left unread */
    uint64_t readable_ns;  /* when the bytes read last could be read */
    bool consuming;        /* inside consume(): an answer given there must not start another one */
    unsigned in_flight;    /* requests whose reply is due */
    msgpack_sbuffer out;   /* packed, not yet given to the socket */
    bool out_short;        /* memory ran out in the middle of a reply: nothing more may be sent */
    size_t unsent;         /* given to libuv, not yet taken by the socket */
    msgpack_packer packer; /* writes to out */
    struct timed_reply *timed; /* among what is in out */
    unsigned timed_count, timed_room;
    struct farewell *farewell;
    TAILQ_ENTRY(session) all;
    TAILQ_ENTRY(session) parked_link;
    TAILQ_ENTRY(session) dirty_link;
    TAILQ_ENTRY(session)
    partial_link; /* in set->partials while inbox holds bytes; longest idle first */
};

TAILQ_HEAD(session_list, session);

struct sessions {
    uv_loop_t *loop;
    struct sessions_config config;
    struct sessions_callbacks callbacks;
    void *owner;
    uv_prepare_t prepare; /* flushes replies before the loop waits */
    uint64_t waits_ns;    /* when it began to wait the last time, */
    uint64_t waited_ns;   /* and how long it had waited until then, since its start */
    uint64_t woke_ns;     /* when it woke before that */
    uint64_t readable_ns; /* see there; 0: nobody has asked since it woke */
    bool paused;
    bool closing;
    void (*on_closed)(void *owner);
    size_t count;
    size_t partial_bytes;
    size_t unsent; /* the sum over all sessions */
    struct session_list all, parked, dirty, partials;
    uint8_t read_buffer[READ_BUFFER_BYTES];
};

static inline struct session *session_of(void *data)
{
    struct session *s = data;

    assert(s->magic == SESSION_MAGIC);
    return s;
}

/* session.c */
void session_close(struct session *s);  /* at once */
void session_end(struct session *s);    /* reads no further; closes when nothing is due any more */
void session_finish(struct session *s); /* closes an ending session if nothing is due any more */

/* session_read.c */
bool session_may_read(const struct session *s);
void session_pump(struct session *s); /* goes on reading where a stop left off, as far as it may */
void session_drop_inbox(struct session *s);

/* session_write.c */
int session_pack_out(void *session, const char *bytes, size_t len); /* for its msgpack_packer */
void session_mark_dirty(struct session *s);  /* flushed before the loop waits, and then read on */
void session_report_sent(struct session *s); /* tells on_sent of the replies to be timed */

#endif
