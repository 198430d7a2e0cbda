/* Goal: many conversations beside rows are a rush, and nothing else is; the loop rests in one that
 * is thick, and no longer than until its next turn is due. */
#include "daemon/rush.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <uv.h>

struct load {
    struct rush r;
    uint64_t accepted, groups, written;
};

static void look(struct load *l, uint64_t in, uint64_t groups, uint64_t out)
{
    l->accepted += in;
    l->groups += groups;
    l->written += out;
    rush_look(&l->r, l->accepted, l->groups, l->written);
}

static void test_many_beside_rows(void **state)
{
    struct load l = {.accepted = 0};

    (void)state;
    look(&l, 1000, 400, 1000); /* 2,000 a second */
    assert_true(l.r.on);
    assert_false(l.r.gathers);
    look(&l, 2500, 800, 400); /* 5,000 a second, the rows fall behind */
    assert_true(l.r.on);
    assert_true(l.r.gathers);
}

static void test_what_is_no_rush(void **state)
{
    struct load l = {.accepted = 0};

    (void)state;
    look(&l, 10000, 1000, 10000);
    assert_true(l.r.gathers);
    look(&l, 900, 300, 900); /* few */
    assert_false(l.r.on);
    look(&l, 10000, 1000, 1000); /* no rows to speak of: the database is down */
    assert_false(l.r.on);
    assert_false(l.r.gathers);
}

/* Goal: a client alone, each of whose records is a group, never waits for a rest. */
static void test_a_client_alone(void **state)
{
    struct load l = {.accepted = 0};

    (void)state;
    look(&l, 4000, 3900, 4000);
    assert_true(l.r.on);
    assert_false(l.r.gathers);
}

static void test_turns_keep_their_distance(void **state)
{
    struct rush r = {.gathers = true};
    uint64_t begun = uv_hrtime();

    (void)state;
    rush_rest(&r); /* the turn before is long past: no rest */
    for (int i = 0; i < 20; i++)
        rush_rest(&r);
    assert_in_range(uv_hrtime() - begun, 20 * RUSH_TURN_NS, UINT64_MAX);
    r.gathers = false;
    begun = r.turn_ns;
    rush_rest(&r);
    assert_int_equal(r.turn_ns, begun);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_many_beside_rows),
        cmocka_unit_test(test_what_is_no_rush),
        cmocka_unit_test(test_a_client_alone),
        cmocka_unit_test(test_turns_keep_their_distance),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
