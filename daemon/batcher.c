/* The backlog, and the batches on their way. Loop thread; the write workers see a batch only while
 * it is WRITING.
 *
 * A batch: cut -> EMBEDDING -> WRITING -> settled row by row, or PAUSED and WRITING again. The hard
 * thing is what a failure means for the others: while the database is down or stopped one batch
 * tries from time to time and all others stay where they are; the first success sets everything
 * going. A batch that fails twice alike while the database answers goes again row by row, so that
 * one bad row never holds its neighbours.
 *
 * Invariants: a conversation is in the backlog or in exactly one batch; no key stands twice in a
 * batch; at most max_concurrent_batches exist. */
#include "daemon/batcher.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "daemon/backoff.h"
#include "daemon/embedding_set.h"
#include "daemon/handoff.h"
#include "daemon/log.h"

#define RETRY_BASE_MS 100
#define RETRY_CAP_MS 10000
#define STOPPED_RETRY_MS 5000 /* trouble that waits for a person */
#define SUSPECT_TRIES 2       /* failures alike before a batch goes row by row */

enum batch_state {
    BATCH_EMBEDDING, /* waits for its vectors */
    BATCH_WRITING,   /* with a write worker, which owns it */
    BATCH_PAUSED,    /* failed; goes again at resume_at_ms */
};

struct batch {
    struct handoff_job job; /* first: the worker gets a pointer to it */
    struct batcher *batcher;
    enum batch_state state;
    unsigned suspect_failures;
    unsigned lost_in_flight; /* times that the connection went with this batch on it */
    char suspect_sqlstate[6];
    uint64_t resume_at_ms;
    uint64_t duration_ns;           /* of the last write */
    struct pgwriter_found found;    /* after the last write */
    struct conversation_list later; /* same keys as rows of this batch; youngest first */
    struct write_batch write;
    struct embedding_set texts;
    TAILQ_ENTRY(batch) link;
};

struct batcher {
    uv_loop_t *loop;
    struct batcher_config config;
    struct batcher_callbacks callbacks;
    void *owner;
    struct embedding_stage *embedding;
    enum embedding_source source;
    struct handoff *writers;
    uv_timer_t flush_timer;
    uv_timer_t retry_timer;
    unsigned open_handles;
    void (*on_closed)(void *owner);
    bool closing;
    bool urgent;
    uint64_t rows_per_second; /* the pace of writing; 0: as fast as it goes */
    uint64_t next_write_ms;   /* by that pace */
    struct conversation_list backlog;
    TAILQ_HEAD(batch_list, batch) batches; /* oldest first */
    unsigned batch_count;
    unsigned writing;
    size_t processing;
    size_t processing_bytes;
    uint64_t without_vector; /* rows that went into embedding_backlog */
    enum database_state database;
    unsigned failures; /* of the database, since it last answered */
    char last_error[288];
    struct pgwriter_found found;
};

static void cut_batches(struct batcher *b);
static void resume_paused(struct batcher *b);

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

static bool database_answers(const struct batcher *b)
{
    return b->database == DATABASE_UP || b->database == DATABASE_UNTRIED;
}

/* Batches begin and end. */

static void batch_free(struct batch *batch)
{
    struct batcher *b = batch->batcher;
    struct conversation *c;

    TAILQ_REMOVE(&b->batches, batch, link);
    b->batch_count--;
    b->processing -= batch->later.count;
    b->processing_bytes -= batch->later.bytes;
    while ((c = conversation_list_pop(&batch->later)) != NULL)
        conversation_list_push_front(&b->backlog, c);
    embedding_set_done(&batch->texts);
    free(batch->write.rows);
    free(batch);
}

static struct batch *batch_new(struct batcher *b, size_t count)
{
    struct batch *batch = calloc(1, sizeof *batch);

    if (batch == NULL)
        return NULL;
    batch->batcher = b;
    batch->write.rows = calloc(count, sizeof *batch->write.rows);
    TAILQ_INSERT_TAIL(&b->batches, batch, link);
    b->batch_count++;
    if (batch->write.rows != NULL)
        return batch;
    batch_free(batch);
    return NULL;
}

static int compare_rows(const void *left, const void *right)
{
    const struct conversation *a = ((const struct write_row *)left)->conversation;
    const struct conversation *b = ((const struct write_row *)right)->conversation;
    int order = conversation_compare(a, b);

    return order != 0 ? order : (a->seq > b->seq) - (a->seq < b->seq);
}

/* Sorts the rows; of those with the same key the first stays and the others wait until this batch
 * is done, so that the first to come is the row. */
