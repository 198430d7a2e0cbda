/* A change of model: new conversations get the new model's vectors by themselves; reembed puts the
 * old ones into the backlog, from where the backfill takes them; migrate_vectors moves those that
 * are only stored another way; embeddings shows how far it is, and drops a model that is no longer
 * wanted. The questions go to the database as those about dead letters do, long walks in slices.
 * Loop thread. */
#include "daemon/embeddings.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/backfill.h"
#include "daemon/pgmodels.h"
#include "daemon/pgmove.h"
#include "daemon/queries.h"
#include "daemon/rpc.h"
#include "daemon/server.h"
#include "proto/reply.h"
#include "proto/uuid.h"

/* So long a call of migrate_vectors moves; its answer says where the next one goes on. */
#define MOVE_MS 1000

enum action { ACTION_LIST, ACTION_DROP, ACTION_REEMBED, ACTION_MOVE };

struct options {
    enum action action;
    int16_t model_id;          /* 0: none given */
    struct pgmodels_walk walk; /* where to begin */
};

struct question {
    struct query query; /* first: a query is cast to this */
    struct server *server;
    struct session *session; /* held; NULL: nobody waits */
    uint32_t msgid;
    struct options options;
    struct embedding_model model;
    bool auto_migrate;
    uint64_t begun_ms;
    PGresult *models;
    bool found, exists, is_current; /* the model: it was looked for; it is there; it is ours */
    bool columns_added;
    struct pgmodels_walk walk;
};

/* What is asked. */

static int read_action(const struct value *v, struct options *ret, struct wire_error *err)
{
    bool drop = v->type == VALUE_STR && slice_equals(v->bytes, "drop");

    if (!drop && (v->type != VALUE_STR || !slice_equals(v->bytes, "list")))
        return wire_fail(err, WIRE_INVALID_ARGUMENT,
                         "options.action: must be \"list\" or \"drop\"");
    ret->action = drop ? ACTION_DROP : ACTION_LIST;
    return 0;
}

/* A place in a walk is "<conversation's id> <user_id>", as an answer's `next` had it. */
static int read_after(const struct value *v, struct options *ret, struct wire_error *err)
{
    const size_t id_len = sizeof ret->walk.id - 1;
    uint8_t id[16];

    if (v->type == VALUE_NIL)
        return 0;
    if (v->type != VALUE_STR || v->bytes.len < id_len + 1 ||
        v->bytes.len - id_len - 1 >= sizeof ret->walk.user_id || v->bytes.data[id_len] != ' ' ||
        uuid_parse(v->bytes.data, id_len, id) != 0)
        return wire_fail(err, WIRE_INVALID_ARGUMENT,
                         "options.after: must be what `next` was in an answer");
    memcpy(ret->walk.id, v->bytes.data, id_len);
    memcpy(ret->walk.user_id, v->bytes.data + id_len + 1, v->bytes.len - id_len - 1);
    return 0;
}

static int read_option(const struct value *key, const struct value *v, struct options *ret,
                       struct wire_error *err)
{
    char quoted[WIRE_QUOTE_SIZE];
    bool embeddings = ret->action == ACTION_LIST || ret->action == ACTION_DROP;

    if (embeddings && slice_equals(key->bytes, "action"))
        return read_action(v, ret, err);
    if (ret->action == ACTION_MOVE && slice_equals(key->bytes, "after"))
        return read_after(v, ret, err);
    if (ret->action == ACTION_MOVE || !slice_equals(key->bytes, "model_id"))
        return wire_fail(err, WIRE_INVALID_ARGUMENT, "options: unknown key %s",
                         wire_quote(key->bytes, quoted));
    if (v->type != VALUE_UINT || v->as_uint < 1 || v->as_uint > INT16_MAX)
        return wire_fail(err, WIRE_INVALID_ARGUMENT,
                         "options.model_id: must be an integer from 1 to %d", INT16_MAX);
    ret->model_id = (int16_t)v->as_uint;
    return 0;
}

static int read_options(struct reader *r, struct options *ret, struct wire_error *err)
{
    struct value map, key, v;

    if (reader_next(r, &map) != 0 || (map.type != VALUE_MAP && map.type != VALUE_NIL))
        return wire_fail(err, WIRE_INVALID_ARGUMENT, "options: must be a map");
    for (uint32_t i = 0; map.type == VALUE_MAP && i < map.count; i++) {
        if (reader_next(r, &key) != 0 || key.type != VALUE_STR || reader_next(r, &v) != 0)
            return wire_fail(err, WIRE_INVALID_ARGUMENT, "options: keys must be strings");
        if (read_option(&key, &v, ret, err) != 0)
            return -1;
    }
    if (ret->action == ACTION_DROP && ret->model_id == 0)
        return wire_fail(err, WIRE_INVALID_ARGUMENT, "options.model_id: drop needs one");
    return 0;
}

