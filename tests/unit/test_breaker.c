/* Goal of this test: a server that fails is asked again after pauses that grow to a bound, by one
 * request at a time once it has failed often; what it asks for itself counts more. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/breaker.h"

static void test_pauses_grow_and_it_opens(void **state)
{
    struct breaker b = {.state = BREAKER_CLOSED};
    uint64_t now = 1000, bound = BREAKER_BASE_MS;

    (void)state;
    for (int i = 1; i <= 20; i++) {
        assert_true(breaker_allows(&b, now));
        breaker_begin(&b);
        breaker_settle(&b, BREAKER_FAILED, -1, now, now + 10);
        now += 10;
        assert_int_equal(b.state, i < BREAKER_FAILURES_MAX ? BREAKER_CLOSED : BREAKER_OPEN);
        assert_false(breaker_allows(&b, now));
        assert_in_range(b.until_ms - now, bound / 2, bound);
        assert_int_equal(breaker_next_ms(&b, now, 77), b.until_ms);
        bound = bound * 2 < BREAKER_CAP_MS ? bound * 2 : BREAKER_CAP_MS;
        now = b.until_ms;
    }
    breaker_begin(&b);
    assert_int_equal(b.state, BREAKER_HALF_OPEN);
    assert_false(breaker_allows(&b, now + 1000000)); /* one probe at a time */
    assert_int_equal(breaker_next_ms(&b, now, 77), now + 77);
    breaker_settle(&b, BREAKER_ANSWERED, -1, now, now + 5);
    assert_int_equal(b.state, BREAKER_CLOSED);
    assert_true(breaker_allows(&b, now + 5));
    breaker_settle(&b, BREAKER_FAILED, -1, now + 6, now + 7);
    assert_in_range(b.until_ms - now - 7, BREAKER_BASE_MS / 2, BREAKER_BASE_MS);
}

static void test_what_fails_together_counts_once(void **state)
{
    struct breaker b = {.state = BREAKER_CLOSED};

    (void)state;
    for (uint64_t i = 0; i < 10; i++)
        breaker_settle(&b, BREAKER_FAILED, -1, 100, 200 + i);
    assert_int_equal(b.failures, 1);
    assert_int_equal(b.state, BREAKER_CLOSED);
    breaker_settle(&b, BREAKER_FAILED, -1, 1000, 1001);
    assert_int_equal(b.failures, 2);
}

static void test_retry_after_wins(void **state)
{
    struct breaker b = {.state = BREAKER_CLOSED};

    (void)state;
    breaker_settle(&b, BREAKER_LIMITED, 60000, 0, 100);
    assert_int_equal(b.until_ms, 60100);
    assert_int_equal(b.state, BREAKER_CLOSED);
    breaker_settle(&b, BREAKER_LIMITED, 300, 70000, 70001);
    assert_int_equal(b.until_ms, 70301);
}

/* Goal: a server that asks for no pause at all, or for next to none, is not asked without pause. */
static void test_retry_after_of_nothing(void **state)
{
    (void)state;
    for (int ms = -1; ms <= 1; ms++) {
        struct breaker b = {.state = BREAKER_CLOSED};

        for (unsigned i = 0; i < 20; i++) {
            breaker_settle(&b, BREAKER_LIMITED, ms, b.until_ms + 1, b.until_ms + 2);
            assert_false(breaker_allows(&b, b.counted_ms + 99));
        }
        assert_in_range(b.until_ms - b.counted_ms, ms == 1 ? 100 : BREAKER_CAP_MS / 2,
                        BREAKER_CAP_MS);
    }
}

static void test_too_many_requests_have_their_own_budget(void **state)
{
    struct breaker b = {.state = BREAKER_CLOSED};

    (void)state;
    for (unsigned i = 1; i <= BREAKER_LIMITED_MAX; i++) {
        assert_int_equal(b.state, BREAKER_CLOSED);
        breaker_settle(&b, BREAKER_LIMITED, 10, i * 1000, i * 1000 + 1);
    }
    assert_int_equal(b.state, BREAKER_OPEN);
    assert_int_equal(b.failures, 0);
}

static void test_a_refusal_opens_at_once(void **state)
{
    struct breaker b = {.state = BREAKER_CLOSED};

    (void)state;
    breaker_settle(&b, BREAKER_REFUSED, -1, 0, 100);
    assert_int_equal(b.state, BREAKER_OPEN);
    breaker_begin(&b);
    breaker_settle(&b, BREAKER_ANSWERED, -1, 1000, 1001);
    assert_int_equal(b.state, BREAKER_CLOSED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pauses_grow_and_it_opens),
        cmocka_unit_test(test_what_fails_together_counts_once),
        cmocka_unit_test(test_retry_after_wins),
        cmocka_unit_test(test_retry_after_of_nothing),
        cmocka_unit_test(test_too_many_requests_have_their_own_budget),
        cmocka_unit_test(test_a_refusal_opens_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
