/* The connections' lives, and the set of them. Loop thread only.
 *
 * Life: OPEN -> ENDING (no more reading; replies that are due still go) -> CLOSING (handle closing)
 * -> freed, once the handle is gone and no request holds the session. */
#include "daemon/session_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/log.h"
#include "proto/reply.h"

/* Ending and closing. */

static void sessions_maybe_closed(struct sessions *set)
{
    if (!set->closing || set->count > 0 || uv_is_active((uv_handle_t *)&set->prepare))
        return;
    if (set->on_closed != NULL)
        set->on_closed(set->owner);
    free(set);
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

void session_close(struct session *s)
{
    if (s->state == SESSION_CLOSING)
        return;
    s->state = SESSION_CLOSING;
    session_drop_inbox(s);
    if (s->parked)
        TAILQ_REMOVE(&s->set->parked, s, parked_link);
    if (s->dirty)
        TAILQ_REMOVE(&s->set->dirty, s, dirty_link);
    s->parked = s->dirty = false;
    session_report_sent(s);
    msgpack_sbuffer_destroy(&s->out);
    free(s->farewell);
    s->farewell = NULL;
    uv_close((uv_handle_t *)&s->pipe, on_handle_closed);
}

/* Closes an ending session as soon as nothing is due to its peer any more. */
void session_finish(struct session *s)
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

void session_end(struct session *s)
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

static void on_prepare(uv_prepare_t *prepare)
{
    struct sessions *set = prepare->data;

    uint64_t waited = uv_metrics_idle_time(set->loop);

    sessions_flush(set);
    set->callbacks.on_flushed(set->owner);
    set->woke_ns = set->waits_ns + waited - set->waited_ns;
    set->waits_ns = uv_hrtime();
    set->waited_ns = waited;
    set->readable_ns = 0;
}

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
    rc = uv_loop_configure(loop, UV_METRICS_IDLE_TIME); /* tells when the loop woke */
    assert(rc == 0);
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
    msgpack_packer_init(&s->packer, s, session_pack_out);
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

void sessions_reconfigure(struct sessions *set, const struct sessions_config *config)
{
    set->config = *config;
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
        session_mark_dirty(s); /* so that it goes on though nothing was packed */
}
