/* Jobs cross to threads and back, each exactly once, and closing leaves none behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdatomic.h>
#include <stdlib.h>
#include <uv.h>

#include "daemon/handoff.h"

#define JOBS 20000

struct job {
    struct handoff_job base;
    unsigned ran;
    unsigned done;
};

struct fixture {
    uv_loop_t loop;
    struct handoff *handoff;
    struct job jobs[JOBS];
    unsigned submitted, done;
    unsigned close_at; /* close when so many are done; 0: by hand */
    atomic_uint started, stopped;
    unsigned closed;
};

static void *on_start(void *owner, unsigned index)
{
    struct fixture *f = owner;

    (void)index;
    atomic_fetch_add(&f->started, 1);
    return f;
}

static void on_stop(void *owner, void *thread_state)
{
    struct fixture *f = owner;

    assert_ptr_equal(owner, thread_state);
    atomic_fetch_add(&f->stopped, 1);
}

static void on_run(void *thread_state, struct handoff_job *base)
{
    (void)thread_state;
    ((struct job *)base)->ran++;
}

static void on_closed(void *owner)
{
    ((struct fixture *)owner)->closed++;
}

/* Each job that is done submits the next one, so that the queues are touched from both sides at
 * once. */
static void on_done(void *owner, struct handoff_job *base)
{
    struct fixture *f = owner;

    ((struct job *)base)->done++;
    f->done++;
    if (f->submitted < JOBS && f->close_at == JOBS)
        handoff_submit(f->handoff, &f->jobs[f->submitted++].base);
    if (f->done == f->close_at)
        handoff_close(f->handoff, on_closed);
}

static const struct handoff_ops ops = {
    .thread_start = on_start, .thread_stop = on_stop, .run = on_run, .done = on_done};

static struct fixture *fixture_new(unsigned threads)
{
    struct fixture *f = calloc(1, sizeof *f);

    uv_loop_init(&f->loop);
    assert_int_equal(handoff_start(&f->loop, "test", &ops, f, threads, &f->handoff), 0);
    return f;
}

static void fixture_end(struct fixture *f, unsigned threads, unsigned jobs)
{
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(f->closed, 1);
    assert_int_equal(f->done, jobs);
    for (unsigned i = 0; i < jobs; i++) {
        assert_int_equal(f->jobs[i].ran, 1);
        assert_int_equal(f->jobs[i].done, 1);
    }
    assert_int_equal(atomic_load(&f->started), threads);
    assert_int_equal(atomic_load(&f->stopped), threads);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    free(f);
}

static void test_each_job_once(void **state)
{
    struct fixture *f = fixture_new(3);

    (void)state;
    f->close_at = JOBS;
    for (f->submitted = 0; f->submitted < 10;)
        handoff_submit(f->handoff, &f->jobs[f->submitted++].base);
    fixture_end(f, 3, JOBS);
}

static void test_close_finishes_what_was_submitted(void **state)
{
    struct fixture *f = fixture_new(2);

    (void)state;
    for (unsigned i = 0; i < 500; i++)
        handoff_submit(f->handoff, &f->jobs[i].base);
    assert_int_equal(handoff_in_flight(f->handoff), 500);
    handoff_close(f->handoff, on_closed);
    assert_int_equal(f->done, 500);
    fixture_end(f, 2, 500);
}

static void test_close_without_jobs(void **state)
{
    struct fixture *f = fixture_new(1);

    (void)state;
    handoff_close(f->handoff, on_closed);
    fixture_end(f, 1, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_job_once),
        cmocka_unit_test(test_close_finishes_what_was_submitted),
        cmocka_unit_test(test_close_without_jobs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
