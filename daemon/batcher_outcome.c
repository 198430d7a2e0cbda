/* What the outcome of a write means for its batch and for the others. Loop.
 *
 * The hard thing is to tell a database in trouble from a row that it cannot take: the first costs
 * nobody anything but time, the second must end in dead_letters and must not hold its neighbours.
 * A batch that fails twice alike while the database answers goes again row by row. */
#include "daemon/batcher_private.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/backoff.h"
#include "daemon/log.h"

#define RETRY_BASE_MS 100
#define RETRY_CAP_MS 10000
#define STOPPED_RETRY_MS 5000 /* trouble that waits for a person */
#define STOPPED_DOUBLED 3     /* of one batch so often: others are there to find it mended */
#define FEW_ROWS 16           /* go one by one in a moment */
#define SUSPECT_TRIES 2       /* failures alike before a batch goes row by row */

const char *database_state_name(enum database_state state)
{
    switch (state) {
    case DATABASE_UNTRIED:
        return "untried";
    case DATABASE_UP:
        return "up";
    case DATABASE_DOWN:
        return "down";
    case DATABASE_STOPPED:
        return "stopped";
    }
    abort();
}

static void set_database(struct batcher *b, enum database_state state, const char *sqlstate,
                         const char *error)
{
    snprintf(b->last_error, sizeof b->last_error, "%s%s%s", sqlstate, sqlstate[0] ? ": " : "",
             error);
    if (state == b->database)
        return;
    if (state == DATABASE_UP)
        log_info("database.up server_version=%d pgvector=%s fsync=%s timeline=%" PRIu32,
                 b->found.server_version,
                 b->found.pgvector_version[0] != '\0' ? b->found.pgvector_version : "none",
                 b->found.fsync_off ? "off" : "on", b->found.timeline);
    else
        log_warning("database.%s error=\"%s\" advice=\"%s\"", database_state_name(state),
                    b->last_error,
                    state == DATABASE_DOWN ? "conversations are accepted and wait; tried again"
                                           : "fix schema or permissions; tried again");
    b->database = state;
}

static void pause_batch(struct batch *batch, uint64_t delay_ms)
{
    batch->state = BATCH_PAUSED;
    batch->resume_at_ms = uv_now(batch->batcher->loop) + delay_ms;
}

/* One more failure on the account of each row; the most that one of them has. */
static unsigned count_attempt(const struct write_batch *w)
{
    unsigned attempts = 0;

    for (size_t i = 0; i < w->count; i++)
        if (++w->rows[i].conversation->attempts > attempts)
            attempts = w->rows[i].conversation->attempts;
    return attempts;
}

/* Passing trouble that a row may cause by itself, every time: a trigger drops it in silence (no
 * SQLSTATE), or it takes too long or too much memory. Whatever holds others up in the same way
 * (locks, deadlocks, a full disk, too many connections) waits for ever and condemns nobody. */
static bool may_be_own_fault(const struct write_batch *w)
{
    return w->sqlstate[0] == '\0' || strcmp(w->sqlstate, "57014") == 0 ||
           strcmp(w->sqlstate, "53200") == 0;
}

/* It goes row by row in vain, and others need not wait for it. Where it is not sure that the
 * trouble is its own only a few large ones are held: it may be the table that is locked, and rows
 * that go one by one after that are slow. */
static void hold_batch(struct batch *batch, bool sure)
{
    struct batcher *b = batch->batcher;

    if (batch->held || (!sure && batch->write.count > FEW_ROWS &&
                        b->held_count >= b->config.max_concurrent_batches))
        return;
    batch->held = true;
    b->held_count++;
}

static void tell_suspect(const struct write_batch *w)
{
    log_warning("batch.suspect rows=%zu sqlstate=%s error=\"%s\" next=%s", w->count, w->sqlstate,
                w->error, w->isolate ? "row-by-row" : "again");
}

/* Such trouble batch.max_attempts times: row by row, and those that fail again are set aside. */
static void retry_batch(struct batch *batch, bool others_pass)
{
    const struct batcher *b = batch->batcher;
    struct write_batch *w = &batch->write;

    if (may_be_own_fault(w) && count_attempt(w) + 1 >= b->config.max_attempts) {
        if (!w->last_attempt)
            log_warning("batch.last_attempt rows=%zu sqlstate=%s error=\"%s\"", w->count,
                        w->sqlstate, w->error);
        w->isolate = w->last_attempt = true;
    }
    if (w->isolate)
        hold_batch(batch, others_pass);
    if (strcmp(w->sqlstate, "55P03") == 0)
        w->isolate = true; /* one key may be locked, and need not hold its neighbours */
    pause_batch(batch, backoff_ms(++batch->failures, RETRY_BASE_MS, RETRY_CAP_MS));
}

/* As long as nobody's rows come through. Each further try lets one more batch find out. */
static void wait_for_all(struct batch *batch, enum database_state state)
{
    struct batcher *b = batch->batcher;
    uint64_t stopped_ms =
        (uint64_t)STOPPED_RETRY_MS
        << (batch->failures < STOPPED_DOUBLED ? batch->failures : STOPPED_DOUBLED);

    set_database(b, state, batch->write.sqlstate, batch->write.error);
    pause_batch(batch, state == DATABASE_STOPPED
                           ? stopped_ms
                           : backoff_ms(++b->failures, RETRY_BASE_MS, RETRY_CAP_MS));
    batch->failures++;
}

