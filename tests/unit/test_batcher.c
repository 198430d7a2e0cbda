/* When batches leave, and how they come through a database that fails. The writer and the embedding
 * stage are stand-ins here: each write asks `script` for its outcome. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/batcher.h"
#include "daemon/pgconn.h"

#define MAX_WRITES 4096

struct seen_write {
    size_t count;
    size_t vectors;
    bool isolate;
    bool last_attempt;
    enum write_outcome outcome;
};

/* What the stand-in writer saw and shall do; under the lock. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct seen_write seen[MAX_WRITES];
static size_t seen_count;
static unsigned writing, most_writing;
static void (*script)(size_t number, struct write_batch *batch);
static unsigned write_ms, look_ms;

struct pgwriter {
    int unused;
};

static bool no_memory;

struct pgwriter *pgwriter_new(const struct pgwriter_config *config)
{
    (void)config;
    return no_memory ? NULL : calloc(1, sizeof(struct pgwriter));
}

void pgwriter_free(struct pgwriter *w)
{
    free(w);
}

/* Of the last connection; only where one writer writes. */
static struct pgwriter_found found;

struct pgwriter_found pgwriter_found(const struct pgwriter *w)
{
    (void)w;
    return found;
}

static void store_all(struct write_batch *batch)
{
    for (size_t i = 0; i < batch->count; i++)
        batch->rows[i].verdict = ROW_STORED;
    batch->outcome = WRITE_DONE;
    batch->sqlstate[0] = batch->error[0] = '\0';
}

/* At the start: a batch without rows. Nothing else may be written beside it. */
static void look(struct write_batch *batch)
{
    if (look_ms > 0)
        usleep(look_ms * 1000);
    pthread_mutex_lock(&lock);
    assert_int_equal(writing, 0);
    pthread_mutex_unlock(&lock);
    store_all(batch);
}

void pgwriter_write(struct pgwriter *w, struct write_batch *batch)
{
    size_t number;

    (void)w;
    if (batch->count == 0) {
        look(batch);
        return;
    }
    pthread_mutex_lock(&lock);
    number = seen_count++;
    if (++writing > most_writing)
        most_writing = writing;
    assert_true(number < MAX_WRITES);
    seen[number] = (struct seen_write){.count = batch->count,
                                       .vectors = batch->vector_count,
                                       .isolate = batch->isolate,
                                       .last_attempt = batch->last_attempt};
    pthread_mutex_unlock(&lock);
    if (write_ms > 0)
        usleep(write_ms * 1000);
    if (script != NULL)
        script(number, batch);
    else
        store_all(batch);
    pthread_mutex_lock(&lock);
    seen[number].outcome = batch->outcome;
    writing--;
    pthread_mutex_unlock(&lock);
}

/* Orders are answered from the loop, as the real stage does. */
static struct embedding_order *held_order;
static bool hold_orders;
static size_t cached_texts; /* the first ones of each order are in the cache */
static uv_idle_t answering;
static struct embedding_order *orders[16];
static unsigned order_count;

static void on_answering(uv_idle_t *idle)
{
    uv_idle_stop(idle);
    while (order_count > 0) {
        struct embedding_order *order = orders[--order_count];

        for (size_t i = 0; i < order->count; i++) {
            assert_non_null(order->items[i].text.data);
            if (!order->cached_only || i < cached_texts)
                order->items[i].vector = vector_new(4);
        }
        order->on_done(order);
    }
}

void embedding_stage_want(struct embedding_stage *stage, struct embedding_order *order)
{
    (void)stage;
    if (hold_orders && !order->cached_only) {
        held_order = order;
        return;
    }
    orders[order_count++] = order;
    uv_idle_start(&answering, on_answering);
}

void embedding_stage_hurry(struct embedding_stage *stage, struct embedding_order *order)
{
    (void)stage;
    assert_ptr_equal(order, held_order);
    held_order = NULL;
    hold_orders = false;
    order->on_done(order);
}

void embedding_stage_cancel(struct embedding_stage *stage, struct embedding_order *order)
{
    (void)stage;
    assert_ptr_equal(order, held_order);
    held_order = NULL;
}

/* What came out. */
struct fixture {
    uv_loop_t loop;
    struct batcher *batcher;
    uv_timer_t guard;
    uv_timer_t timer; /* the test's own */
    size_t expected, rows;
    unsigned verdicts[4];
    uint64_t last_seq;
    size_t replayed;
    bool closed;
};

