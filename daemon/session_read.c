/* From a connection's bytes to messages. Loop thread only.
 *
 * Reads go into one buffer that all sessions share; a session owns memory only for a message that
 * has come half, or for what a stop left unread. The one hard thing is stopping: a session reads
 * only while session_may_read() says so, and whatever makes it true again (a reply written, a
 * request answered, the set resumed) calls session_pump(). That may handle messages, so it never
 * runs inside an answer: who gives one is in the middle of his own work. An answered session goes
 * on when its reply is flushed. */
#include "daemon/session_private.h"

#include <stdlib.h>

#include "daemon/log.h"
#include "proto/message.h"

#define NO_WAIT_NS 20000        /* what asking for events takes where there are some */
#define MAX_ELEMENTS (1u << 20) /* of one message, nested ones included */

void session_drop_inbox(struct session *s)
{
    if (inbox_len(&s->inbox) > 0) {
        TAILQ_REMOVE(&s->set->partials, s, partial_link);
        s->set->partial_bytes -= inbox_len(&s->inbox);
    }
    inbox_done(&s->inbox);
}

/* An operator is heard while the journal waits for its disk: that is when he asks. */
bool session_may_read(const struct session *s)
{
    return s->state == SESSION_OPEN && (s->control || !s->set->paused) &&
           s->in_flight < s->set->config.max_in_flight && !session_lags(s);
}

static void refuse_scan(struct session *s, enum scan_result result, const void *data, size_t len)
{
    struct wire_error err;
    uint32_t msgid = 0;
    bool has_msgid = message_peek_msgid(data, len, &msgid);

    switch (result) {
    case SCAN_TOO_LARGE:
        wire_fail(&err, WIRE_TOO_LARGE, "message: longer than listen.max_message_bytes (%zu bytes)",
                  s->set->config.max_message_bytes);
        break;
    case SCAN_TOO_MANY:
        wire_fail(&err, WIRE_TOO_LARGE, "message: more than %u elements", MAX_ELEMENTS);
        break;
    case SCAN_TOO_DEEP:
        wire_fail(&err, WIRE_INVALID_ARGUMENT, "message: nested deeper than %d levels",
                  SCAN_MAX_DEPTH);
        break;
    case SCAN_BAD:
        wire_fail(&err, WIRE_INVALID_ARGUMENT, "message: not MessagePack (byte 0xc1)");
        has_msgid = false;
        break;
    case SCAN_COMPLETE:
    case SCAN_PARTIAL:
        abort();
    }
    session_fail(s, has_msgid, msgid, &err);
}

/* Handles the whole messages in data and returns how many bytes they took; stops early where it may
 * not read on. */
static size_t consume(struct session *s, const uint8_t *data, size_t len)
{
    struct sessions *set = s->set;
    size_t offset = 0;

    assert(!s->consuming);
    s->consuming = true;
    while (offset < len && session_may_read(s)) {
        size_t message_len;
        enum scan_result result =
            scan_value(&s->scan, data + offset, len - offset, set->config.max_message_bytes,
                       MAX_ELEMENTS, &message_len);

        if (result == SCAN_PARTIAL)
            break;
        if (result != SCAN_COMPLETE) {
            refuse_scan(s, result, data + offset, len - offset);
            break;
        }
        set->callbacks.on_message(set->owner, s, data + offset, message_len);
        offset += message_len;
    }
    s->consuming = false;
    return offset;
}

/* Half-read messages over the bound: the session that has been silent longest is closed. */
static void enforce_partial_bound(struct sessions *set)
{
    struct wire_error err;

    while (set->partial_bytes > set->config.max_partial_bytes) {
        struct session *idle = TAILQ_FIRST(&set->partials);

        wire_fail(&err, WIRE_TOO_LARGE,
                  "message: half-read messages of all connections exceed listen.max_partial_bytes; "
                  "the longest idle is closed");
        log_warning("session.closed reason=max_partial_bytes bytes=%zu", inbox_len(&idle->inbox));
        session_drop_inbox(idle);
        session_fail(idle, false, 0, &err);
    }
}

/* Keeps bytes that cannot be handled now. */
static void keep(struct session *s, const uint8_t *data, size_t len)
{
    struct sessions *set = s->set;
    bool kept_before = inbox_len(&s->inbox) > 0;

    if (len == 0)
        return;
    if (inbox_append(&s->inbox, data, len) != 0) {
        log_error("session.closed reason=\"out of memory\"");
        session_close(s);
        return;
    }
    if (kept_before)
        TAILQ_REMOVE(&set->partials, s, partial_link);
    TAILQ_INSERT_TAIL(&set->partials, s, partial_link);
    set->partial_bytes += len;
}

