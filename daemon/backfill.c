/* The loop's side of filling in vectors. Owns a worker with one connection, the rows that are
 * claimed, and at most one order at the embedding stage.
 *
 * A round: IDLE -> CLAIMING (worker) -> EMBEDDING a window of the claimed rows (stage) -> SETTLING
 * it (worker) -> the next window … -> IDLE. The hard thing is to be fair: live texts and old ones
 * meet in the stage's queue, where this module never has more than one window, so that a backlog of
 * millions delays a live text by one request at most, and a steady stream of live texts does not
 * keep the backlog from draining. The oldest come first. While the embedder is known to be down
 * nothing is claimed, and what was claimed is given back, so that attempts count what the rows
 * themselves did.
 *
 * A vector that came too late for its batch needs no care of its own: it is in the cache, and its
 * row is the next one here.
 *
 * Invariants: the worker has at most one job; load is the worker's while CLAIMING and SETTLING and
 * the loop's otherwise; set is not empty only while EMBEDDING and SETTLING. */
#include "daemon/backfill.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/backfill_pg.h"
#include "daemon/backfill_window.h"
#include "daemon/backoff.h"
#include "daemon/embedding_set.h"
#include "daemon/handoff.h"
#include "daemon/log.h"

#define POLL_MS 1000  /* how often the backlog is looked at where nothing is known to wait */
#define NUDGE_MS 50   /* after rows have gone into it: for the next batches to join them */
#define COUNT_MS 5000 /* how often it is counted; a count that takes long is made more seldom */
#define COUNT_SHARE 20
#define RETRY_BASE_MS 500
#define RETRY_CAP_MS 30000
#define LEASE_SPARE_MS 60000 /* on top of what the embedder may take */
#define LONG_ROWS_MAX 16     /* rows in a claim where whole transcripts are read */
#define LONG_MAX_CHARACTERS (256 << 20)

enum backfill_state {
    BACKFILL_IDLE,      /* the timer is armed, unless it is stopped */
    BACKFILL_CLAIMING,  /* the worker claims, or only counts */
    BACKFILL_EMBEDDING, /* an order is at the stage */
    BACKFILL_SETTLING,  /* the worker writes a window's vectors */
};

/* What the worker is to do, and what came of it. */
struct backfill_job {
    struct handoff_job job; /* first: a job is cast to this */
    struct backfill *backfill;
    struct write_batch window; /* of load: for settling */
    struct backfill_claim *claims;
    bool settle;
    bool count;         /* the backlog, besides */
    size_t claim_limit; /* 0: none */
    uint64_t lease_ms;

    int result;
    struct pg_error error;
    bool counted;
    uint64_t backlog;
    uint64_t count_ms;
    struct pgwriter_found found;
};

struct backfill {
    uv_loop_t *loop;
    const struct config *config;
    struct pgwriter_config writer;
    enum embedding_source source;
    struct embedding_stage *stage;
    struct handoff *pool;
    uv_timer_t timer;
    enum backfill_state state;
    bool stopping; /* no new rounds */
    bool closing;  /* no new job */
    struct backfill_load load;
    size_t first, end; /* the window within load */
    struct embedding_set set;
    struct backfill_job job;
    unsigned failures; /* of the database, one after another */
    uint64_t seen_total;
    uint64_t next_count_ms;
    struct backfill_status status;
    unsigned open_handles;
    void (*on_closed)(void *);
    void *on_closed_owner;
};

static void begin_window(struct backfill *b);

/* The worker's side */

static void *worker_start(void *owner, unsigned index)
{
    struct backfill *b = owner;

    (void)index;
    return pgwriter_new(&b->writer);
}

static void worker_stop(void *owner, void *state)
{
    (void)owner;
    pgwriter_free(state);
}

static int run_claim(struct pgwriter *w, struct backfill_job *job)
{
    struct backfill *b = job->backfill;
    bool whole = b->source != SOURCE_SUMMARY;

    return backfill_pg_claim(w, job->claim_limit, job->lease_ms,
                             whole ? LONG_MAX_CHARACTERS : EMBEDDING_TEXT_MAX_BYTES, &b->load,
                             &job->error);
}

static void run_job(struct pgwriter *w, struct backfill_job *job)
{
    uint64_t started = uv_hrtime();

    if (job->settle) {
        job->result = backfill_pg_settle(w, &job->window, job->claims, &job->error);
        return;
    }
    if (job->count) {
        if (backfill_pg_count(w, &job->backlog, &job->error) != 0)
            return;
        job->counted = true;
        job->count_ms = (uv_hrtime() - started) / 1000000;
    }
    job->result = job->claim_limit > 0 ? run_claim(w, job) : 0;
}