static void on_closed(void *owner)
{
    ((struct fixture *)owner)->closed = true;
}

static void fixture_close(struct fixture *f)
{
    uv_close((uv_handle_t *)&f->guard, NULL);
    uv_close((uv_handle_t *)&f->timer, NULL);
    uv_close((uv_handle_t *)&answering, NULL);
    batcher_close(f->batcher, on_closed);
}

static void on_row(void *owner, struct conversation *c, enum row_verdict verdict)
{
    struct fixture *f = owner;

    f->verdicts[verdict]++;
    f->replayed += c->replayed;
    conversation_free(c);
    if (++f->rows == f->expected)
        uv_stop(&f->loop);
}

static char timelines_told[64]; /* each, a `+` where rows were settled with it */

static void on_timeline(void *owner, uint32_t timeline, bool settled)
{
    size_t len = strlen(timelines_told);

    (void)owner;
    if (len < sizeof timelines_told / 2)
        snprintf(timelines_told + len, sizeof timelines_told - len, "%u%s ", timeline,
                 settled ? "+" : "");
}

static void on_write(void *owner, size_t rows, uint64_t duration_ns, enum write_outcome outcome)
{
    (void)owner;
    (void)rows;
    (void)duration_ns;
    (void)outcome;
}

static void on_room(void *owner)
{
    (void)owner;
}

static void on_guard(uv_timer_t *timer)
{
    (void)timer;
    fail_msg("nothing came out within 20 s");
}

static struct batcher_config config_of(size_t batch_size, uint64_t batch_timeout_ms)
{
    return (struct batcher_config){.batch_size = batch_size,
                                   .flush_interval_ms = 5,
                                   .batch_timeout_ms = batch_timeout_ms,
                                   .max_concurrent_batches = 4,
                                   .write_threads = 2,
                                   .max_attempts = 3,
                                   .writer.model.source = "transcript"};
}

static struct fixture *fixture_with(struct batcher_config config)
{
    static const struct batcher_callbacks callbacks = {
        .on_row = on_row, .on_write = on_write, .on_timeline = on_timeline, .on_room = on_room};
    struct fixture *f = calloc(1, sizeof *f);

    found = (struct pgwriter_found){.connected = true, .server_version = 150000};
    timelines_told[0] = '\0';
    seen_count = 0;
    most_writing = 0;
    script = NULL;
    write_ms = 0;
    hold_orders = false;
    cached_texts = 0;
    uv_loop_init(&f->loop);
    uv_timer_init(&f->loop, &f->guard);
    uv_timer_init(&f->loop, &f->timer);
    f->timer.data = f;
    uv_timer_start(&f->guard, on_guard, 20000, 0);
    uv_idle_init(&f->loop, &answering);
    assert_int_equal(batcher_start(&f->loop, &config, &callbacks, f, NULL, &f->batcher), 0);
    return f;
}

static struct fixture *fixture_new(size_t batch_size, uint64_t batch_timeout_ms)
{
    return fixture_with(config_of(batch_size, batch_timeout_ms));
}

static void fixture_end(struct fixture *f)
{
    fixture_close(f);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_true(f->closed);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    free(f);
}

static void push_key(struct fixture *f, unsigned key)
{
    struct conversation_fields fields = {
        .user_id = {"ann", 3}, .platform = {"web", 3}, .transcript = {"hello", 5}};
    uint8_t id[16] = {(uint8_t)(key >> 8), (uint8_t)key};
    struct conversation *c = conversation_new(&fields, id, 1);

    assert_non_null(c);
    c->seq = ++f->last_seq;
    c->read_ns = uv_hrtime();
    f->expected++;
    batcher_push(f->batcher, c);
}

static void push(struct fixture *f, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        push_key(f, (unsigned)f->last_seq);
}

static void run_until_all(struct fixture *f)
{
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(f->rows, f->expected);
    assert_int_equal(batcher_status(f->batcher).queued, 0);
    assert_int_equal(batcher_status(f->batcher).processing, 0);
    assert_int_equal(batcher_status(f->batcher).bytes, 0);
}

static void test_size_trigger(void **state)
{
    struct fixture *f = fixture_new(10, 60000);

    (void)state;
    push(f, 30);
    run_until_all(f);
    assert_int_equal(seen_count, 3);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(seen[i].count, 10);
        assert_int_equal(seen[i].vectors, 10);
    }
    fixture_end(f);
}

