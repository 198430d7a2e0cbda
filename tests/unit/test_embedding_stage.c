/* Goal of this test: every order comes back once, in time, with the right vectors; each text is
 * asked for once; what comes late is in the cache; failures cost vectors only. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/embedding_flight.h"
#include "daemon/embedding_provider.h"
#include "daemon/embedding_stage.h"
#include "daemon/embedding_stage_internal.h"

#define DIMENSION 4

/* The stand-in for an embedder: what it shall do, and what it saw. Under one lock. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool closed; /* requests wait */
    enum embed_outcome outcome;
    int requests;
    size_t inputs;
    size_t largest;
} fake = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

/* A vector that only this text has. */
static void vector_of(struct slice text, float values[DIMENSION])
{
    values[0] = (float)text.len;
    for (int i = 1; i < DIMENSION; i++)
        values[i] = (size_t)i <= text.len ? (float)text.data[text.len - (size_t)i] : 0;
}

struct fake_embedder {
    struct embedder base; /* first: an embedder is cast to this */
    bool is_down;
};

static bool says(struct slice text, const char *word)
{
    return text.len >= strlen(word) && memcmp(text.data, word, strlen(word)) == 0;
}

static void answer_all(struct embed_request *request)
{
    for (size_t i = 0; i < request->count; i++) {
        struct slice text = request->inputs[i].text;

        vector_of(text, request->inputs[i].values);
        if (says(text, "bad"))
            request->inputs[i].error = -E2BIG;
        if (says(text, "crash"))
            request->inputs[i].error = -EINVAL;
        if (says(text, "crash") && !request->suspect)
            request->crashed = true;
        request->timed_out |= says(text, "hang");
    }
}

static void fake_run(struct embedder *e, struct embed_request *request)
{
    const struct fake_embedder *embedder = (const struct fake_embedder *)e;

    pthread_mutex_lock(&fake.lock);
    fake.requests++;
    fake.inputs += request->count;
    fake.largest = request->count > fake.largest ? request->count : fake.largest;
    while (fake.closed)
        pthread_cond_wait(&fake.changed, &fake.lock);
    request->outcome = fake.outcome;
    pthread_mutex_unlock(&fake.lock);
    if (embedder->is_down)
        request->outcome = EMBED_TRANSIENT;
    if (request->outcome == EMBED_DONE)
        answer_all(request);
    if (request->crashed || request->timed_out)
        request->outcome = EMBED_TRANSIENT;
    if (request->outcome != EMBED_DONE)
        snprintf(request->error, sizeof request->error, "%s",
                 embedder->is_down ? "it is down" : "it broke");
}

static void fake_free(struct embedder *e)
{
    free(e);
}

static struct embedder *fake_new(const struct config *config, const char *url)
{
    static const struct embedder_ops ops = {fake_run, fake_free};
    struct fake_embedder *e = malloc(sizeof *e);

    (void)config;
    e->base.ops = &ops;
    e->is_down = strstr(url, "down") != NULL;
    return &e->base;
}

static void fake_set(bool closed, enum embed_outcome outcome)
{
    pthread_mutex_lock(&fake.lock);
    fake.closed = closed;
    fake.outcome = outcome;
    pthread_cond_broadcast(&fake.changed);
    pthread_mutex_unlock(&fake.lock);
}

struct fixture {
    uv_loop_t loop;
    uv_timer_t tick; /* so that UV_RUN_ONCE never sleeps over a flag that is set already */
    struct config config;
    struct embedding_model model;
    struct embedding_stage *stage;
    int states; /* calls of on_state */
    int requests_done;
    bool closed;
};

static void on_state(void *context, enum embedding_state state, const char *error)
{
    struct fixture *f = context;

    f->states++;
    assert_int_equal(state == EMBEDDING_OK, error[0] == '\0');
}

static void on_request_done(void *context, uint64_t duration_ns, size_t inputs, bool ok)
{
    struct fixture *f = context;

    (void)ok;
    assert_true(duration_ns > 0 && inputs > 0);
    f->requests_done++;
}

static void on_tick(uv_timer_t *tick)
{
    (void)tick;
}

