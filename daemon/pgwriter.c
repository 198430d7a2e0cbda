/* One batch into PostgreSQL in one transaction. Owns the PGconn; lives on one write worker.
 *
 * The hard thing is to say "stored" only of what is. A transaction counts as committed when the
 * answer to COMMIT itself has been read and its tag is COMMIT: the COMMIT of a failed transaction
 * succeeds too, with the tag ROLLBACK. If the connection goes before that answer, nobody knows, and
 * the batch goes again: the primary key makes the second time harmless.
 *
 * A large batch of new rows goes by COPY (pgcopy.c); any other is one round trip: BEGIN,
 * conversations, vectors, backlog, SYNC, COMMIT, SYNC. The sync before COMMIT ends the skipping
 * that follows an error, so that COMMIT always runs and never leaves a failed transaction behind. A
 * second trip happens only where rows were there already: then their content is compared, and what
 * differs is written as a dead letter.
 */
#include "daemon/pgcopy.h"
#include "daemon/pgwriter_internal.h"

#include <assert.h>
#include <endian.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct pgwriter *pgwriter_new(const struct pgwriter_config *config)
{
    struct pgwriter *w = calloc(1, sizeof *w);

    if (w != NULL)
        w->config = config;
    return w;
}

static void scratch_free(struct pgwriter *w)
{
    free(w->all);
    free(w->rest);
    free(w->conflicts);
    free(w->first_vector);
    free(w->named);
    free(w->killed);
    free(w->refusals);
    w->all = w->rest = w->conflicts = NULL;
    w->first_vector = NULL;
    w->named = w->killed = NULL;
    w->refusals = NULL;
    w->capacity = 0;
}

void pgwriter_free(struct pgwriter *w)
{
    if (w == NULL)
        return;
    pgwriter_disconnect(w);
    pgpipe_done(&w->pipe);
    pgparams_done(&w->params);
    scratch_free(w);
    free(w);
}

struct pgwriter_found pgwriter_found(const struct pgwriter *w)
{
    return w->found;
}

static bool scratch_reserve(struct pgwriter *w, size_t count)
{
    if (count <= w->capacity)
        return true;
    scratch_free(w);
    w->all = calloc(count, sizeof *w->all);
    w->rest = calloc(count, sizeof *w->rest);
    w->conflicts = calloc(count, sizeof *w->conflicts);
    w->first_vector = calloc(count + 1, sizeof *w->first_vector);
    w->named = calloc(count, sizeof *w->named);
    w->killed = calloc(count, sizeof *w->killed);
    w->refusals = calloc(count, sizeof *w->refusals);
    if (w->all == NULL || w->rest == NULL || w->conflicts == NULL || w->first_vector == NULL ||
        w->named == NULL || w->killed == NULL || w->refusals == NULL) {
        scratch_free(w);
        return false;
    }
    for (size_t i = 0; i < count; i++)
        w->all[i] = (uint32_t)i;
    w->capacity = count;
    return true;
}

/* Transactions */

struct flight {
    struct pgwriter *w;
    struct write_batch *batch;
    struct transaction *transactions;
    size_t begun; /* the answers so far belong to the last of these */
};

/* Marks the rows of this statement that the server names as new. Both stand in the same order. */
static void mark_inserted(struct flight *f, const struct transaction *t, const struct pgstep *step,
                          const PGresult *result)
{
    int next = 0, count = PQntuples(result);

    for (size_t i = step->first; i < step->first + step->count && next < count; i++) {
        const struct conversation *c = f->batch->rows[t->rows[i]].conversation;
        struct slice user_id = conversation_user_id(c);

        if (PQgetlength(result, next, 1) != 16 ||
            memcmp(PQgetvalue(result, next, 1), conversation_header(c)->id, 16) != 0 ||
            (size_t)PQgetlength(result, next, 0) != user_id.len ||
            memcmp(PQgetvalue(result, next, 0), user_id.data, user_id.len) != 0)
            continue;
        f->w->named[t->rows[i]] = true;
        next++;
    }
}

