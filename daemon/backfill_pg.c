/* The queries of the background filling. Runs on the backfill worker, over the connection of a
 * writer of its own (see pgwriter_connect()), so that schema, model row, session settings and
 * classes of error are the same as for live rows.
 *
 * The hard thing is that several daemons share one backlog and any of them may die: a row is
 * claimed by moving its next_attempt_at, compared and set, and no transaction is open while an
 * embedder works. Who dies leaves a lease behind that runs out; who is too late finds that the
 * row's lease is another's now and changes nothing of it; a vector that is written twice meets its
 * primary key.
 *
 * The claim reads no conversation: on a distributed database those tables live elsewhere. */
#include "daemon/backfill_pg.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/backfill_window.h"
#include "daemon/pgwriter_internal.h"

static const char claim_sql[] =
    "UPDATE convstore.embedding_backlog b"
    " SET attempts = b.attempts + 1, next_attempt_at = now() + ($3::int4[])[1] * interval '1 ms'"
    " FROM (SELECT user_id, conversation_id, next_attempt_at FROM convstore.embedding_backlog"
    " WHERE model_id = $1::int2 AND next_attempt_at <= now()"
    " ORDER BY next_attempt_at LIMIT $2::int2) due"
    " WHERE b.user_id = due.user_id AND b.conversation_id = due.conversation_id"
    " AND b.model_id = $1::int2 AND b.next_attempt_at = due.next_attempt_at"
    " RETURNING b.user_id, b.conversation_id, b.next_attempt_at, b.attempts";

static const char texts_sql[] =
    "SELECT r.n, c.content_hash, left(c.transcript, ($3::int4[])[1]), left(c.summary, "
    "($3::int4[])[1])"
    " FROM (SELECT generate_subscripts($1::text[], 1) n, unnest($1::text[]) u,"
    " unnest($2::uuid[]) i) r"
    " JOIN convstore.conversations c ON c.user_id = r.u AND c.id = r.i";

/* A hash that is NULL stands for a conversation that is gone. */
static const char done_sql[] =
    "DELETE FROM convstore.embedding_backlog b"
    " USING (SELECT unnest($2::text[]) u, unnest($3::uuid[]) i, unnest($4::bytea[]) h) r"
    " WHERE b.user_id = r.u AND b.conversation_id = r.i AND b.model_id = $1::int2"
    " AND (SELECT c.content_hash FROM convstore.conversations c"
    " WHERE c.user_id = r.u AND c.id = r.i) IS NOT DISTINCT FROM r.h";

static const char later_sql[] =
    "UPDATE convstore.embedding_backlog b"
    " SET next_attempt_at = now() + r.ms * interval '1 ms', attempts = r.a,"
    " last_error = coalesce(r.e, b.last_error)"
    " FROM (SELECT unnest($2::text[]) u, unnest($3::uuid[]) i, unnest($4::timestamptz[]) l,"
    " unnest($5::int4[]) ms, unnest($6::int4[]) a, unnest($7::text[]) e) r"
    " WHERE b.user_id = r.u AND b.conversation_id = r.i AND b.model_id = $1::int2"
    " AND b.next_attempt_at = r.l";

static const char count_sql[] =
    "SELECT count(*) FROM convstore.embedding_backlog WHERE model_id = $1::int2";

enum step { STEP_BEGIN = STATEMENT_BEGIN, STEP_COMMIT = STATEMENT_COMMIT, STEP_QUERY = 100 };

/* What came back from one pipeline. */
struct answer {
    struct pg_error error; /* the first */
    bool committed;
    void (*on_rows)(void *arg, const PGresult *result);
    void *arg;
};

static void on_result(void *arg, const struct pgstep *step, const PGresult *result)
{
    struct answer *a = arg;

    if (PQresultStatus(result) == PGRES_FATAL_ERROR && a->error.fault == PG_FAULT_NONE)
        pg_error_from_result(&a->error, result);
    if (step->kind == STEP_QUERY && PQresultStatus(result) == PGRES_TUPLES_OK && a->on_rows != NULL)
        a->on_rows(a->arg, result);
    if (step->kind == STEP_COMMIT && PQresultStatus(result) == PGRES_COMMAND_OK)
        a->committed = strcmp(PQcmdStatus((PGresult *)result), "COMMIT") == 0;
}

/* Queues a statement with the parameters that stand in w->params. */
static void queue(struct pgwriter *w, const char *sql)
{
    pgpipe_prepare(&w->pipe, (struct pgstep){.kind = STATEMENT_COUNT}, "", sql, 0, NULL);
    pgpipe_send(&w->pipe, (struct pgstep){.kind = STEP_QUERY}, "", &w->params);
}