static void worker_run(void *state, struct handoff_job *handoff_job)
{
    struct backfill_job *job = (struct backfill_job *)handoff_job;
    struct pgwriter *w = state;

    job->result = -1;
    job->counted = false;
    if (w == NULL) {
        pg_error_no_memory(&job->error);
        return;
    }
    run_job(w, job);
    job->found = pgwriter_found(w);
}

/* The rounds */

static void on_timer(uv_timer_t *timer);

static void go_idle(struct backfill *b, uint64_t delay_ms)
{
    backfill_load_clear(&b->load);
    b->state = BACKFILL_IDLE;
    if (!b->stopping)
        uv_timer_start(&b->timer, on_timer, delay_ms, 0);
}

static void submit(struct backfill *b, enum backfill_state state)
{
    b->state = state;
    b->job.backfill = b;
    b->job.settle = state == BACKFILL_SETTLING;
    handoff_submit(b->pool, &b->job.job);
}

static size_t claim_limit(const struct backfill *b)
{
    size_t limit = b->source == SOURCE_SUMMARY ? BACKFILL_ROWS_MAX : LONG_ROWS_MAX;
    size_t inputs = b->config->embedding.request_inputs;

    return inputs < limit ? inputs : limit;
}

static void on_timer(uv_timer_t *timer)
{
    struct backfill *b = timer->data;

    assert(b->state == BACKFILL_IDLE && !b->stopping);
    b->job.count = uv_now(b->loop) >= b->next_count_ms;
    b->job.claim_limit = embedding_stage_is_ready(b->stage) ? claim_limit(b) : 0;
    b->job.lease_ms = 2 * b->config->embedding.timeout_ms + LEASE_SPARE_MS;
    if (b->job.count || b->job.claim_limit > 0)
        submit(b, BACKFILL_CLAIMING);
    else
        go_idle(b, POLL_MS);
}

/* The database's own trouble: the writers tell of it, too, so it is no alert here. */
static void on_database_failed(struct backfill *b)
{
    snprintf(b->status.last_error, sizeof b->status.last_error, "%s", b->job.error.text);
    log_debug("backfill.failed sqlstate=%s error=\"%s\"", b->job.error.sqlstate, b->job.error.text);
    go_idle(b, backoff_ms(++b->failures, RETRY_BASE_MS, RETRY_CAP_MS));
}

static void on_claimed(struct backfill *b)
{
    if (b->job.counted) {
        b->status.backlog = b->job.backlog;
        b->next_count_ms = uv_now(b->loop) + COUNT_MS + COUNT_SHARE * b->job.count_ms;
    }
    if (b->load.count == 0) {
        go_idle(b, POLL_MS);
        return;
    }
    b->end = 0;
    begin_window(b);
}

static void settle_window(struct backfill *b)
{
    b->job.window = (struct write_batch){.rows = b->load.rows + b->first,
                                         .count = b->end - b->first,
                                         .vectors = b->set.vectors,
                                         .vector_count = b->set.vector_count};
    b->job.claims = b->load.claims + b->first;
    submit(b, BACKFILL_SETTLING);
}

static void on_vectors(struct embedding_order *order)
{
    struct backfill *b = (struct backfill *)((char *)order - offsetof(struct backfill, set.order));

    if (!b->stopping && embedding_set_halve(&b->set)) {
        embedding_stage_want(b->stage, &b->set.order);
        return;
    }
    embedding_set_collect(&b->set);
    for (size_t row = b->first; row < b->end; row++) {
        struct backfill_claim *claim = &b->load.claims[row];

        backfill_judge(claim, embedding_set_error(&b->set, (uint32_t)(row - b->first)),
                       b->end - b->first);
        b->status.filled += claim->done;
        b->status.put_off += !claim->done;
    }
    settle_window(b);
}

/* Puts the rows from first on off to now, as if they had not been claimed. */
static void give_back(struct backfill *b)
{
    embedding_set_done(&b->set);
    b->end = b->load.count;
    for (size_t i = b->first; i < b->end; i++) {
        b->load.claims[i].done = false;
        b->load.claims[i].later_ms = 0;
        b->load.claims[i].error = NULL;
        b->load.claims[i].attempts--;
    }
    settle_window(b);
}

/* The rows behind the last window. */
static void begin_window(struct backfill *b)
{
    b->first = b->end;
    if (b->first == b->load.count) {
        go_idle(b, b->load.more ? 0 : POLL_MS);
        return;
    }
    b->end = backfill_window_end(&b->load, b->first, b->source);
    if (b->stopping || !embedding_stage_is_ready(b->stage) ||
        embedding_set_init(&b->set, b->source, b->load.rows + b->first, b->end - b->first) != 0) {
        give_back(b);
        return;
    }
    /* Longer than a request may take, since it may have to wait for others. */
    b->set.order.deadline_ms = b->job.lease_ms - LEASE_SPARE_MS;
    b->set.order.patient = true;
    b->set.order.apart = b->load.claims[b->first].attempts > 1;
    b->set.order.on_done = on_vectors;
    b->state = BACKFILL_EMBEDDING;
    embedding_stage_want(b->stage, &b->set.order);
}

