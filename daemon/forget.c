/* The steps, whose order matters: the entry goes to disk (from here on nothing that it covers
 * leaves the journal); what is in memory comes to its end, as a row or a dead letter; then it is
 * removed from the tables; then the caches are emptied. A crash between any two of them leaves
 * rows that a second call removes, and never brings one back.
 *
 * The hard thing is a promoted standby that lacks the last transactions, the removal among them:
 * then the rows are there again, and all that is remembered is removed once more, as far as it was
 * stored before: a user who was forgotten may have come back. */
#include "daemon/forget.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/journal.h"
#include "daemon/log.h"
#include "daemon/pgforget.h"
#include "daemon/queries.h"
#include "daemon/rpc.h"
#include "daemon/server.h"
#include "daemon/sysio.h"
#include "proto/read_request.h"
#include "proto/reply.h"
#include "proto/uuid.h"

#define TRIES_MAX 5 /* of what met a deadlock, or a writer that does not end */
#define AGAIN_TRIES_MAX                                                                            \
    600 /* of what a promotion may have brought back: the server may be starting */
#define AGAIN_MS 1000

struct forget {
    struct query query; /* first: a query is cast to this */
    struct server *server;
    struct session *session; /* held; NULL: nobody waits */
    uint32_t msgid;
    struct forgotten_entry entry;
    struct forgotten_entry *all; /* instead of entry: what a promoted standby may have again */
    size_t all_count;
    size_t due; /* conversations in memory */
    uv_timer_t timer;
    unsigned tries;
    uint64_t removed;
    LIST_ENTRY(forget) link;
};

/* The end of one. */

static void on_timer_closed(uv_handle_t *handle)
{
    struct forget *f = handle->data;

    f->server->forgets.count--;
    free(f->all);
    free(f);
}

static void finish(struct forget *f, const struct wire_error *err)
{
    if (f->session != NULL && session_is_open(f->session)) {
        msgpack_packer *pk = session_reply(f->session);

        if (err != NULL) {
            reply_error(pk, true, f->msgid, err);
        } else {
            reply_begin(pk, f->msgid);
            msgpack_pack_map(pk, 1);
            pack_str(pk, "removed");
            msgpack_pack_uint64(pk, f->removed);
        }
    }
    if (f->session != NULL)
        session_release(f->session);
    uv_close((uv_handle_t *)&f->timer, on_timer_closed);
}

/* The tables. */

static int run_forget(struct query *query, PGconn *conn)
{
    struct forget *f = (struct forget *)query;
    struct forgotten_entry *entries = f->all != NULL ? f->all : &f->entry;
    size_t count = f->all != NULL ? f->all_count : 1;
    char id[UUID_TEXT_LEN + 1];

    for (size_t i = 0; i < count; i++) {
        if (f->all != NULL && entries[i].stored_until_us == 0)
            continue; /* whoever asked was told to ask again */
        uuid_format(entries[i].id, id);
        if (pgforget(conn, entries[i].user_id, entries[i].has_id ? id : NULL,
                     &entries[i].stored_until_us, &f->removed, &query->error) != 0)
            return -1;
    }
    return 0;
}

static void ask_database(struct forget *f);

static void on_again(uv_timer_t *timer)
{
    struct forget *f = timer->data;

    if (f->server->state == SERVER_SERVING)
        ask_database(f);
    else
        finish(f, NULL); /* the queries may be closed */
}