static void prepare(struct fixture *f)
{
    static char provider[] = "ollama", url[] = "http://one";

    memset(f, 0, sizeof *f);
    fake.requests = 0;
    fake.inputs = 0;
    fake.largest = 0;
    fake_set(false, EMBED_DONE);
    assert_int_equal(uv_loop_init(&f->loop), 0);
    uv_timer_init(&f->loop, &f->tick);
    uv_timer_start(&f->tick, on_tick, 1, 1);
    f->config.embedding.provider = provider;
    f->config.embedding.url = url;
    f->config.embedding.timeout_ms = 30000;
    f->config.embedding.deadline_ms = 5000;
    f->config.embedding.max_in_flight = 2;
    f->config.embedding.request_inputs = 100;
    f->config.embedding.request_bytes = 1 << 20;
    f->config.cache.embedding_cache_size = 100000;
    f->config.cache.embedding_cache_bytes = 1 << 30;
    f->model = (struct embedding_model){"ollama", "m", DIMENSION, "", "summary", "vector"};
}

static void start(struct fixture *f)
{
    const struct embedding_stage_hooks hooks = {.context = f,
                                                .on_request_done = on_request_done,
                                                .on_state = on_state,
                                                .embedder_new = fake_new};

    assert_int_equal(embedding_stage_start(&f->loop, &f->config, &f->model, &hooks, &f->stage), 0);
}

static void on_stage_closed(void *context)
{
    *(bool *)context = true;
}

static void stop(struct fixture *f)
{
    fake_set(false, EMBED_DONE);
    uv_close((uv_handle_t *)&f->tick, NULL);
    embedding_stage_close(f->stage, on_stage_closed, &f->closed);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_true(f->closed);
    assert_int_equal(uv_loop_close(&f->loop), 0);
}

/* An order of a test; order must stay first. */
struct wish {
    struct embedding_order order;
    struct embedding_item items[16];
    char texts[16][24];
    int done;
    struct fixture *fixture;
    struct wish *then; /* wanted in on_done */
};

static void wish_on_done(struct embedding_order *order)
{
    struct wish *wish = (struct wish *)order;

    wish->done++;
    if (wish->then != NULL) {
        embedding_stage_want(wish->fixture->stage, &wish->then->order);
        assert_int_equal(wish->then->done, 0);
    }
}

static void wish_init(struct wish *wish, struct fixture *f, size_t count)
{
    wish->order.items = wish->items;
    wish->order.count = count;
    wish->order.on_done = wish_on_done;
    wish->order.deadline_ms = 0;
    wish->order.patient = wish->order.apart = wish->order.cached_only = false;
    wish->done = 0;
    wish->fixture = f;
    wish->then = NULL;
}

static void wish_for(struct fixture *f, struct wish *wish, const char *const texts[])
{
    size_t count = 0;

    for (; texts[count] != NULL; count++) {
        snprintf(wish->texts[count], sizeof wish->texts[0], "%s", texts[count]);
        wish->items[count].text = (struct slice){wish->texts[count], strlen(texts[count])};
    }
    wish_init(wish, f, count);
}

/* Wants them; its texts are gone by the time of the answer. */
static void want_wish(struct fixture *f, struct wish *wish)
{
    embedding_stage_want(f->stage, &wish->order);
    assert_int_equal(wish->done, 0); /* never inside the call */
    memset(wish->texts, 'x', sizeof wish->texts);
}

static void want(struct fixture *f, struct wish *wish, const char *const texts[])
{
    wish_for(f, wish, texts);
    want_wish(f, wish);
}

static void run_until(struct fixture *f, const int *flag)
{
    while (*flag == 0)
        uv_run(&f->loop, UV_RUN_ONCE);
    assert_int_equal(*flag, 1);
}

static void run_until_nothing_pends(struct fixture *f)
{
    while (flights_count(f->stage->flights) > 0)
        uv_run(&f->loop, UV_RUN_ONCE);
}

