/* A batch of new rows by COPY: one transaction that fills each table from one stream.
 *
 * COPY knows no ON CONFLICT, so it is for rows that cannot be there already, as far as is known: a
 * resend is found out by the primary key, which fails the whole transaction. Then, as after any
 * refusal that is not the connection's own trouble, the caller sends the same batch as statements,
 * which tell the rows apart. So that clients who resend a lot do not have each of their batches
 * written twice, a refusal rests COPY for some batches, each further one for twice as many.
 *
 * The hard thing is a server that speaks while we send. libpq reads nothing of it before the end of
 * the stream, so a connection that breaks in the middle may still hold the server's last words:
 * they are read all the same, because they decide whether a row is suspect.
 *
 * COPY cannot be sent in pipeline mode: this leaves it and comes back to it. */
#include "daemon/pgcopy.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REST_MAX 1024
/* Sent at once: bounds what libpq keeps, which was told not to block. */
#define PIECE_BYTES ((size_t)256 << 10)

#define CONVERSATION_FIELDS 8
#define VECTOR_FIELDS 7
#define BACKLOG_FIELDS 3

struct copy {
    struct pgwriter *w;
    const struct write_batch *batch;
    struct transaction *t;
    size_t tables;  /* whose stream was sent */
    size_t sent[3]; /* rows of each */
    size_t taken;   /* tables that took as many rows */
    struct pg_error *err;
};

bool pgcopy_fits(struct pgwriter *w, const struct write_batch *batch)
{
    bool is_pgvector = strcmp(w->vectors.storage, "real") != 0;

    if (w->config->copy_rows == 0 || batch->count < w->config->copy_rows ||
        (batch->vector_count > 0 && !is_pgvector))
        return false;
    for (size_t i = 0; i < batch->count; i++)
        if (batch->rows[i].conversation->replayed)
            return false;
    if (w->copy_rest == 0)
        return true;
    w->copy_rest--;
    return false;
}

/* Sends what the buffer holds. */
static int send_piece(struct copy *c)
{
    struct pgparams *p = &c->w->params;

    if (p->failed) {
        pg_error_no_memory(c->err);
        return -1;
    }
    if (PQputCopyData(c->w->conn, (const char *)p->data, (int)p->len) != 1) {
        pg_error_from_conn(c->err, c->w->conn);
        return -1;
    }
    pgparams_reset(p);
    return pgconn_flush(c->w->conn, c->err);
}

static int send_if_full(struct copy *c)
{
    return c->w->params.len >= PIECE_BYTES || c->w->params.failed ? send_piece(c) : 0;
}

static int send_conversations(struct copy *c)
{
    struct pgparams *p = &c->w->params;

    for (size_t i = 0; i < c->batch->count; i++) {
        const struct conversation *row = c->batch->rows[i].conversation;
        const struct packed_conversation *head = conversation_header(row);

        pgparams_copy_row(p, CONVERSATION_FIELDS);
        pgparams_add_text(p, conversation_user_id(row));
        pgparams_add(p, head->id, sizeof head->id);
        pgparams_add_time(p, head->created_at_us);
        pgparams_add(p, head->content_hash, sizeof head->content_hash);
        pgparams_add_text(p, conversation_platform(row));
        pgparams_add_text(p, conversation_transcript(row));
        pgparams_add_text(p, conversation_summary(row));
        pgparams_add_jsonb(p, conversation_metadata(row));
        if (send_if_full(c) != 0)
            return -1;
    }
    c->sent[c->tables] = c->batch->count;
    return 0;
}

/* The key of a row of the other two tables. */
static void add_key(struct copy *c, size_t row)
{
    const struct conversation *conversation = c->batch->rows[row].conversation;

    pgparams_add_text(&c->w->params, conversation_user_id(conversation));
    pgparams_add(&c->w->params, conversation_header(conversation)->id, 16);
    pgparams_add_int2(&c->w->params, c->w->model_id);
}

static int send_vectors(struct copy *c)
{
    struct pgparams *p = &c->w->params;

    for (size_t i = 0; i < c->batch->vector_count; i++) {
        const struct write_vector *v = &c->batch->vectors[i];

        pgparams_copy_row(p, VECTOR_FIELDS);
        add_key(c, v->row);
        pgparams_add_int4(p, (int32_t)v->chunk);
        pgparams_add_int4(p, (int32_t)v->byte_start);
        pgparams_add_int4(p, (int32_t)v->byte_end);
        pgstatement_add_vector(p, v->values, &c->w->vectors, c->w->config->model.dimension);
        if (send_if_full(c) != 0)
            return -1;
    }
    c->sent[c->tables] = c->batch->vector_count;
    return 0;
}

static bool has_vector(const struct pgwriter *w, size_t row)
{
    return w->first_vector[row] != w->first_vector[row + 1];
}

static int send_backlog(struct copy *c)
{
    for (size_t i = 0; i < c->batch->count; i++) {
        if (has_vector(c->w, i))
            continue;
        pgparams_copy_row(&c->w->params, BACKLOG_FIELDS);
        add_key(c, i);
        c->sent[c->tables]++;
        if (send_if_full(c) != 0)
            return -1;
    }
    return 0;
}

/* The tables that this batch fills, in order: their statements, and who sends their rows. */
struct plan {
    char sql[1024];
    int (*send[3])(struct copy *c);
    size_t tables;
};