static void on_removed(struct query *query)
{
    struct forget *f = (struct forget *)query;
    const struct pg_error *error = &query->error;
    struct wire_error err;
    int rc;

    if (f->all == NULL && error->fault == PG_FAULT_PASSING && ++f->tries < TRIES_MAX &&
        f->server->state == SERVER_SERVING && queries_submit(f->server->queries, query) == 0)
        return;
    if (f->all != NULL && error->fault != PG_FAULT_NONE && ++f->tries < AGAIN_TRIES_MAX &&
        f->server->state == SERVER_SERVING) {
        uv_timer_start(&f->timer, on_again, AGAIN_MS, 0);
        return;
    }
    if (error->fault == PG_FAULT_NONE) {
        rc = f->all == NULL ? forgotten_removed(&f->server->forgets.forgotten, &f->entry) : 0;
        if (rc != 0)
            log_error("forget.not_noted error=\"%s\" advice=\"after a promotion forget again\"",
                      strerror(-rc));
        embedding_stage_clear_cache(f->server->embedding);
        reads_clear_cache(&f->server->reads);
        log_info("forget.done what=%s removed=%ju",
                 f->all != NULL    ? "all_again"
                 : f->entry.has_id ? "conversation"
                                   : "user",
                 (uintmax_t)f->removed);
        finish(f, NULL);
        return;
    }
    if (f->all != NULL)
        log_error("forget.not_repeated error=\"%s\" advice=\"a promoted standby may have again "
                  "what was forgotten lately: forget it again\"",
                  error->text);
    wire_fail(&err, WIRE_UNAVAILABLE, "%ju removed, not all; forget again: %s%s%.130s",
              (uintmax_t)f->removed, error->sqlstate, error->sqlstate[0] != '\0' ? ": " : "",
              error->text);
    finish(f, &err);
}

static void ask_database(struct forget *f)
{
    struct wire_error err;

    uv_timer_stop(&f->timer);
    if (queries_submit(f->server->queries, &f->query) == 0)
        return;
    wire_fail(&err, WIRE_UNAVAILABLE, "%d questions to the database wait already; forget again",
              QUERIES_WAITING_MAX);
    finish(f, &err);
}

static struct forget *forget_new(struct server *server)
{
    struct forget *f = calloc(1, sizeof *f);
    int rc;

    if (f == NULL)
        return NULL;
    f->query = (struct query){.run = run_forget, .done = on_removed};
    f->server = server;
    rc = uv_timer_init(server->loop, &f->timer);
    assert(rc == 0);
    f->timer.data = f;
    server->forgets.count++;
    return f;
}

/* What waits. */

static void stop_waiting(struct forget *f, const struct wire_error *err)
{
    LIST_REMOVE(f, link);
    finish(f, err);
    server_update_urgency(f->server);
}

static void on_wait_over(uv_timer_t *timer)
{
    struct forget *f = timer->data;
    struct wire_error err;

    wire_fail(&err, WIRE_UNAVAILABLE,
              "%zu that are in memory still wait for the database, and rows are not removed yet; "
              "forget again when it is back",
              f->due);
    stop_waiting(f, &err);
}

void forget_on_settled(struct server *server, const struct conversation *c)
{
    struct forget *f, *next;

    for (f = LIST_FIRST(&server->forgets.waiting); f != NULL; f = next) {
        next = LIST_NEXT(f, link);
        if (!forgotten_matches(&f->entry, c))
            continue;
        assert(f->due > 0);
        if (--f->due > 0)
            continue;
        LIST_REMOVE(f, link);
        ask_database(f);
    }
}

static void on_dropped(uv_timer_t *timer)
{
    struct server *server = timer->data;
    struct conversation *c;

    while ((c = conversation_list_pop(&server->forgets.dropped)) != NULL) {
        uint64_t seq = c->seq;

        conversation_free(c);
        server_settle(server, seq, ROW_STORED); /* whoever waits for it hears that it is over */
    }
    server_offer_room(server);
}

/* The journal is at work while it hands them over: they end a moment later. */
bool forget_takes(struct server *server, struct conversation *c)
{
    struct forgets *forgets = &server->forgets;

    if (!forgotten_covers(&forgets->forgotten, c))
        return false;
    conversation_list_push(&forgets->dropped, c);
    uv_timer_start(&forgets->timer, on_dropped, 0, 0);
    return true;
}

void forget_again(struct server *server)
{
    const struct forgotten *forgotten = &server->forgets.forgotten;
    struct forget *f = forgotten->count > 0 ? forget_new(server) : NULL;

    if (f == NULL)
        return;
    f->all = calloc(forgotten->count, sizeof *f->all);
    if (f->all != NULL)
        memcpy(f->all, forgotten->entries, forgotten->count * sizeof *f->all);
    f->all_count = f->all != NULL ? forgotten->count : 0;
    ask_database(f);
}

/* The call. */