static void test_age_trigger(void **state)
{
    struct fixture *f = fixture_new(10, 30);

    (void)state;
    push(f, 3);
    run_until_all(f);
    assert_int_equal(seen_count, 1);
    assert_int_equal(seen[0].count, 3);
    fixture_end(f);
}

static void test_urgent(void **state)
{
    struct fixture *f = fixture_new(10, 60000);

    (void)state;
    push(f, 3);
    batcher_set_urgent(f->batcher, true);
    run_until_all(f);
    assert_int_equal(seen_count, 1);
    fixture_end(f);
}

static void test_at_most_so_many_at_once(void **state)
{
    struct fixture *f = fixture_new(1, 0);

    (void)state;
    write_ms = 5;
    push(f, 50);
    assert_int_equal(batcher_status(f->batcher).batches, 4);
    run_until_all(f);
    assert_int_equal(most_writing, 2);
    fixture_end(f);
}

/* Goal: until the database has answered nobody tries beside the first; then all do. */
static void test_one_until_the_first_answer(void **state)
{
    struct fixture *f;

    (void)state;
    look_ms = 50;
    f = fixture_new(1, 0);
    write_ms = 50;
    push(f, 4);
    run_until_all(f); /* look() has seen that none of them went before its end */
    assert_int_equal(most_writing, 2);
    fixture_end(f);
    look_ms = 0;
}

static void down_for_five(size_t number, struct write_batch *batch)
{
    if (number < 5) {
        batch->outcome = WRITE_UNREACHABLE;
        strcpy(batch->error, "connection refused");
        strcpy(batch->sqlstate, "08006");
    } else {
        store_all(batch);
    }
}

/* While the database is down one batch tries at a time, and all rows come through in the end. */
static void test_unreachable(void **state)
{
    struct fixture *f = fixture_new(10, 60000);

    (void)state;
    script = down_for_five;
    write_ms = 2;
    push(f, 100);
    run_until_all(f);
    assert_int_equal(f->verdicts[ROW_STORED], 100);
    assert_true(f->replayed >= 10); /* a lost answer may hide a commit */
    for (size_t i = 0; i < seen_count; i++)
        assert_false(seen[i].isolate);
    assert_int_equal(batcher_status(f->batcher).database, DATABASE_UP);
    assert_string_equal(batcher_status(f->batcher).last_error, "");
    fixture_end(f);
}

/* A line that breaks with the second commit, each time. */
static void one_row_a_line(size_t number, struct write_batch *batch)
{
    if (number < 2) {
        batch->lost_in_flight = true;
    } else {
        assert_true(batch->isolate);
        batch->rows[0].verdict = ROW_STORED;
    }
    if (batch->count == 1 && number >= 2)
        batch->outcome = WRITE_DONE;
    else
        batch->outcome = WRITE_UNREACHABLE;
}

/* Goal: where each try brings a row through before the line breaks, the pauses do not grow: 40
 * tries with pauses of up to 10 s would take a minute. */
static void test_progress_over_a_bad_line(void **state)
{
    struct fixture *f = fixture_new(20, 60000);

    (void)state;
    script = one_row_a_line;
    push(f, 20);
    run_until_all(f);
    assert_int_equal(seen_count, 22);
    assert_int_equal(f->verdicts[ROW_STORED], 20);
    fixture_end(f);
}

/* A standby is promoted: the connection to the old server breaks, and so does the next try. */
static void promote(size_t number, struct write_batch *batch)
{
    found.connected = number == 0 || number == 3;
    found.timeline = number == 3 ? 2 : 1; /* one that fails knows only the server before it */
    if (found.connected)
        store_all(batch);
    else
        batch->outcome = WRITE_UNREACHABLE;
}

/* Goal: a timeline is told of connections that were made, not of tries that failed. */
static void test_timelines(void **state)
{
    struct batcher_config config = config_of(1, 0);
    struct fixture *f;

    (void)state;
    config.write_threads = 1;
    f = fixture_with(config);
    script = promote;
    push(f, 2);
    run_until_all(f);
    assert_string_equal(timelines_told, "0 1+ 2+ ");
    fixture_end(f);
}

static void poison(size_t number, struct write_batch *batch)
{
    (void)number;
    if (!batch->isolate) {
        batch->outcome = WRITE_SUSPECT;
        strcpy(batch->sqlstate, "23514");
        return;
    }
    store_all(batch);
    batch->rows[4].verdict = ROW_DEAD;
}

