/* Dead letters are looked at, retried and dropped by questions to the database (queries.c,
 * pgdead.c) whose answers come back here. The hard thing is a retry or drop of very many: it goes
 * in slices, so that other questions get their turn between two of them. Loop thread. */
#include "daemon/dead_letters.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/pgdead.h"
#include "daemon/queries.h"
#include "daemon/rpc.h"
#include "daemon/server.h"
#include "proto/reply.h"

#define LIST_DEFAULT 100
#define LIST_MAX 1000
#define COUNT_FRESH_NS 5000000000u

enum action { ACTION_NONE, ACTION_LIST, ACTION_SHOW, ACTION_RETRY, ACTION_DROP };

struct options {
    enum action action;
    bool has_id;
    int64_t id;
    int64_t after;
    unsigned limit;
};

/* One call; or, with ACTION_NONE, our own wish to count. */
struct question {
    struct query query; /* first */
    struct server *server;
    struct session *session; /* held; NULL: nobody waits */
    uint32_t msgid;
    struct options options;
    struct embedding_model model;
    PGresult *letters;
    struct pgdead_walk walk;
    uint64_t told; /* rows of the walk that are in the counters already */
    uint64_t count;
};

/* What is asked. */

static int read_number(const struct value *v, uint64_t least, uint64_t most, const char *key,
                       int64_t *ret, struct wire_error *err)
{
    if (v->type != VALUE_UINT || v->as_uint < least || v->as_uint > most)
        return wire_fail(err, WIRE_INVALID_ARGUMENT,
                         "options.%s: must be an integer from %ju to %ju", key, (uintmax_t)least,
                         (uintmax_t)most);
    *ret = (int64_t)v->as_uint;
    return 0;
}

static int read_action(const struct value *v, enum action *ret, struct wire_error *err)
{
    static const char *const names[] = {
        [ACTION_LIST] = "list",
        [ACTION_SHOW] = "show",
        [ACTION_RETRY] = "retry",
        [ACTION_DROP] = "drop",
    };

    for (int i = ACTION_LIST; v->type == VALUE_STR && i <= ACTION_DROP; i++)
        if (slice_equals(v->bytes, names[i])) {
            *ret = (enum action)i;
            return 0;
        }
    return wire_fail(err, WIRE_INVALID_ARGUMENT,
                     "options.action: must be \"list\", \"show\", \"retry\" or \"drop\"");
}

static int read_option(const struct value *key, const struct value *v, struct options *ret,
                       struct wire_error *err)
{
    char quoted[WIRE_QUOTE_SIZE];
    int64_t limit = 0;
    int rc;

    if (slice_equals(key->bytes, "action"))
        return read_action(v, &ret->action, err);
    if (slice_equals(key->bytes, "limit")) {
        rc = v->type == VALUE_NIL ? 0 : read_number(v, 1, LIST_MAX, "limit", &limit, err);
        ret->limit = limit > 0 ? (unsigned)limit : LIST_DEFAULT;
        return rc;
    }
    if (slice_equals(key->bytes, "after"))
        return v->type == VALUE_NIL ? 0 : read_number(v, 0, INT64_MAX, "after", &ret->after, err);
    if (slice_equals(key->bytes, "id")) {
        ret->has_id = v->type != VALUE_NIL;
        return ret->has_id ? read_number(v, 1, INT64_MAX, "id", &ret->id, err) : 0;
    }
    return wire_fail(err, WIRE_INVALID_ARGUMENT, "options: unknown key %s",
                     wire_quote(key->bytes, quoted));
}

static int read_options(struct reader *r, struct options *ret, struct wire_error *err)
{
    struct value map, key, v;

    *ret = (struct options){.limit = LIST_DEFAULT};
    if (reader_next(r, &map) != 0 || map.type != VALUE_MAP)
        return wire_fail(err, WIRE_INVALID_ARGUMENT, "options: must be a map");
    for (uint32_t i = 0; i < map.count; i++) {
        if (reader_next(r, &key) != 0 || key.type != VALUE_STR || reader_next(r, &v) != 0)
            return wire_fail(err, WIRE_INVALID_ARGUMENT, "options: keys must be strings");
        if (read_option(&key, &v, ret, err) != 0)
            return -1;
    }
    if (ret->action == ACTION_NONE)
        return wire_fail(err, WIRE_INVALID_ARGUMENT, "options.action: is missing");
    if (ret->action == ACTION_SHOW && !ret->has_id)
        return wire_fail(err, WIRE_INVALID_ARGUMENT, "options.id: show needs one");
    return 0;
}

/* On the query thread. */

