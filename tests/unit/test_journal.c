/* The journal on the loop's side: order, bounds, the memory rule, trim, moves, failure; and once
 * with its real threads on a real directory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/sysio.h"
#include "tests/support/world.h"

#define SEGMENT_BYTES (4 * SEGMENT_PAGE)

static const struct journal_config small = {.sync = true,
                                            .max_bytes = 4 * SEGMENT_BYTES,
                                            .segment_bytes = SEGMENT_BYTES,
                                            .max_unsynced_bytes = 1000000};

static struct world w;

static void begin(const struct journal_config *config)
{
    world_init(&w, 3, config);
    assert_int_equal(world_open(&w), 0);
    world_room(&w, 100000);
    world_settle(&w);
}

static void append(unsigned count, size_t len)
{
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(world_append(&w, len), 0);
}

static void commit_all(void)
{
    for (uint32_t n = 1; n <= w.count; n++)
        if (w.in_memory[n] != 0)
            world_commit(&w, n);
}

/* Goal of this test: a lone record leaves at once; what comes while its group is out goes together
 * in the next; no ack comes before its sync. */
static void test_group_commit(void **state)
{
    (void)state;
    begin(&small);
    append(1, 100);
    world_pump(&w);
    assert_non_null(w.group);
    append(5, 100);
    world_pump(&w);
    assert_true(world_run_group(&w));
    assert_int_equal(w.fates[1], FATE_SUBMITTED);
    assert_true(world_finish_group(&w));
    assert_int_equal(w.fates[1], FATE_ACKED);
    assert_null(w.group);
    append(1, 100); /* read in the same turn of the loop */
    world_pump(&w);
    assert_int_equal(w.fates[2], FATE_SUBMITTED);
    assert_int_equal(w.journal->group_records, 6);
    world_settle(&w);
    assert_int_equal(w.fates[7], FATE_ACKED);
    assert_int_equal(w.journal->syncs, 2);
    assert_int_equal(w.journal->records, 7);
    world_done(&w);
}

/* Goal of this test: a record is in memory or behind the cursor; new ones do not overtake old ones;
 * no room, no read; all come once. */
static void test_memory_rule(void **state)
{
    struct journal_stats stats;

    (void)state;
    begin(&small);
    world_room(&w, 3);
    append(10, 100);
    world_settle(&w);
    journal_stats(w.journal, &stats);
    assert_int_equal(stats.waiting, 10);
    assert_int_equal(stats.waiting_on_disk, 7);
    assert_int_equal(w.in_memory[3], 1);
    assert_int_equal(w.in_memory[4], 0);
    world_room(&w, 2);
    world_pump(&w); /* the read job is out; a fresh record must not slip in before what it brings */
    append(1, 100);
    world_pump(&w);
    assert_true(world_run_group(&w) && world_finish_group(&w));
    assert_int_equal(w.fates[11], FATE_ACKED);
    assert_int_equal(w.in_memory[11], 0);
    world_settle(&w);
    assert_int_equal(w.in_memory[5], 1);
    assert_int_equal(w.in_memory[6], 0);
    assert_int_equal(w.in_memory[11], 0);
    world_room(&w, 1000);
    world_settle(&w);
    journal_stats(w.journal, &stats);
    assert_int_equal(stats.waiting_on_disk, 0);
    for (uint32_t n = 1; n <= 11; n++)
        assert_int_equal(w.in_memory[n], 1);
    world_done(&w);
}

/* Goal of this test: at max_bytes appends are refused, what was acknowledged stays, and the full
 * journal drains and takes records again. */
static void test_full_and_drained(void **state)
{
    uint32_t stored = 0;
    int rc;

    (void)state;
    begin(&small);
    while ((rc = world_append(&w, 1000)) == 0) {
        world_settle(&w);
        stored++;
    }
    assert_int_equal(rc, -EDQUOT);
    assert_int_equal(journal_admits(w.journal, 1, 1000), -EDQUOT);
    assert_int_equal(w.journal->ledger.live, stored);
    assert_in_range(w.journal->ledger.bytes, small.max_bytes, small.max_bytes);
    commit_all();
    world_settle(&w);
    assert_int_equal(w.journal->ledger.live, 0);
    assert_int_equal(w.journal->ledger.count, 1);
    append(8, 1000);
    world_settle(&w);
    assert_int_equal(w.journal->ledger.live, 8);
    world_done(&w);
}