static void test_poison_row_goes_alone(void **state)
{
    struct fixture *f = fixture_new(10, 60000);

    (void)state;
    script = poison;
    push(f, 10);
    run_until_all(f);
    assert_int_equal(seen_count, 2);
    assert_true(seen[1].isolate);
    assert_int_equal(f->verdicts[ROW_STORED], 9);
    assert_int_equal(f->verdicts[ROW_DEAD], 1);
    fixture_end(f);
}

static void internal_error(size_t number, struct write_batch *batch)
{
    (void)number;
    if (!batch->isolate) {
        batch->outcome = WRITE_SUSPECT;
        strcpy(batch->sqlstate, "XX000");
        return;
    }
    if (!batch->last_attempt) { /* some rows through, then the backend dies again */
        for (size_t i = 0; i < batch->count / 2; i++)
            batch->rows[i].verdict = ROW_STORED;
        batch->outcome = WRITE_SUSPECT;
        strcpy(batch->sqlstate, "XX000");
        return;
    }
    store_all(batch);
    batch->rows[0].verdict = ROW_DEAD;
}

/* An error that may pass is tried twice as it is before the rows go alone, and never for ever. */
static void test_suspect_twice_then_alone_then_dead(void **state)
{
    struct fixture *f = fixture_new(8, 60000);

    (void)state;
    script = internal_error;
    push(f, 8);
    run_until_all(f);
    assert_false(seen[0].isolate);
    assert_false(seen[1].isolate);
    assert_true(seen[2].isolate);
    assert_true(seen[seen_count - 1].last_attempt);
    assert_true(seen_count <= 5);
    assert_int_equal(f->verdicts[ROW_DEAD], 1);
    assert_int_equal(f->verdicts[ROW_STORED], 7);
    fixture_end(f);
}

/* One row that never gets through, with what the server says of it; the others do. */
static const char *retry_sqlstate;
static bool may_end;

static void hold_one_row(size_t number, struct write_batch *batch)
{
    (void)number;
    store_all(batch);
    if (may_end && !batch->last_attempt)
        return;
    if (batch->isolate && batch->last_attempt) {
        batch->rows[0].verdict = ROW_DEAD;
        return;
    }
    batch->rows[0].verdict = ROW_PENDING;
    batch->outcome = WRITE_RETRY;
    strcpy(batch->sqlstate, retry_sqlstate);
}

/* A row that a trigger drops in silence, or that takes too long every time, is set aside after
 * max_attempts (3 here); its neighbours are through long before. */
static void test_retry_that_is_a_rows_own_fault_ends(void **state)
{
    static const char *const own[] = {"", "57014", "53200"};

    (void)state;
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        struct fixture *f = fixture_new(8, 60000);

        retry_sqlstate = own[i];
        may_end = false;
        script = hold_one_row;
        push(f, 8);
        run_until_all(f);
        assert_int_equal(seen_count, 3);
        assert_false(seen[1].isolate || seen[1].last_attempt);
        assert_true(seen[2].isolate && seen[2].last_attempt);
        assert_int_equal(seen[1].count, 1);
        assert_int_equal(f->verdicts[ROW_DEAD], 1);
        assert_int_equal(f->verdicts[ROW_STORED], 7);
        fixture_end(f);
    }
}

/* A lock, a deadlock, a full disk, too many connections: tried again for as long as it takes. */
static void be_held_up(size_t number, struct write_batch *batch)
{
    static const char *const reasons[] = {"55P03", "40P01", "53100",
                                          "53300", "25006", PG_NO_MEMORY};

    may_end = number == sizeof reasons / sizeof *reasons; /* more than max_attempts, which is 3 */
    retry_sqlstate = may_end ? "" : reasons[number];
    hold_one_row(number, batch);
}

static void test_retry_that_is_nobodys_fault_never_ends_in_dead_letters(void **state)
{
    struct fixture *f = fixture_new(8, 60000);

    (void)state;
    script = be_held_up;
    push(f, 8);
    run_until_all(f);
    assert_int_equal(seen_count, 7);
    for (size_t i = 0; i < seen_count; i++)
        assert_false(seen[i].last_attempt);
    assert_int_equal(f->verdicts[ROW_STORED], 8);
    fixture_end(f);
}

static void kill_backend(size_t number, struct write_batch *batch)
{
    (void)number;
    batch->outcome = WRITE_UNREACHABLE;
    batch->lost_in_flight = !batch->isolate;
    batch->sqlstate[0] = '\0';
    if (!batch->isolate)
        return;
    store_all(batch);
    batch->rows[0].verdict = batch->last_attempt ? ROW_DEAD : ROW_PENDING;
    batch->outcome = batch->last_attempt ? WRITE_DONE : WRITE_SUSPECT;
}

