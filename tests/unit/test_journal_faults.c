/* Every system call under the journal fails in turn, in every way, once and for good. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>

#include "tests/support/world.h"

static const struct journal_config small = {.sync = true,
                                            .max_bytes = 4 * 4 * SEGMENT_PAGE,
                                            .segment_bytes = 4 * SEGMENT_PAGE,
                                            .max_unsynced_bytes = 100000};

static void append_and_settle(struct world *w, unsigned count, size_t len)
{
    for (unsigned i = 0; i < count && !w->failed; i++)
        (void)!world_append(w, len);
    if (!w->failed)
        world_settle(w);
}

static void commit_all_but(struct world *w, uint32_t kept)
{
    for (uint32_t n = 1; n <= w->count; n++)
        if (w->in_memory[n] != 0 && n != kept && !w->failed)
            world_commit(w, n);
    if (!w->failed)
        world_settle(w);
}

/* A life in which everything happens: groups, rotation, a trailing cursor, notes, trim, recycling,
 * a move. */
static void live(struct world *w)
{
    world_room(w, 5);
    append_and_settle(w, 12, 400); /* seven of them stay on disk */
    append_and_settle(w, 10, 700);
    if (w->failed)
        return;
    world_room(w, 1000);
    world_settle(w);
    commit_all_but(w, 3);
    append_and_settle(w, 16, 900); /* into the next segments, over the recycled ones */
    w->disk->now_us += 2 * JOURNAL_SPARSE_US;
    if (!w->failed)
        world_settle(w);
    w->disk->now_us += 2 * JOURNAL_SPARSE_US;
    if (!w->failed)
        world_settle(w);
    commit_all_but(w, 0);
    append_and_settle(w, 3, 300);
}

/* A damaged, torn journal, so that the start has all its work to do. */
static void prepare(struct world *w)
{
    char name[DISK_NAME_MAX];

    assert_int_equal(world_open(w), 0);
    world_room(w, 1000);
    append_and_settle(w, 20, 500);
    append_and_settle(w, 2, 500);
    world_abandon(w);
    disk_segment_name(1, name);
    simdisk_flip(w->disk, name, SEGMENT_DATA + 700, 1);
    w->fates[2] = FATE_SUBMITTED; /* the damaged one: it may be missing */
}

static uint64_t run_once(uint64_t at, int error, bool for_good)
{
    static struct world w;
    uint64_t fired;
    int rc;

    world_init(&w, at, &small);
    prepare(&w);
    w.disk->calls = 0;
    w.disk->fault = (struct sim_fault){.at = at, .error = error, .for_good = for_good};
    rc = world_open(&w);
    if (rc == 0)
        live(&w);
    else
        assert_true(w.text[0] != '\0'); /* it says what failed */
    fired = w.disk->faults;
    if (error == 0 || error == -EINTR) { /* nobody may notice these */
        assert_int_equal(rc, 0);
        assert_false(w.failed);
    }
    if (error == -EMFILE) /* too many connections must not end the daemon */
        assert_false(w.failed);
    if (w.failed && w.last_error != -EBADMSG) /* bytes that the disk does not give are damage */
        assert_int_equal(w.last_error, error);
    world_abandon(&w);
    w.disk->fault = (struct sim_fault){0};
    if (world_open(&w) != 0)
        world_fail(&w, "call %llu, error %d: no start afterwards: %s", (unsigned long long)at,
                   error, w.text);
    world_room(&w, 1000);
    world_settle(&w);
    world_check_recovered(&w);
    world_done(&w);
    return fired;
}

/* Goal of this test: whatever call fails, nothing acknowledged is lost, the daemon dies or goes on
 * but never lies, and the next start works. */
static void test_every_call_fails(void **state)
{
    static const struct {
        int error;
        bool for_good;
    } ways[] = {{-EIO, false},   {-EIO, true},   {-ENOSPC, false}, {-ENOSPC, true},
                {-EINTR, false}, {-EROFS, true}, {-EMFILE, false}, {-EMFILE, true},
                {0, false},      {0, true}};
    uint64_t runs = 0;

    (void)state;
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        uint64_t quiet = 0;

        /* A call that cannot fail in this way is passed over; a long silence is the end. */
        for (uint64_t at = 1; quiet < 200; at++) {
            quiet = run_once(at, ways[i].error, ways[i].for_good) > 0 ? 0 : quiet + 1;
            runs++;
        }
    }
    printf("# faults: %llu runs\n", (unsigned long long)runs);
}

/* Goal of this test: the life that the faults are put into does what it is meant to do. */
static void test_the_life_is_full(void **state)
{
    static struct world w;

    (void)state;
    world_init(&w, 1, &small);
    prepare(&w);
    assert_int_equal(world_open(&w), 0);
    live(&w);
    assert_false(w.failed);
    assert_int_equal(w.journal->damages.count, 1);
    assert_true(w.journal->moved > 0);
    assert_true(w.journal->trim_point > 2);
    assert_true(w.journal->retired == w.journal->trim_point);
    world_done(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_life_is_full),
        cmocka_unit_test(test_every_call_fails),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