static void sort_rows(struct batch *batch)
{
    struct write_row *rows = batch->write.rows;
    size_t kept = 0;

    qsort(rows, batch->write.count, sizeof rows[0], compare_rows);
    for (size_t i = 0; i < batch->write.count; i++) {
        struct conversation *c = rows[i].conversation;

        if (kept > 0 && conversation_compare(rows[kept - 1].conversation, c) == 0)
            conversation_list_push_front(&batch->later, c);
        else
            rows[kept++].conversation = c;
    }
    batch->write.count = kept;
}

static void fill_batch(struct batch *batch, size_t count)
{
    struct batcher *b = batch->batcher;

    for (size_t i = 0; i < count; i++)
        batch->write.rows[i].conversation = conversation_list_pop(&b->backlog);
    batch->write.count = count;
    sort_rows(batch);
    b->processing += count;
    b->processing_bytes += batch->later.bytes;
    for (size_t i = 0; i < batch->write.count; i++)
        b->processing_bytes += conversation_bytes(batch->write.rows[i].conversation);
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

static void write_batch(struct batch *batch)
{
    struct batcher *b = batch->batcher;

    batch->state = BATCH_WRITING;
    b->writing++;
    handoff_submit(b->writers, &batch->job);
}

/* When a batch of `count` rows may be written that is ready now. */
static uint64_t paced_ms(struct batcher *b, size_t count)
{
    uint64_t now = uv_now(b->loop);
    uint64_t start = b->next_write_ms > now ? b->next_write_ms : now;

    if (b->rows_per_second == 0 || b->urgent)
        return 0;
    b->next_write_ms = start + count * 1000 / b->rows_per_second;
    return start;
}

/* resume_paused() knows who may write now. */
static void write_when_allowed(struct batch *batch)
{
    batch->write.vectors = batch->texts.vectors;
    batch->write.vector_count = batch->texts.vector_count;
    batch->state = BATCH_PAUSED;
    batch->resume_at_ms = paced_ms(batch->batcher, batch->write.count);
    resume_paused(batch->batcher);
}

static void on_vectors(struct embedding_order *order)
{
    struct batch *batch = (struct batch *)((char *)order - offsetof(struct batch, texts.order));

    embedding_set_collect(&batch->texts);
    write_when_allowed(batch);
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
    batch->texts.order.on_done = on_vectors;
    embedding_stage_want(b->embedding, &batch->texts.order);
}

/* Settling. */

/* Gives away the rows that have their verdict and closes the gaps; vectors follow their rows. */
static void settle_rows(struct batch *batch)
{
    struct batcher *b = batch->batcher;
    struct write_row *rows = batch->write.rows;
    struct write_vector *all = batch->texts.vectors;
    size_t kept = 0, vectors = 0, v = 0;

    for (size_t i = 0; i < batch->write.count; i++) {
        struct conversation *c = rows[i].conversation;
        bool settled = rows[i].verdict != ROW_PENDING;
        bool has_vector = v < batch->write.vector_count && all[v].row == i;

        b->without_vector +=
            rows[i].verdict == ROW_STORED && !has_vector && b->config.writer.model.dimension > 0;
        for (; v < batch->write.vector_count && all[v].row == i; v++)
            if (!settled) {
                all[vectors] = all[v];
                all[vectors++].row = (uint32_t)kept;
            }
        if (!settled) {
            rows[kept++] = rows[i];
            continue;
        }
        b->processing--;
        b->processing_bytes -= conversation_bytes(c);
        b->callbacks.on_row(b->owner, c, rows[i].verdict);
    }
    batch->write.count = kept;
    batch->write.vector_count = vectors;
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

/* Such trouble batch.max_attempts times: row by row, and those that fail again are set aside. */
static void retry_batch(struct batch *batch)
{
    struct batcher *b = batch->batcher;
    struct write_batch *w = &batch->write;

    if (may_be_own_fault(w) && count_attempt(w) + 1 >= b->config.max_attempts) {
        if (!w->last_attempt)
            log_warning("batch.last_attempt rows=%zu sqlstate=%s error=\"%s\"", w->count,
                        w->sqlstate, w->error);
        w->isolate = w->last_attempt = true;
    }
    pause_batch(batch, backoff_ms(++b->failures, RETRY_BASE_MS, RETRY_CAP_MS));
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
    log_warning("batch.suspect rows=%zu sqlstate=%s error=\"%s\" next=%s", w->count, w->sqlstate,
                w->error, w->isolate ? "row-by-row" : "again");
    pause_batch(batch, data_error ? 0 : backoff_ms(attempts, RETRY_BASE_MS, RETRY_CAP_MS));
}

/* A commit whose answer was lost may have happened: what conflicts next time is our own. */
static void mark_replayed(struct batch *batch)
{
    for (size_t i = 0; i < batch->write.count; i++)
        batch->write.rows[i].conversation->replayed = true;
}

static void on_outcome(struct batch *batch)
{
    struct batcher *b = batch->batcher;
    const struct write_batch *w = &batch->write;

    switch (w->outcome) {
    case WRITE_DONE:
        b->failures = 0;
        set_database(b, DATABASE_UP, "", "");
        assert(w->count == 0);
        break;
    case WRITE_RETRY:
        set_database(b, DATABASE_UP, w->sqlstate, w->error);
        retry_batch(batch);
        break;
    case WRITE_UNREACHABLE:
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
        set_database(b, DATABASE_STOPPED, w->sqlstate, w->error);
        pause_batch(batch, STOPPED_RETRY_MS);
        break;
    }
    if (w->count == 0)
        batch_free(batch);
}

static void on_written(void *owner, struct handoff_job *job)
{
    struct batcher *b = owner;
    struct batch *batch = (struct batch *)job;
    bool answered_before = database_answers(b);
    size_t rows = batch->write.count;

    b->writing--;
    if (batch->found.connected)
        b->found = batch->found;
    b->callbacks.on_write(b->owner, batch->duration_ns, batch->write.outcome);
    settle_rows(batch);
    if (b->callbacks.on_timeline != NULL)
        b->callbacks.on_timeline(b->owner, batch->found.timeline, batch->write.count < rows);
    on_outcome(batch);
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
 * a time. */
static void resume_paused(struct batcher *b)
{
    uint64_t now = uv_now(b->loop);
    uint64_t next = UINT64_MAX;
    struct batch *batch;

    TAILQ_FOREACH(batch, &b->batches, link)
    {
        if (batch->state != BATCH_PAUSED)
            continue;
        if (batch->resume_at_ms > now) {
            next = batch->resume_at_ms < next ? batch->resume_at_ms : next;
            continue;
        }
        if (database_answers(b) || b->writing == 0)
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

/* Cuts while there is something to cut and somebody to take it. While the database does not answer
 * one batch at a time tries it, and the backlog stays where it is. */
static void cut_batches(struct batcher *b)
{
    while (b->backlog.count > 0 && b->batch_count < b->config.max_concurrent_batches &&
           (database_answers(b) || b->batch_count == 0)) {
        size_t count = b->backlog.count;
        struct batch *batch;

        if (count < b->config.batch_size && !b->urgent && !oldest_is_due(b))
            return;
        if (count > b->config.batch_size)
            count = b->config.batch_size;
        batch = batch_new(b, count);
        if (batch == NULL)
            return; /* memory is short: the timer comes again */
        fill_batch(batch, count);
        embed_batch(batch);
    }
}

static void on_flush_timer(uv_timer_t *timer)
{
    cut_batches(timer->data);
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
    if (urgent)
        cut_batches(b);
}

void batcher_set_pace(struct batcher *b, uint64_t rows_per_second)
{
    b->rows_per_second = rows_per_second;
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

struct batcher_status batcher_status(const struct batcher *b)
{
    struct batcher_status status = {.queued = b->backlog.count,
                                    .processing = b->processing,
                                    .bytes = b->backlog.bytes + b->processing_bytes,
                                    .without_vector = b->without_vector,
                                    .batches = b->batch_count,
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

static void *start_writer(void *owner, unsigned index)
{
    struct batcher *b = owner;

    (void)index;
    return pgwriter_new(&b->config.writer);
}

static void stop_writer(void *owner, void *state)
{
    (void)owner;
    pgwriter_free(state);
}

int batcher_start(uv_loop_t *loop, const struct batcher_config *config,
                  const struct batcher_callbacks *callbacks, void *owner,
                  struct embedding_stage *embedding, struct batcher **ret)
{
    static const struct handoff_ops ops = {.thread_start = start_writer,
                                           .thread_stop = stop_writer,
                                           .run = run_write,
                                           .done = on_written};
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
    rc = handoff_start(loop, "write", &ops, b, config->write_threads, &b->writers);
    if (rc != 0) {
        free(b);
        return rc;
    }
    uv_timer_init(loop, &b->flush_timer);
    uv_timer_init(loop, &b->retry_timer);
    b->flush_timer.data = b->retry_timer.data = b;
    b->open_handles = 3;
    uv_timer_start(&b->flush_timer, on_flush_timer, config->flush_interval_ms,
                   config->flush_interval_ms);
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
    free(b);
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
