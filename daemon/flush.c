#include "daemon/flush.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "daemon/session.h"
#include "proto/reply.h"

struct flush {
    struct session *session; /* held */
    uint32_t msgid;
    uint64_t last_seq;
    uint64_t flushed;
    uint64_t remaining;
    uv_timer_t timer;
    LIST_ENTRY(flush) link;
};

static void on_timer_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void flush_answer(struct flush *flush)
{
    if (session_is_open(flush->session)) {
        msgpack_packer *pk = session_reply(flush->session);

        reply_begin(pk, flush->msgid);
        msgpack_pack_map(pk, 2);
        pack_str(pk, "flushed");
        msgpack_pack_uint64(pk, flush->flushed);
        pack_str(pk, "remaining");
        msgpack_pack_uint64(pk, flush->remaining);
    }
    LIST_REMOVE(flush, link);
    session_release(flush->session);
    uv_close((uv_handle_t *)&flush->timer, on_timer_closed);
}

static void on_timeout(uv_timer_t *timer)
{
    flush_answer(timer->data);
}

int flush_begin(struct flush_list *list, uv_loop_t *loop, struct session *s, uint32_t msgid,
                uint64_t last_seq, size_t remaining, uint32_t timeout_ms)
{
    struct flush *flush = calloc(1, sizeof *flush);
    int rc;

    if (flush == NULL)
        return -ENOMEM;
    flush->session = s;
    flush->msgid = msgid;
    flush->last_seq = last_seq;
    flush->remaining = remaining;
    rc = uv_timer_init(loop, &flush->timer);
    assert(rc == 0);
    flush->timer.data = flush;
    session_hold(s);
    LIST_INSERT_HEAD(list, flush, link);
    if (remaining == 0)
        flush_answer(flush);
    else if (timeout_ms > 0)
        uv_timer_start(&flush->timer, on_timeout, timeout_ms, 0);
    return 0;
}

void flush_on_settled(struct flush_list *list, uint64_t seq)
{
    struct flush *flush, *next;

    for (flush = LIST_FIRST(list); flush != NULL; flush = next) {
        next = LIST_NEXT(flush, link);
        if (seq > flush->last_seq)
            continue;
        assert(flush->remaining > 0);
        flush->flushed++;
        if (--flush->remaining == 0)
            flush_answer(flush);
    }
}

void flush_widen(struct flush_list *list, uint64_t last_seq, uint64_t remaining)
{
    struct flush *flush;

    LIST_FOREACH(flush, list, link)
    {
        flush->last_seq = last_seq;
        flush->remaining = remaining;
    }
}

bool flush_any(const struct flush_list *list)
{
    return !LIST_EMPTY(list);
}

void flush_end_all(struct flush_list *list)
{
    while (flush_any(list))
        flush_answer(LIST_FIRST(list));
}
