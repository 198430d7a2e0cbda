/* The life of a read: decoded -> (its query's vector is made) -> asked of the database on a thread,
 * which packs the answer -> answered -> freed.
 *
 * The one hard thing is the deadline: a caller is answered search.timeout_ms after he asked,
 * wherever his read is then. One that waits for its vector is taken back; one that the thread has
 * cannot be, so it stays, answered, until the thread gives it back (the server's statement_timeout
 * bounds that). All have the same time-out, so the list of those that wait is in the order of their
 * deadlines, and one timer is enough. */
#include "daemon/read.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/embedding_model.h"
#include "daemon/embedding_stage.h"
#include "daemon/journal.h"
#include "daemon/pgread.h"
#include "daemon/queries.h"
#include "daemon/rpc.h"
#include "daemon/server.h"
#include "proto/reply.h"

#define REQUESTS 2 /* at a time: a query that its server never answers holds up no other */

static_assert(READS_WAITING_MAX <= QUERIES_WAITING_MAX, "a read that is let in is taken");

struct read {
    struct query query; /* first: a query is cast to this */
    struct reads *reads;
    struct session *session; /* held; NULL: answered, and not in the list */
    uint32_t msgid;
    uint64_t begun_ns;
    TAILQ_ENTRY(read) link;
    int (*run)(PGconn *conn, struct pgread *pgread, struct pg_error *err);
    bool embedding; /* its vector is being made */
    struct embedding_order order;
    struct embedding_item item;
    struct read_request request;
    struct pgread pgread;
};

/* The answer. */

static void on_timer(uv_timer_t *timer);

static uint64_t timeout_ns(const struct reads *reads)
{
    return reads->server->config->search.timeout_ms * 1000000;
}

static void arm_timer(struct reads *reads)
{
    const struct read *first = TAILQ_FIRST(&reads->waiting);
    uint64_t now = uv_hrtime();

    if (first == NULL)
        uv_timer_stop(&reads->timer);
    else
        uv_timer_start(&reads->timer, on_timer,
                       first->query.due_ns > now ? (first->query.due_ns - now) / 1000000 + 1 : 0,
                       0);
}

static void read_free(struct read *read)
{
    assert(read->session == NULL && !read->embedding);
    vector_release(read->item.vector);
    msgpack_sbuffer_destroy(&read->pgread.out);
    read->reads->count--;
    free(read);
}

/* err: NULL where the result is packed. The read is in nobody's list afterwards. */
static void answer(struct read *read, const struct wire_error *err)
{
    struct reads *reads = read->reads;
    struct session *s = read->session;

    TAILQ_REMOVE(&reads->waiting, read, link);
    read->session = NULL;
    arm_timer(reads);
    stats_record(&reads->server->stats, OPERATION_READ, uv_hrtime() - read->begun_ns,
                 err == NULL || err->code == WIRE_NOT_FOUND);
    if (session_is_open(s)) {
        msgpack_packer *pk = session_reply(s);

        if (err != NULL) {
            reply_error(pk, true, read->msgid, err);
        } else {
            reply_begin(pk, read->msgid);
            pk->callback(pk->data, read->pgread.out.data, read->pgread.out.size);
        }
    }
    session_release(s);
}

static void finish(struct read *read, const struct wire_error *err)
{
    answer(read, err);
    read_free(read);
}

static void on_timer(uv_timer_t *timer)
{
    struct reads *reads = timer->data;
    struct wire_error err;
    struct read *read;

    while ((read = TAILQ_FIRST(&reads->waiting)) != NULL && read->query.due_ns <= uv_hrtime()) {
        wire_fail(&err, WIRE_UNAVAILABLE, "no answer from the %s within search.timeout_ms",
                  read->embedding ? "embedder" : "database");
        answer(read, &err);
        if (!read->embedding)
            continue; /* the thread has it, and gives it back to on_read() */
        embedding_stage_cancel(reads->embedding, &read->order);
        read->embedding = false;
        read_free(read);
    }
    arm_timer(reads);
}

/* The database. */

