/* One connection each, and the set of them. Loop thread only.
 *
 * Reads go into one buffer that all sessions share; a session owns memory only for a message that
 * has come half, and for replies that its peer has not read. The one hard thing is stopping: a
 * session reads only while session_may_read() says so, and whatever makes it true again (a reply
 * written, a request answered, the set resumed) calls session_pump(). That may handle messages, so
 * it never runs inside an answer: who gives one is in the middle of his own work. An answered
 * session goes on when its reply is flushed.
 *
 * Life: OPEN -> ENDING (no more reading; replies that are due still go) -> CLOSING (handle closing)
 * -> freed, once the handle is gone and no request holds the session. */
#include "daemon/session.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "daemon/inbox.h"
#include "daemon/log.h"
#include "proto/message.h"
#include "proto/reply.h"
#include "proto/scan.h"

#define READ_BUFFER_BYTES (256 * 1024)
#define MAX_ELEMENTS (1u << 20) /* of one message, nested ones included */
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
    bool consuming;        /* inside consume(): an answer given there must not start another one */
    unsigned in_flight;    /* requests whose reply is due */
    msgpack_sbuffer out;   /* packed, not yet given to the socket */
    bool out_short;        /* memory ran out in the middle of a reply: nothing more may be sent */
    size_t unsent;         /* given to libuv, not yet taken by the socket */
    msgpack_packer packer; /* writes to out */
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
    bool paused;
    bool closing;
    void (*on_closed)(void *owner);
    size_t count;
    size_t partial_bytes;
    struct session_list all, parked, dirty, partials;
    uint8_t read_buffer[READ_BUFFER_BYTES];
};

struct write_request {
    uv_write_t uv;
    struct session *session;
    char *data; /* owned */
    size_t len;
};

static void session_pump(struct session *s);
static void session_finish(struct session *s);

static struct session *session_of(void *data)
{
    struct session *s = data;

    assert(s->magic == SESSION_MAGIC);
    return s;
}

/* Ending and closing. */

static void sessions_maybe_closed(struct sessions *set)
{
    if (!set->closing || set->count > 0 || uv_is_active((uv_handle_t *)&set->prepare))
        return;
    if (set->on_closed != NULL)
        set->on_closed(set->owner);
    free(set);
}

static void drop_inbox(struct session *s)
{
    if (inbox_len(&s->inbox) > 0) {
        TAILQ_REMOVE(&s->set->partials, s, partial_link);
        s->set->partial_bytes -= inbox_len(&s->inbox);
    }
    inbox_done(&s->inbox);
}

static void session_free_if_unused(struct session *s)
{
    struct sessions *set = s->set;

    if (s->handle_open || s->in_flight > 0)
        return;
    TAILQ_REMOVE(&set->all, s, all);
    set->count--;
    s->magic = 0;
    free(s);
    if (!set->closing)
        set->callbacks.on_session_end(set->owner);
    sessions_maybe_closed(set);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct session *s = session_of(handle->data);

    s->handle_open = false;
    session_free_if_unused(s);
}

static void session_close(struct session *s)
{
    if (s->state == SESSION_CLOSING)
        return;
    s->state = SESSION_CLOSING;
    drop_inbox(s);
    if (s->parked)
        TAILQ_REMOVE(&s->set->parked, s, parked_link);
    if (s->dirty)
        TAILQ_REMOVE(&s->set->dirty, s, dirty_link);
    s->parked = s->dirty = false;
    msgpack_sbuffer_destroy(&s->out);
    free(s->farewell);
    s->farewell = NULL;
    uv_close((uv_handle_t *)&s->pipe, on_handle_closed);
}

/* Closes an ending session as soon as nothing is due to its peer any more. */
static void session_finish(struct session *s)
{
    if (s->state != SESSION_ENDING || s->in_flight > 0)
        return;
    if (s->farewell != NULL) {
        struct farewell *farewell = s->farewell;

        s->farewell = NULL;
        reply_error(session_reply(s), farewell->has_msgid, farewell->msgid, &farewell->error);
        free(farewell);
    }
    if (s->out.size == 0 && s->unsent == 0 && !s->out_short)
        session_close(s);
}

static void session_end(struct session *s)
{
    if (s->state != SESSION_OPEN)
        return;
    s->state = SESSION_ENDING;
    if (s->reading)
        uv_read_stop((uv_stream_t *)&s->pipe);
    s->reading = false;
    session_finish(s);
}

void session_fail(struct session *s, bool has_msgid, uint32_t msgid, const struct wire_error *err)
{
    if (s->state != SESSION_OPEN)
        return;
    s->farewell = malloc(sizeof *s->farewell);
    if (s->farewell != NULL)
        *s->farewell = (struct farewell){.has_msgid = has_msgid, .msgid = msgid, .error = *err};
    log_debug("session.refused code=%s text=\"%s\"", wire_code_name(err->code), err->text);
    session_end(s);
}