static void check_and_release(struct wish *wish, const char *const texts[])
{
    float values[DIMENSION];

    for (size_t i = 0; i < wish->order.count; i++) {
        assert_int_equal(wish->items[i].error, 0);
        assert_non_null(wish->items[i].vector);
        vector_of((struct slice){texts[i], strlen(texts[i])}, values);
        assert_memory_equal(wish->items[i].vector->values, values, sizeof values);
        vector_release(wish->items[i].vector);
    }
}

static void check_empty(const struct wish *wish, int error)
{
    for (size_t i = 0; i < wish->order.count; i++) {
        assert_null(wish->items[i].vector);
        assert_int_equal(wish->items[i].error, error);
    }
}

static struct embedding_stage_stats stats_of(const struct fixture *f)
{
    struct embedding_stage_stats stats;

    embedding_stage_stats(f->stage, &stats);
    return stats;
}

static const char *const abc[] = {"alpha", "beta", "gamma", NULL};

static void test_miss_then_hit(void **state)
{
    struct fixture f;
    struct wish one, two;

    (void)state;
    prepare(&f);
    start(&f);
    want(&f, &one, abc);
    run_until(&f, &one.done);
    check_and_release(&one, abc);
    want(&f, &two, abc);
    run_until(&f, &two.done);
    check_and_release(&two, abc);
    assert_int_equal(fake.requests, 1);
    assert_int_equal(f.requests_done, 1);
    assert_int_equal(stats_of(&f).inputs, 3);
    assert_int_equal(stats_of(&f).cache.hits, 3);
    assert_int_equal(stats_of(&f).cache.misses, 3);
    assert_int_equal(stats_of(&f).cache.entries, 3);
    assert_int_equal(stats_of(&f).state, EMBEDDING_OK);
    stop(&f);
}

/* Goal: an order for what the cache has gets that at once, whatever the embedder does, and asks for
 * nothing: neither for what is new nor for what others wait for. */
static void test_cached_only(void **state)
{
    static const char *const known[] = {"alpha", NULL}, *const asked[] = {"beta", NULL};
    struct fixture f;
    struct wish one, two, cached;

    (void)state;
    prepare(&f);
    start(&f);
    want(&f, &one, known);
    run_until(&f, &one.done);
    check_and_release(&one, known);
    fake_set(true, EMBED_DONE);
    want(&f, &two, asked);
    wish_for(&f, &cached, abc);
    cached.order.cached_only = true;
    want_wish(&f, &cached);
    run_until(&f, &cached.done);
    assert_int_equal(two.done, 0);
    assert_non_null(cached.items[0].vector);
    vector_release(cached.items[0].vector);
    for (int i = 1; i < 3; i++) {
        assert_null(cached.items[i].vector);
        assert_int_equal(cached.items[i].error, -EAGAIN);
    }
    assert_int_equal(flights_count(f.stage->flights), 1);
    assert_int_equal(stats_of(&f).shed, 0);
    fake_set(false, EMBED_DONE);
    run_until(&f, &two.done);
    check_and_release(&two, asked);
    assert_int_equal(fake.inputs, 2);
    stop(&f);
}

/* Goal: it is quiet while only patient orders, the cache's and none ask; else for a moment not. */
static void test_quiet(void **state)
{
    struct fixture f;
    struct wish wish;

    (void)state;
    prepare(&f);
    start(&f);
    assert_true(embedding_stage_is_quiet(f.stage));
    wish_for(&f, &wish, abc);
    wish.order.patient = true;
    want_wish(&f, &wish);
    assert_true(embedding_stage_is_quiet(f.stage));
    run_until(&f, &wish.done);
    check_and_release(&wish, abc);
    want(&f, &wish, abc);
    assert_true(embedding_stage_is_quiet(f.stage));
    run_until(&f, &wish.done);
    check_and_release(&wish, abc);
    want(&f, &wish, (const char *const[]){"delta", NULL});
    assert_false(embedding_stage_is_quiet(f.stage));
    embedding_stage_cancel(f.stage, &wish.order);
    while (!embedding_stage_is_quiet(f.stage))
        uv_run(&f.loop, UV_RUN_ONCE);
    run_until_nothing_pends(&f);
    stop(&f);
}

