/* The backlog, and the batches on their way. Loop thread; the write workers see a batch only while
 * it is WRITING.
 *
 * A batch: cut -> EMBEDDING -> WRITING -> settled row by row, or PAUSED and WRITING again. The hard
 * thing is what a failure means for the others: while the database is down or stopped one batch
 * tries from time to time and all others stay where they are; the first success sets everything
 * going. A batch that fails by itself holds nobody up.
 *
 * A batch without rows only connects: at the start, so that operators know at once what the
 * database is. It stays until there was an answer.
 *
 * Two things change a batch's time. A pace (precedence.c) lets the next one be written later; where
 * rows queue up, one that waits for a slow embedder is written sooner, without its vectors.
 *
 * Invariants: a conversation is in the backlog or in exactly one batch; no key stands twice in a
 * batch; at most max_concurrent_batches exist, besides HELD_MAX that fail by themselves. */
#include "daemon/batcher_private.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

/* Vectors that take no longer hold nothing up. */
#define HURRY_AFTER_MS 50
/* After one that did, crowded batches get only what the cache has, so long: what is asked for and
 * comes too late only keeps the embedder from the rows that wait for it already. */
#define ASK_AGAIN_MS 1000
/* Batches that go row by row in vain, besides those under way. */
#define HELD_MAX 64
/* Under a pace a batch waits no longer for the one before, however few rows a second it says. */
#define PACED_PAUSE_MAX_MS 1000

static void cut_batches(struct batcher *b);
static void resume_paused(struct batcher *b);

static bool database_answers(const struct batcher *b)
{
    return b->database == DATABASE_UP || b->database == DATABASE_UNTRIED;
}

/* How many may write. Until there was an answer nobody tries beside the first: no two connect at
 * once to a server that may not be there. */
static unsigned writers_allowed(const struct batcher *b)
{
    return b->database == DATABASE_UP ? b->config.write_threads : 1;
}

/* The batches that count: not those that fail by themselves, whoever's trouble that is. */
static unsigned batches_under_way(const struct batcher *b)
{
    return b->batch_count - (b->held_count < HELD_MAX ? b->held_count : HELD_MAX);
}

/* While the database does not answer one batch at a time tries it, and the backlog stays where it
 * is; beside batches that are held another may find out that it is their trouble alone. */
static bool may_cut(const struct batcher *b)
{
    return batches_under_way(b) < (database_answers(b) ? b->config.max_concurrent_batches : 1);
}

/* Writing. */

/* On a write worker. */
static void run_write(void *state, struct handoff_job *job)
{
    struct batch *batch = (struct batch *)job;
    uint64_t started = uv_hrtime();

    pgwriter_write(state, &batch->write);
    batch->found = pgwriter_found(state);
    batch->duration_ns = uv_hrtime() - started;
}

static bool is_paced(const struct batcher *b)
{
    return b->rows_per_second > 0 && !b->urgent;
}

/* The next batch waits as long as this one takes by the pace; what the timer was late is made up
 * for. */
static void keep_pace(struct batcher *b, size_t count)
{
    uint64_t now = uv_now(b->loop), pause_ms = count * 1000 / b->rows_per_second;

    if (pause_ms > PACED_PAUSE_MAX_MS)
        pause_ms = PACED_PAUSE_MAX_MS;
    if (b->next_write_ms + pause_ms < now)
        b->next_write_ms = now;
    b->next_write_ms += pause_ms;
}

static void write_batch(struct batch *batch)
{
    struct batcher *b = batch->batcher;

    batch->state = BATCH_WRITING;
    b->writing++;
    b->held_writing += batch->held;
    if (is_paced(b))
        keep_pace(b, batch->write.count);
    handoff_submit(b->writers, &batch->job);
}

/* resume_paused() knows who may write now. */
static void write_when_allowed(struct batch *batch)
{
    batch->write.vectors = batch->texts.vectors;
    batch->write.vector_count = batch->texts.vector_count;
    batch->state = BATCH_PAUSED;
    batch->resume_at_ms = 0;
    resume_paused(batch->batcher);
}