/* The server refused a statement for a reason that lies with the database as a rule: a right, a
 * table, a disk. Row by row it shows whether it does: as long as nobody's rows come through, all
 * wait. Where others' do, it is the batch's own, and stays so: nobody waits for it any more. A row
 * to which that happens batch.max_attempts times is set aside, but for what a part of the database
 * may meet and get over (08, 57, 58: a shard that is away). */
static void take_refusal(struct batch *batch, enum database_state state, bool others_pass)
{
    struct batcher *b = batch->batcher;
    struct write_batch *w = &batch->write;

    if (!w->isolate) {
        w->isolate = true;
        tell_suspect(w);
        pause_batch(batch, 0);
        return;
    }
    hold_batch(batch, others_pass || batch->failures > 0);
    batch->beside |= others_pass;
    if (!batch->beside) {
        wait_for_all(batch, state);
        return;
    }
    if (others_pass)
        set_database(b, DATABASE_UP, w->sqlstate, w->error);
    if (others_pass && state == DATABASE_STOPPED &&
        count_attempt(w) + 1 >= b->config.max_attempts) {
        w->last_attempt = true;
        memcpy(w->own_sqlstate, w->sqlstate, sizeof w->own_sqlstate);
    }
    pause_batch(batch, backoff_ms(++batch->failures, RETRY_BASE_MS, RETRY_CAP_MS));
}

/* The batch may hold a row that the server cannot take. Twice the same answer, and it goes row by
 * row. A row that was alone when its backend died has one more chance and no more: each death
 * restarts the whole server. */
static void suspect_batch(struct batch *batch)
{
    const struct batcher *b = batch->batcher;
    struct write_batch *w = &batch->write;
    bool data_error = strncmp(w->sqlstate, "22", 2) == 0 || strncmp(w->sqlstate, "23", 2) == 0;
    bool killed_its_backend = w->isolate && w->sqlstate[0] == '\0';
    unsigned attempts = count_attempt(w);

    if (strcmp(batch->suspect_sqlstate, w->sqlstate) != 0)
        batch->suspect_failures = 0;
    memcpy(batch->suspect_sqlstate, w->sqlstate, sizeof batch->suspect_sqlstate);
    batch->suspect_failures++;
    if (data_error || batch->suspect_failures >= SUSPECT_TRIES)
        w->isolate = true;
    w->last_attempt = w->isolate && (killed_its_backend || attempts + 1 >= b->config.max_attempts);
    tell_suspect(w);
    pause_batch(batch, data_error ? 0 : backoff_ms(attempts, RETRY_BASE_MS, RETRY_CAP_MS));
}

/* A commit whose answer was lost may have happened: what conflicts next time is our own. */
static void mark_replayed(struct batch *batch)
{
    for (size_t i = 0; i < batch->write.count; i++)
        batch->write.rows[i].conversation->replayed = true;
}

void batch_take_outcome(struct batch *batch, bool progress)
{
    struct batcher *b = batch->batcher;
    const struct write_batch *w = &batch->write;
    bool others_pass;

    /* A line that breaks again and again may let a few rows through each time: then the pauses must
     * not grow, or one batch that goes row by row holds all others up for minutes. */
    if (progress) {
        b->failures = batch->failures = 0;
        b->progress++;
    }
    others_pass = b->progress != batch->progress_seen;
    batch->progress_seen = b->progress;
    switch (w->outcome) {
    case WRITE_DONE:
        b->failures = 0;
        set_database(b, DATABASE_UP, "", "");
        assert(w->count == 0);
        break;
    case WRITE_RETRY:
        set_database(b, DATABASE_UP, w->sqlstate, w->error);
        retry_batch(batch, others_pass);
        break;
    case WRITE_UNREACHABLE:
        if (w->refused) {
            take_refusal(batch, DATABASE_DOWN, others_pass);
            break;
        }
        mark_replayed(batch);
        if (w->lost_in_flight && ++batch->lost_in_flight >= SUSPECT_TRIES)
            batch->write.isolate = true; /* a row in it may kill its backend each time */
        set_database(b, DATABASE_DOWN, w->sqlstate, w->error);
        pause_batch(batch, backoff_ms(++b->failures, RETRY_BASE_MS, RETRY_CAP_MS));
        break;
    case WRITE_SUSPECT:
        mark_replayed(batch);
        set_database(b, DATABASE_UP, w->sqlstate, w->error);
        suspect_batch(batch);
        break;
    case WRITE_STOPPED:
        if (w->refused) {
            take_refusal(batch, DATABASE_STOPPED, others_pass);
            break;
        }
        set_database(b, DATABASE_STOPPED, w->sqlstate, w->error);
        pause_batch(batch, STOPPED_RETRY_MS);
        break;
    }
    /* An empty one goes on trying: nothing else may be there to find the database back. */
    if (w->count == 0 && b->database == DATABASE_UP)
        batch_free(batch);
}