static void test_single_flight(void **state)
{
    static const char *const first[] = {"same", "same", "mine", NULL};
    static const char *const second[] = {"yours", "same", NULL};
    struct fixture f;
    struct wish one, two;

    (void)state;
    prepare(&f);
    start(&f);
    fake_set(true, EMBED_DONE);
    want(&f, &one, first);
    want(&f, &two, second);
    fake_set(false, EMBED_DONE);
    run_until(&f, &one.done);
    run_until(&f, &two.done);
    check_and_release(&one, first);
    check_and_release(&two, second);
    assert_int_equal(fake.inputs, 3);
    stop(&f);
}

static void test_deadline_and_late_vector(void **state)
{
    struct fixture f;
    struct wish one, two;
    uint64_t started;

    (void)state;
    prepare(&f);
    f.config.embedding.deadline_ms = 50;
    start(&f);
    fake_set(true, EMBED_DONE);
    started = uv_hrtime();
    want(&f, &one, abc);
    run_until(&f, &one.done);
    assert_in_range((uv_hrtime() - started) / 1000000, 40, 1000);
    check_empty(&one, -EAGAIN);
    fake_set(false, EMBED_DONE);
    run_until_nothing_pends(&f);
    assert_int_equal(one.done, 1);
    assert_int_equal(stats_of(&f).late, 3);
    want(&f, &two, abc);
    run_until(&f, &two.done);
    check_and_release(&two, abc);
    assert_int_equal(fake.inputs, 3);
    stop(&f);
}

/* Some items are there at the deadline, others are not. */
static void test_deadline_keeps_what_is_there(void **state)
{
    static const char *const mixed[] = {"alpha", "new", NULL};
    struct fixture f;
    struct wish one, two;

    (void)state;
    prepare(&f);
    f.config.embedding.deadline_ms = 200;
    start(&f);
    want(&f, &one, abc);
    run_until(&f, &one.done);
    check_and_release(&one, abc);
    fake_set(true, EMBED_DONE);
    want(&f, &two, mixed);
    run_until(&f, &two.done);
    assert_non_null(two.items[0].vector);
    vector_release(two.items[0].vector);
    assert_null(two.items[1].vector);
    assert_int_equal(two.items[1].error, -EAGAIN);
    stop(&f);
}

static void run_until_requests(struct fixture *f, uint64_t count)
{
    while (stats_of(f).requests < count)
        uv_run(&f->loop, UV_RUN_ONCE);
}

/* A failed request is made again after a pause, within the deadline of who waits. */
static void test_failure_and_recovery(void **state)
{
    struct fixture f;
    struct wish one;
    uint64_t started;

    (void)state;
    prepare(&f);
    start(&f);
    fake_set(false, EMBED_TRANSIENT);
    started = uv_hrtime();
    want(&f, &one, abc);
    run_until_requests(&f, 1);
    assert_int_equal(one.done, 0);
    assert_int_equal(stats_of(&f).state, EMBEDDING_FAILING);
    assert_string_equal(stats_of(&f).last_error, "it broke");
    assert_int_equal(stats_of(&f).failures, 1);
    assert_false(embedding_stage_is_ready(f.stage));
    fake_set(false, EMBED_DONE);
    run_until(&f, &one.done);
    assert_in_range((uv_hrtime() - started) / 1000000, BREAKER_BASE_MS / 2 - 10, 4000);
    check_and_release(&one, abc);
    assert_int_equal(stats_of(&f).state, EMBEDDING_OK);
    assert_true(embedding_stage_is_ready(f.stage));
    assert_int_equal(f.states, 2);
    assert_int_equal(fake.requests, 2);
    stop(&f);
}