static void on_vectors(struct embedding_order *order)
{
    struct batch *batch = (struct batch *)((char *)order - offsetof(struct batch, texts.order));

    embedding_set_collect(&batch->texts);
    write_when_allowed(batch);
}

/* More rows wait than may be under way, for batches to the full. */
static bool is_crowded(const struct batcher *b)
{
    return b->backlog.count >= b->config.batch_size &&
           batches_under_way(b) >= b->config.max_concurrent_batches;
}

static void embed_batch(struct batch *batch)
{
    struct batcher *b = batch->batcher;

    if (embedding_set_init(&batch->texts, b->source, batch->write.rows, batch->write.count) != 0) {
        embedding_set_done(&batch->texts);
        write_when_allowed(batch); /* memory is short: the vectors come later */
        return;
    }
    batch->state = BATCH_EMBEDDING;
    batch->embedding_since_ms = uv_now(b->loop);
    batch->texts.order.cached_only = is_crowded(b) && uv_now(b->loop) < b->ask_again_ms;
    batch->texts.order.on_done = on_vectors;
    embedding_stage_want(b->embedding, &batch->texts.order);
}

static void on_written(void *owner, struct handoff_job *job)
{
    struct batcher *b = owner;
    struct batch *batch = (struct batch *)job;
    bool answered_before = database_answers(b);
    size_t rows = batch->write.count;
    bool settled;

    b->writing--;
    b->held_writing -= batch->held;
    if (batch->found.connected)
        b->found = batch->found;
    b->callbacks.on_write(b->owner, rows, batch->duration_ns, batch->write.outcome);
    batch_settle(batch);
    settled = batch->write.count < rows;
    /* A connection that failed knows only the server before it. */
    if (b->callbacks.on_timeline != NULL && (batch->found.connected || settled))
        b->callbacks.on_timeline(b->owner, batch->found.timeline, settled);
    batch_take_outcome(batch, settled);
    if (b->closing)
        return;
    if (!answered_before && b->database == DATABASE_UP) {
        struct batch *other;

        TAILQ_FOREACH(other, &b->batches, link)
        other->resume_at_ms = 0;
    }
    resume_paused(b);
    cut_batches(b);
    b->callbacks.on_room(b->owner);
}

/* Who goes next. */

static void on_retry_timer(uv_timer_t *timer)
{
    resume_paused(timer->data);
}

/* Sends the paused batches whose time has come: all of them while the database answers, else one at
 * a time, and of those that are held, too; so under a pace, where a second connection at work would
 * take a processor from the acks. The pace is looked at here and not kept in the batch: it may end
 * while one waits. */
static void resume_paused(struct batcher *b)
{
    uint64_t now = uv_now(b->loop);
    uint64_t next = UINT64_MAX;
    struct batch *batch;

    TAILQ_FOREACH(batch, &b->batches, link)
    {
        uint64_t at = batch->resume_at_ms;

        if (batch->state != BATCH_PAUSED || (batch->held && b->held_writing > 0))
            continue;
        if (is_paced(b) && b->next_write_ms > at)
            at = b->next_write_ms;
        if (at > now) {
            next = at < next ? at : next;
            continue;
        }
        if (b->writing == 0 || (b->database == DATABASE_UP && !is_paced(b)))
            write_batch(batch);
    }
    if (next != UINT64_MAX)
        uv_timer_start(&b->retry_timer, on_retry_timer, next - now, 0);
}

static bool oldest_is_due(const struct batcher *b)
{
    uint64_t waited_ms;

    if (b->backlog.head->read_ns == 0)
        return true; /* from before a restart */
    waited_ms = (uv_hrtime() - b->backlog.head->read_ns) / 1000000;
    return waited_ms >= b->config.batch_timeout_ms;
}