/* On the query thread. */

/* Looks for the model once, before the first slice. */
static int find_model(struct question *q, PGconn *conn)
{
    if (q->found)
        return 0;
    if (pgmodels_find(conn, &q->model, &q->options.model_id, &q->exists, &q->is_current,
                      &q->query.error) != 0)
        return -1;
    q->found = true;
    return 0;
}

static bool may_not_drop(const struct question *q)
{
    return q->options.action == ACTION_DROP && q->is_current;
}

static int run_move(struct question *q, PGconn *conn)
{
    if (!q->found && q->walk.id[0] == '\0' &&
        pgmove_begin(conn, &q->model, q->auto_migrate, &q->columns_added, &q->query.error) != 0)
        return -1;
    q->found = true;
    return pgmove_slice(conn, &q->model, &q->walk, &q->query.error);
}

static int run_question(struct query *query, PGconn *conn)
{
    struct question *q = (struct question *)query;
    struct pg_error *err = &query->error;

    if (q->options.action == ACTION_LIST)
        return pgmodels_list(conn, &q->model, &q->models, err);
    if (q->options.action == ACTION_MOVE)
        return run_move(q, conn);
    if (find_model(q, conn) != 0)
        return -1;
    if (!q->exists || may_not_drop(q))
        return 0;
    return q->options.action == ACTION_DROP
               ? pgmodels_drop(conn, q->options.model_id, &q->walk, err)
               : pgmodels_fill(conn, q->options.model_id, &q->walk, err);
}

/* Answers. */

static void pack_model(msgpack_packer *pk, const PGresult *models, int row)
{
    static const char *const names[PGMODELS_COLUMNS] = {
        "model_id", "provider", "model",   "dimension", "prefix",
        "source",   "storage",  "vectors", "backlog",   "current"};

    msgpack_pack_map(pk, PGMODELS_COLUMNS);
    for (int column = 0; column < PGMODELS_COLUMNS; column++) {
        const char *text = PQgetvalue(models, row, column);

        pack_str(pk, names[column]);
        switch (column) {
        case PGMODELS_ID:
        case PGMODELS_DIMENSION:
        case PGMODELS_VECTORS:
        case PGMODELS_BACKLOG:
            msgpack_pack_int64(pk, strtoll(text, NULL, 10));
            break;
        case PGMODELS_CURRENT:
            strcmp(text, "t") == 0 ? msgpack_pack_true(pk) : msgpack_pack_false(pk);
            break;
        default:
            pack_str(pk, text);
        }
    }
}

static void pack_number(msgpack_packer *pk, const char *name, uint64_t number)
{
    pack_str(pk, name);
    msgpack_pack_uint64(pk, number);
}

static void pack_move(msgpack_packer *pk, const struct question *q)
{
    char next[sizeof q->walk.id + sizeof q->walk.user_id];

    msgpack_pack_map(pk, 5);
    pack_number(pk, "seen", q->walk.seen);
    pack_number(pk, "moved", q->walk.done);
    pack_number(pk, "backlog_moved", q->walk.backlog);
    pack_str(pk, "columns_added");
    q->columns_added ? msgpack_pack_true(pk) : msgpack_pack_false(pk);
    pack_str(pk, "next");
    snprintf(next, sizeof next, "%s %s", q->walk.id, q->walk.user_id);
    q->walk.over ? msgpack_pack_nil(pk) : pack_str(pk, next);
}

static void pack_result(msgpack_packer *pk, const struct question *q)
{
    int rows = PQntuples(q->models);

    switch (q->options.action) {
    case ACTION_LIST:
        msgpack_pack_map(pk, 1);
        pack_str(pk, "models");
        msgpack_pack_array(pk, (size_t)rows);
        for (int i = 0; i < rows; i++)
            pack_model(pk, q->models, i);
        break;
    case ACTION_DROP:
        msgpack_pack_map(pk, 1);
        pack_number(pk, "dropped", q->walk.done);
        break;
    case ACTION_REEMBED:
        msgpack_pack_map(pk, 4);
        pack_number(pk, "model_id", (uint64_t)q->options.model_id);
        pack_str(pk, "current");
        q->is_current ? msgpack_pack_true(pk) : msgpack_pack_false(pk);
        pack_number(pk, "conversations", q->walk.seen);
        pack_number(pk, "queued", q->walk.done);
        break;
    case ACTION_MOVE:
        pack_move(pk, q);
        break;
    }
}

