/* The loop's side of filling in vectors. Owns a worker with one connection, and a few lanes, each
 * with the rows that it has claimed and at most one order at the embedding stage.
 *
 * A lane's round: IDLE -> CLAIMING (worker) -> EMBEDDING a window of the claimed rows (stage) ->
 * SETTLING it (worker) -> the next window … -> IDLE. There is one lane more than requests may be
 * under way: while the others embed it claims and settles, and waits LOADED for its turn, so that
 * the embedder does not wait for the database. The first lane looks for rows; where it finds more
 * than it can take it wakes another.
 *
 * The hard thing is to be fair: live texts and old ones meet in the stage's queue, where this
 * module never has more windows than requests may be under way, and only one while live texts are
 * asked for; so a backlog of millions delays a live text by one request at most, and a steady
 * stream of live texts does not keep the backlog from draining. The oldest come first. While the
 * embedder is known to be down nothing is claimed, and what was claimed is given back, so that
 * attempts count what the rows themselves did.
 *
 * A vector that came too late for its batch needs no care of its own: it is in the cache, and its
 * row is the next one here.
 *
 * Invariants: load is the worker's while its lane is CLAIMING or SETTLING and the loop's otherwise;
 * set is not empty only while EMBEDDING and SETTLING; a lane is LOADED only while another one is
 * EMBEDDING. */
#include "daemon/backfill.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/backfill_job.h"
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
#define ORDERS_MAX 8         /* windows at the stage at once */
#define LONG_ORDERS_MAX 2    /* where whole transcripts are read */
#define LONG_ROWS_MAX 16     /* rows in a claim where whole transcripts are read */

enum backfill_state {
    BACKFILL_IDLE,      /* the timer is armed, unless it is stopped */
    BACKFILL_CLAIMING,  /* the worker claims, or only counts */
    BACKFILL_LOADED,    /* its rows wait for another lane's order to be done */
    BACKFILL_EMBEDDING, /* an order is at the stage */
    BACKFILL_SETTLING,  /* the worker writes a window's vectors */
};

struct lane {
    struct backfill *backfill;
    uv_timer_t timer;
    enum backfill_state state;
    struct backfill_load load;
    size_t first, end; /* the window within load */
    struct embedding_set set;
    struct backfill_job job;
};

struct backfill {
    uv_loop_t *loop;
    const struct config *config;
    struct pgwriter_config writer;
    enum embedding_source source;
    struct embedding_stage *stage;
    struct handoff *pool;
    bool stopping;     /* no new rounds */
    bool closing;      /* no new job */
    unsigned failures; /* of the database, one after another */
    uint64_t seen_total;
    uint64_t next_count_ms;
    struct backfill_status status;
    unsigned open_handles;
    void (*on_closed)(void *);
    void *on_closed_owner;
    unsigned orders_max; /* at the stage */
    unsigned lane_count; /* one more */
    struct lane lanes[];
};

static void begin_window(struct lane *lane);

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

/* The rounds */

static void on_timer(uv_timer_t *timer);

static bool is_first(const struct lane *lane)
{
    return lane == lane->backfill->lanes;
}

static unsigned count_lanes(const struct backfill *b, enum backfill_state state)
{
    unsigned count = 0;

    for (unsigned i = 0; i < b->lane_count; i++)
        count += b->lanes[i].state == state;
    return count;
}

/* Orders that may be at the stage now. */
static unsigned orders_allowed(const struct backfill *b)
{
    return embedding_stage_is_quiet(b->stage) ? b->orders_max : 1;
}

/* Whether one more lane would have something to do: to embed, or to be ready to. */
static bool has_use_for_lane(const struct backfill *b)
{
    return b->lane_count - count_lanes(b, BACKFILL_IDLE) <= orders_allowed(b);
}

/* Only the first lane comes back by itself, except at once. */
static void go_idle(struct lane *lane, uint64_t delay_ms)
{
    backfill_load_clear(&lane->load);
    lane->state = BACKFILL_IDLE;
    if (!lane->backfill->stopping && (is_first(lane) || delay_ms == 0))
        uv_timer_start(&lane->timer, on_timer, delay_ms, 0);
}

static void wake_another(struct backfill *b)
{
    if (b->stopping || !has_use_for_lane(b))
        return;
    for (unsigned i = 0; i < b->lane_count; i++)
        if (b->lanes[i].state == BACKFILL_IDLE) {
            uv_timer_start(&b->lanes[i].timer, on_timer, 0, 0);
            return;
        }
}

static void submit(struct lane *lane, enum backfill_state state)
{
    lane->state = state;
    lane->job.load = &lane->load;
    lane->job.whole = lane->backfill->source != SOURCE_SUMMARY;
    lane->job.settle = state == BACKFILL_SETTLING;
    handoff_submit(lane->backfill->pool, &lane->job.job);
}

static size_t claim_limit(const struct backfill *b)
{
    size_t limit = b->source == SOURCE_SUMMARY ? BACKFILL_ROWS_MAX : LONG_ROWS_MAX;
    size_t inputs = b->config->embedding.request_inputs;

    return inputs < limit ? inputs : limit;
}