static void on_result(void *arg, const struct pgstep *step, const PGresult *result)
{
    struct flight *f = arg;
    struct transaction *t;

    if (step->kind == STATEMENT_BEGIN)
        f->begun++;
    assert(f->begun > 0);
    t = &f->transactions[f->begun - 1];
    if (pg_result_tells_loss(result))
        return;
    if (PQresultStatus(result) == PGRES_FATAL_ERROR) {
        if (t->error.fault == PG_FAULT_NONE) {
            pg_error_from_result(&t->error, result);
            t->failed_at = (enum pgstatement)step->kind;
            if (pgwriter_is_farewell(t->error.sqlstate))
                f->w->farewell = true;
        }
        t->answered = t->answered || step->kind == STATEMENT_COMMIT;
        return;
    }
    if (step->kind == STATEMENT_CONVERSATIONS)
        mark_inserted(f, t, step, result);
    if (step->kind == STATEMENT_COMMIT && PQresultStatus(result) == PGRES_COMMAND_OK) {
        t->answered = true;
        t->committed = strcmp(PQcmdStatus((PGresult *)result), "COMMIT") == 0;
    }
}

/* The rows of a transaction that go into the backlog: those without a vector. */
static size_t rows_without_vector(struct pgwriter *w, const struct transaction *t)
{
    size_t n = 0;

    for (size_t i = 0; i < t->count; i++)
        if (t->no_vectors != NULL || w->first_vector[t->rows[i]] == w->first_vector[t->rows[i] + 1])
            w->rest[n++] = t->rows[i];
    return n;
}

static void send_transaction(struct pgwriter *w, struct write_batch *batch,
                             const struct transaction *t)
{
    size_t first = w->first_vector[t->rows[0]];
    size_t vectors = w->first_vector[t->rows[t->count - 1] + 1] - first;

    pgstatement_send(&w->pipe, STATEMENT_BEGIN);
    if (batch->isolate)
        pgstatement_send(&w->pipe, STATEMENT_BRIEF_LOCKS);
    pgstatement_conversations(&w->pipe, &w->params, batch, t->rows, t->count);
    if (w->config->model.dimension > 0) {
        if (vectors > 0 && t->no_vectors == NULL)
            pgstatement_vectors(&w->pipe, &w->params, batch, first, vectors, w->model_id,
                                &w->vectors, w->config->model.dimension);
        pgstatement_backlog(&w->pipe, &w->params, batch, w->rest, rows_without_vector(w, t),
                            w->model_id, t->no_vectors);
    }
    pgpipe_sync(&w->pipe);
    pgstatement_send(&w->pipe, STATEMENT_COMMIT);
    pgpipe_sync(&w->pipe);
}

static void settle(struct pgwriter *w, struct write_batch *batch, const struct transaction *t)
{
    if (!t->committed)
        return;
    for (size_t i = 0; i < t->count; i++) {
        uint32_t row = t->rows[i];

        if (w->named[row])
            batch->rows[row].verdict = ROW_STORED;
        else
            w->conflicts[w->conflict_count++] = row;
    }
}

int pgwriter_run(struct pgwriter *w, struct write_batch *batch, struct transaction *transactions,
                 size_t count, struct pg_error *err)
{
    struct flight f = {.w = w, .batch = batch, .transactions = transactions};
    int ret;

    for (size_t i = 0; i < count; i++) {
        for (size_t k = 0; k < transactions[i].count; k++)
            w->named[transactions[i].rows[k]] = false;
        send_transaction(w, batch, &transactions[i]);
    }
    ret = pgpipe_collect(&w->pipe, on_result, &f, err);
    for (size_t i = 0; i < count; i++)
        settle(w, batch, &transactions[i]);
    if (ret != 0)
        pgwriter_disconnect(w);
    return ret;
}

/* Rows that were there already */