static bool is_unfinished(const struct question *q)
{
    if (q->query.error.fault != PG_FAULT_NONE || q->options.action == ACTION_LIST || q->walk.over)
        return false;
    if (q->options.action == ACTION_MOVE)
        return uv_now(q->server->loop) < q->begun_ms + MOVE_MS;
    return q->exists && !may_not_drop(q);
}

/* WIRE_OK, or why there is no result. */
static enum wire_code judge(const struct question *q, struct wire_error *err)
{
    const struct pg_error *error = &q->query.error;
    bool one_model = q->options.action == ACTION_DROP || q->options.action == ACTION_REEMBED;

    err->code = WIRE_OK;
    if (error->fault != PG_FAULT_NONE)
        wire_fail(err, WIRE_UNAVAILABLE, "%ju done before: %s%s%.150s", (uintmax_t)q->walk.done,
                  error->sqlstate, error->sqlstate[0] != '\0' ? ": " : "", error->text);
    else if (one_model && !q->exists)
        wire_fail(err, WIRE_NOT_FOUND, "there is no model %d", q->options.model_id);
    else if (may_not_drop(q))
        wire_fail(err, WIRE_INVALID_ARGUMENT,
                  "model %d is the one that this daemon makes vectors with", q->options.model_id);
    else if (is_unfinished(q))
        wire_fail(err, WIRE_SHUTTING_DOWN, "the daemon is ending; %ju done before",
                  (uintmax_t)q->walk.done);
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
    pack_result(pk, q);
}

static void question_free(struct question *q)
{
    PQclear(q->models);
    if (q->session != NULL)
        session_release(q->session);
    free(q);
}

static void on_answer(struct query *query)
{
    struct question *q = (struct question *)query;
    struct server *server = q->server;

    if (is_unfinished(q) && server->state == SERVER_SERVING &&
        queries_submit(server->queries, query) == 0)
        return;
    if (server->backfill != NULL && q->options.action == ACTION_REEMBED && q->is_current)
        backfill_wake(server->backfill, q->walk.done);
    if (server->backfill != NULL && q->options.action == ACTION_MOVE)
        backfill_wake(server->backfill, q->walk.backlog);
    answer(q);
    question_free(q);
}

static void ask(struct rpc *rpc, struct options options)
{
    struct server *server = rpc->server;
    struct question *q = calloc(1, sizeof *q);
    struct wire_error err;

    if (q != NULL) {
        q->query.run = run_question;
        q->query.done = on_answer;
        q->server = server;
        q->model = server->model;
        q->options = options;
        q->walk = options.walk;
        q->auto_migrate = server->config->database.auto_migrate;
        q->begun_ms = uv_now(server->loop);
    }
    if (q == NULL)
        wire_fail(&err, WIRE_INTERNAL, "out of memory");
    else if (server->state != SERVER_SERVING)
        wire_fail(&err, WIRE_SHUTTING_DOWN, "the daemon is ending");
    else if ((options.action == ACTION_REEMBED || options.action == ACTION_MOVE) &&
             server->model.dimension == 0)
        wire_fail(&err, WIRE_INVALID_ARGUMENT, "embedding.provider is none: set another");
    else if (queries_submit(server->queries, &q->query) != 0)
        wire_fail(&err, WIRE_UNAVAILABLE, "%d questions to the database wait already",
                  QUERIES_WAITING_MAX);
    else {
        if (rpc_wants_answer(rpc)) {
            q->session = rpc->session;
            q->msgid = rpc->message->msgid;
            session_hold(q->session);
        }
        return;
    }
    free(q);
    rpc_refuse(rpc, &err);
}

static void handle(struct rpc *rpc, enum action action)
{
    struct options options = {.action = action};
    struct wire_error err;

    if (rpc->message->param_count > 0 && read_options(&rpc->message->params, &options, &err) != 0) {
        rpc_refuse(rpc, &err);
        return;
    }
    ask(rpc, options);
}

void embeddings_handle(struct rpc *rpc)
{
    handle(rpc, ACTION_LIST);
}

void reembed_handle(struct rpc *rpc)
{
    handle(rpc, ACTION_REEMBED);
}

void migrate_vectors_handle(struct rpc *rpc)
{
    handle(rpc, ACTION_MOVE);
}