/* Handles what is kept, as far as it goes. */
static void consume_inbox(struct session *s)
{
    size_t used = consume(s, inbox_data(&s->inbox), inbox_len(&s->inbox));

    if (s->state != SESSION_OPEN || used == inbox_len(&s->inbox)) {
        session_drop_inbox(s);
        return;
    }
    s->set->partial_bytes -= used;
    inbox_consume(&s->inbox, used);
}

static void take_bytes(struct session *s, const uint8_t *data, size_t len)
{
    if (inbox_len(&s->inbox) > 0) {
        keep(s, data, len);
        if (s->state == SESSION_OPEN)
            consume_inbox(s);
    } else {
        size_t used = consume(s, data, len);

        if (s->state == SESSION_OPEN)
            keep(s, data + used, len - used);
    }
    enforce_partial_bound(s->set);
}

/* Stops reading until session_pump(). A stop by the whole set is remembered in order of arrival. */
static void session_park(struct session *s)
{
    if (s->reading)
        uv_read_stop((uv_stream_t *)&s->pipe);
    s->reading = false;
    if (s->set->paused && !s->parked && s->state == SESSION_OPEN) {
        s->parked = true;
        TAILQ_INSERT_TAIL(&s->set->parked, s, parked_link);
    }
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret)
{
    struct session *s = session_of(handle->data);

    (void)suggested;
    /* No room is how libuv is told not to read: on_read() then sees UV_ENOBUFS. */
    *ret = session_may_read(s) ? uv_buf_init((char *)s->set->read_buffer, READ_BUFFER_BYTES)
                               : uv_buf_init(NULL, 0);
}

/* Since when what the loop reads now could be read: since it woke, whatever it has handled in
 * between. Where it did not have to wait, the bytes came while it was at work: on the average in
 * the middle of that. */
static uint64_t readable_ns(struct sessions *set)
{
    if (set->readable_ns == 0) {
        uint64_t waited = uv_metrics_idle_time(set->loop) - set->waited_ns;
        uint64_t worked = set->waits_ns - set->woke_ns;

        set->readable_ns =
            waited < NO_WAIT_NS ? set->waits_ns - worked / 2 : set->waits_ns + waited;
    }
    return set->readable_ns;
}

uint64_t session_readable_ns(const struct session *s)
{
    return s->readable_ns;
}

static void on_read(uv_stream_t *stream, ssize_t nread, const uv_buf_t *buffer)
{
    struct session *s = session_of(stream->data);

    if (nread == UV_EOF) {
        if (inbox_len(&s->inbox) > 0)
            log_debug("session.cut bytes=%zu", inbox_len(&s->inbox));
        session_end(s); /* a half-closed peer still gets its replies */
    } else if (nread < 0 && nread != UV_ENOBUFS) {
        session_close(s);
    } else if (nread > 0) {
        s->readable_ns = readable_ns(s->set);
        take_bytes(s, (const uint8_t *)buffer->base, (size_t)nread);
    }
    if (s->state == SESSION_OPEN && !session_may_read(s))
        session_park(s);
}

/* Goes on reading where a stop left off, as far as it may. */
void session_pump(struct session *s)
{
    if (s->state != SESSION_OPEN || s->reading || s->consuming)
        return;
    if (inbox_len(&s->inbox) > 0 && session_may_read(s))
        consume_inbox(s);
    if (s->state != SESSION_OPEN)
        return;
    if (!session_may_read(s))
        session_park(s);
    else if (uv_read_start((uv_stream_t *)&s->pipe, on_alloc, on_read) == 0)
        s->reading = true;
    else
        session_close(s);
}

void sessions_pause(struct sessions *set)
{
    set->paused = true;
}

void sessions_resume(struct sessions *set)
{
    struct session_list waiting = TAILQ_HEAD_INITIALIZER(waiting);
    struct session *s;

    set->paused = false;
    TAILQ_CONCAT(&waiting, &set->parked, parked_link);
    while ((s = TAILQ_FIRST(&waiting)) != NULL && !set->paused) {
        TAILQ_REMOVE(&waiting, s, parked_link);
        s->parked = false;
        session_pump(s);
    }
    /* Paused again before all had their turn: they come before those that have had it. */
    TAILQ_CONCAT(&waiting, &set->parked, parked_link);
    TAILQ_CONCAT(&set->parked, &waiting, parked_link);
}