/* Goal of this test: a full disk refuses, but what is prepared stays in reserve, and draining goes
 * on; when there is space again, so does storing. */
static void test_disk_full(void **state)
{
    struct journal_config config = small;
    int rc;

    (void)state;
    config.max_bytes = 64 * SEGMENT_BYTES;
    begin(&config);
    w.disk->full = true;
    while ((rc = world_append(&w, 1000)) == 0)
        world_settle(&w);
    assert_int_equal(rc, -ENOSPC);
    assert_true(journal_prepared(w.journal) >= JOURNAL_RESERVE);
    assert_false(w.failed);
    commit_all();
    world_settle(&w);
    assert_int_equal(w.journal->ledger.count, 1);
    append(3, 1000); /* into what was recycled */
    world_settle(&w);
    w.disk->full = false;
    w.disk->now_us += 2 * JOURNAL_RETRY_US;
    world_settle(&w);
    for (int i = 0; i < 60; i++) {
        append(1, 1000);
        world_settle(&w);
    }
    world_done(&w);
}

/* Goal of this test: a record that no segment holds is refused for itself, not for fullness. */
static void test_too_large(void **state)
{
    (void)state;
    begin(&small);
    assert_int_equal(world_append(&w, SEGMENT_BYTES), -EMSGSIZE);
    append(1, SEGMENT_BYTES - SEGMENT_DATA - 200);
    append(1, SEGMENT_BYTES - SEGMENT_DATA - 200);
    world_settle(&w);
    assert_int_equal(w.fates[3], FATE_ACKED);
    world_done(&w);
}

/* Goal of this test: too much that waits for its sync stops the sessions, until the sync. */
static void test_congestion(void **state)
{
    struct journal_config config = small;

    (void)state;
    config.max_unsynced_bytes = 3000;
    begin(&config);
    append(2, 1000);
    assert_false(journal_congested(w.journal));
    append(1, 1000);
    assert_true(journal_congested(w.journal));
    world_pump(&w);
    assert_true(journal_congested(w.journal));
    world_run_group(&w);
    world_finish_group(&w);
    assert_false(journal_congested(w.journal));
    world_done(&w);
}

/* Goal of this test: other limits hold from the next record on; a journal beyond a lowered
 * max_bytes takes nothing, drains, and takes again. */
static void test_other_limits(void **state)
{
    struct journal_config config = small;

    (void)state;
    config.retain_ms = 3600000;
    begin(&config);
    while (world_append(&w, 1000) == 0)
        world_settle(&w);
    config.max_bytes = 8 * SEGMENT_BYTES;
    journal_reconfigure(w.journal, &config);
    world_settle(&w);
    while (world_append(&w, 1000) == 0)
        world_settle(&w);
    assert_int_equal(w.journal->ledger.bytes, 8 * SEGMENT_BYTES);
    config.max_bytes = 3 * SEGMENT_BYTES;
    journal_reconfigure(w.journal, &config);
    assert_int_equal(world_append(&w, 1000), -EDQUOT);
    commit_all();
    world_settle(&w);
    assert_in_range(w.journal->ledger.bytes, SEGMENT_BYTES, 3 * SEGMENT_BYTES);
    append(8, 1000);
    world_settle(&w);
    commit_all();
    world_settle(&w);
    assert_true(w.journal->ledger.count > 1); /* retained */
    config.retain_ms = 0;
    config.max_unsynced_bytes = 3000;
    journal_reconfigure(w.journal, &config);
    world_settle(&w);
    assert_int_equal(w.journal->ledger.count, 1);
    append(3, 1000);
    assert_true(journal_congested(w.journal));
    world_settle(&w);
    world_done(&w);
}

/* Goal of this test: a failed sync answers every waiting store with on_lost, acknowledges nothing,
 * ever, and takes nothing more. */