/* Each try of a row that kills its backend restarts the server: two with the batch, one alone to be
 * sure of the row, one to bury it. */
static void test_a_row_that_kills_its_backend_is_not_tried_on_and_on(void **state)
{
    struct fixture *f = fixture_new(8, 60000);

    (void)state;
    script = kill_backend;
    push(f, 8);
    run_until_all(f);
    assert_int_equal(seen_count, 4);
    assert_false(seen[1].isolate);
    assert_true(seen[2].isolate);
    assert_false(seen[2].last_attempt);
    assert_true(seen[3].last_attempt);
    assert_int_equal(f->verdicts[ROW_DEAD], 1);
    assert_int_equal(f->verdicts[ROW_STORED], 7);
    fixture_end(f);
}

static unsigned key_of(const struct write_row *row)
{
    const uint8_t *id = conversation_header(row->conversation)->id;

    return (unsigned)id[0] << 8 | id[1];
}

/* A row stays pending, and with it the whole batch where it does not go row by row. */
static void leave_pending(struct write_batch *batch, size_t row, enum write_outcome outcome,
                          const char *sqlstate)
{
    for (size_t i = 0; !batch->isolate && i < batch->count; i++)
        batch->rows[i].verdict = ROW_PENDING;
    batch->rows[row].verdict = ROW_PENDING;
    batch->outcome = outcome;
    batch->refused = true;
    strcpy(batch->sqlstate, sqlstate);
}

/* Some rows meet what is the database's own trouble as a rule, and nobody else does: a right, for
 * ever, or a block that cannot be read, so often. */
#define BAD_KEYS 7
static atomic_size_t unreadable;

static void refuse_low_keys(size_t number, struct write_batch *batch)
{
    bool right = strcmp(retry_sqlstate, "42501") == 0;

    (void)number;
    store_all(batch);
    for (size_t i = 0; i < batch->count; i++) {
        if (key_of(&batch->rows[i]) >= BAD_KEYS)
            continue;
        if (right && batch->last_attempt) {
            assert_string_equal(batch->own_sqlstate, retry_sqlstate);
            batch->rows[i].verdict = ROW_DEAD;
        } else if (right || unreadable > 0) {
            leave_pending(batch, i, right ? WRITE_STOPPED : WRITE_UNREACHABLE, retry_sqlstate);
            unreadable -= unreadable > 0;
        }
    }
}

static void push_one(uv_timer_t *timer)
{
    struct fixture *f = timer->data;

    if (f->rows + 1 < f->expected || f->verdicts[ROW_STORED] == 0)
        push(f, 1);
}

/* Goal: a right that a few rows lack, a bad block that they meet, whether they come together with
 * others or more of them alone than batches may be under way: those who come beside and after them
 * are stored. What the right is about is set aside then; what a shard or a disk may get over is
 * not. */
static void check_trouble_of_some_rows(const char *sqlstate, size_t batch_size)
{
    struct fixture *f = fixture_new(batch_size, 0);
    bool right = strcmp(sqlstate, "42501") == 0;

    retry_sqlstate = sqlstate;
    unreadable = 24;
    script = refuse_low_keys;
    uv_timer_start(&f->timer, push_one, 20, 20);
    push(f, 16);
    run_until_all(f);
    assert_int_equal(f->verdicts[ROW_DEAD], right ? BAD_KEYS : 0);
    assert_int_equal(f->verdicts[ROW_STORED], f->expected - f->verdicts[ROW_DEAD]);
    assert_int_equal(batcher_status(f->batcher).database, DATABASE_UP);
    fixture_end(f);
}

static void test_trouble_of_some_rows(void **state)
{
    (void)state;
    check_trouble_of_some_rows("42501", 16);
    check_trouble_of_some_rows("42501", 1);
    check_trouble_of_some_rows("58030", 16);
    check_trouble_of_some_rows("58030", 1);
}

static void refuse_until_others_came(size_t number, struct write_batch *batch)
{
    (void)number;
    store_all(batch);
    for (size_t i = 0; i < batch->count; i++)
        if (key_of(&batch->rows[i]) < BAD_KEYS && !batch->last_attempt)
            leave_pending(batch, i, WRITE_STOPPED, "42501");
}