static int run_read(struct query *query, PGconn *conn)
{
    struct read *read = (struct read *)query;

    return read->run(conn, &read->pgread, &query->error);
}

/* What a row that is not there means: it may wait in the journal only, where nobody looks. */
static void fail_not_found(const struct read *read, struct wire_error *err)
{
    const struct server *server = read->reads->server;
    struct journal_stats journal;

    journal_stats(server->journal, &journal);
    if (read->run == pgread_status && journal.waiting_on_disk > 0)
        wire_fail(err, WIRE_UNAVAILABLE,
                  "no row, and not among those in memory; %ju more wait in the journal: ask again "
                  "when they are fewer",
                  (uintmax_t)journal.waiting_on_disk);
    else
        wire_fail(err, WIRE_NOT_FOUND, "this user has no conversation with this id");
}

static void on_read(struct query *query)
{
    struct read *read = (struct read *)query;
    const struct pg_error *error = &query->error;
    struct wire_error err;

    if (read->session == NULL) {
        read_free(read); /* answered at its deadline */
        return;
    }
    if (error->fault != PG_FAULT_NONE) {
        wire_fail(&err, error->fault == PG_FAULT_DATA ? WIRE_INTERNAL : WIRE_UNAVAILABLE,
                  "the database: %s%s%.160s", error->sqlstate,
                  error->sqlstate[0] != '\0' ? ": " : "", error->text);
        finish(read, &err);
    } else if (!read->pgread.found) {
        fail_not_found(read, &err);
        finish(read, &err);
    } else if (session_lags(read->session) &&
               sessions_unread(read->reads->server->sessions) >= READS_UNREAD_MAX) {
        wire_fail(&err, WIRE_UNAVAILABLE,
                  "too many results wait to be read, of this connection too: read them, then ask "
                  "again");
        finish(read, &err);
    } else {
        finish(read, NULL);
    }
}

/* Those that wait for a vector count, and those that were answered at their deadline, too. */
static bool refuse_too_many(struct read *read)
{
    struct wire_error err;

    if (read->reads->count <= READS_WAITING_MAX)
        return false;
    wire_fail(&err, WIRE_UNAVAILABLE, "%d reads wait already", READS_WAITING_MAX);
    finish(read, &err);
    return true;
}

static void ask_database(struct read *read)
{
    int rc = queries_submit(read->reads->queries, &read->query);

    assert(rc == 0); /* reads are not more than queries may be */
}

/* The vector of a search. */

static void on_embedded(struct embedding_order *order)
{
    struct read *read = (struct read *)((char *)order - offsetof(struct read, order));
    struct wire_error err;

    read->embedding = false;
    if (read->item.vector != NULL) {
        read->pgread.vector = read->item.vector->values;
        ask_database(read);
        return;
    }
    if (read->item.error == -EAGAIN)
        wire_fail(&err, WIRE_UNAVAILABLE,
                  "the embedder gave no vector for the query in time; mode \"text\" needs none");
    else
        wire_fail(&err, WIRE_INVALID_ARGUMENT,
                  "options.query: the embedder refuses it; mode \"text\" takes it");
    finish(read, &err);
}

static void make_vector(struct read *read)
{
    read->item.text = (struct slice){read->request.query, strlen(read->request.query)};
    read->order = (struct embedding_order){
        .items = &read->item,
        .count = 1,
        .deadline_ms = read->reads->server->config->search.timeout_ms,
        .on_done = on_embedded,
    };
    read->embedding = true;
    embedding_stage_want(read->reads->embedding, &read->order);
}

/* The calls. */

static struct read *read_new(struct rpc *rpc, struct wire_error *err)
{
    struct server *server = rpc->server;
    struct reads *reads = &server->reads;
    struct read *read = NULL;

    if (server->state != SERVER_SERVING)
        wire_fail(err, WIRE_SHUTTING_DOWN, "the daemon is ending");
    else if ((read = calloc(1, sizeof *read)) == NULL)
        wire_fail(err, WIRE_INTERNAL, "out of memory");
    if (read == NULL)
        return NULL;
    read->query = (struct query){.run = run_read, .done = on_read};
    read->reads = reads;
    read->begun_ns = session_readable_ns(rpc->session);
    read->query.due_ns = read->begun_ns + timeout_ns(reads);
    read->pgread = (struct pgread){
        .request = &read->request, .model = &server->model, .language = reads->language};
    msgpack_sbuffer_init(&read->pgread.out);
    reads->count++;
    return read;
}

