/* A batch row by row, because one of its rows is thought to be at fault. Runs on the writer's
 * thread.
 *
 * The hard thing is to blame the right row. A refusal names its row by itself. A backend that dies
 * does not: then the rows that were answered are settled, and the others go one at a time, so that
 * the row in flight is the guilty one. It is blamed only when the server has crashed, which its
 * next connection shows; a mere cut of the line is nobody's fault. And a row whose COMMIT went
 * through before the end is stored, whatever came after. A server that said good-bye first did not
 * die of a row, and a full disk is no row's fault either: those end the call with the rest still
 * pending.
 *
 * A row that meets a lock, or is refused for a reason that lies with the database as a rule (a
 * right, a table), stays pending, and the next ones go on: whether they come through tells whose
 * the trouble is. */
#include "daemon/pgwriter_internal.h"

#include <string.h>
#include <time.h>

/* Rows in one pipeline: what is sent cannot be called back when each of them meets a lock. */
#define WINDOW 16
/* A backend's crash restarts the whole server: this often in one call, then the batcher waits. */
#define DEATHS_MAX 3
/* The server's recovery after a crash is waited for this long. */
#define RECONNECT_WAIT_MS 60000
#define RECONNECT_POLL_MS 200
/* So long no row may come to its end before the call ends with those that are left. */
#define IN_VAIN_MS 2000

struct isolation {
    struct pgwriter *w;
    struct write_batch *batch;
    struct pg_error *err; /* the first reason for rows that are left */
    int deaths;
    bool one_at_a_time;
    size_t left;      /* rows of this window that stay pending */
    int64_t since_ms; /* a row came to its end */
};

static void keep_error(struct isolation *i, const struct pg_error *err)
{
    if (i->err->fault == PG_FAULT_NONE)
        *i->err = *err;
}

/* A connection that is gone, a backend that died: that counts for more than what rows met that may
 * be alone with it. */
static void keep_graver(struct isolation *i, const struct pg_error *err)
{
    if (i->err->fault == PG_FAULT_NONE || i->err->refused)
        *i->err = *err;
}

/* Whether this is the row's own fault: data, or in its last attempt a statement that took too
 * long or too much memory, or what others did not meet. Locks, deadlocks, full disks are not. */
static bool is_own_fault(const struct write_batch *batch, const struct pg_error *err)
{
    if (err->fault == PG_FAULT_DATA || !batch->last_attempt)
        return err->fault == PG_FAULT_DATA;
    return strcmp(err->sqlstate, "57014") == 0 || strcmp(err->sqlstate, "53200") == 0 ||
           (err->refused && batch->own_sqlstate[0] != '\0' &&
            strcmp(err->sqlstate, batch->own_sqlstate) == 0);
}

/* 0 where the next row may fare better, else -1. */
static int leave_pending(struct isolation *i, const struct pg_error *err)
{
    bool may_be_alone =
        err->refused && (err->fault == PG_FAULT_STOPPED || err->fault == PG_FAULT_UNREACHABLE ||
                         strcmp(err->sqlstate, "55P03") == 0);

    keep_error(i, err);
    i->left++;
    return may_be_alone ? 0 : -1;
}

/* The text alone, because its vector was refused or may have killed a backend. 0 when the row is
 * dealt with, 1 when its backend died again, -1 when the call must end. */
static int store_text_only(struct isolation *i, const uint32_t *row, const char *why)
{
    struct transaction t = {.rows = row, .count = 1, .no_vectors = why};
    struct pg_error err;

    if (pgwriter_run(i->w, i->batch, &t, 1, &err) != 0) {
        if (!i->w->farewell && t.error.fault == PG_FAULT_NONE)
            return 1;
        keep_graver(i, &err);
        return -1;
    }
    if (t.committed)
        return 0;
    if (is_own_fault(i->batch, &t.error)) {
        pgwriter_refuse(i->w, *row, t.error.sqlstate, t.error.text);
        return 0;
    }
    return leave_pending(i, &t.error);
}

/* One answered transaction of one row. 0, or -1 when the call must end. */
static int judge(struct isolation *i, const struct transaction *t)
{
    bool own = is_own_fault(i->batch, &t->error);

    if (t->committed)
        return 0;
    if (own && t->failed_at == STATEMENT_VECTORS) {
        int ret = store_text_only(i, t->rows, t->error.text);

        if (ret > 0) {
            pg_error_set(i->err, PG_FAULT_UNREACHABLE, "the connection was lost");
            ret = -1;
        }
        return ret;
    }
    if (own) {
        pgwriter_refuse(i->w, t->rows[0], t->error.sqlstate, t->error.text);
        return 0;
    }
    return leave_pending(i, &t->error);
}