static void check_up_and_push(uv_timer_t *timer)
{
    struct fixture *f = timer->data;

    assert_int_equal(batcher_status(f->batcher).database, DATABASE_UP);
    assert_int_equal(f->rows, 9);
    uv_timer_start(timer, push_one, 20, 20);
}

/* Goal: rows that were refused beside others that came through are known to be alone with it: in a
 * quiet time nothing is said to have stopped, and who comes then is stored. */
static void test_a_quiet_time_after_trouble_of_some_rows(void **state)
{
    struct fixture *f = fixture_new(16, 0);

    (void)state;
    script = refuse_until_others_came;
    uv_timer_start(&f->timer, check_up_and_push, 2000, 0);
    push(f, 16);
    run_until_all(f);
    assert_int_equal(batcher_status(f->batcher).database, DATABASE_UP);
    fixture_end(f);
}

/* All rows meet it, until it is mended after the tenth try. */
static void refuse_ten(size_t number, struct write_batch *batch)
{
    store_all(batch);
    for (size_t i = 0; number < 10 && i < batch->count; i++)
        leave_pending(batch, i, WRITE_STOPPED, "42P01");
}

static void check_stopped(uv_timer_t *timer)
{
    const struct fixture *f = timer->data;
    struct batcher_status status = batcher_status(f->batcher);

    assert_int_equal(status.database, DATABASE_STOPPED);
    assert_int_equal(status.batches, 5);
    assert_int_equal(status.queued, 300);
    assert_int_equal(seen_count, 10);
}

/* Goal: trouble of the database's own holds everybody, and a few batches have found that out: each
 * of them tried twice, the second time row by row, and then all wait. Nothing is set aside. */
static void test_trouble_of_all_rows(void **state)
{
    struct fixture *f = fixture_new(20, 0);

    (void)state;
    script = refuse_ten;
    uv_timer_start(&f->timer, check_stopped, 2000, 0);
    push(f, 400);
    run_until_all(f);
    assert_int_equal(f->verdicts[ROW_STORED], 400);
    assert_int_equal(batcher_status(f->batcher).database, DATABASE_UP);
    fixture_end(f);
}

static atomic_size_t stored_beside;

static void lock_keys_below_5(size_t number, struct write_batch *batch)
{
    (void)number;
    store_all(batch);
    for (size_t i = 0; i < batch->count; i++)
        if (key_of(&batch->rows[i]) >= 5)
            stored_beside++;
        else if (stored_beside < 50)
            leave_pending(batch, i, WRITE_RETRY, "55P03");
}

/* Goal: more keys are locked than batches may be under way, and each is in one: all others pass. */
static void test_locked_keys_hold_nobody_up(void **state)
{
    struct fixture *f = fixture_new(1, 0);

    (void)state;
    stored_beside = 0;
    script = lock_keys_below_5;
    push(f, 55);
    run_until_all(f);
    assert_int_equal(f->verdicts[ROW_STORED], 55);
    fixture_end(f);
}

static void no_duplicates_inside(size_t number, struct write_batch *batch)
{
    (void)number;
    for (size_t i = 1; i < batch->count; i++)
        assert_true(
            conversation_compare(batch->rows[i - 1].conversation, batch->rows[i].conversation) < 0);
    store_all(batch);
}

static void test_sorted_and_no_key_twice(void **state)
{
    struct fixture *f = fixture_new(10, 10);

    (void)state;
    script = no_duplicates_inside;
    for (unsigned i = 0; i < 40; i++)
        push_key(f, (i * 7) % 5);
    run_until_all(f);
    fixture_end(f);
}

static void keep_order(size_t number, struct write_batch *batch)
{
    assert_int_equal(batch->count, 1);
    assert_int_equal(batch->rows[0].conversation->seq, number + 1);
    store_all(batch);
}

/* However many writers there are, the first of several with one key is written before the next. */
static void test_same_key_in_order(void **state)
{
    struct fixture *f = fixture_new(8, 10);

    (void)state;
    script = keep_order;
    write_ms = 5;
    for (unsigned i = 0; i < 8; i++)
        push_key(f, 1);
    run_until_all(f);
    assert_int_equal(seen_count, 8);
    fixture_end(f);
}

static void stop_once(size_t number, struct write_batch *batch)
{
    if (number > 0) {
        store_all(batch);
        return;
    }
    batch->outcome = WRITE_STOPPED;
    strcpy(batch->sqlstate, "42501");
    strcpy(batch->error, "permission denied");
}