static int collect(struct pgwriter *w, struct answer *a, struct pg_error *err)
{
    struct pg_error lost;

    if (pgpipe_collect(&w->pipe, on_result, a, &lost) != 0) {
        *err = a->error.fault != PG_FAULT_NONE ? a->error : lost;
        err->fault = PG_FAULT_UNREACHABLE;
    } else if (a->error.fault == PG_FAULT_NONE) {
        return 0;
    } else {
        *err = a->error;
    }
    pgwriter_after_error(w, err);
    return -1;
}

/* One statement by itself. */
static int run(struct pgwriter *w, const char *sql, void (*on_rows)(void *, const PGresult *),
               void *arg, struct pg_error *err)
{
    struct answer a = {.on_rows = on_rows, .arg = arg};

    queue(w, sql);
    pgpipe_sync(&w->pipe);
    return collect(w, &a, err);
}

/* Parameters */

static void add_number(struct pgparams *p, int32_t number)
{
    pgparams_array(p, PG_INT4, 1);
    pgparams_add_int4(p, number);
}

/* Claiming */

struct key {
    int64_t lease;
    int32_t attempts;
    uint16_t user_id_len;
    char user_id[256];
    uint8_t id[16];
    bool found; /* its conversation is there */
};

struct claiming {
    struct key keys[BACKFILL_ROWS_MAX];
    size_t count;
    struct backfill_load *load;
    bool no_memory;
};

static int32_t int4_of(const PGresult *result, int row, int column)
{
    uint32_t big;

    memcpy(&big, PQgetvalue(result, row, column), sizeof big);
    return (int32_t)be32toh(big);
}

static int64_t int8_of(const PGresult *result, int row, int column)
{
    uint64_t big;

    memcpy(&big, PQgetvalue(result, row, column), sizeof big);
    return (int64_t)be64toh(big);
}

static void on_claimed(void *arg, const PGresult *result)
{
    struct claiming *c = arg;

    for (int i = 0; i < PQntuples(result) && c->count < BACKFILL_ROWS_MAX; i++) {
        struct key *key = &c->keys[c->count];
        int len = PQgetlength(result, i, 0);

        if (len > (int)sizeof key->user_id || PQgetlength(result, i, 1) != sizeof key->id)
            continue; /* not of this daemon's making */
        *key = (struct key){.lease = int8_of(result, i, 2),
                            .attempts = int4_of(result, i, 3),
                            .user_id_len = (uint16_t)len};
        memcpy(key->user_id, PQgetvalue(result, i, 0), (size_t)len);
        memcpy(key->id, PQgetvalue(result, i, 1), sizeof key->id);
        c->count++;
    }
}

static void add_keys(struct pgparams *p, const struct key *keys, size_t count)
{
    pgparams_array(p, PG_TEXT, count);
    for (size_t i = 0; i < count; i++)
        pgparams_add(p, keys[i].user_id, keys[i].user_id_len);
    pgparams_array(p, PG_UUID, count);
    for (size_t i = 0; i < count; i++)
        pgparams_add(p, keys[i].id, sizeof keys[i].id);
}

/* A conversation of what embedding needs, in its packed form. */
static struct conversation *make_conversation(const struct key *key, const PGresult *result, int i)
{
    static const char platform[] = "-"; /* nobody reads it */
    bool has_summary = !PQgetisnull(result, i, 3);
    struct packed_conversation head = {
        .flags = has_summary ? PACKED_HAS_SUMMARY : 0,
        .user_id_len = key->user_id_len,
        .platform_len = sizeof platform - 1,
        .transcript_len = (uint32_t)PQgetlength(result, i, 2),
        .summary_len = has_summary ? (uint32_t)PQgetlength(result, i, 3) : 0,
    };
    size_t len =
        sizeof head + head.user_id_len + head.platform_len + head.transcript_len + head.summary_len;
    uint8_t *packed = malloc(len), *at = packed;
    struct conversation *c = NULL;

    if (packed == NULL)
        return NULL;
    memcpy(head.id, key->id, sizeof head.id);
    if (PQgetlength(result, i, 1) == sizeof head.content_hash)
        memcpy(head.content_hash, PQgetvalue(result, i, 1), sizeof head.content_hash);
    at = mempcpy(at, &head, sizeof head);
    at = mempcpy(at, key->user_id, head.user_id_len);
    at = mempcpy(at, platform, head.platform_len);
    at = mempcpy(at, PQgetvalue(result, i, 2), head.transcript_len);
    if (has_summary)
        at = mempcpy(at, PQgetvalue(result, i, 3), head.summary_len);
    assert(at == packed + len);
    if (conversation_unpack(packed, len, &c) != 0)
        c = NULL;
    free(packed);
    return c;
}