static void on_timer(uv_timer_t *timer)
{
    struct lane *lane = timer->data;
    struct backfill *b = lane->backfill;
    bool may_claim = embedding_stage_is_ready(b->stage) && (is_first(lane) || has_use_for_lane(b));

    assert(lane->state == BACKFILL_IDLE && !b->stopping);
    lane->job.count = is_first(lane) && uv_now(b->loop) >= b->next_count_ms;
    lane->job.claim_limit = may_claim ? claim_limit(b) : 0;
    /* Behind another order, and then as long again. */
    lane->job.lease_ms = 4 * b->config->embedding.timeout_ms + LEASE_SPARE_MS;
    if (lane->job.count || may_claim)
        submit(lane, BACKFILL_CLAIMING);
    else
        go_idle(lane, POLL_MS);
}

/* The database's own trouble: the writers tell of it, too, so it is no alert here. */
static void on_database_failed(struct lane *lane)
{
    struct backfill *b = lane->backfill;
    const struct pg_error *error = &lane->job.error;

    snprintf(b->status.last_error, sizeof b->status.last_error, "%s", error->text);
    log_debug("backfill.failed sqlstate=%s error=\"%s\"", error->sqlstate, error->text);
    b->failures += is_first(lane);
    go_idle(lane, backoff_ms(b->failures, RETRY_BASE_MS, RETRY_CAP_MS));
}

static void on_claimed(struct lane *lane)
{
    struct backfill *b = lane->backfill;

    if (lane->job.count)
        b->next_count_ms = uv_now(b->loop) + COUNT_MS + COUNT_SHARE * lane->job.count_ms;
    if (lane->job.counted)
        b->status.backlog = lane->job.backlog;
    if (lane->load.count == 0) {
        go_idle(lane, POLL_MS);
        return;
    }
    if (lane->load.more)
        wake_another(b);
    lane->end = 0;
    begin_window(lane);
}

static void settle_window(struct lane *lane)
{
    lane->job.window = (struct write_batch){.rows = lane->load.rows + lane->first,
                                            .count = lane->end - lane->first,
                                            .vectors = lane->set.vectors,
                                            .vector_count = lane->set.vector_count};
    lane->job.claims = lane->load.claims + lane->first;
    submit(lane, BACKFILL_SETTLING);
}

/* An order is done: the next may go. */
static void begin_loaded(struct backfill *b)
{
    for (unsigned i = 0; i < b->lane_count; i++)
        if (b->lanes[i].state == BACKFILL_LOADED &&
            count_lanes(b, BACKFILL_EMBEDDING) < orders_allowed(b)) {
            b->lanes[i].end = b->lanes[i].first;
            begin_window(&b->lanes[i]);
        }
}

static void on_vectors(struct embedding_order *order)
{
    struct lane *lane = (struct lane *)((char *)order - offsetof(struct lane, set.order));
    struct backfill *b = lane->backfill;

    if (!b->stopping && embedding_set_halve(&lane->set)) {
        embedding_stage_want(b->stage, &lane->set.order);
        return;
    }
    embedding_set_collect(&lane->set);
    for (size_t row = lane->first; row < lane->end; row++) {
        struct backfill_claim *claim = &lane->load.claims[row];

        backfill_judge(claim, embedding_set_error(&lane->set, (uint32_t)(row - lane->first)),
                       lane->end - lane->first);
        b->status.filled += claim->done;
        b->status.put_off += !claim->done;
    }
    settle_window(lane);
    begin_loaded(b);
}

/* Puts the rows from first on off to now, as if they had not been claimed. */
static void give_back(struct lane *lane)
{
    embedding_set_done(&lane->set);
    lane->end = lane->load.count;
    for (size_t i = lane->first; i < lane->end; i++) {
        struct backfill_claim *claim = &lane->load.claims[i];

        claim->done = false;
        claim->later_ms = 0;
        claim->error = NULL;
        claim->attempts--;
    }
    settle_window(lane);
}

/* The rows behind the last window. */
static void begin_window(struct lane *lane)
{
    struct backfill *b = lane->backfill;
    struct embedding_set *set = &lane->set;

    lane->first = lane->end;
    if (lane->first == lane->load.count) {
        go_idle(lane, lane->load.more ? 0 : POLL_MS);
        return;
    }
    lane->end = backfill_window_end(&lane->load, lane->first, b->source);
    if (b->stopping || !embedding_stage_is_ready(b->stage)) {
        give_back(lane);
        return;
    }
    if (count_lanes(b, BACKFILL_EMBEDDING) >= orders_allowed(b)) {
        lane->state = BACKFILL_LOADED;
        return;
    }
    if (embedding_set_init(set, b->source, lane->load.rows + lane->first,
                           lane->end - lane->first) != 0) {
        give_back(lane);
        return;
    }
    /* Longer than a request may take, since it may have to wait for others. */
    set->order.deadline_ms = 2 * b->config->embedding.timeout_ms;
    set->order.patient = true;
    set->order.apart = lane->load.claims[lane->first].attempts > 1;
    set->order.on_done = on_vectors;
    lane->state = BACKFILL_EMBEDDING;
    embedding_stage_want(b->stage, &set->order);
}

