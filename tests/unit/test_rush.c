/* Goal: many conversations beside rows are a rush, and nothing else is; the loop rests in one that
 * is thick and written in large batches, and no longer than until its next turn is due. */
#include "daemon/rush.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <uv.h>

struct load {
    struct rush r;
    struct rush_totals all;
};

static void look_after(struct load *l, const struct rush_totals *more)
{
    l->all.accepted += more->accepted;
    l->all.replies += more->replies;
    l->all.groups += more->groups;
    l->all.written += more->written;
    l->all.batches += more->batches;
    rush_look(&l->r, &l->all);
}

/* Each message brings one conversation and waits for its acknowledgement. */
static void look(struct load *l, uint64_t in, uint64_t groups, uint64_t out, uint64_t batches)
{
    look_after(
        l,
        &(struct rush_totals){
            .accepted = in, .replies = in, .groups = groups, .written = out, .batches = batches});
}

static void test_many_beside_rows(void **state)
{
    struct load l = {.all.accepted = 0};

    (void)state;
    look(&l, 200, 80, 500, 1); /* 2,000 a second */
    assert_true(l.r.on);
    assert_false(l.r.gathers);
    look(&l, 500, 160, 100, 1); /* 5,000 a second, the rows fall behind */
    assert_true(l.r.on);
    assert_true(l.r.gathers);
}

static void test_what_is_no_rush(void **state)
{
    struct load l = {.all.accepted = 0};

    (void)state;
    look(&l, 2000, 200, 2000, 4);
    assert_true(l.r.gathers);
    for (unsigned i = 1; i < RUSH_LOOKS_PER_SECOND; i++) { /* between two batches it goes on */
        look(&l, 2000, 200, 0, 0);
        assert_true(l.r.gathers);
    }
    look(&l, 2000, 200, 200, 1); /* no rows to speak of: the database is down */
    assert_false(l.r.on);
    assert_false(l.r.gathers);
    look(&l, 190, 60, 500, 1); /* few */
    assert_false(l.r.on);
}

/* Goal: a client alone, each of whose messages is a group, never waits for a rest, however many
 * conversations are in it. */
static void test_a_client_alone(void **state)
{
    struct load l = {.all.accepted = 0};

    (void)state;
    look(&l, 800, 780, 1000, 2);
    assert_true(l.r.on);
    assert_false(l.r.gathers);
    look_after(&l,
               &(struct rush_totals){
                   .accepted = 8000, .replies = 80, .groups = 80, .written = 8000, .batches = 16});
    assert_true(l.r.on);
    assert_false(l.r.gathers);
}

/* Goal: a thousand acknowledgements a second do not wait for a rest because of many more
 * conversations whose clients wait for the rows. */
static void test_clients_that_wait_for_rows(void **state)
{
    struct load l = {.all.accepted = 0};

    (void)state;
    for (int i = 0; i < 3; i++) {
        look_after(
            &l, &(struct rush_totals){
                    .accepted = 3500, .replies = 100, .groups = 50, .written = 3500, .batches = 7});
        assert_true(l.r.on);
        assert_false(l.r.gathers);
    }
}

static void test_small_batches(void **state)
{
    struct load l = {.all.accepted = 0};

    (void)state;
    look(&l, 2000, 200, 2000, 200);
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
        cmocka_unit_test(test_many_beside_rows), cmocka_unit_test(test_what_is_no_rush),
        cmocka_unit_test(test_a_client_alone),   cmocka_unit_test(test_clients_that_wait_for_rows),
        cmocka_unit_test(test_small_batches),    cmocka_unit_test(test_turns_keep_their_distance),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