static int run_question(struct query *query, PGconn *conn)
{
    struct question *q = (struct question *)query;
    struct pg_error *err = &query->error;

    switch (q->options.action) {
    case ACTION_NONE:
        return pgdead_count(conn, &q->count, err);
    case ACTION_LIST:
        return pgdead_list(conn, q->options.after, q->options.limit + 1, &q->letters, err);
    case ACTION_SHOW:
        return pgdead_show(conn, q->options.id, &q->letters, err);
    case ACTION_RETRY:
        return pgdead_retry(conn, &q->model, &q->walk, err);
    case ACTION_DROP:
        return pgdead_drop(conn, &q->walk, err);
    }
    abort();
}

/* Counting. */

static void on_answer(struct query *query);

static struct question *question_new(struct server *server)
{
    struct question *q = calloc(1, sizeof *q);

    if (q == NULL)
        return NULL;
    q->query.run = run_question;
    q->query.done = on_answer;
    q->server = server;
    q->model = server->model;
    return q;
}

static void question_free(struct question *q)
{
    PQclear(q->letters);
    if (q->session != NULL)
        session_release(q->session);
    free(q);
}

static void count_anew(struct server *server)
{
    struct dead_letters *d = &server->dead_letters;
    struct question *q;

    d->count_again = d->counting;
    if (d->counting || server->state != SERVER_SERVING)
        return;
    q = question_new(server);
    if (q == NULL)
        return; /* the next stats asks again */
    if (queries_submit(server->queries, &q->query) != 0)
        question_free(q);
    else
        d->counting = true;
}

static void on_counted(struct question *q)
{
    struct dead_letters *d = &q->server->dead_letters;

    d->counting = false;
    d->counted_ns = uv_hrtime();
    if (q->query.error.fault == PG_FAULT_NONE) {
        d->counted = q->count;
        d->since = 0;
    }
    if (d->count_again)
        count_anew(q->server);
}

void dead_letters_on_dead(struct server *server)
{
    server->dead_letters.since++;
    count_anew(server);
}

uint64_t dead_letters_count(struct server *server)
{
    struct dead_letters *d = &server->dead_letters;

    if (d->counted_ns == 0 || uv_hrtime() - d->counted_ns > COUNT_FRESH_NS)
        count_anew(server);
    return d->counted + d->since;
}

/* Answers. */

static void pack_field(msgpack_packer *pk, const char *key, const PGresult *rows, int row,
                       enum pgdead_column column)
{
    struct slice text = {NULL, 0};

    if (!PQgetisnull(rows, row, column))
        text =
            (struct slice){PQgetvalue(rows, row, column), (size_t)PQgetlength(rows, row, column)};
    pack_str(pk, key);
    pack_slice(pk, text);
}

static void pack_integer(msgpack_packer *pk, const char *key, const PGresult *rows, int row,
                         enum pgdead_column column)
{
    pack_str(pk, key);
    msgpack_pack_int64(pk, strtoll(PQgetvalue(rows, row, column), NULL, 10));
}

#define HEAD_FIELDS 8

static void pack_head(msgpack_packer *pk, const PGresult *rows, int row)
{
    pack_integer(pk, "id", rows, row, PGDEAD_ID);
    pack_field(pk, "user_id", rows, row, PGDEAD_USER_ID);
    pack_field(pk, "conversation_id", rows, row, PGDEAD_CONVERSATION_ID);
    pack_field(pk, "platform", rows, row, PGDEAD_PLATFORM);
    pack_field(pk, "sqlstate", rows, row, PGDEAD_SQLSTATE);
    pack_integer(pk, "transcript_bytes", rows, row, PGDEAD_BYTES);
    pack_field(pk, "dead_at", rows, row, PGDEAD_DEAD_AT);
    pack_field(pk, "reason", rows, row, PGDEAD_REASON);
}

static void pack_list(msgpack_packer *pk, const struct question *q)
{
    int rows = PQntuples(q->letters), most = (int)q->options.limit;

    msgpack_pack_map(pk, 2);
    pack_str(pk, "more");
    rows > most ? msgpack_pack_true(pk) : msgpack_pack_false(pk);
    pack_str(pk, "dead_letters");
    msgpack_pack_array(pk, (size_t)(rows > most ? most : rows));
    for (int i = 0; i < rows && i < most; i++) {
        msgpack_pack_map(pk, HEAD_FIELDS);
        pack_head(pk, q->letters, i);
    }
}

static void pack_letter(msgpack_packer *pk, const struct question *q)
{
    msgpack_pack_map(pk, HEAD_FIELDS + 4);
    pack_head(pk, q->letters, 0);
    pack_integer(pk, "created_at_us", q->letters, 0, PGDEAD_CREATED_AT);
    pack_field(pk, "summary", q->letters, 0, PGDEAD_SUMMARY);
    pack_field(pk, "metadata", q->letters, 0, PGDEAD_METADATA);
    pack_field(pk, "transcript", q->letters, 0, PGDEAD_TRANSCRIPT);
}