/* While nobody may be asked before the deadline, no batch waits for it. */
static void test_no_wait_for_a_server_that_is_down(void **state)
{
    static const char *const more[] = {"delta", "alpha", NULL};
    struct fixture f;
    struct wish one, two;
    uint64_t started;

    (void)state;
    prepare(&f);
    f.config.embedding.deadline_ms = 20000;
    start(&f);
    fake_set(false, EMBED_CONFIG);
    started = uv_hrtime();
    want(&f, &one, abc);
    run_until(&f, &one.done);
    check_empty(&one, -EAGAIN);
    want(&f, &two, more);
    run_until(&f, &two.done);
    check_empty(&two, -EAGAIN);
    assert_in_range((uv_hrtime() - started) / 1000000, 0, 5000);
    assert_int_equal(fake.requests, 1);
    assert_int_equal(stats_of(&f).endpoints->list[0].breaker.state, BREAKER_OPEN);
    assert_int_equal(flights_count(f.stage->flights), 0);
    /* One that can wait does, and is the probe. */
    fake_set(false, EMBED_DONE);
    wish_init(&two, &f, 1);
    two.items[0].text = (struct slice){"alpha", 5};
    two.order.deadline_ms = 20000;
    two.order.patient = true;
    embedding_stage_want(f.stage, &two.order);
    run_until(&f, &two.done);
    check_and_release(&two, abc);
    assert_int_equal(fake.requests, 2);
    assert_int_equal(stats_of(&f).endpoints->list[0].breaker.state, BREAKER_CLOSED);
    stop(&f);
}

/* Of several servers those that answer are used, in turn, and one that fails costs nothing. */
static void test_several_servers(void **state)
{
    static char urls[] = "http://one, http://down ,http://two";
    struct embedding_stage_stats stats;
    struct fixture f;
    struct wish one;

    (void)state;
    prepare(&f);
    f.config.embedding.url = urls;
    start(&f);
    for (int i = 0; i < 30; i++) {
        char text[24];

        snprintf(text, sizeof text, "text %d", i);
        want(&f, &one, (const char *const[]){text, NULL});
        run_until(&f, &one.done);
        check_and_release(&one, (const char *const[]){text});
    }
    stats = stats_of(&f);
    assert_int_equal(stats.endpoints->count, 3);
    assert_string_equal(stats.endpoints->list[1].url, "http://down");
    assert_in_range(stats.endpoints->list[1].requests, 1, 3);
    assert_int_equal(stats.endpoints->list[1].failures, stats.endpoints->list[1].requests);
    assert_string_equal(stats.endpoints->list[1].last_error, "it is down");
    assert_in_range(stats.endpoints->list[0].requests, 12, 18);
    assert_in_range(stats.endpoints->list[2].requests, 12, 18);
    assert_int_equal(stats.state, EMBEDDING_OK);
    stop(&f);
}

/* A text that the runner dies of fails its request once as it stands; then it is sought. */
static void test_a_repeated_crash_is_sought(void **state)
{
    static const char *const texts[] = {"good", "crash", "fine", NULL};
    struct fixture f;
    struct wish one;

    (void)state;
    prepare(&f);
    start(&f);
    want(&f, &one, texts);
    run_until(&f, &one.done);
    assert_int_equal(one.items[0].error, 0);
    assert_int_equal(one.items[1].error, -EINVAL);
    assert_int_equal(one.items[2].error, 0);
    vector_release(one.items[0].vector);
    vector_release(one.items[2].vector);
    assert_int_equal(fake.requests, 2);
    stop(&f);
}

static void want_apart(struct fixture *f, struct wish *wish, const char *first, const char *second)
{
    wish_init(wish, f, second != NULL ? 2 : 1);
    wish->items[0].text = (struct slice){first, strlen(first)};
    if (second != NULL)
        wish->items[1].text = (struct slice){second, strlen(second)};
    wish->order.deadline_ms = 20000;
    wish->order.patient = wish->order.apart = true;
    embedding_stage_want(f->stage, &wish->order);
}

/* Orders that go apart meet nobody, are asked for once, and are blamed where the server is well. */
static void test_texts_that_go_apart(void **state)
{
    static const char *const first[] = {"one", NULL};
    struct fixture f;
    struct wish one, apart, other, again;

    (void)state;
    prepare(&f);
    start(&f);
    fake_set(true, EMBED_DONE);
    want(&f, &one, first);
    want_apart(&f, &other, "two", "three");
    want_apart(&f, &apart, "hang", "near");
    fake_set(false, EMBED_DONE);
    run_until(&f, &one.done);
    run_until(&f, &other.done);
    run_until(&f, &apart.done);
    check_and_release(&one, first);
    assert_int_equal(other.items[0].error, 0);
    assert_int_equal(other.items[1].error, 0);
    vector_release(other.items[0].vector);
    vector_release(other.items[1].vector);
    check_empty(&apart, -ETIMEDOUT);
    assert_int_equal(fake.requests, 3);
    assert_int_equal(fake.largest, 2);
    want_apart(&f, &again, "hang", NULL);
    run_until(&f, &again.done);
    check_empty(&again, -ETIMEDOUT); /* it answered lately */
    assert_int_equal(fake.requests, 4);
    stop(&f);
}