static const char not_stored[] = "the server took the row and does not have it: look for a trigger "
                                 "or rule on convstore.conversations that drops it";

static void on_hash(void *arg, const struct pgstep *step, const PGresult *result)
{
    struct flight *f = arg;
    struct pgwriter *w = f->w;

    if (PQresultStatus(result) == PGRES_FATAL_ERROR)
        pg_error_from_result(&f->transactions->error, result);
    for (int i = 0; i < PQntuples(result); i++) {
        uint32_t ordinal, row;
        const struct packed_conversation *head;

        memcpy(&ordinal, PQgetvalue(result, i, 0), sizeof ordinal);
        ordinal = be32toh(ordinal) - 1;
        assert(ordinal < step->count);
        row = w->conflicts[step->first + ordinal];
        w->named[row] = true;
        head = conversation_header(f->batch->rows[row].conversation);
        if (PQgetlength(result, i, 1) == sizeof head->content_hash &&
            memcmp(PQgetvalue(result, i, 1), head->content_hash, sizeof head->content_hash) == 0)
            f->batch->rows[row].verdict = ROW_DUPLICATE;
        else
            pgwriter_refuse(w, row, "ID_REUSED",
                            "this user has a conversation with this id and other content");
    }
}

int pgwriter_resolve(struct pgwriter *w, struct write_batch *batch, struct pg_error *err)
{
    struct transaction t = {0};
    struct flight f = {.w = w, .batch = batch, .transactions = &t};

    if (w->conflict_count == 0)
        return 0;
    for (size_t i = 0; i < w->conflict_count; i++)
        w->named[w->conflicts[i]] = false;
    pgstatement_hashes(&w->pipe, &w->params, batch, w->conflicts, w->conflict_count);
    pgpipe_sync(&w->pipe);
    if (pgpipe_collect(&w->pipe, on_hash, &f, err) != 0) {
        pgwriter_disconnect(w);
        return -1;
    }
    if (t.error.fault != PG_FAULT_NONE) {
        *err = t.error;
        return -1;
    }
    /* Neither stored nor there: its backend died of it; or a trigger drops it, or it was erased a
     * moment ago. */
    for (size_t i = 0; batch->last_attempt && i < w->conflict_count; i++)
        if (!w->named[w->conflicts[i]] && w->killed[w->conflicts[i]])
            pgwriter_refuse(w, w->conflicts[i], "57P02", "the backend died of this row");
        else if (!w->named[w->conflicts[i]])
            pgwriter_refuse(w, w->conflicts[i], "NOT_STORED", not_stored);
    w->conflict_count = 0;
    return 0;
}

void pgwriter_refuse(struct pgwriter *w, uint32_t row, const char *code, const char *reason)
{
    struct refusal *r = &w->refusals[w->refusal_count++];

    assert(w->refusal_count <= w->capacity);
    r->row = row;
    snprintf(r->code, sizeof r->code, "%s", code);
    snprintf(r->reason, sizeof r->reason, "%s", reason);
}

int pgwriter_bury(struct pgwriter *w, struct write_batch *batch, struct pg_error *err)
{
    struct transaction t = {0};
    struct flight f = {.w = w, .batch = batch, .transactions = &t};
    size_t count = w->refusal_count;

    if (count == 0)
        return 0;
    w->refusal_count = 0;
    pgstatement_send(&w->pipe, STATEMENT_BEGIN);
    pgstatement_dead_letters(&w->pipe, &w->params, batch, w->refusals, count);
    pgpipe_sync(&w->pipe);
    pgstatement_send(&w->pipe, STATEMENT_COMMIT);
    pgpipe_sync(&w->pipe);
    if (pgpipe_collect(&w->pipe, on_result, &f, err) != 0) {
        pgwriter_disconnect(w);
        return -1;
    }
    if (t.committed) {
        for (size_t i = 0; i < count; i++)
            batch->rows[w->refusals[i].row].verdict = ROW_DEAD;
        return 0;
    }
    *err = t.error;
    /* A dead letter that is refused in its turn has nowhere to go: somebody must look. */
    err->refused = false;
    if (err->fault == PG_FAULT_DATA)
        err->fault = PG_FAULT_STOPPED;
    return -1;
}