static void on_settled(struct backfill *b)
{
    size_t done = 0;

    for (size_t i = b->first; i < b->end; i++)
        done += b->load.claims[i].done;
    b->status.backlog -= done < b->status.backlog ? done : b->status.backlog;
    embedding_set_done(&b->set);
    begin_window(b);
}

/* This worker asks even while nothing is stored: it is the first to see pgvector appear. */
static void note_storage(struct backfill *b)
{
    const struct pgwriter_found *found = &b->job.found;

    if (found->vectors_movable && !b->status.movable)
        log_warning("vectors.movable storage=%s wanted=%s pgvector=%s advice=\"convstorectl "
                    "migrate-vectors moves them over\"",
                    found->storage, b->writer.model.storage, found->pgvector_version);
    b->status.movable = found->vectors_movable;
    memcpy(b->status.storage, found->storage, sizeof b->status.storage);
}

static void on_job_done(void *owner, struct handoff_job *handoff_job)
{
    struct backfill *b = owner;

    (void)handoff_job;
    if (b->closing) {
        embedding_set_done(&b->set);
        return; /* what is claimed still comes free when its lease runs out */
    }
    if (b->job.result != 0) {
        embedding_set_done(&b->set);
        on_database_failed(b);
        return;
    }
    note_storage(b);
    b->failures = 0;
    b->status.last_error[0] = '\0';
    if (b->state == BACKFILL_CLAIMING)
        on_claimed(b);
    else
        on_settled(b);
}

static void look_soon(struct backfill *b)
{
    if (b->state == BACKFILL_IDLE && !b->stopping && b->failures == 0 &&
        uv_timer_get_due_in(&b->timer) > NUDGE_MS)
        uv_timer_start(&b->timer, on_timer, NUDGE_MS, 0);
}

void backfill_nudge(struct backfill *b, uint64_t total)
{
    uint64_t more = total - b->seen_total;

    b->seen_total = total;
    b->status.backlog += more;
    if (more > 0)
        look_soon(b);
}

void backfill_wake(struct backfill *b, uint64_t more)
{
    b->status.backlog += more;
    b->next_count_ms = 0;
    look_soon(b);
}

void backfill_reconfigure(struct backfill *b, const struct config *config)
{
    b->config = config;
}

struct backfill_status backfill_status(const struct backfill *b)
{
    return b->status;
}

/* Start and end */

int backfill_start(uv_loop_t *loop, const struct config *config,
                   const struct pgwriter_config *writer, struct embedding_stage *stage,
                   struct backfill **ret)
{
    static const struct handoff_ops ops = {worker_start, worker_stop, worker_run, on_job_done};
    struct backfill *b = calloc(1, sizeof *b);
    int rc;

    if (b == NULL)
        return -ENOMEM;
    b->loop = loop;
    b->config = config;
    b->writer = *writer;
    b->source = embedding_source_of(writer->model.source);
    b->stage = stage;
    rc = handoff_start(loop, "backfill", &ops, b, 1, &b->pool);
    if (rc != 0) {
        free(b);
        return rc;
    }
    uv_timer_init(loop, &b->timer);
    b->timer.data = b;
    b->open_handles = 2;
    go_idle(b, 0);
    *ret = b;
    return 0;
}

bool backfill_stop(struct backfill *b)
{
    bool first_time = !b->stopping;

    b->stopping = true;
    if (first_time)
        uv_timer_stop(&b->timer);
    if (b->state == BACKFILL_EMBEDDING) {
        embedding_stage_cancel(b->stage, &b->set.order);
        give_back(b);
    }
    return b->state == BACKFILL_IDLE;
}

static void on_handle_closed(void *arg)
{
    struct backfill *b = arg;

    if (--b->open_handles > 0)
        return;
    backfill_load_clear(&b->load);
    if (b->on_closed != NULL)
        b->on_closed(b->on_closed_owner);
    free(b);
}

static void on_timer_closed(uv_handle_t *handle)
{
    on_handle_closed(handle->data);
}

void backfill_close(struct backfill *b, void (*on_closed)(void *owner), void *owner)
{
    b->on_closed = on_closed;
    b->on_closed_owner = owner;
    backfill_stop(b);
    b->closing = true;
    uv_close((uv_handle_t *)&b->timer, on_timer_closed);
    handoff_close(b->pool, on_handle_closed);
}