/* A server that has failed before and answered nothing may be at fault itself. */
static void test_a_server_that_never_answered(void **state)
{
    struct fixture f;
    struct wish first, second;

    (void)state;
    prepare(&f);
    start(&f);
    want_apart(&f, &first, "hang", NULL);
    run_until(&f, &first.done);
    check_empty(&first, -ETIMEDOUT);
    want_apart(&f, &second, "hang", NULL);
    run_until(&f, &second.done);
    check_empty(&second, -EAGAIN);
    stop(&f);
}

/* Each request that hangs halves the next ones, and each answer doubles them. */
static void test_requests_that_hang_get_smaller(void **state)
{
    static const char *const texts[] = {"a", "b", "c", "hang", NULL};
    static const char *const later[] = {"e", "f", "g", "h", NULL};
    struct fixture f;
    struct wish one, two;

    (void)state;
    prepare(&f);
    f.config.embedding.deadline_ms = 20000;
    start(&f);
    want(&f, &one, texts);
    run_until(&f, &one.done);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(one.items[i].error, 0);
        vector_release(one.items[i].vector);
    }
    assert_null(one.items[3].vector);
    assert_true(one.items[3].error == -ETIMEDOUT || one.items[3].error == -EAGAIN);
    assert_int_equal(fake.largest, 4);
    want(&f, &two, later);
    run_until(&f, &two.done);
    check_and_release(&two, later);
    stop(&f);
}

static void test_an_input_of_its_own_error(void **state)
{
    static const char *const texts[] = {"good", "bad one", NULL};
    struct fixture f;
    struct wish one;

    (void)state;
    prepare(&f);
    start(&f);
    want(&f, &one, texts);
    run_until(&f, &one.done);
    assert_int_equal(one.items[0].error, 0);
    vector_release(one.items[0].vector);
    assert_int_equal(one.items[1].error, -E2BIG);
    assert_null(one.items[1].vector);
    assert_int_equal(stats_of(&f).refused, 1);
    assert_int_equal(stats_of(&f).cache.entries, 1);
    assert_int_equal(stats_of(&f).state, EMBEDDING_OK);
    stop(&f);
}

static void test_requests_fill_up_behind_a_slow_one(void **state)
{
    enum { WISHES = 20 };
    static struct wish wishes[WISHES];
    char names[3][24];
    struct fixture f;

    (void)state;
    prepare(&f);
    f.config.embedding.max_in_flight = 1;
    f.config.embedding.request_inputs = 8;
    start(&f);
    fake_set(true, EMBED_DONE);
    for (int i = 0; i < WISHES; i++) {
        for (int k = 0; k < 3; k++)
            snprintf(names[k], sizeof names[k], "text %d of %d", k, i);
        want(&f, &wishes[i], (const char *const[]){names[0], names[1], names[2], NULL});
    }
    fake_set(false, EMBED_DONE);
    for (int i = 0; i < WISHES; i++) {
        run_until(&f, &wishes[i].done);
        for (int k = 0; k < 3; k++)
            snprintf(names[k], sizeof names[k], "text %d of %d", k, i);
        check_and_release(&wishes[i], (const char *const[]){names[0], names[1], names[2]});
    }
    assert_int_equal(fake.inputs, WISHES * 3);
    assert_int_equal(fake.largest, 8);
    assert_int_equal(fake.requests, 1 + (WISHES * 3 - 3 + 7) / 8);
    stop(&f);
}

