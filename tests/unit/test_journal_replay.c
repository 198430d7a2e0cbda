/* Replays of what is done: they last, and what they brought back is not lost with old segments. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <string.h>

#include "daemon/sysio.h"
#include "tests/support/world.h"

#define SEGMENT_BYTES (4 * SEGMENT_PAGE)
#define RETAIN_MS 60000

static const struct journal_config retaining = {.sync = true,
                                                .max_bytes = 8 * SEGMENT_BYTES,
                                                .segment_bytes = SEGMENT_BYTES,
                                                .max_unsynced_bytes = 1000000,
                                                .retain_ms = RETAIN_MS};

static struct world w;

static void begin(void)
{
    world_init(&w, 7, &retaining);
    assert_int_equal(world_open(&w), 0);
    world_room(&w, 100000);
}

static void append_and_settle(unsigned count, size_t len)
{
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(world_append(&w, len), 0);
    world_settle(&w);
}

static struct sim_file *segment_file(uint64_t index)
{
    char name[DISK_NAME_MAX];

    disk_segment_name(index, name);
    return simdisk_file(w.disk, name);
}

static void time_passes(int64_t us)
{
    w.disk->now_us += us;
    world_settle(&w);
}

/* Commits all that came but `stuck`, which is a number or 0, and lets that reach the disk. */
static void commit_but(uint32_t stuck)
{
    for (uint32_t n = 1; n <= w.count; n++)
        if (w.in_memory[n] != 0 && n != stuck)
            world_commit(&w, n);
    world_settle(&w);
}

/* Fills the current segment until the next one is in use. */
static void rotate(void)
{
    uint64_t index = w.journal->current.index;

    while (w.journal->current.index == index)
        append_and_settle(1, 1000);
}

/* The power fails, and the file of a segment is there again. */
static void put_back(uint64_t index, const uint8_t *bytes, size_t len)
{
    const struct sysio *sys = &w.disk->sys;
    char name[DISK_NAME_MAX];
    int fd;

    disk_segment_name(index, name);
    fd = sysio_open(sys, sys->open_directory(sys, "sim"), name, O_RDWR | O_CREAT);
    assert_true(fd >= 0);
    assert_int_equal(sysio_write(sys, fd, bytes, len, 0), 0);
    sys->close(sys, fd);
}

/* Goal of this test: done segments stay for retain_ms and can be replayed whole; a crash right
 * after does not undo the replay; room for new records goes before retention. */
static void test_retain_and_replay(void **state)
{
    uint32_t count;

    (void)state;
    begin();
    append_and_settle(20, 800);
    append_and_settle(1, 100);
    commit_but(0);
    count = w.count;
    assert_true(w.journal->ledger.count >= 2); /* kept */
    assert_int_equal(journal_replay_done(w.journal), count);
    world_settle(&w);
    for (uint32_t n = 1; n <= count; n++)
        assert_int_equal(w.in_memory[n], 1);
    world_abandon(&w);
    assert_int_equal(world_open(&w), 0);
    assert_int_equal(w.journal->recovered, count);
    world_room(&w, 1000);
    world_settle(&w);
    commit_but(0);
    time_passes(2 * RETAIN_MS * 1000);
    assert_int_equal(w.journal->ledger.count, 1);
    for (int i = 0; i < 100; i++) { /* more than max_bytes, all done at once: retention gives way */
        append_and_settle(1, 1000);
        commit_but(0);
    }
    world_done(&w);
}

/* Goal of this test: a record that a replay brought back and that was moved is not lost when both
 * its old segment and the replay note's are trimmed, and a loss of power leaves only the file of
 * the old one, in which it is done. Without its copy counting for more than that older note, it is.
 */
static void test_trimmed_file_comes_back(void **state)
{
    static uint8_t old[SEGMENT_BYTES];

    (void)state;
    begin();
    append_and_settle(25, 100);
    commit_but(0);
    assert_int_equal(w.journal->current.index, 1); /* the records, and the note of them */
    rotate();
    world_replay(&w);
    world_settle(&w);
    assert_int_equal(w.journal->current.index, 2); /* the replay note */
    assert_int_equal(w.in_memory[1], 1);
    world_adopt(&w);
    rotate();
    commit_but(1);
    memcpy(old, segment_file(1)->cache, sizeof old);
    time_passes(2 * JOURNAL_SPARSE_US); /* sees that few are left */
    time_passes(2 * JOURNAL_SPARSE_US);
    assert_int_equal(w.journal->moved, 1);
    time_passes(2 * RETAIN_MS * 1000);
    assert_int_equal(w.journal->trim_point, 3);
    assert_null(segment_file(1));
    assert_null(segment_file(2));
    world_abandon(&w);
    put_back(1, old, sizeof old);
    assert_int_equal(world_open(&w), 0);
    world_room(&w, 1000);
    world_settle(&w);
    assert_int_equal(w.in_memory[1], 1);
    world_check_recovered(&w);
    world_done(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_retain_and_replay),
        cmocka_unit_test(test_trimmed_file_comes_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