static void on_texts(void *arg, const PGresult *result)
{
    struct claiming *c = arg;

    for (int i = 0; i < PQntuples(result); i++) {
        size_t n = (size_t)int4_of(result, i, 0) - 1;
        struct backfill_load *load = c->load;
        struct conversation *conversation;

        assert(n < c->count);
        c->keys[n].found = true;
        conversation = make_conversation(&c->keys[n], result, i);
        if (conversation == NULL) {
            c->no_memory = true;
            continue; /* its lease runs out */
        }
        load->claims[load->count] =
            (struct backfill_claim){.lease = c->keys[n].lease, .attempts = c->keys[n].attempts};
        load->rows[load->count++] = (struct write_row){.conversation = conversation};
    }
}

void backfill_load_clear(struct backfill_load *load)
{
    for (size_t i = 0; i < load->count; i++)
        conversation_free(load->rows[i].conversation);
    load->count = 0;
    load->more = false;
}

static int read_texts(struct pgwriter *w, struct claiming *c, int32_t max_characters,
                      struct pg_error *err)
{
    pgparams_reset(&w->params);
    add_keys(&w->params, c->keys, c->count);
    add_number(&w->params, max_characters);
    return run(w, texts_sql, on_texts, c, err);
}

/* Rows whose conversation was erased. */
static int remove_gone(struct pgwriter *w, struct claiming *c, struct pg_error *err)
{
    size_t gone = 0;

    for (size_t i = 0; i < c->count; i++)
        if (!c->keys[i].found)
            c->keys[gone++] = c->keys[i];
    if (gone == 0)
        return 0;
    pgparams_reset(&w->params);
    pgparams_int2(&w->params, w->model_id);
    add_keys(&w->params, c->keys, gone);
    pgparams_array(&w->params, PG_BYTEA, gone);
    for (size_t i = 0; i < gone; i++)
        pgparams_add_text(&w->params, (struct slice){NULL, 0});
    return run(w, done_sql, NULL, NULL, err);
}

int backfill_pg_claim(struct pgwriter *w, size_t limit, uint64_t lease_ms, int32_t max_characters,
                      struct backfill_load *load, struct pg_error *err)
{
    struct claiming *c = calloc(1, sizeof *c);
    int ret = -1;

    assert(limit > 0 && limit <= BACKFILL_ROWS_MAX && load->count == 0);
    if (c == NULL) {
        pg_error_no_memory(err);
        return -1;
    }
    c->load = load;
    if (pgwriter_connect(w, err) != 0)
        goto done;
    pgparams_reset(&w->params);
    pgparams_int2(&w->params, w->model_id);
    pgparams_int2(&w->params, (int16_t)limit);
    add_number(&w->params, (int32_t)lease_ms);
    if (run(w, claim_sql, on_claimed, c, err) != 0)
        goto done;
    load->more = c->count == limit;
    ret = 0;
    if (c->count > 0 && (read_texts(w, c, max_characters, err) != 0 || remove_gone(w, c, err) != 0))
        ret = -1;
    if (ret == 0 && c->no_memory && load->count == 0) {
        pg_error_no_memory(err);
        ret = -1;
    }
done:
    if (ret != 0)
        backfill_load_clear(load);
    free(c);
    return ret;
}

/* Settling */

/* The claims of rows [first, end) of a batch that are done, or that are not. */
struct part {
    const struct write_batch *batch;
    const struct backfill_claim *claims;
    size_t first, end;
    bool done;
};

static size_t part_count(const struct part *part)
{
    size_t count = 0;

    for (size_t i = part->first; i < part->end; i++)
        count += part->claims[i].done == part->done;
    return count;
}

static void add_part(struct pgparams *p, const struct part *part, size_t count,
                     void (*add)(struct pgparams *, const struct part *, size_t), Oid type)
{
    pgparams_array(p, type, count);
    for (size_t i = part->first; i < part->end; i++)
        if (part->claims[i].done == part->done)
            add(p, part, i);
}

static void add_user_id(struct pgparams *p, const struct part *part, size_t i)
{
    pgparams_add_text(p, conversation_user_id(part->batch->rows[i].conversation));
}

static void add_id(struct pgparams *p, const struct part *part, size_t i)
{
    pgparams_add(p, conversation_header(part->batch->rows[i].conversation)->id, 16);
}