static void pack_walk(msgpack_packer *pk, const struct question *q)
{
    const struct pgdead_walk *walk = &q->walk;
    uint64_t shown = walk->refused < PGDEAD_REFUSED_MAX ? walk->refused : PGDEAD_REFUSED_MAX;

    if (q->options.action == ACTION_DROP) {
        msgpack_pack_map(pk, 1);
        pack_str(pk, "dropped");
        msgpack_pack_uint64(pk, walk->done);
        return;
    }
    msgpack_pack_map(pk, 3);
    pack_str(pk, "stored");
    msgpack_pack_uint64(pk, walk->done);
    pack_str(pk, "refused");
    msgpack_pack_uint64(pk, walk->refused);
    pack_str(pk, "refusals");
    msgpack_pack_array(pk, shown);
    for (uint64_t i = 0; i < shown; i++) {
        msgpack_pack_map(pk, 3);
        pack_str(pk, "id");
        msgpack_pack_int64(pk, walk->refusals[i].id);
        pack_str(pk, "sqlstate");
        pack_str(pk, walk->refusals[i].code);
        pack_str(pk, "reason");
        pack_str(pk, walk->refusals[i].reason);
    }
}

static bool is_walk(const struct question *q)
{
    return q->options.action == ACTION_RETRY || q->options.action == ACTION_DROP;
}

/* WIRE_OK, or why there is no result. */
static enum wire_code judge(const struct question *q, struct wire_error *err)
{
    const struct pg_error *error = &q->query.error;
    const struct pgdead_walk *walk = &q->walk;
    bool none = is_walk(q) ? walk->done + walk->refused == 0
                           : q->letters != NULL && PQntuples(q->letters) == 0;

    err->code = WIRE_OK;
    if (error->fault != PG_FAULT_NONE)
        wire_fail(err, WIRE_UNAVAILABLE, "%ju done before: %s%s%.150s", (uintmax_t)walk->done,
                  error->sqlstate, error->sqlstate[0] != '\0' ? ": " : "", error->text);
    else if (is_walk(q) && !walk->over)
        wire_fail(err, WIRE_SHUTTING_DOWN, "the daemon is ending; %ju done before",
                  (uintmax_t)walk->done);
    else if (q->options.has_id && q->options.action != ACTION_LIST && none)
        wire_fail(err, WIRE_NOT_FOUND, "there is no dead letter %jd", (intmax_t)q->options.id);
    return err->code;
}

static void answer(struct question *q)
{
    struct wire_error err;
    msgpack_packer *pk;

    if (q->session == NULL || !session_is_open(q->session))
        return;
    pk = session_reply(q->session);
    if (judge(q, &err) != WIRE_OK) {
        reply_error(pk, true, q->msgid, &err);
        return;
    }
    reply_begin(pk, q->msgid);
    if (q->options.action == ACTION_LIST)
        pack_list(pk, q);
    else if (q->options.action == ACTION_SHOW)
        pack_letter(pk, q);
    else
        pack_walk(pk, q);
}

static void on_answer(struct query *query)
{
    struct question *q = (struct question *)query;
    struct server *server = q->server;

    if (q->options.action == ACTION_NONE) {
        on_counted(q);
        question_free(q);
        return;
    }
    if (q->options.action == ACTION_RETRY) {
        server->stats.completed += q->walk.done - q->told;
        server->stats.written += q->walk.done - q->told;
        q->told = q->walk.done;
    }
    if (is_walk(q) && query->error.fault == PG_FAULT_NONE && !q->walk.over &&
        server->state == SERVER_SERVING && queries_submit(server->queries, query) == 0)
        return;
    if (is_walk(q))
        count_anew(server);
    answer(q);
    question_free(q);
}

void dead_letters_handle(struct rpc *rpc)
{
    struct server *server = rpc->server;
    struct options options;
    struct wire_error err;
    struct question *q;

    if (read_options(&rpc->message->params, &options, &err) != 0) {
        rpc_refuse(rpc, &err);
        return;
    }
    q = question_new(server);
    if (q == NULL) {
        wire_fail(&err, WIRE_INTERNAL, "out of memory");
        rpc_refuse(rpc, &err);
        return;
    }
    q->options = options;
    if (options.has_id && is_walk(q))
        pgdead_walk_one(&q->walk, options.id);
    if (server->state != SERVER_SERVING || queries_submit(server->queries, &q->query) != 0) {
        if (server->state != SERVER_SERVING)
            wire_fail(&err, WIRE_SHUTTING_DOWN, "the daemon is ending");
        else
            wire_fail(&err, WIRE_UNAVAILABLE, "%d questions to the database wait already",
                      QUERIES_WAITING_MAX);
        question_free(q);
        rpc_refuse(rpc, &err);
        return;
    }
    if (rpc_wants_answer(rpc)) {
        q->session = rpc->session;
        q->msgid = rpc->message->msgid;
        session_hold(q->session);
    }
}