/* From here on the caller is waited for. */
static void await(struct read *read, struct rpc *rpc)
{
    read->session = rpc->session;
    read->msgid = rpc->message->msgid;
    session_hold(read->session);
    TAILQ_INSERT_TAIL(&read->reads->waiting, read, link);
    arm_timer(read->reads);
}

typedef int decode_request(struct reader *r, struct read_request *ret, struct wire_error *err);

/* NULL where it is refused, or nobody wants the answer. */
static struct read *begin(struct rpc *rpc, decode_request *decode)
{
    struct wire_error err = {.code = WIRE_OK};
    struct read *read = read_new(rpc, &err);

    if (read != NULL && decode(&rpc->message->params, &read->request, &err) == 0 &&
        rpc_wants_answer(rpc))
        return read;
    if (read == NULL || err.code != WIRE_OK)
        rpc_refuse(rpc, &err);
    if (read != NULL)
        read_free(read);
    return NULL;
}

static void read_row(struct rpc *rpc, decode_request *decode,
                     int (*run)(PGconn *conn, struct pgread *pgread, struct pg_error *err))
{
    struct read *read = begin(rpc, decode);

    if (read == NULL)
        return;
    read->run = run;
    await(read, rpc);
    if (!refuse_too_many(read))
        ask_database(read);
}

void get_handle(struct rpc *rpc)
{
    read_row(rpc, read_request_decode_key, pgread_get);
}

void list_handle(struct rpc *rpc)
{
    read_row(rpc, read_request_decode_list, pgread_list);
}

/* What is in memory and no row yet is told without the database, which may be what it waits for. */
static bool answer_queued(struct read *read)
{
    const struct server *server = read->reads->server;
    struct batcher_status status = batcher_status(server->batcher);
    const struct read_request *request = &read->request;
    struct slice user_id = {request->user_id, strlen(request->user_id)};
    const struct conversation *c = pending_find(&server->pending, user_id, request->id);
    msgpack_packer pk;

    if (c == NULL)
        return false;
    msgpack_packer_init(&pk, &read->pgread.out, msgpack_sbuffer_write);
    msgpack_pack_map(&pk, 5);
    pack_str(&pk, "state");
    pack_str(&pk, "queued");
    pack_str(&pk, "attempts");
    msgpack_pack_uint32(&pk, c->attempts);
    pack_str(&pk, "error");
    if (status.last_error[0] != '\0')
        pack_str(&pk, status.last_error);
    else
        msgpack_pack_nil(&pk);
    pack_str(&pk, "created_at");
    pack_time(&pk, conversation_header(c)->created_at_us);
    pack_str(&pk, "stored_at");
    msgpack_pack_nil(&pk);
    return true;
}

void status_handle(struct rpc *rpc)
{
    struct read *read = begin(rpc, read_request_decode_key);

    if (read == NULL)
        return;
    read->run = pgread_status;
    await(read, rpc);
    if (answer_queued(read))
        finish(read, NULL);
    else if (!refuse_too_many(read))
        ask_database(read);
}

void search_handle(struct rpc *rpc)
{
    struct read *read = begin(rpc, read_request_decode_search);
    struct wire_error err;

    if (read == NULL)
        return;
    read->run = pgread_search;
    if (read->request.mode == SEARCH_DEFAULT)
        read->request.mode = read->reads->embedding != NULL ? SEARCH_HYBRID : SEARCH_TEXT;
    await(read, rpc);
    if (refuse_too_many(read))
        return;
    if (read->request.mode == SEARCH_TEXT) {
        ask_database(read);
    } else if (read->reads->embedding != NULL) {
        make_vector(read);
    } else {
        wire_fail(&err, WIRE_INVALID_ARGUMENT,
                  "options.mode: no vectors are made here (embedding.provider is none): use "
                  "\"text\"");
        finish(read, &err);
    }
}

