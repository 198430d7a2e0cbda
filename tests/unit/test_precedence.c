/* Goal: rows are paced under a load that fills the writers while acks are slow, and under no other.
 */
#include "daemon/precedence.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

struct load {
    struct precedence p;
    uint64_t accepted, slow, completed;
    bool idle; /* less than a batch waits */
};

/* One look; slow in tenths of a percent. */
static uint64_t look(struct load *l, uint64_t in, uint64_t slow, uint64_t out)
{
    l->accepted += in;
    l->slow += in * slow / 1000;
    l->completed += out;
    return precedence_pace(&l->p, l->accepted, l->slow, l->completed, !l->idle);
}

static void test_overload_has_its_pace(void **state)
{
    struct load l = {.accepted = 0};

    (void)state;
    assert_int_equal(0, look(&l, 20000, 50, 14000));
    assert_int_equal(20160, look(&l, 20000, 50, 14000));
    for (int i = 0; i < 50; i++)
        assert_int_equal(20160, look(&l, 50000, 5, 9000));
}

static void test_what_writers_keep_up_with_is_no_overload(void **state)
{
    struct load l = {.accepted = 0};

    (void)state;
    for (int i = 0; i < 100; i++)
        assert_int_equal(0, look(&l, 14000, 50, 16100));
}

/* Goal: clients that wait for their answers bring no more than is stored where the processors are
 * full, and have their pace all the same. */
static void test_a_closed_loop_is_an_overload(void **state)
{
    struct load l = {.accepted = 0};

    (void)state;
    assert_int_equal(0, look(&l, 14000, 50, 14000));
    assert_int_equal(20160, look(&l, 14000, 50, 14000));
    assert_int_equal(20160, look(&l, 25000, 5, 9000));
}

static void test_quick_acks_need_no_pace(void **state)
{
    struct load l = {.accepted = 0};

    (void)state;
    for (int i = 0; i < 100; i++)
        assert_int_equal(0, look(&l, 50000, 9, 14000));
}

static void test_a_database_that_is_away_is_no_overload(void **state)
{
    struct load l = {.accepted = 0};

    (void)state;
    for (int i = 0; i < 10; i++)
        assert_int_equal(0, look(&l, 50000, 50, 0));
}

/* Goal: a bad moment does not end a pace, but four looks on end in which no more comes in for it
 * do. */
static void test_a_pace_that_does_not_pay_ends(void **state)
{
    struct load l = {.accepted = 0};

    (void)state;
    assert_int_equal(0, look(&l, 14000, 50, 14000));
    assert_int_equal(20160, look(&l, 14000, 50, 14000));
    for (int i = 0; i < 3; i++)
        assert_int_equal(20160, look(&l, 15000, 5, 9000));
    assert_int_equal(20160, look(&l, 16000, 5, 9000));
    for (int i = 0; i < 3; i++)
        assert_int_equal(20160, look(&l, 15000, 5, 9000));
    for (int i = 0; i < 122; i++) /* and does not come again at once */
        assert_int_equal(0, look(&l, 13500, 50, 14000));
    assert_int_equal(20160, look(&l, 13500, 50, 14000));
}

/* Goal: one look in which much came in, just before the pace, is not what the pace is held to. */
static void test_a_pace_is_held_to_more_than_one_look(void **state)
{
    struct load l = {.accepted = 0};

    (void)state;
    assert_int_equal(0, look(&l, 14000, 50, 14000));
    assert_int_equal(20160, look(&l, 20000, 50, 14000));
    for (int i = 0; i < 20; i++)
        assert_int_equal(20160, look(&l, 20000, 5, 9000));
}

/* Goal: an arrival rate that writers can take is not paced for long after the database stood still
 * for a moment. */
static void test_a_database_that_stood_still(void **state)
{
    struct load l = {.accepted = 0};
    unsigned paced = 0;

    (void)state;
    for (int i = 0; i < 50; i++)
        assert_int_equal(0, look(&l, 8300, 5, 8300));
    for (int i = 0; i < 4; i++)
        paced += look(&l, 8300, 50, 3000) > 0;
    for (int i = 0; i < 100; i++)
        paced += look(&l, 8300, 50, 12000) > 0;
    assert_in_range(paced, 1, 4);
}

/* Goal: arrivals that no ack holds back are paced for a moment only, whether the writers can take
 * them or not. */
static void test_an_open_loop_ends_the_trial(void **state)
{
    (void)state;
    for (unsigned rate = 14000; rate <= 28000; rate += 7000) {
        struct load l = {.accepted = 0};
        unsigned paced = 0;

        for (unsigned i = 0; i < 1200; i++)
            paced += look(&l, rate + i % 3 * 400, 50, 14000) > 0;
        assert_in_range(paced, 1, 40);
    }
}

static void test_once_a_minute_writers_show_what_they_can(void **state)
{
    struct load l = {.accepted = 0};
    unsigned paced = 0;
    bool is_paced = false;

    (void)state;
    for (int i = 0; i < 1220; i++) {
        is_paced = look(&l, is_paced ? 20000 : 14000, 50, 14000) > 0;
        paced += is_paced;
    }
    assert_in_range(paced, 1170, 1205);
}

/* Goal: a slow disk and a few rows are no overload, however they come and go. */
static void test_writers_that_wait_for_work_are_not_paced(void **state)
{
    struct load l = {.idle = true};

    (void)state;
    for (int i = 0; i < 10; i++) {
        assert_int_equal(0, look(&l, 10, 1000, 4));
        assert_int_equal(0, look(&l, 12, 1000, 6));
    }
}

/* Goal: writers that have just begun are not held to what they did in their first moments. */
static void test_writers_that_have_just_begun_are_not_paced(void **state)
{
    struct load l = {.accepted = 0};

    (void)state;
    assert_int_equal(0, look(&l, 20000, 50, 100));
    assert_int_equal(0, look(&l, 40000, 50, 500));
    assert_int_equal(0, look(&l, 40000, 50, 8000));
    assert_int_equal(12960, look(&l, 40000, 50, 9000));
}

/* Goal: a moment in which the database stood still does not set the pace for a minute. */
static void test_the_better_look_counts(void **state)
{
    struct load l = {.accepted = 0};

    (void)state;
    assert_int_equal(0, look(&l, 20000, 50, 14000));
    assert_in_range(look(&l, 20000, 50, 500), 19700, 20160);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_overload_has_its_pace),
        cmocka_unit_test(test_what_writers_keep_up_with_is_no_overload),
        cmocka_unit_test(test_a_closed_loop_is_an_overload),
        cmocka_unit_test(test_quick_acks_need_no_pace),
        cmocka_unit_test(test_a_database_that_is_away_is_no_overload),
        cmocka_unit_test(test_a_pace_that_does_not_pay_ends),
        cmocka_unit_test(test_writers_that_wait_for_work_are_not_paced),
        cmocka_unit_test(test_writers_that_have_just_begun_are_not_paced),
        cmocka_unit_test(test_the_better_look_counts),
        cmocka_unit_test(test_an_open_loop_ends_the_trial),
        cmocka_unit_test(test_a_pace_is_held_to_more_than_one_look),
        cmocka_unit_test(test_a_database_that_stood_still),
        cmocka_unit_test(test_once_a_minute_writers_show_what_they_can),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