static void add_hash(struct pgparams *p, const struct part *part, size_t i)
{
    pgparams_add(p, conversation_header(part->batch->rows[i].conversation)->content_hash, 16);
}

static void add_lease(struct pgparams *p, const struct part *part, size_t i)
{
    pgparams_add_int8(p, part->claims[i].lease);
}

static void add_later(struct pgparams *p, const struct part *part, size_t i)
{
    pgparams_add_int4(p, part->claims[i].later_ms);
}

static void add_attempts(struct pgparams *p, const struct part *part, size_t i)
{
    pgparams_add_int4(p, part->claims[i].attempts);
}

static void add_error(struct pgparams *p, const struct part *part, size_t i)
{
    const char *error = part->claims[i].error;

    pgparams_add_text(p, (struct slice){error, error != NULL ? strlen(error) : 0});
}

static void queue_part(struct pgwriter *w, const struct part *part)
{
    size_t count = part_count(part);
    struct pgparams *p = &w->params;

    if (count == 0)
        return;
    pgparams_reset(p);
    pgparams_int2(p, w->model_id);
    add_part(p, part, count, add_user_id, PG_TEXT);
    add_part(p, part, count, add_id, PG_UUID);
    if (part->done) {
        add_part(p, part, count, add_hash, PG_BYTEA);
        queue(w, done_sql);
        return;
    }
    add_part(p, part, count, add_lease, PG_TIMESTAMPTZ);
    add_part(p, part, count, add_later, PG_INT4);
    add_part(p, part, count, add_attempts, PG_INT4);
    add_part(p, part, count, add_error, PG_TEXT);
    queue(w, later_sql);
}

/* One transaction for rows [first, end), whose vectors are [vector, vector_end). */
static int settle_rows(struct pgwriter *w, const struct write_batch *batch,
                       const struct backfill_claim *claims, size_t first, size_t end,
                       struct pg_error *err)
{
    size_t vector = 0, vector_end;
    struct answer a = {.committed = false};

    while (vector < batch->vector_count && batch->vectors[vector].row < first)
        vector++;
    for (vector_end = vector; vector_end < batch->vector_count; vector_end++)
        if (batch->vectors[vector_end].row >= end)
            break;
    pgstatement_send(&w->pipe, STATEMENT_BEGIN);
    if (vector_end > vector && (end - first > 1 || claims[first].done))
        pgstatement_vectors(&w->pipe, &w->params, batch, vector, vector_end - vector, w->model_id,
                            &w->vectors, w->config->model.dimension);
    queue_part(w, &(struct part){batch, claims, first, end, true});
    queue_part(w, &(struct part){batch, claims, first, end, false});
    pgpipe_sync(&w->pipe);
    pgstatement_send(&w->pipe, STATEMENT_COMMIT);
    pgpipe_sync(&w->pipe);
    if (collect(w, &a, err) != 0)
        return -1;
    if (a.committed)
        return 0;
    pg_error_set(err, PG_FAULT_PASSING, "the server rolled the vectors back");
    return -1;
}

/* The server refused something of these rows: each by itself, and the guilty one later. */
static int settle_one_by_one(struct pgwriter *w, const struct write_batch *batch,
                             struct backfill_claim *claims, struct pg_error *err)
{
    for (size_t i = 0; i < batch->count; i++) {
        if (settle_rows(w, batch, claims, i, i + 1, err) == 0)
            continue;
        if (err->fault != PG_FAULT_DATA || !claims[i].done)
            return -1;
        backfill_refused(&claims[i]);
        if (settle_rows(w, batch, claims, i, i + 1, err) != 0)
            return -1;
    }
    return 0;
}

int backfill_pg_settle(struct pgwriter *w, const struct write_batch *batch,
                       struct backfill_claim *claims, struct pg_error *err)
{
    if (pgwriter_connect(w, err) != 0)
        return -1;
    if (settle_rows(w, batch, claims, 0, batch->count, err) == 0)
        return 0;
    return err->fault == PG_FAULT_DATA ? settle_one_by_one(w, batch, claims, err) : -1;
}

static void on_count(void *arg, const PGresult *result)
{
    *(uint64_t *)arg = (uint64_t)int8_of(result, 0, 0);
}

int backfill_pg_count(struct pgwriter *w, uint64_t *ret, struct pg_error *err)
{
    if (pgwriter_connect(w, err) != 0)
        return -1;
    pgparams_reset(&w->params);
    pgparams_int2(&w->params, w->model_id);
    return run(w, count_sql, on_count, ret, err);
}