/* Cuts while there is something to cut and somebody to take it. */
static void cut_batches(struct batcher *b)
{
    while (b->backlog.count > 0 && may_cut(b)) {
        size_t count = b->backlog.count;
        struct batch *batch;

        if (count < b->config.batch_size && !b->urgent && !oldest_is_due(b))
            return;
        if (count > b->config.batch_size)
            count = b->config.batch_size;
        batch = batch_cut(b, count);
        if (batch == NULL)
            return; /* memory is short: the timer comes again */
        embed_batch(batch);
    }
}

/* Where more rows wait than may be under way, and a writer has nothing to do, batches that wait for
 * an embedder go without the vectors that are not there yet: text first. Else a slow embedder would
 * set the pace of all rows. */
static void hurry_embedding(struct batcher *b)
{
    uint64_t now = uv_now(b->loop);
    unsigned idle;
    struct batch *batch;

    if (!b->config.rows_first || !is_crowded(b) || !database_answers(b) ||
        b->writing >= writers_allowed(b) || (is_paced(b) && b->next_write_ms > now))
        return;
    idle = writers_allowed(b) - b->writing;
    TAILQ_FOREACH(batch, &b->batches, link)
    {
        if (idle == 0)
            return;
        if (batch->state != BATCH_EMBEDDING || now - batch->embedding_since_ms < HURRY_AFTER_MS)
            continue;
        embedding_stage_hurry(b->embedding, &batch->texts.order);
        b->ask_again_ms = now + ASK_AGAIN_MS;
        idle--;
    }
}

static void on_flush_timer(uv_timer_t *timer)
{
    cut_batches(timer->data);
    hurry_embedding(timer->data);
}

void batcher_push(struct batcher *b, struct conversation *c)
{
    conversation_list_push(&b->backlog, c);
    if (b->backlog.count >= b->config.batch_size || b->urgent)
        cut_batches(b);
}

void batcher_set_urgent(struct batcher *b, bool urgent)
{
    b->urgent = urgent;
    if (!urgent)
        return;
    resume_paused(b);
    cut_batches(b);
}

void batcher_set_pace(struct batcher *b, uint64_t rows_per_second)
{
    b->rows_per_second = rows_per_second;
    resume_paused(b);
}

void batcher_load(const struct batcher *b, size_t *ret_count, size_t *ret_bytes)
{
    *ret_count = b->backlog.count + b->processing;
    *ret_bytes = b->backlog.bytes + b->processing_bytes;
}

uint64_t batcher_without_vector(const struct batcher *b)
{
    return b->without_vector;
}

bool batcher_is_writing(const struct batcher *b)
{
    return b->writing > 0;
}

struct batcher_status batcher_status(const struct batcher *b)
{
    struct batcher_status status = {.queued = b->backlog.count,
                                    .processing = b->processing,
                                    .bytes = b->backlog.bytes + b->processing_bytes,
                                    .without_vector = b->without_vector,
                                    .batches = b->batch_count,
                                    .rows_per_second = b->rows_per_second,
                                    .database = b->database,
                                    .last_error = b->last_error,
                                    .found = b->found};
    const struct batch *batch;

    if (b->backlog.head != NULL)
        status.oldest_arrived_us = conversation_header(b->backlog.head)->arrived_at_us;
    TAILQ_FOREACH(batch, &b->batches, link)
    for (size_t i = 0; i < batch->write.count; i++) {
        int64_t arrived = conversation_header(batch->write.rows[i].conversation)->arrived_at_us;

        if (status.oldest_arrived_us == 0 || arrived < status.oldest_arrived_us)
            status.oldest_arrived_us = arrived;
    }
    return status;
}

/* Start and end. */

/* With the loop's first turn: services need not wait for it. Where memory is short the first rows
 * tell. */
static void look_at_database(struct batcher *b)
{
    struct batch *batch = batch_cut(b, 0);

    if (batch == NULL)
        return;
    batch->state = BATCH_PAUSED;
    uv_timer_start(&b->retry_timer, on_retry_timer, 0, 0);
}

static void *start_writer(void *owner, unsigned index)
{
    struct batcher *b = owner;

    return b->pgwriters[index];
}