static void test_cancel(void **state)
{
    struct fixture f;
    struct wish one, two;

    (void)state;
    prepare(&f);
    start(&f);
    fake_set(true, EMBED_DONE);
    want(&f, &one, abc);
    want(&f, &two, abc);
    embedding_stage_cancel(f.stage, &one.order);
    check_empty(&one, -EAGAIN);
    memset(&one, 0xee, sizeof one); /* nobody looks at it any more */
    fake_set(false, EMBED_DONE);
    run_until(&f, &two.done);
    check_and_release(&two, abc);
    stop(&f);
}

static void test_close_takes_orders_back(void **state)
{
    static const char *const more[] = {"delta", NULL};
    struct fixture f;
    struct wish one, two;

    (void)state;
    prepare(&f);
    f.config.embedding.max_in_flight = 1;
    start(&f);
    fake_set(true, EMBED_DONE);
    want(&f, &one, abc);
    want(&f, &two, more); /* still queued */
    stop(&f);
    assert_int_equal(one.done + two.done, 0);
    check_empty(&one, -EAGAIN);
    check_empty(&two, -EAGAIN);
}

static void test_want_again_in_on_done(void **state)
{
    struct fixture f;
    struct wish one, two;

    (void)state;
    prepare(&f);
    start(&f);
    want(&f, &one, abc);
    one.then = &two;
    wish_init(&two, &f, 1);
    two.items[0].text = (struct slice){"alpha", 5}; /* in the cache by then */
    run_until(&f, &one.done);
    run_until(&f, &two.done);
    check_and_release(&one, abc);
    check_and_release(&two, abc);
    stop(&f);
}

static void test_empty_order_and_empty_text(void **state)
{
    static const char *const nothing[] = {NULL};
    static const char *const empty[] = {"", NULL};
    struct fixture f;
    struct wish one, two;

    (void)state;
    prepare(&f);
    start(&f);
    want(&f, &one, nothing);
    run_until(&f, &one.done);
    want(&f, &two, empty);
    run_until(&f, &two.done);
    check_and_release(&two, empty);
    stop(&f);
}

static void test_provider_none(void **state)
{
    struct fixture f;
    struct wish one;

    (void)state;
    prepare(&f);
    f.model = (struct embedding_model){"none", "", 0, "", "summary", "vector"};
    start(&f);
    want(&f, &one, abc);
    run_until(&f, &one.done);
    check_empty(&one, -EOPNOTSUPP);
    assert_int_equal(stats_of(&f).state, EMBEDDING_OFF);
    stop(&f);
}

/* More texts than may be asked for at once: those over the limit come back without a vector. */
static void test_too_many_texts(void **state)
{
    enum { COUNT = FLIGHTS_MAX + 50 };
    static struct embedding_item items[COUNT];
    static uint32_t texts[COUNT];
    struct wish wish;
    struct fixture f;
    size_t shed = 0;

    (void)state;
    prepare(&f);
    start(&f);
    wish_init(&wish, &f, COUNT);
    wish.order.items = items;
    for (uint32_t i = 0; i < COUNT; i++) {
        texts[i] = i;
        items[i].text = (struct slice){(const char *)&texts[i], sizeof texts[i]};
    }
    embedding_stage_want(f.stage, &wish.order);
    run_until(&f, &wish.done);
    for (uint32_t i = 0; i < COUNT; i++) {
        shed += items[i].error == -EAGAIN;
        vector_release(items[i].vector);
    }
    assert_int_equal(shed, 50);
    assert_int_equal(stats_of(&f).shed, 50);
    stop(&f);
}

/* Orders that overlap, give up, are cancelled and fail, at random; then all is quiet, and each
 * vector that came back was the right one. */