/* Writing. */

static void on_written(uv_write_t *uv, int status)
{
    struct write_request *request = (struct write_request *)uv;
    struct session *s = session_of(request->session);

    s->unsent -= request->len;
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
    s->unsent += request->len;
    if (uv_write(&request->uv, (uv_stream_t *)&s->pipe, &buffer, 1, on_written) != 0) {
        s->unsent -= request->len;
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

static void on_prepare(uv_prepare_t *prepare)
{
    sessions_flush(prepare->data);
}

static int pack_out(void *data, const char *bytes, size_t len)
{
    struct session *s = data;

    if (msgpack_sbuffer_write(&s->out, bytes, len) != 0)
        s->out_short = true;
    return 0;
}

static void mark_dirty(struct session *s)
{
    if (s->dirty)
        return;
    s->dirty = true;
    TAILQ_INSERT_TAIL(&s->set->dirty, s, dirty_link);
}

msgpack_packer *session_reply(struct session *s)
{
    assert(session_is_open(s));
    mark_dirty(s);
    return &s->packer;
}

/* Reading. */

static bool session_may_read(const struct session *s)
{
    return s->state == SESSION_OPEN && !s->set->paused &&
           s->in_flight < s->set->config.max_in_flight &&
           s->unsent + s->out.size < s->set->config.max_reply_bytes;
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
        drop_inbox(idle);
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
        drop_inbox(s);
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
        take_bytes(s, (const uint8_t *)buffer->base, (size_t)nread);
    }
    if (s->state == SESSION_OPEN && !session_may_read(s))
        session_park(s);
}

/* Goes on reading where a stop left off, as far as it may. */
static void session_pump(struct session *s)
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

/* The rest of the interface. */

int sessions_new(uv_loop_t *loop, const struct sessions_config *config,
                 const struct sessions_callbacks *callbacks, void *owner, struct sessions **ret)
{
    struct sessions *set = calloc(1, sizeof *set);
    int rc;

    if (set == NULL)
        return -ENOMEM;
    set->loop = loop;
    set->config = *config;
    set->callbacks = *callbacks;
    set->owner = owner;
    TAILQ_INIT(&set->all);
    TAILQ_INIT(&set->parked);
    TAILQ_INIT(&set->dirty);
    TAILQ_INIT(&set->partials);
    rc = uv_prepare_init(loop, &set->prepare);
    assert(rc == 0);
    set->prepare.data = set;
    rc = uv_prepare_start(&set->prepare, on_prepare);
    assert(rc == 0);
    *ret = set;
    return 0;
}

static void on_prepare_closed(uv_handle_t *handle)
{
    sessions_maybe_closed(handle->data);
}

void sessions_close(struct sessions *set, void (*on_closed)(void *owner))
{
    struct session *s, *next;

    set->closing = true;
    set->on_closed = on_closed;
    sessions_flush(set);
    for (s = TAILQ_FIRST(&set->all); s != NULL; s = next) {
        next = TAILQ_NEXT(s, all);
        session_close(s);
    }
    uv_close((uv_handle_t *)&set->prepare, on_prepare_closed);
}

int session_accept(struct sessions *set, uv_stream_t *listener, bool control)
{
    struct session *s = calloc(1, sizeof *s);
    int rc;

    if (s == NULL)
        return -ENOMEM;
    s->magic = SESSION_MAGIC;
    s->set = set;
    s->control = control;
    scan_reset(&s->scan);
    msgpack_sbuffer_init(&s->out);
    msgpack_packer_init(&s->packer, s, pack_out);
    rc = uv_pipe_init(set->loop, &s->pipe, 0);
    if (rc != 0) {
        free(s);
        return rc;
    }
    s->pipe.data = s;
    s->handle_open = true;
    TAILQ_INSERT_TAIL(&set->all, s, all);
    set->count++;
    rc = uv_accept(listener, (uv_stream_t *)&s->pipe);
    if (rc != 0)
        session_close(s);
    else
        session_pump(s);
    return rc;
}

size_t sessions_count(const struct sessions *set)
{
    return set->count;
}

bool session_is_control(const struct session *s)
{
    return s->control;
}

bool session_is_open(const struct session *s)
{
    return s->state != SESSION_CLOSING;
}

void session_hold(struct session *s)
{
    s->in_flight++;
}

void session_release(struct session *s)
{
    assert(s->in_flight > 0);
    s->in_flight--;
    if (s->state == SESSION_CLOSING) {
        session_free_if_unused(s);
        return;
    }
    session_finish(s);
    if (s->state == SESSION_OPEN)
        mark_dirty(s); /* so that it goes on though nothing was packed */
}