/* The server comes back after a crash, or not. */
static int reconnect(struct isolation *i)
{
    int64_t until_ms = pgconn_now_ms() + RECONNECT_WAIT_MS;
    struct pg_error err;

    while (pgwriter_connect(i->w, &err) != 0) {
        if (err.fault != PG_FAULT_UNREACHABLE || pgconn_now_ms() >= until_ms) {
            keep_graver(i, &err);
            return -1;
        }
        nanosleep(&(struct timespec){.tv_nsec = RECONNECT_POLL_MS * 1000000L}, NULL);
    }
    return 0;
}

/* 0 where the server has crashed since the last connection; -1 where it was the line that was cut,
 * or there is no server. */
static int reconnect_after_death(struct isolation *i, const struct pg_error *line_lost)
{
    int32_t before = i->w->incarnation;

    if (reconnect(i) != 0)
        return -1;
    if (i->w->incarnation == before) {
        keep_graver(i, line_lost);
        return -1;
    }
    i->deaths++;
    return 0;
}

/* This row was alone in flight when its backend died; the connection is made again. 0 to go on with
 * the next row, -1 to end the call. */
static int blame(struct isolation *i, const uint32_t *row)
{
    static const char reason[] = "the backend died of this row";
    bool has_vectors = i->w->first_vector[*row] != i->w->first_vector[*row + 1];
    struct pg_error death, line_lost;
    int ret = 1;

    pg_error_set(&line_lost, PG_FAULT_UNREACHABLE, "the connection was lost");
    if (!i->batch->last_attempt) {
        pg_error_set(&death, PG_FAULT_DATA, "%s", reason);
        keep_graver(i, &death);
        return i->deaths < DEATHS_MAX ? 0 : -1;
    }
    /* It may have died of the vector, and that must not cost the text. */
    if (has_vectors)
        ret = store_text_only(i, row, reason);
    if (ret == 1 && has_vectors)
        ret = reconnect_after_death(i, &line_lost) == 0 ? 1 : -1;
    if (ret == 1) {
        i->w->killed[*row] = true;
        i->w->conflicts[i->w->conflict_count++] = *row; /* is it there all the same? */
    }
    return ret >= 0 && i->deaths < DEATHS_MAX ? 0 : -1;
}

/* After the connection went with unanswered, the first row that it owed an answer, in flight. 0
 * with a new connection where a row may be to blame, or -1. */
static int go_on_after_loss(struct isolation *i, const struct transaction *unanswered,
                            const struct pg_error *err)
{
    if (i->w->farewell || unanswered->error.fault != PG_FAULT_NONE) {
        keep_graver(i, unanswered->error.fault != PG_FAULT_NONE ? &unanswered->error : err);
        return -1;
    }
    return reconnect_after_death(i, err);
}

/* The next rows in one pipeline; *next moves past those that were dealt with. 0, or -1. */
static int isolate_window(struct isolation *i, size_t *next)
{
    struct transaction t[WINDOW + 1];
    size_t left = i->batch->count - *next, most = i->one_at_a_time ? 1 : WINDOW;
    size_t count = left < most ? left : most, answered = 0;
    struct pg_error err;
    bool lost;

    memset(t, 0, sizeof t);
    for (size_t k = 0; k < count; k++) {
        t[k].rows = i->w->all + *next + k;
        t[k].count = 1;
    }
    lost = pgwriter_run(i->w, i->batch, t, count, &err) != 0;
    while (answered < count && t[answered].answered)
        answered++;
    if (lost && go_on_after_loss(i, &t[answered], &err) != 0)
        return -1;
    i->left = 0;
    for (size_t k = 0; k < answered; k++)
        if (judge(i, &t[k]) != 0)
            return -1;
    if (i->left < answered)
        i->since_ms = pgconn_now_ms();
    *next += answered;
    if (!lost)
        return pgconn_now_ms() - i->since_ms < IN_VAIN_MS ? 0 : -1;
    if ((i->one_at_a_time || count == 1) && answered < count) {
        *next += 1;
        return blame(i, t[answered].rows);
    }
    i->one_at_a_time = true;
    return 0;
}

void pgwriter_isolate(struct pgwriter *w, struct write_batch *batch, struct pg_error *err)
{
    struct isolation i = {.w = w, .batch = batch, .err = err, .since_ms = pgconn_now_ms()};
    struct pg_error last;
    size_t next = 0;

    while (next < batch->count && isolate_window(&i, &next) == 0)
        continue;
    if (w->conn == NULL)
        return;
    if (pgwriter_resolve(w, batch, &last) != 0) {
        if (w->conn == NULL)
            keep_graver(&i, &last);
        else
            keep_error(&i, &last);
        return;
    }
    /* Dead letters that cannot be written matter more than what else is left. */
    if (pgwriter_bury(w, batch, &last) != 0)
        *err = last;
}