static void test_at_random(void **state)
{
    enum { WISHES = 40, ROUNDS = 3000, WORDS = 60 };
    static struct wish wishes[WISHES];
    static int words[WISHES][4];
    static bool busy[WISHES];
    struct fixture f;
    size_t vectors = 0;

    (void)state;
    srand(5);
    prepare(&f);
    f.config.embedding.deadline_ms = 2;
    f.config.embedding.request_inputs = 5;
    f.config.cache.embedding_cache_size = 20;
    start(&f);
    for (int round = 0; round < ROUNDS + 200; round++) {
        int n = rand() % WISHES;

        fake_set(rand() % 4 == 0 && round < ROUNDS, rand() % 8 == 0 ? EMBED_TRANSIENT : EMBED_DONE);
        if (busy[n] && wishes[n].done == 0 && rand() % 8 == 0) {
            embedding_stage_cancel(f.stage, &wishes[n].order);
            wishes[n].done = 1;
        }
        if (busy[n] && wishes[n].done > 0) {
            assert_int_equal(wishes[n].done, 1);
            for (size_t i = 0; i < wishes[n].order.count; i++) {
                struct vector *v = wishes[n].items[i].vector;
                char text[24];
                float values[DIMENSION];

                snprintf(text, sizeof text, "word %d", words[n][i]);
                vector_of((struct slice){text, strlen(text)}, values);
                assert_int_equal(v == NULL, wishes[n].items[i].error != 0);
                if (v != NULL)
                    assert_memory_equal(v->values, values, sizeof values);
                vectors += v != NULL;
                vector_release(v);
            }
            busy[n] = false;
        }
        if (!busy[n] && round < ROUNDS) {
            char texts[4][24];

            for (int k = 0; k < 4; k++) {
                words[n][k] = rand() % WORDS;
                snprintf(texts[k], sizeof texts[k], "word %d", words[n][k]);
            }
            want(&f, &wishes[n],
                 (const char *const[]){texts[0], texts[1], texts[2], texts[3], NULL});
            busy[n] = true;
        }
        uv_run(&f.loop, rand() % 3 == 0 ? UV_RUN_ONCE : UV_RUN_NOWAIT);
    }
    fake_set(false, EMBED_DONE);
    run_until_nothing_pends(&f);
    for (int n = 0; n < WISHES; n++) {
        if (!busy[n])
            continue;
        run_until(&f, &wishes[n].done);
        for (int i = 0; i < 4; i++)
            vector_release(wishes[n].items[i].vector);
    }
    assert_true(vectors > 1000);
    stop(&f);
}

/* The real thing: the builtin embedder behind the stage. */
static void test_builtin(void **state)
{
    static char provider[] = "builtin";
    float values[BUILTIN_DIMENSION];
    struct fixture f;
    struct wish one;

    (void)state;
    prepare(&f);
    f.config.embedding.provider = provider;
    f.model =
        (struct embedding_model){"builtin", "hash-v1", BUILTIN_DIMENSION, "", "summary", "vector"};
    assert_int_equal(embedding_stage_start(&f.loop, &f.config, &f.model, NULL, &f.stage), 0);
    want(&f, &one, abc);
    run_until(&f, &one.done);
    for (size_t i = 0; i < 3; i++) {
        embedding_builtin((struct slice){abc[i], strlen(abc[i])}, values);
        assert_memory_equal(one.items[i].vector->values, values, sizeof values);
        vector_release(one.items[i].vector);
    }
    stop(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_miss_then_hit),
        cmocka_unit_test(test_cached_only),
        cmocka_unit_test(test_quiet),
        cmocka_unit_test(test_single_flight),
        cmocka_unit_test(test_deadline_and_late_vector),
        cmocka_unit_test(test_deadline_keeps_what_is_there),
        cmocka_unit_test(test_failure_and_recovery),
        cmocka_unit_test(test_no_wait_for_a_server_that_is_down),
        cmocka_unit_test(test_several_servers),
        cmocka_unit_test(test_a_repeated_crash_is_sought),
        cmocka_unit_test(test_texts_that_go_apart),
        cmocka_unit_test(test_a_server_that_never_answered),
        cmocka_unit_test(test_requests_that_hang_get_smaller),
        cmocka_unit_test(test_an_input_of_its_own_error),
        cmocka_unit_test(test_requests_fill_up_behind_a_slow_one),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_close_takes_orders_back),
        cmocka_unit_test(test_want_again_in_on_done),
        cmocka_unit_test(test_empty_order_and_empty_text),
        cmocka_unit_test(test_provider_none),
        cmocka_unit_test(test_too_many_texts),
        cmocka_unit_test(test_at_random),
        cmocka_unit_test(test_builtin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