static void test_failure(void **state)
{
    (void)state;
    begin(&small);
    append(3, 100);
    world_pump(&w);
    append(2, 100);
    w.disk->fault = (struct sim_fault){.at = w.disk->calls + 2, .error = -EIO};
    world_run_group(&w);
    world_finish_group(&w);
    assert_true(w.failed);
    assert_int_equal(w.lost, 5);
    assert_int_equal(w.last_error, -EIO);
    assert_non_null(strstr(w.text, "fdatasync failed: Input/output error"));
    assert_int_equal(world_append(&w, 100), -EIO);
    world_pump(&w);
    assert_null(w.group);
    for (uint32_t n = 1; n <= w.count; n++)
        assert_int_not_equal(w.fates[n], FATE_ACKED);
    world_done(&w);
}

/* Goal of this test: when other disk work fails while a group is out, that group's records are not
 * acknowledged either, although they were synced. */
static void test_failure_beside_a_group(void **state)
{
    (void)state;
    begin(&small);
    append(2, 100);
    world_pump(&w);
    journal_fail(w.journal, -EIO, "a test");
    assert_false(w.failed);
    world_run_group(&w);
    world_finish_group(&w);
    assert_true(w.failed);
    assert_int_equal(w.lost, 2);
    assert_int_equal(w.fates[1], FATE_SUBMITTED);
    world_done(&w);
}

/* Goal of this test: done notes reach the disk without a sync of their own, and a restart replays
 * only what is not done. */
static void test_notes_shorten_the_replay(void **state)
{
    (void)state;
    begin(&small);
    append(10, 100);
    world_settle(&w);
    for (uint32_t n = 10; n > 2; n--)
        world_commit(&w, n);
    world_settle(&w);
    assert_int_equal(w.journal->syncs, 1);
    world_abandon(&w);
    assert_int_equal(world_open(&w), 0);
    assert_int_equal(w.journal->recovered, 2);
    world_room(&w, 100);
    world_settle(&w);
    assert_int_equal(w.in_memory[1] + w.in_memory[2], 2);
    world_done(&w);
}

/* Goal of this test: one record that is never done pins no disk: it moves on, keeps its number, is
 * handed on once, and a restart still knows it. */
static void stuck_record_moves(size_t stuck_bytes, unsigned others, size_t bytes)
{
    uint64_t seq;

    begin(&small);
    append(1, stuck_bytes);
    world_settle(&w);
    seq = w.seqs[1];
    for (int round = 0; round < 40; round++) {
        append(others, bytes);
        world_settle(&w);
        for (uint32_t n = 2; n <= w.count; n++)
            if (w.in_memory[n] != 0)
                world_commit(&w, n);
        w.disk->now_us += 2 * JOURNAL_SPARSE_US;
        world_settle(&w);
    }
    assert_true(w.journal->moved >= 5);
    assert_true(w.journal->ledger.count <= 2);
    assert_int_equal(w.in_memory[1], 1);
    world_abandon(&w);
    assert_int_equal(world_open(&w), 0);
    world_room(&w, 100);
    world_settle(&w);
    world_adopt(&w);
    assert_int_equal(w.in_memory[1], 1);
    assert_int_equal(w.seqs[1], seq);
    world_commit(&w, 1);
    world_settle(&w);
    assert_int_equal(w.journal->ledger.live, 0);
    world_done(&w);
}

static void test_stuck_record_moves(void **state)
{
    (void)state;
    stuck_record_moves(50, 25, 200);
}

/* Goal of this test: so does one that is alone larger than several may be together. */
static void test_large_stuck_record_moves(void **state)
{
    (void)state;
    stuck_record_moves(5000, 60, 10);
}

/* Goal of this test: a stuck record that no segment holds, since journal.segment_bytes was lowered,
 * stays where it is; segments are not used up on it, and go when it is done. */