static void plan_table(struct plan *plan, int (*send)(struct copy *), const char *columns,
                       const char *last_column)
{
    size_t len = strlen(plan->sql);

    plan->send[plan->tables++] = send;
    snprintf(plan->sql + len, sizeof plan->sql - len,
             "COPY convstore.%s%s) FROM STDIN (FORMAT binary); ", columns, last_column);
}

static void plan_batch(const struct pgwriter *w, const struct write_batch *batch, struct plan *plan)
{
    bool all_have_vectors = true;

    *plan = (struct plan){.sql = "BEGIN; "};
    for (size_t i = 0; i < batch->count; i++)
        all_have_vectors = all_have_vectors && has_vector(w, i);
    plan_table(plan, send_conversations,
               "conversations (user_id, id, created_at, content_hash, platform, transcript,"
               " summary, ",
               "metadata");
    if (batch->vector_count > 0)
        plan_table(plan, send_vectors,
                   "embeddings (user_id, conversation_id, model_id, chunk, byte_start, byte_end, ",
                   w->vectors.column);
    if (w->config->model.dimension > 0 && !all_have_vectors)
        plan_table(plan, send_backlog, "embedding_backlog (user_id, conversation_id, ", "model_id");
}

static int send_table(struct copy *c, const struct plan *plan)
{
    assert(c->tables < plan->tables);
    pgparams_reset(&c->w->params);
    pgparams_copy_begin(&c->w->params);
    if (plan->send[c->tables](c) != 0)
        return -1;
    pgparams_copy_end(&c->w->params);
    if (send_piece(c) != 0)
        return -1;
    if (PQputCopyEnd(c->w->conn, NULL) != 1) {
        pg_error_from_conn(c->err, c->w->conn);
        return -1;
    }
    c->tables++;
    return 0;
}

static void note_result(struct copy *c, const PGresult *result)
{
    const char *tag = PQcmdStatus((PGresult *)result);

    if (PQresultStatus(result) == PGRES_FATAL_ERROR && c->t->error.fault == PG_FAULT_NONE &&
        PQresultErrorField(result, PG_DIAG_SQLSTATE) != NULL && !pg_result_tells_loss(result)) {
        pg_error_from_result(&c->t->error, result);
        c->w->farewell = c->w->farewell || pgwriter_is_farewell(c->t->error.sqlstate);
    }
    if (strncmp(tag, "COPY ", 5) == 0 && c->taken < c->tables &&
        strtoull(tag + 5, NULL, 10) == c->sent[c->taken])
        c->taken++;
    if (strcmp(tag, "COMMIT") == 0)
        c->t->committed = true;
}

/* What a connection that failed in the middle still has to say. */
static void read_last_words(struct copy *c)
{
    PGresult *result;
    bool copying = true;

    if (PQstatus(c->w->conn) != CONNECTION_BAD)
        return; /* the server was silent too long, or memory ran out */
    PQputCopyEnd(c->w->conn, NULL);
    while (copying && (result = PQgetResult(c->w->conn)) != NULL) {
        note_result(c, result);
        copying = PQresultStatus(result) != PGRES_COPY_IN;
        PQclear(result);
    }
}

/* Sends this, streams what it asks for, and reads every answer. 0, or -1 with *err when the
 * connection is of no use. */
static int converse(struct copy *c, const struct plan *plan, const char *sql)
{
    PGresult *result;

    if (!PQsendQuery(c->w->conn, sql)) {
        pg_error_from_conn(c->err, c->w->conn);
        return -1;
    }
    for (;;) {
        int ret = 0;

        if (pgconn_flush(c->w->conn, c->err) != 0 || pgconn_next(c->w->conn, &result, c->err) != 0)
            return -1;
        if (result == NULL)
            break;
        note_result(c, result);
        if (PQresultStatus(result) == PGRES_COPY_IN)
            ret = send_table(c, plan);
        PQclear(result);
        if (ret != 0)
            return -1;
    }
    if (PQstatus(c->w->conn) == CONNECTION_OK)
        return 0;
    pg_error_from_conn(c->err, c->w->conn);
    return -1;
}

/* The transaction. A trigger may have kept rows away: then it is undone, too. */
static int transact(struct copy *c, const struct plan *plan)
{
    if (converse(c, plan, plan->sql) != 0)
        return -1;
    return converse(c, plan, c->taken == plan->tables ? "COMMIT" : "ROLLBACK");
}

static void rest(struct pgwriter *w)
{
    w->copy_refusals++;
    w->copy_rest = w->copy_refusals < 10 ? 1u << w->copy_refusals : REST_MAX;
}

int pgcopy_run(struct pgwriter *w, struct write_batch *batch, struct transaction *t,
               struct pg_error *err)
{
    struct copy c = {.w = w, .batch = batch, .t = t, .err = err};
    struct plan plan;
    int ret;

    plan_batch(w, batch, &plan);
    ret = PQexitPipelineMode(w->conn) ? transact(&c, &plan) : -1;
    if (ret != 0)
        read_last_words(&c);
    else if (!PQenterPipelineMode(w->conn))
        ret = -1;
    for (size_t i = 0; t->committed && i < batch->count; i++)
        batch->rows[i].verdict = ROW_STORED;
    if (t->committed)
        w->copy_refusals = 0;
    else if (ret == 0)
        rest(w);
    if (ret != 0 && err->fault == PG_FAULT_NONE)
        pg_error_from_conn(err, w->conn);
    if (ret != 0)
        pgwriter_disconnect(w);
    return ret;
}