static void test_stopped(void **state)
{
    struct fixture *f = fixture_new(2, 60000);

    (void)state;
    script = stop_once;
    push(f, 2);
    while (batcher_status(f->batcher).database != DATABASE_STOPPED)
        uv_run(&f->loop, UV_RUN_ONCE);
    assert_string_equal(batcher_status(f->batcher).last_error, "42501: permission denied");
    push(f, 20); /* accepted, and not one of them is tried meanwhile */
    uv_run(&f->loop, UV_RUN_NOWAIT);
    assert_int_equal(seen_count, 1);
    run_until_all(f);
    fixture_end(f);
}

static void push_paced(struct fixture *f, uint64_t rows_per_second)
{
    batcher_set_pace(f->batcher, rows_per_second);
    push(f, 30); /* the second and third batch wait for their turn */
    uv_run(&f->loop, UV_RUN_NOWAIT);
    while (batcher_status(f->batcher).processing > 20)
        uv_run(&f->loop, UV_RUN_ONCE);
}

/* Goal: a flush, a forget and a drain do not wait for the pace that was set before. */
static void test_urgency_ends_a_pace(void **state)
{
    struct fixture *f = fixture_new(10, 60000);
    uint64_t start;

    (void)state;
    push_paced(f, 1);
    start = uv_hrtime();
    batcher_set_urgent(f->batcher, true);
    run_until_all(f);
    assert_in_range(uv_hrtime() - start, 0, 1500000000);
    fixture_end(f);
}

/* Goal: when the pace is lifted, what was held back by it goes at once. */
static void test_a_lifted_pace_holds_nothing(void **state)
{
    struct fixture *f = fixture_new(10, 60000);
    uint64_t start;

    (void)state;
    push_paced(f, 1);
    start = uv_hrtime();
    batcher_set_pace(f->batcher, 0);
    run_until_all(f);
    assert_in_range(uv_hrtime() - start, 0, 1500000000);
    fixture_end(f);
}

/* Goal: the pace is kept, over all batches together, and a pace that was measured wrong, far below
 * what batches of this size need, holds none for long. */
static void test_pace(void **state)
{
    struct fixture *f = fixture_new(10, 60000);
    uint64_t start = uv_hrtime();

    (void)state;
    batcher_set_pace(f->batcher, 50);
    assert_int_equal(batcher_status(f->batcher).rows_per_second, 50);
    push(f, 40);
    run_until_all(f);
    assert_in_range(uv_hrtime() - start, 500000000, 3000000000);
    start = uv_hrtime();
    batcher_set_pace(f->batcher, 1);
    push(f, 30);
    run_until_all(f);
    assert_in_range(uv_hrtime() - start, 1000000000, 10000000000);
    fixture_end(f);
}

/* Goal: under a pace no two batches are written at once, however slowly one is. */
static void test_a_pace_has_one_writer(void **state)
{
    struct fixture *f = fixture_new(10, 60000);

    (void)state;
    write_ms = 20;
    batcher_set_pace(f->batcher, 100000);
    push(f, 80);
    run_until_all(f);
    assert_int_equal(most_writing, 1);
    fixture_end(f);
}

/* One batch at a time, and an embedder that does not answer. */
static struct fixture *fixture_rows_first(void)
{
    struct batcher_config config = config_of(10, 60000);
    struct fixture *f;

    config.rows_first = true;
    config.max_concurrent_batches = 1;
    f = fixture_with(config);
    hold_orders = true;
    return f;
}

/* Goal: rows do not wait for a slow embedder while more than may be under way are behind them and a
 * writer has nothing to do, nor is it asked in vain for those that come next; the last ones, with
 * nothing behind them, do wait. */
static void test_rows_first(void **state)
{
    struct fixture *f = fixture_rows_first();

    (void)state;
    push(f, 40);
    run_until_all(f);
    assert_int_equal(seen_count, 4);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(seen[i].vectors, 0);
    assert_int_equal(seen[3].vectors, 10);
    fixture_end(f);
}

/* Goal: rows that go first take along the vectors that the cache has. */
static void test_rows_first_with_what_is_cached(void **state)
{
    struct fixture *f = fixture_rows_first();

    (void)state;
    cached_texts = 7;
    push(f, 40);
    run_until_all(f);
    assert_int_equal(seen_count, 4);
    assert_int_equal(seen[1].vectors, 7);
    assert_int_equal(seen[2].vectors, 7);
    assert_int_equal(seen[3].vectors, 10);
    fixture_end(f);
}