static void test_stuck_record_of_a_larger_segment(void **state)
{
    struct journal_config large = small;

    (void)state;
    large.segment_bytes = 4 * SEGMENT_BYTES;
    large.max_bytes = 16 * SEGMENT_BYTES;
    begin(&large);
    append(1, 2 * SEGMENT_BYTES);
    append(60, 10);
    world_settle(&w);
    world_abandon(&w);
    w.config.segment_bytes = SEGMENT_BYTES;
    assert_int_equal(world_open(&w), 0);
    world_room(&w, 100000);
    world_settle(&w);
    world_adopt(&w);
    for (int round = 0; round < 20; round++) {
        append(1, 10);
        world_settle(&w);
        for (uint32_t n = 2; n <= w.count; n++)
            if (w.in_memory[n] != 0)
                world_commit(&w, n);
        w.disk->now_us += 2 * JOURNAL_SPARSE_US;
        world_settle(&w);
    }
    assert_int_equal(w.journal->moved, 0);
    assert_null(w.journal->moving.head);
    assert_true(w.journal->ledger.count <= 3);
    world_commit(&w, 1);
    world_settle(&w);
    assert_true(w.journal->ledger.count <= 1);
    world_done(&w);
}

/* Goal of this test: verify says what is there, of a sound journal and of a damaged one, and
 * touches nothing. */
static void test_verify(void **state)
{
    char name[DISK_NAME_MAX], *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    uint64_t calls;

    (void)state;
    begin(&small);
    append(4, 300);
    world_settle(&w);
    world_commit(&w, 1);
    world_settle(&w);
    world_abandon(&w);
    calls = w.disk->changes;
    assert_int_equal(journal_verify("sim", &w.disk->sys, out), 0);
    disk_segment_name(1, name);
    simdisk_flip(w.disk, name, SEGMENT_DATA + 500, 4);
    assert_int_equal(journal_verify("sim", &w.disk->sys, out), 1);
    assert_true(w.disk->changes == calls);
    fclose(out);
    assert_non_null(strstr(text, "segment=0000000000000001 size=16384 used="));
    assert_non_null(strstr(text, "waiting=3 "));
    assert_non_null(strstr(text, "state=whole"));
    assert_non_null(strstr(text, "state=damaged"));
    assert_non_null(strstr(text, "damage=bytes segment=0000000000000001 offset="));
    free(text);
    world_done(&w);
}

static void test_bad_configuration(void **state)
{
    struct journal_config config = small;

    (void)state;
    config.segment_bytes = 10000;
    world_init(&w, 1, &config);
    assert_int_equal(world_open(&w), -EINVAL);
    assert_non_null(strstr(w.text, "journal.segment_bytes"));
    w.config = small;
    w.config.max_bytes = SEGMENT_BYTES;
    assert_int_equal(world_open(&w), -EINVAL);
    assert_non_null(strstr(w.text, "journal.max_bytes"));
    world_done(&w);
}

/* With real threads, a real loop and a real directory. */
struct real {
    struct journal *journal;
    char directory[64];
    unsigned durable, ready, lost, closed, last_seq;
};

static void real_durable(void *owner, struct conversation *c)
{
    struct real *r = owner;

    assert_true(c->seq == ++r->last_seq);
    r->durable++;
}

static void real_ready(void *owner, struct conversation *c)
{
    struct real *r = owner;

    r->ready++;
    if (r->ready % 2 == 0)
        journal_done(r->journal, c->seq);
    conversation_free(c);
}

static void real_lost(void *owner, struct conversation *c)
{
    (void)c;
    ((struct real *)owner)->lost++;
}

static void real_failed(void *owner, int error, const char *text)
{
    (void)owner;
    fail_msg("%d %s", error, text);
}

static void real_uncongested(void *owner)
{
    (void)owner;
}

static void real_closed(void *owner)
{
    ((struct real *)owner)->closed++;
}

static int real_open(struct real *r, uv_loop_t *loop, char error[512])
{
    static const struct journal_callbacks callbacks = {.on_durable = real_durable,
                                                       .on_ready = real_ready,
                                                       .on_lost = real_lost,
                                                       .on_failed = real_failed,
                                                       .on_uncongested = real_uncongested};
    const struct journal_config config = {.directory = r->directory,
                                          .sync = true,
                                          .max_bytes = 8u << 20,
                                          .segment_bytes = 1u << 20,
                                          .max_unsynced_bytes = 4u << 20};

    return journal_open(&config, loop, sysio_real(), &callbacks, r, &r->journal, error);
}

