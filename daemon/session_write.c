/* Replies on their way out. Loop thread only.
 *
 * Replies are packed into the session's buffer and written once before the loop waits, so that many
 * answers take one system call; what the socket does not take is libuv's until it does. */
#include "daemon/session_private.h"

#include <stdlib.h>

#include "daemon/log.h"

#define TIMED_ROOM 4 /* replies whose time is taken, to begin with and kept; then twice as many */

struct write_request {
    uv_write_t uv;
    struct session *session;
    char *data; /* owned */
    size_t len;
};

static void count_unsent(struct session *s, ptrdiff_t bytes)
{
    s->unsent += (size_t)bytes;
    s->set->unsent += (size_t)bytes;
}

static void on_written(uv_write_t *uv, int status)
{
    struct write_request *request = (struct write_request *)uv;
    struct session *s = session_of(request->session);

    count_unsent(s, -(ptrdiff_t)request->len);
    free(request->data);
    free(request);
    if (status < 0) {
        session_close(s);
        return;
    }
    session_finish(s);
    session_pump(s);
}

/* Hands over what the socket did not take at once. */
static void write_rest(struct session *s, size_t written)
{
    struct write_request *request = malloc(sizeof *request);
    uv_buf_t buffer;
    size_t size = s->out.size;

    if (request == NULL) {
        session_close(s);
        return;
    }
    request->session = s;
    request->data = msgpack_sbuffer_release(&s->out);
    request->len = size - written;
    buffer = uv_buf_init(request->data + written, (unsigned)request->len);
    count_unsent(s, (ptrdiff_t)request->len);
    if (uv_write(&request->uv, (uv_stream_t *)&s->pipe, &buffer, 1, on_written) != 0) {
        count_unsent(s, -(ptrdiff_t)request->len);
        free(request->data);
        free(request);
        session_close(s);
    }
}

/* Reads on where the answers that were just sent have made room. */
static void session_go_on(struct session *s)
{
    if (s->state == SESSION_OPEN && !s->reading && !s->parked)
        session_pump(s);
}

void session_report_sent(struct session *s)
{
    struct sessions *set = s->set;
    uint64_t now = s->timed_count > 0 ? uv_hrtime() : 0;

    for (unsigned i = 0; i < s->timed_count; i++)
        set->callbacks.on_sent(set->owner, s->timed[i].begun_ns, s->timed[i].count, now);
    s->timed_count = 0;
    if (s->timed_room <= TIMED_ROOM && s->state != SESSION_CLOSING)
        return;
    free(s->timed);
    s->timed = NULL;
    s->timed_room = 0;
}

/* Room for one more. Without memory, or a peer, the reply counts as sent at once. */
static bool timed_room(struct session *s)
{
    unsigned room = s->timed_room > 0 ? 2 * s->timed_room : TIMED_ROOM;
    struct timed_reply *timed;

    if (!session_is_open(s) || s->timed_count < s->timed_room)
        return session_is_open(s);
    timed = realloc(s->timed, room * sizeof *timed);
    if (timed == NULL)
        return false;
    s->timed = timed;
    s->timed_room = room;
    return true;
}

void session_time_reply(struct session *s, uint64_t begun_ns, uint32_t count)
{
    if (!timed_room(s)) {
        s->set->callbacks.on_sent(s->set->owner, begun_ns, count, uv_hrtime());
        return;
    }
    s->timed[s->timed_count++] = (struct timed_reply){begun_ns, count};
}

static void session_flush(struct session *s)
{
    uv_buf_t buffer = uv_buf_init(s->out.data, (unsigned)s->out.size);
    int written = UV_EAGAIN;

    if (s->out_short) {
        log_error("session.closed reason=\"out of memory\"");
        session_close(s);
        return;
    }
    if (s->out.size == 0) {
        session_go_on(s);
        return;
    }
    if (s->unsent == 0)
        written = uv_try_write((uv_stream_t *)&s->pipe, &buffer, 1);
    session_report_sent(s);
    if (written < 0 && written != UV_EAGAIN) {
        session_close(s);
    } else if (written >= 0 && (size_t)written == s->out.size) {
        msgpack_sbuffer_destroy(&s->out); /* ten thousand idle sessions keep no buffer */
        msgpack_sbuffer_init(&s->out);
        session_finish(s);
        session_go_on(s);
    } else {
        write_rest(s, written < 0 ? 0 : (size_t)written);
    }
}

void sessions_flush(struct sessions *set)
{
    struct session *s;

    while ((s = TAILQ_FIRST(&set->dirty)) != NULL) {
        TAILQ_REMOVE(&set->dirty, s, dirty_link);
        s->dirty = false;
        session_flush(s);
    }
}

int session_pack_out(void *data, const char *bytes, size_t len)
{
    struct session *s = data;

    if (msgpack_sbuffer_write(&s->out, bytes, len) != 0)
        s->out_short = true;
    return 0;
}

void session_mark_dirty(struct session *s)
{
    if (s->dirty)
        return;
    s->dirty = true;
    TAILQ_INSERT_TAIL(&s->set->dirty, s, dirty_link);
}

bool session_lags(const struct session *s)
{
    return s->unsent + s->out.size >= s->set->config.max_reply_bytes;
}

size_t sessions_unread(const struct sessions *set)
{
    return set->unsent;
}

msgpack_packer *session_reply(struct session *s)
{
    assert(session_is_open(s));
    session_mark_dirty(s);
    return &s->packer;
}
