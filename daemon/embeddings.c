/* A change of model: new conversations get the new model's vectors by themselves; reembed puts the
 * old ones into the backlog, from where the backfill takes them; embeddings shows how far it is,
 * and drops a model that is no longer wanted. The questions go to the database as those about dead
 * letters do, long walks in slices. Loop thread. */
#include "daemon/embeddings.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/backfill.h"
#include "daemon/pgmodels.h"
#include "daemon/queries.h"
#include "daemon/rpc.h"
#include "daemon/server.h"
#include "proto/reply.h"

enum action { ACTION_LIST, ACTION_DROP, ACTION_REEMBED };

struct options {
    enum action action;
    int64_t model_id; /* 0: none given */
};

struct question {
    struct query query; /* first: a query is cast to this */
    struct server *server;
    struct session *session; /* held; NULL: nobody waits */
    uint32_t msgid;
    struct options options;
    struct embedding_model model;
    PGresult *models;
    bool exists, is_current; /* of the one to drop */
    struct pgmodels_walk walk;
};

/* What is asked. */

static int read_option(const struct value *key, const struct value *v, struct options *ret,
                       struct wire_error *err)
{
    char quoted[WIRE_QUOTE_SIZE];

    if (slice_equals(key->bytes, "action")) {
        bool drop = v->type == VALUE_STR && slice_equals(v->bytes, "drop");

        if (!drop && (v->type != VALUE_STR || !slice_equals(v->bytes, "list")))
            return wire_fail(err, WIRE_INVALID_ARGUMENT,
                             "options.action: must be \"list\" or \"drop\"");
        ret->action = drop ? ACTION_DROP : ACTION_LIST;
        return 0;
    }
    if (!slice_equals(key->bytes, "model_id"))
        return wire_fail(err, WIRE_INVALID_ARGUMENT, "options: unknown key %s",
                         wire_quote(key->bytes, quoted));
    if (v->type != VALUE_UINT || v->as_uint < 1 || v->as_uint > INT16_MAX)
        return wire_fail(err, WIRE_INVALID_ARGUMENT,
                         "options.model_id: must be an integer from 1 to %d", INT16_MAX);
    ret->model_id = (int64_t)v->as_uint;
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

static int run_question(struct query *query, PGconn *conn)
{
    struct question *q = (struct question *)query;
    struct pg_error *err = &query->error;

    switch (q->options.action) {
    case ACTION_LIST:
        return pgmodels_list(conn, &q->model, &q->models, err);
    case ACTION_REEMBED:
        return pgmodels_fill(conn, &q->model, &q->walk, err);
    case ACTION_DROP:
        if (!q->exists && pgmodels_find(conn, q->options.model_id, &q->model, &q->exists,
                                        &q->is_current, err) != 0)
            return -1;
        if (!q->exists || q->is_current)
            return 0;
        return pgmodels_drop(conn, q->options.model_id, &q->walk, err);
    }
    abort();
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
        pack_str(pk, "dropped");
        msgpack_pack_uint64(pk, q->walk.done);
        break;
    case ACTION_REEMBED:
        msgpack_pack_map(pk, 2);
        pack_str(pk, "conversations");
        msgpack_pack_uint64(pk, q->walk.seen);
        pack_str(pk, "queued");
        msgpack_pack_uint64(pk, q->walk.done);
        break;
    }
}

static bool is_unfinished(const struct question *q)
{
    return q->options.action != ACTION_LIST && !q->walk.over &&
           q->query.error.fault == PG_FAULT_NONE;
}

/* WIRE_OK, or why there is no result. */
static enum wire_code judge(const struct question *q, struct wire_error *err)
{
    const struct pg_error *error = &q->query.error;
    bool drop = q->options.action == ACTION_DROP;

    err->code = WIRE_OK;
    if (error->fault != PG_FAULT_NONE)
        wire_fail(err, WIRE_UNAVAILABLE, "%ju done before: %s%s%.150s", (uintmax_t)q->walk.done,
                  error->sqlstate, error->sqlstate[0] != '\0' ? ": " : "", error->text);
    else if (drop && !q->exists)
        wire_fail(err, WIRE_NOT_FOUND, "there is no model %jd", (intmax_t)q->options.model_id);
    else if (drop && q->is_current)
        wire_fail(err, WIRE_INVALID_ARGUMENT,
                  "model %jd is the one that this daemon makes vectors with",
                  (intmax_t)q->options.model_id);
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
    bool refused = q->options.action == ACTION_DROP && (!q->exists || q->is_current);

    if (is_unfinished(q) && !refused && server->state == SERVER_SERVING &&
        queries_submit(server->queries, query) == 0)
        return;
    if (q->options.action == ACTION_REEMBED && server->backfill != NULL)
        backfill_wake(server->backfill, q->walk.done);
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
    }
    if (q == NULL)
        wire_fail(&err, WIRE_INTERNAL, "out of memory");
    else if (server->state != SERVER_SERVING)
        wire_fail(&err, WIRE_SHUTTING_DOWN, "the daemon is ending");
    else if (options.action == ACTION_REEMBED && server->model.dimension == 0)
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

void embeddings_handle(struct rpc *rpc)
{
    struct options options = {.action = ACTION_LIST};
    struct wire_error err;

    if (rpc->message->param_count > 0 && read_options(&rpc->message->params, &options, &err) != 0) {
        rpc_refuse(rpc, &err);
        return;
    }
    ask(rpc, options);
}

void reembed_handle(struct rpc *rpc)
{
    ask(rpc, (struct options){.action = ACTION_REEMBED});
}