static struct conversation *real_conversation(void)
{
    static char text[3000];
    struct conversation_fields fields = {
        .user_id = {"u", 1}, .platform = {"p", 1}, .transcript = {text, sizeof text}};
    const uint8_t id[16] = {1};

    memset(text, 'x', sizeof text);
    return conversation_new(&fields, id, 1);
}

static void remove_directory(const char *path)
{
    char command[128];

    snprintf(command, sizeof command, "rm -rf '%s'", path);
    assert_int_equal(system(command), 0);
}

/* Goal of this test: through real threads 1,000 records become durable in order; a second daemon is
 * told who holds the directory; closing writes what waits. */
static void test_real_threads(void **state)
{
    struct real r = {.directory = "/tmp/test_journal.XXXXXX"};
    char error[512] = "", expected[64];
    struct journal *first;
    uv_loop_t loop;

    (void)state;
    assert_non_null(mkdtemp(r.directory));
    uv_loop_init(&loop);
    assert_int_equal(real_open(&r, &loop, error), 0);
    first = r.journal;
    assert_int_equal(real_open(&r, &loop, error), -EWOULDBLOCK);
    r.journal = first;
    snprintf(expected, sizeof expected, "is held by pid %ld", (long)getpid());
    assert_non_null(strstr(error, expected));
    journal_room(r.journal, 1000000, SIZE_MAX / 2);
    for (unsigned i = 0; i < 1000; i++) {
        assert_int_equal(journal_append(r.journal, real_conversation()), 0);
        if (i % 10 == 0)
            uv_run(&loop, UV_RUN_NOWAIT);
    }
    while (r.durable < 1000)
        uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(r.ready, 1000);
    assert_int_equal(journal_append(r.journal, real_conversation()), 0);
    journal_close(r.journal, real_closed);
    assert_int_equal(r.durable, 1001);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(r.closed, 1);
    assert_int_equal(uv_loop_close(&loop), 0);
    remove_directory(r.directory);
}

/* Goal of this test: a restart brings what is not done, and no more than there is room for. */
static void test_real_restart(void **state)
{
    struct real r = {.directory = "/tmp/test_journal.XXXXXX"};
    char error[512] = "";
    uv_loop_t loop;

    (void)state;
    assert_non_null(mkdtemp(r.directory));
    uv_loop_init(&loop);
    assert_int_equal(real_open(&r, &loop, error), 0);
    journal_room(r.journal, 1000000, SIZE_MAX / 2);
    for (unsigned i = 0; i < 600; i++)
        assert_int_equal(journal_append(r.journal, real_conversation()), 0);
    while (r.durable < 600)
        uv_run(&loop, UV_RUN_ONCE);
    journal_close(r.journal, real_closed);
    uv_run(&loop, UV_RUN_DEFAULT);
    r.ready = 0;
    assert_int_equal(real_open(&r, &loop, error), 0);
    journal_room(r.journal, 100, SIZE_MAX / 2);
    while (r.ready < 100)
        uv_run(&loop, UV_RUN_ONCE);
    for (int i = 0; i < 5; i++)
        uv_run(&loop, UV_RUN_NOWAIT);
    assert_int_equal(r.ready, 100);
    journal_room(r.journal, 1000, SIZE_MAX / 2);
    while (r.ready < 300) /* every second one was done before the restart */
        uv_run(&loop, UV_RUN_ONCE);
    journal_close(r.journal, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    remove_directory(r.directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_group_commit),
        cmocka_unit_test(test_memory_rule),
        cmocka_unit_test(test_full_and_drained),
        cmocka_unit_test(test_disk_full),
        cmocka_unit_test(test_too_large),
        cmocka_unit_test(test_congestion),
        cmocka_unit_test(test_other_limits),
        cmocka_unit_test(test_failure),
        cmocka_unit_test(test_failure_beside_a_group),
        cmocka_unit_test(test_notes_shorten_the_replay),
        cmocka_unit_test(test_stuck_record_moves),
        cmocka_unit_test(test_large_stuck_record_moves),
        cmocka_unit_test(test_stuck_record_of_a_larger_segment),
        cmocka_unit_test(test_verify),
        cmocka_unit_test(test_bad_configuration),
        cmocka_unit_test(test_real_threads),
        cmocka_unit_test(test_real_restart),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