static size_t count_in_memory(const struct server *server, const struct forgotten_entry *entry)
{
    const struct conversation *c;
    size_t count = 0;

    for (size_t i = 0; i < PENDING_BUCKETS; i++)
        LIST_FOREACH(c, &server->pending.buckets[i], pending)
    count += forgotten_matches(entry, c);
    return count;
}

static int remember(struct server *server, const struct read_request *request, struct forget *f,
                    struct wire_error *err)
{
    int64_t removed_us =
        sysio_real()->now_us(sysio_real()) - (int64_t)server->config->journal.retain_ms * 1000;
    int rc;

    f->entry = (struct forgotten_entry){.last_seq = journal_last_seq(server->journal),
                                        .has_id = request->has_id};
    memcpy(f->entry.id, request->id, sizeof f->entry.id);
    memcpy(f->entry.user_id, request->user_id, strlen(request->user_id));
    rc = forgotten_add(&server->forgets.forgotten, &f->entry, journal_first_seq(server->journal),
                       removed_us);
    if (rc == -ENOSPC && server->forgets.forgotten.count == FORGOTTEN_MAX)
        return wire_fail(err, WIRE_UNAVAILABLE,
                         "%d calls are remembered until the journal ends what they cover: forget "
                         "again later, or lower journal.retain_ms",
                         FORGOTTEN_MAX);
    if (rc != 0)
        return wire_fail(err, WIRE_UNAVAILABLE, "nothing is forgotten: %s/forgotten: %s",
                         server->config->journal.directory, strerror(-rc));
    return 0;
}

static struct forget *begin(struct rpc *rpc, struct wire_error *err)
{
    struct server *server = rpc->server;
    struct read_request request;
    struct forget *f = NULL;

    if (read_request_decode_forget(&rpc->message->params, &request, err) != 0)
        return NULL;
    if (server->state != SERVER_SERVING)
        wire_fail(err, WIRE_SHUTTING_DOWN, "the daemon is ending");
    else if (server->forgets.count >= FORGETS_MAX)
        wire_fail(err, WIRE_UNAVAILABLE, "%d forgets are under way already", FORGETS_MAX);
    else if ((f = forget_new(server)) == NULL)
        wire_fail(err, WIRE_INTERNAL, "out of memory");
    else if (remember(server, &request, f, err) != 0) {
        finish(f, NULL);
        f = NULL;
    }
    return f;
}

void forget_handle(struct rpc *rpc)
{
    struct server *server = rpc->server;
    struct wire_error err;
    struct forget *f = begin(rpc, &err);

    if (f == NULL) {
        rpc_refuse(rpc, &err);
        return;
    }
    if (rpc_wants_answer(rpc)) {
        f->session = rpc->session;
        f->msgid = rpc->message->msgid;
        session_hold(f->session);
    }
    f->due = count_in_memory(server, &f->entry);
    if (f->due == 0) {
        ask_database(f);
        return;
    }
    LIST_INSERT_HEAD(&server->forgets.waiting, f, link);
    uv_timer_start(&f->timer, on_wait_over, FORGET_WAIT_MS, 0);
    server_update_urgency(server);
}

bool forget_any(const struct server *server)
{
    return !LIST_EMPTY(&server->forgets.waiting);
}

void forget_end_all(struct server *server)
{
    struct wire_error err;

    wire_fail(&err, WIRE_SHUTTING_DOWN,
              "the daemon is ending, and rows are not removed yet; forget again");
    while (forget_any(server))
        stop_waiting(LIST_FIRST(&server->forgets.waiting), &err);
}

int forgets_start(struct server *server, char error[512])
{
    int rc = uv_timer_init(server->loop, &server->forgets.timer);

    assert(rc == 0);
    server->forgets.timer.data = server;
    LIST_INIT(&server->forgets.waiting);
    return forgotten_start(&server->forgets.forgotten, server->config->journal.directory,
                           journal_first_seq(server->journal), journal_last_seq(server->journal),
                           error);
}

void forgets_close(struct server *server)
{
    struct conversation *c;

    while ((c = conversation_list_pop(&server->forgets.dropped)) != NULL)
        conversation_free(c); /* the next start drops it again */
    uv_close((uv_handle_t *)&server->forgets.timer, NULL);
    forgotten_done(&server->forgets.forgotten);
}
