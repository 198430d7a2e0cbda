/* The connections: reading whole messages, writing replies, and stopping to read where a limit says
 * so. Loop. */
#ifndef DAEMON_SESSION_H
#define DAEMON_SESSION_H

#include <msgpack.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "proto/error.h"

struct session;  /* one connection */
struct sessions; /* all of them */

struct sessions_config {
    size_t max_message_bytes;
    size_t max_partial_bytes; /* half-read messages of all connections together */
    size_t max_reply_bytes;   /* unread replies of one connection */
    unsigned max_in_flight;   /* unanswered requests of one connection */
};

struct sessions_callbacks {
    /* One whole message. data is valid during the call only. */
    void (*on_message)(void *owner, struct session *s, const void *data, size_t len);
    /* A session has ended: there is room for another one. */
    void (*on_session_end)(void *owner);
    /* A reply named to session_time_reply() was handed to the kernel just now, or to libuv where
     * the peer does not read, or it will never be since the session has ended. */
    void (*on_sent)(void *owner, uint64_t begun_ns, uint32_t count, uint64_t sent_ns);
    /* All replies are sent, and the loop is about to wait for events; it may rest first. */
    void (*on_flushed)(void *owner);
};

int sessions_new(uv_loop_t *loop, const struct sessions_config *config,
                 const struct sessions_callbacks *callbacks, void *owner, struct sessions **ret)
    __attribute__((warn_unused_result));

/* Other limits from now on, for open sessions too. */
void sessions_reconfigure(struct sessions *set, const struct sessions_config *config);

/* Closes every connection at once; on_closed runs when the last handle is gone, then set is freed.
 * Requests that still wait must have been released. */
void sessions_close(struct sessions *set, void (*on_closed)(void *owner));

/* Takes a connection from a listening handle. control: it came in on the operators' socket. */
int session_accept(struct sessions *set, uv_stream_t *listener, bool control)
    __attribute__((warn_unused_result));

/* While paused no service is read further; each goes on where it stood, oldest first. */
void sessions_pause(struct sessions *set);
void sessions_resume(struct sessions *set);

/* Sends what has been packed but not written yet; also done before each poll. */
void sessions_flush(struct sessions *set);

size_t sessions_count(const struct sessions *set);

bool session_is_control(const struct session *s);
bool session_is_open(const struct session *s); /* false: replies go nowhere */

/* Its client leaves max_reply_bytes of replies unread. */
bool session_lags(const struct session *s);

/* What all clients together leave unread. */
size_t sessions_unread(const struct sessions *set);

/* The packer for one reply; what is packed goes out before the loop waits again. */
msgpack_packer *session_reply(struct session *s);

/* When the bytes of the message that is handled right now could be read, in uv_hrtime()'s time: as
 * near as the loop can know. */
uint64_t session_readable_ns(const struct session *s);

/* The reply packed last answers `count` things that began at begun_ns: see on_sent. */
void session_time_reply(struct session *s, uint64_t begun_ns, uint32_t count);

/* A request whose reply is due later holds its session: between the two calls s stays valid, open
 * or not, and a session that is ending waits for the reply. */
void session_hold(struct session *s);
void session_release(struct session *s);

/* Reads no further, sends the replies that are due, then this error, then closes. */
void session_fail(struct session *s, bool has_msgid, uint32_t msgid, const struct wire_error *err);

#endif