/* A batch */

/* By COPY where that may do, else, or where it does not, as statements. 0 when the server answered
 * (t tells its error); -1 with *err when the connection was lost. */
static int send_whole(struct pgwriter *w, struct write_batch *batch, struct transaction *t,
                      struct pg_error *err)
{
    if (pgcopy_fits(w, batch)) {
        if (pgcopy_run(w, batch, t, err) != 0)
            return -1;
        if (t->committed || t->error.fault == PG_FAULT_PASSING)
            return 0;
        *t = (struct transaction){.rows = t->rows, .count = t->count};
    }
    return pgwriter_run(w, batch, t, 1, err);
}

static void write_whole(struct pgwriter *w, struct write_batch *batch, struct pg_error *err)
{
    struct transaction t = {.rows = w->all, .count = batch->count};

    if (send_whole(w, batch, &t, err) != 0) {
        /* The server's own last words say more than the end of the line. */
        batch->lost_in_flight = !w->farewell && t.error.fault == PG_FAULT_NONE;
        if (t.error.fault != PG_FAULT_NONE)
            *err = t.error;
        return;
    }
    if (!t.committed) {
        *err = t.error;
        return;
    }
    if (pgwriter_resolve(w, batch, err) == 0)
        (void)!pgwriter_bury(w, batch, err); /* either tells what went wrong in *err */
}

static void index_vectors(struct pgwriter *w, const struct write_batch *batch)
{
    size_t v = 0;

    for (size_t row = 0; row < batch->count; row++) {
        w->first_vector[row] = v;
        while (v < batch->vector_count && batch->vectors[v].row == row)
            v++;
    }
    w->first_vector[batch->count] = v;
    assert(v == batch->vector_count); /* sorted, and of rows that are there */
}

static enum write_outcome outcome_of(enum pg_fault fault)
{
    switch (fault) {
    case PG_FAULT_NONE:
        return WRITE_DONE;
    case PG_FAULT_PASSING:
    case PG_FAULT_STALE:
        return WRITE_RETRY;
    case PG_FAULT_UNREACHABLE:
        return WRITE_UNREACHABLE;
    case PG_FAULT_DATA:
        return WRITE_SUSPECT;
    case PG_FAULT_STOPPED:
        return WRITE_STOPPED;
    }
    abort();
}

static void check_settled(const struct write_batch *batch, struct pg_error *err)
{
    for (size_t i = 0; err->fault == PG_FAULT_NONE && i < batch->count; i++)
        if (batch->rows[i].verdict == ROW_PENDING)
            pg_error_set(err, PG_FAULT_PASSING, "%s", not_stored);
}

void pgwriter_write(struct pgwriter *w, struct write_batch *batch)
{
    struct pg_error err = {0};

    for (size_t i = 0; i < batch->count; i++)
        batch->rows[i].verdict = ROW_PENDING;
    batch->lost_in_flight = batch->refused = false;
    w->conflict_count = w->refusal_count = 0;
    if (!scratch_reserve(w, batch->count)) {
        pg_error_no_memory(&err);
    } else if (pgwriter_connect(w, &err) == 0 && batch->count > 0) {
        index_vectors(w, batch);
        memset(w->killed, 0, batch->count * sizeof *w->killed);
        if (batch->isolate)
            pgwriter_isolate(w, batch, &err);
        else
            write_whole(w, batch, &err);
        check_settled(batch, &err);
        batch->refused = err.refused;
        if (err.fault != PG_FAULT_NONE)
            pgwriter_after_error(w, &err);
    }
    batch->outcome = outcome_of(err.fault);
    memcpy(batch->sqlstate, err.sqlstate, sizeof batch->sqlstate);
    memcpy(batch->error, err.text, sizeof batch->error);
}