/* Start and end. */

unsigned reads_connections(const struct config *config)
{
    return config->database.max_connections >= 6 ? 2 : 1;
}

static void on_embedding_request(void *context, uint64_t duration_ns, size_t inputs, bool ok)
{
    struct server *server = context;

    (void)inputs;
    stats_record(&server->stats, OPERATION_EMBEDDING, duration_ns, ok);
}

/* Few requests at a time, no self-test and no file: the daemon's own stage has those. */
static int start_embedding(struct reads *reads)
{
    struct server *server = reads->server;
    struct embedding_stage_hooks hooks = {.context = server,
                                          .on_request_done = on_embedding_request};
    struct embedding_model model = server->model;
    static char no_file[] = "";

    if (model.dimension == 0)
        return 0;
    model.prefix = embedding_model_query_prefix(server->config);
    /* All but its count, which embed workers may change at this moment. */
    memcpy(&reads->config, server->config, offsetof(struct config, references));
    reads->config.embedding.max_in_flight = REQUESTS;
    reads->config.embedding.self_test = false;
    reads->config.cache.file = no_file;
    return embedding_stage_start(server->loop, &reads->config, &model, &hooks, &reads->embedding);
}

/* Plans are made anew for each user: some have ten conversations, some a million. An HNSW index
 * goes on until enough of the user's own vectors are found. */
static int start_queries(struct reads *reads, const struct pgwriter_config *connection)
{
    struct server *server = reads->server;
    struct queries_options options = {.name = "read",
                                      .connections = reads_connections(server->config),
                                      .session_sql = reads->session_sql};

    snprintf(reads->session_sql, sizeof reads->session_sql,
             "SELECT set_config('hnsw.iterative_scan', 'strict_order', false) FROM pg_extension"
             " WHERE extname = 'vector' AND string_to_array(substring(extversion FROM"
             " '^[0-9]+\\.[0-9]+'), '.')::int[] >= ARRAY[0, 8];"
             " SELECT set_config('statement_timeout', '%ju', false),"
             " set_config('plan_cache_mode', 'force_custom_plan', false),"
             " set_config('enable_hashjoin', 'on', false),"
             " set_config('enable_mergejoin', 'on', false)",
             (uintmax_t)server->config->search.timeout_ms);
    return queries_start(server->loop, connection, &options, &reads->queries);
}

int reads_start(struct reads *reads, struct server *server,
                const struct pgwriter_config *connection)
{
    int rc;

    reads->server = server;
    reads->language = server->config->search.language;
    TAILQ_INIT(&reads->waiting);
    rc = uv_timer_init(server->loop, &reads->timer);
    reads->timer.data = reads;
    if (rc == 0)
        rc = start_embedding(reads);
    return rc == 0 ? start_queries(reads, connection) : rc;
}

void reads_reconfigure(struct reads *reads)
{
    if (reads->embedding != NULL)
        embedding_stage_reconfigure(reads->embedding, reads->server->config);
}

void reads_clear_cache(struct reads *reads)
{
    if (reads->embedding != NULL)
        embedding_stage_clear_cache(reads->embedding);
}

bool reads_stop(struct reads *reads)
{
    struct wire_error err;
    struct read *read, *next;

    wire_fail(&err, WIRE_SHUTTING_DOWN, "the daemon is ending");
    for (read = TAILQ_FIRST(&reads->waiting); read != NULL; read = next) {
        next = TAILQ_NEXT(read, link);
        if (!read->embedding)
            continue;
        embedding_stage_cancel(reads->embedding, &read->order);
        read->embedding = false;
        finish(read, &err);
    }
    return reads->embedding == NULL || embedding_stage_stop(reads->embedding);
}

void reads_close(struct reads *reads, void (*on_closed)(void *owner))
{
    reads_stop(reads);
    queries_close(reads->queries);
    if (reads->embedding != NULL)
        embedding_stage_close(reads->embedding, on_closed, reads->server);
    else
        on_closed(reads->server);
    uv_close((uv_handle_t *)&reads->timer, NULL);
}