/* Goal: where each writer has a batch and another one waits for its turn, nothing is gained by a
 * fourth that goes without its vectors. */
static void test_busy_writers_hurry_nobody(void **state)
{
    struct batcher_config config = config_of(10, 60000);
    struct fixture *f;

    (void)state;
    config.rows_first = true;
    f = fixture_with(config);
    push(f, 10);
    run_until_all(f); /* before the first answer one writes and no more */
    write_ms = 300;
    push(f, 30);
    while (batcher_status(f->batcher).processing < 30 || order_count > 0)
        uv_run(&f->loop, UV_RUN_ONCE);
    hold_orders = true;
    push(f, 20); /* the fourth is held, the fifth makes it crowded */
    for (uint64_t start = uv_now(&f->loop); uv_now(&f->loop) < start + 150;)
        uv_run(&f->loop, UV_RUN_ONCE);
    assert_non_null(held_order);
    f->expected = 0;
    fixture_end(f);
}

/* Goal: without pressure a batch waits for its vectors. */
static void test_vectors_are_waited_for(void **state)
{
    struct fixture *f = fixture_rows_first();

    (void)state;
    push(f, 19);
    for (uint64_t start = uv_now(&f->loop); uv_now(&f->loop) < start + 200;)
        uv_run(&f->loop, UV_RUN_ONCE);
    assert_non_null(held_order);
    assert_int_equal(seen_count, 0);
    f->expected = 0;
    fixture_end(f);
}

/* Goal: a start that has no memory for its writers says so, and leaks nothing (ASan watches). */
static void test_no_memory_for_a_writer(void **state)
{
    struct batcher_config config = config_of(10, 60000);
    struct batcher_callbacks callbacks = {0};
    struct batcher *b;
    uv_loop_t loop;

    (void)state;
    assert_int_equal(uv_loop_init(&loop), 0);
    no_memory = true;
    assert_int_equal(batcher_start(&loop, &config, &callbacks, NULL, NULL, &b), -ENOMEM);
    no_memory = false;
    assert_int_equal(uv_loop_close(&loop), 0);
}

/* Closing drops what has not become a row, wherever it stands, and leaks nothing (ASan watches). */
static void test_close_in_the_middle(void **state)
{
    struct fixture *f = fixture_new(10, 60000);

    (void)state;
    hold_orders = true;
    push(f, 15);
    assert_non_null(held_order);
    f->expected = 0;
    fixture_end(f);
    assert_null(held_order);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_size_trigger),
        cmocka_unit_test(test_age_trigger),
        cmocka_unit_test(test_urgent),
        cmocka_unit_test(test_at_most_so_many_at_once),
        cmocka_unit_test(test_one_until_the_first_answer),
        cmocka_unit_test(test_unreachable),
        cmocka_unit_test(test_progress_over_a_bad_line),
        cmocka_unit_test(test_timelines),
        cmocka_unit_test(test_poison_row_goes_alone),
        cmocka_unit_test(test_suspect_twice_then_alone_then_dead),
        cmocka_unit_test(test_retry_that_is_a_rows_own_fault_ends),
        cmocka_unit_test(test_retry_that_is_nobodys_fault_never_ends_in_dead_letters),
        cmocka_unit_test(test_a_row_that_kills_its_backend_is_not_tried_on_and_on),
        cmocka_unit_test(test_trouble_of_some_rows),
        cmocka_unit_test(test_a_quiet_time_after_trouble_of_some_rows),
        cmocka_unit_test(test_trouble_of_all_rows),
        cmocka_unit_test(test_locked_keys_hold_nobody_up),
        cmocka_unit_test(test_sorted_and_no_key_twice),
        cmocka_unit_test(test_same_key_in_order),
        cmocka_unit_test(test_stopped),
        cmocka_unit_test(test_urgency_ends_a_pace),
        cmocka_unit_test(test_a_lifted_pace_holds_nothing),
        cmocka_unit_test(test_pace),
        cmocka_unit_test(test_a_pace_has_one_writer),
        cmocka_unit_test(test_busy_writers_hurry_nobody),
        cmocka_unit_test(test_no_memory_for_a_writer),
        cmocka_unit_test(test_rows_first),
        cmocka_unit_test(test_rows_first_with_what_is_cached),
        cmocka_unit_test(test_vectors_are_waited_for),
        cmocka_unit_test(test_close_in_the_middle),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
