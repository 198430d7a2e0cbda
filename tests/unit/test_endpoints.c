/* Goal of this test: a server's self-test is made at once, again while the server does not answer,
 * seldom while its vectors are doubtful, and never again when it has passed, but for a reload. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/embedding_endpoints.h"

#define MINUTE_MS 60000u
#define START_MS 1000u

static struct endpoints endpoints;

static int setup(void **state)
{
    (void)state;
    return endpoints_init(&endpoints, "http://one");
}

static int teardown(void **state)
{
    (void)state;
    endpoints_done(&endpoints);
    return 0;
}

/* One self-test that is due now and ends so. */
static void run(enum selftest_state state, uint64_t now_ms)
{
    struct endpoint *endpoint = endpoints_begin_selftest(&endpoints, now_ms);
    struct embedding_selftest found = {.state = state};

    assert_non_null(endpoint);
    assert_null(endpoints_begin_selftest(&endpoints, now_ms)); /* one at a time */
    endpoint_settle(endpoint, state == SELFTEST_DUE ? BREAKER_FAILED : BREAKER_ANSWERED, -1, "",
                    now_ms, now_ms);
    endpoint_settle_selftest(endpoint, &found, now_ms);
}

static void test_doubtful(void **state)
{
    uint64_t next;

    (void)state;
    run(SELFTEST_WARNING, START_MS);
    next = endpoints_next_selftest_ms(&endpoints, START_MS);
    assert_in_range(next, START_MS + MINUTE_MS, START_MS + 10 * MINUTE_MS);
    assert_null(endpoints_begin_selftest(&endpoints, next - 1));
    run(SELFTEST_PASSED, next);
    assert_int_equal(endpoints.list[0].selftest.state, SELFTEST_PASSED);
    assert_true(endpoints_next_selftest_ms(&endpoints, next) == UINT64_MAX);
    assert_null(endpoints_begin_selftest(&endpoints, next + 1000 * MINUTE_MS));
}

/* Without an answer the breaker says when; what was found before stands. */
static void test_without_an_answer(void **state)
{
    uint64_t next;

    (void)state;
    run(SELFTEST_WARNING, START_MS);
    endpoints_renew_selftests(&endpoints);
    run(SELFTEST_DUE, START_MS);
    assert_int_equal(endpoints.list[0].selftest.state, SELFTEST_WARNING);
    next = endpoints_next_selftest_ms(&endpoints, START_MS);
    assert_in_range(next, START_MS, START_MS + MINUTE_MS);
    run(SELFTEST_PASSED, next);
    assert_int_equal(endpoints.list[0].selftest.state, SELFTEST_PASSED);
}

static void test_a_reload(void **state)
{
    (void)state;
    run(SELFTEST_PASSED, START_MS);
    endpoints_renew_selftests(&endpoints);
    assert_true(endpoints_next_selftest_ms(&endpoints, START_MS) <= START_MS);
    run(SELFTEST_WARNING, START_MS);
    assert_int_equal(endpoints.list[0].selftest.state, SELFTEST_WARNING);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_doubtful, setup, teardown),
        cmocka_unit_test_setup_teardown(test_without_an_answer, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_reload, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