static void on_settled(struct lane *lane)
{
    struct backfill_status *status = &lane->backfill->status;
    size_t done = 0;

    for (size_t i = lane->first; i < lane->end; i++)
        done += lane->load.claims[i].done;
    status->backlog -= done < status->backlog ? done : status->backlog;
    embedding_set_done(&lane->set);
    begin_window(lane);
}

/* This worker asks even while nothing is stored: it is the first to see pgvector appear. */
static void note_storage(struct backfill *b, const struct pgwriter_found *found)
{
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
    struct lane *lane = (struct lane *)((char *)handoff_job - offsetof(struct lane, job.job));

    if (b->closing) {
        embedding_set_done(&lane->set);
        return; /* what is claimed still comes free when its lease runs out */
    }
    if (lane->job.result != 0) {
        embedding_set_done(&lane->set);
        on_database_failed(lane);
        return;
    }
    note_storage(b, &lane->job.found);
    b->failures = 0;
    b->status.last_error[0] = '\0';
    if (lane->state == BACKFILL_CLAIMING)
        on_claimed(lane);
    else
        on_settled(lane);
}

static void look_soon(struct backfill *b)
{
    struct lane *first = b->lanes;

    if (first->state == BACKFILL_IDLE && !b->stopping && b->failures == 0 &&
        uv_timer_get_due_in(&first->timer) > NUDGE_MS)
        uv_timer_start(&first->timer, on_timer, NUDGE_MS, 0);
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

/* As many as requests may be under way; the builtin embedder would take a second processor from the
 * acks. */
static unsigned orders_of(const struct config *config, const struct pgwriter_config *writer)
{
    uint64_t most =
        embedding_source_of(writer->model.source) == SOURCE_SUMMARY ? ORDERS_MAX : LONG_ORDERS_MAX;

    if (strcmp(writer->model.provider, "builtin") == 0)
        return 1;
    return (unsigned)(config->embedding.max_in_flight < most ? config->embedding.max_in_flight
                                                             : most);
}

static void init_lanes(struct backfill *b)
{
    for (unsigned i = 0; i < b->lane_count; i++) {
        struct lane *lane = &b->lanes[i];

        lane->backfill = b;
        uv_timer_init(b->loop, &lane->timer);
        lane->timer.data = lane;
    }
    b->open_handles = 1 + b->lane_count; /* the pool, and the timers */
    go_idle(b->lanes, 0);
}

int backfill_start(uv_loop_t *loop, const struct config *config,
                   const struct pgwriter_config *writer, struct embedding_stage *stage,
                   struct backfill **ret)
{
    static const struct handoff_ops ops = {worker_start, worker_stop, backfill_job_run,
                                           on_job_done};
    unsigned orders = orders_of(config, writer);
    struct backfill *b = calloc(1, sizeof *b + (orders + 1) * sizeof b->lanes[0]);
    int rc;

    if (b == NULL)
        return -ENOMEM;
    b->loop = loop;
    b->config = config;
    b->writer = *writer;
    b->source = embedding_source_of(writer->model.source);
    b->stage = stage;
    b->orders_max = orders;
    b->lane_count = orders + 1;
    rc = handoff_start(loop, "backfill", &ops, b, 1, &b->pool);
    if (rc != 0) {
        free(b);
        return rc;
    }
    init_lanes(b);
    *ret = b;
    return 0;
}

bool backfill_stop(struct backfill *b)
{
    b->stopping = true;
    for (unsigned i = 0; i < b->lane_count; i++) {
        struct lane *lane = &b->lanes[i];

        uv_timer_stop(&lane->timer);
        if (lane->state == BACKFILL_EMBEDDING)
            embedding_stage_cancel(b->stage, &lane->set.order);
        if (lane->state == BACKFILL_EMBEDDING || lane->state == BACKFILL_LOADED)
            give_back(lane);
    }
    return count_lanes(b, BACKFILL_IDLE) == b->lane_count;
}

static void on_handle_closed(void *arg)
{
    struct backfill *b = arg;

    if (--b->open_handles > 0)
        return;
    for (unsigned i = 0; i < b->lane_count; i++)
        backfill_load_clear(&b->lanes[i].load);
    if (b->on_closed != NULL)
        b->on_closed(b->on_closed_owner);
    free(b);
}

static void on_timer_closed(uv_handle_t *handle)
{
    on_handle_closed(((struct lane *)handle->data)->backfill);
}

void backfill_close(struct backfill *b, void (*on_closed)(void *owner), void *owner)
{
    b->on_closed = on_closed;
    b->on_closed_owner = owner;
    backfill_stop(b);
    b->closing = true;
    for (unsigned i = 0; i < b->lane_count; i++)
        uv_close((uv_handle_t *)&b->lanes[i].timer, on_timer_closed);
    handoff_close(b->pool, on_handle_closed);
}