/* What the threads have is made before they start, so that a want of memory is told at once. */
static int start_writers(struct batcher *b)
{
    static const struct handoff_ops ops = {
        .thread_start = start_writer, .run = run_write, .done = on_written};
    unsigned count = b->config.write_threads;
    bool enough = true;

    b->pgwriters = calloc(count, sizeof *b->pgwriters);
    if (b->pgwriters == NULL)
        return -ENOMEM;
    for (unsigned i = 0; i < count; i++) {
        b->pgwriters[i] = pgwriter_new(&b->config.writer);
        enough = enough && b->pgwriters[i] != NULL;
    }
    return enough ? handoff_start(b->loop, "write", &ops, b, count, &b->writers) : -ENOMEM;
}

/* With its writers, whose threads have ended. */
static void free_batcher(struct batcher *b)
{
    for (unsigned i = 0; b->pgwriters != NULL && i < b->config.write_threads; i++)
        pgwriter_free(b->pgwriters[i]);
    free(b->pgwriters);
    free(b);
}

int batcher_start(uv_loop_t *loop, const struct batcher_config *config,
                  const struct batcher_callbacks *callbacks, void *owner,
                  struct embedding_stage *embedding, struct batcher **ret)
{
    struct batcher *b = calloc(1, sizeof *b);
    int rc;

    if (b == NULL)
        return -ENOMEM;
    b->loop = loop;
    b->config = *config;
    b->callbacks = *callbacks;
    b->owner = owner;
    b->embedding = embedding;
    b->source = embedding_source_of(config->writer.model.source);
    TAILQ_INIT(&b->batches);
    rc = start_writers(b);
    if (rc != 0) {
        free_batcher(b);
        return rc;
    }
    uv_timer_init(loop, &b->flush_timer);
    uv_timer_init(loop, &b->retry_timer);
    b->flush_timer.data = b->retry_timer.data = b;
    b->open_handles = 3;
    uv_timer_start(&b->flush_timer, on_flush_timer, config->flush_interval_ms,
                   config->flush_interval_ms);
    look_at_database(b);
    *ret = b;
    return 0;
}

void batcher_reconfigure(struct batcher *b, const struct batcher_config *config)
{
    b->config.batch_size = config->batch_size;
    b->config.batch_timeout_ms = config->batch_timeout_ms;
    b->config.max_attempts = config->max_attempts;
    if (b->config.flush_interval_ms != config->flush_interval_ms) {
        b->config.flush_interval_ms = config->flush_interval_ms;
        uv_timer_start(&b->flush_timer, on_flush_timer, config->flush_interval_ms,
                       config->flush_interval_ms);
    }
    cut_batches(b);
}

static void on_handle_gone(struct batcher *b)
{
    if (--b->open_handles > 0)
        return;
    if (b->on_closed != NULL)
        b->on_closed(b->owner);
    free_batcher(b);
}

static void on_timer_closed(uv_handle_t *handle)
{
    on_handle_gone(handle->data);
}

static void on_writers_closed(void *owner)
{
    on_handle_gone(owner);
}

static void drop_batches(struct batcher *b)
{
    struct conversation *c;
    struct batch *batch;

    while ((batch = TAILQ_FIRST(&b->batches)) != NULL) {
        if (batch->state == BATCH_EMBEDDING)
            embedding_stage_cancel(b->embedding, &batch->texts.order);
        for (size_t i = 0; i < batch->write.count; i++)
            conversation_free(batch->write.rows[i].conversation);
        batch_free(batch);
    }
    while ((c = conversation_list_pop(&b->backlog)) != NULL)
        conversation_free(c);
}

void batcher_close(struct batcher *b, void (*on_closed)(void *owner))
{
    b->closing = true;
    b->on_closed = on_closed;
    uv_close((uv_handle_t *)&b->flush_timer, on_timer_closed);
    uv_close((uv_handle_t *)&b->retry_timer, on_timer_closed);
    handoff_close(b->writers, on_writers_closed);
    drop_batches(b);
}
