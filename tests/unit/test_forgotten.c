/* What was forgotten: which conversations it covers, and its file. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

#include "daemon/forgotten.h"

static char directory[] = "/tmp/convstore-forgotten-XXXXXX";
static char path[128];

static struct forgotten start(uint64_t first_seq, uint64_t last_seq)
{
    struct forgotten f;
    char error[512] = "";

    if (forgotten_start(&f, directory, first_seq, last_seq, error) != 0)
        fail_msg("%s", error);
    return f;
}

static uint64_t first = 1; /* number in the journal */
static int64_t removed_at_us = 1000;

static void add(struct forgotten *f, const char *user, uint64_t last_seq, int id)
{
    struct forgotten_entry entry = {.last_seq = last_seq, .has_id = id >= 0, .id = {(uint8_t)id}};

    strcpy(entry.user_id, user);
    assert_int_equal(forgotten_add(f, &entry, first, 1000), 0);
    entry.stored_until_us = removed_at_us;
    assert_int_equal(forgotten_removed(f, &entry), 0);
}

static bool covers(const struct forgotten *f, const char *user, int id, uint64_t seq, int64_t at_us)
{
    struct conversation_fields fields = {
        .user_id = {user, strlen(user)}, .platform = {"p", 1}, .transcript = {"t", 1}};
    struct conversation *c = conversation_new(&fields, (const uint8_t[16]){(uint8_t)id}, at_us);
    bool result;

    assert_non_null(c);
    c->seq = seq;
    result = forgotten_covers(f, c);
    conversation_free(c);
    return result;
}

static void only_what_was_there_before(void **state)
{
    struct forgotten f = start(1, 100);

    (void)state;
    assert_false(covers(&f, "ann", 1, 1, 1));
    add(&f, "ann", 10, -1);
    add(&f, "bob", 20, 7);
    assert_true(covers(&f, "ann", 1, 10, 1000));
    assert_false(covers(&f, "ann", 1, 11, 1000));
    assert_true(covers(&f, "ann", 1, 10, 1001)); /* the clock was set back since it came */
    assert_false(covers(&f, "anna", 1, 1, 1));
    assert_false(covers(&f, "an", 1, 1, 1));
    assert_true(covers(&f, "bob", 7, 20, 1));
    assert_false(covers(&f, "bob", 8, 20, 1));
    forgotten_done(&f);
}

static void the_file_keeps_it_while_it_matters(void **state)
{
    struct forgotten f = start(10, 100);

    (void)state;
    assert_int_equal(f.count, 2);
    assert_true(covers(&f, "ann", 1, 10, 1000));
    forgotten_done(&f);
    f = start(11, 100); /* the journal has no number as low as ann's */
    assert_int_equal(f.count, 1);
    assert_true(covers(&f, "bob", 7, 20, 1));
    forgotten_done(&f);
    f = start(21, 100);
    assert_int_equal(f.count, 0);
    add(&f, "eve", 30, -1);
    forgotten_done(&f);
    f = start(0, 100);
    assert_int_equal(f.count, 1);
    assert_true(covers(&f, "eve", 1, 30, 1));
    forgotten_done(&f);
}

/* Goal: a daemon that runs for ever remembers no more calls than its journal needs. */
static void it_shrinks_while_the_daemon_runs(void **state)
{
    struct forgotten f = start(1, 100000);

    (void)state;
    for (uint64_t seq = 1; seq <= 3 * FORGOTTEN_MAX; seq += 100) {
        first = seq > 1000 ? seq - 1000 : 1;
        add(&f, "ann", seq, 1);
        assert_true(covers(&f, "ann", 1, seq, 1));
        assert_true(f.count <= 12);
    }
    /* What was removed a moment ago a standby may still have. */
    removed_at_us = 1001;
    first = 4 * FORGOTTEN_MAX;
    add(&f, "bob", 7, 1);
    add(&f, "eve", first, 1);
    assert_int_equal(f.count, 2);
    assert_string_equal(f.entries[0].user_id, "bob");
    removed_at_us = 1000;
    first = 1;
    forgotten_done(&f);
    f = start(1, 0);
    assert_int_equal(f.count, 0);
    forgotten_done(&f);
}

/* Goal: conversations with numbers that are given again, after a crash took them or in a directory
 * that was emptied, are never taken for forgotten. */
static void numbers_that_are_given_again_are_not_covered(void **state)
{
    struct forgotten f = start(1, 100);

    (void)state;
    add(&f, "ann", 50, -1);
    forgotten_done(&f);
    f = start(1, 45); /* 46 to 50 were not on disk */
    assert_true(covers(&f, "ann", 1, 45, 1000));
    assert_false(covers(&f, "ann", 1, 46, 1000));
    forgotten_done(&f);
    f = start(1, 60);
    assert_true(covers(&f, "ann", 1, 45, 1000));
    assert_false(covers(&f, "ann", 1, 46, 1000));
    forgotten_done(&f);
    f = start(1, 0); /* emptied */
    assert_int_equal(f.count, 0);
    forgotten_done(&f);
    f = start(1, 60);
    assert_false(covers(&f, "ann", 1, 1, 1000));
    add(&f, "eve", 30, -1);
    forgotten_done(&f);
}

static void a_damaged_file_stops_the_start(void **state)
{
    struct forgotten f;
    char error[512] = "";
    int fd = open(path, O_RDWR);
    off_t len = lseek(fd, 0, SEEK_END);

    (void)state;
    assert_int_equal(pwrite(fd, "x", 1, len - 1), 1);
    assert_int_equal(forgotten_start(&f, directory, 1, 100, error), -1);
    assert_non_null(strstr(error, "damaged"));
    forgotten_done(&f);
    assert_int_equal(ftruncate(fd, 10), 0);
    assert_int_equal(forgotten_start(&f, directory, 1, 100, error), -1);
    forgotten_done(&f);
    close(fd);
}

static void what_cannot_be_written_is_not_forgotten(void **state)
{
    struct forgotten_entry entry = {.last_seq = 1};
    struct forgotten f;

    (void)state;
    unlink(path);
    f = start(1, 100);
    f.directory = "/nonexistent";
    assert_true(forgotten_add(&f, &entry, 1, 1000) < 0);
    assert_int_equal(f.count, 0);
    forgotten_done(&f);
}

static int make_directory(void **state)
{
    (void)state;
    if (mkdtemp(directory) == NULL)
        return -1;
    snprintf(path, sizeof path, "%s/forgotten", directory);
    return 0;
}

static int remove_directory(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_what_was_there_before),
        cmocka_unit_test(the_file_keeps_it_while_it_matters),
        cmocka_unit_test(it_shrinks_while_the_daemon_runs),
        cmocka_unit_test(numbers_that_are_given_again_are_not_covered),
        cmocka_unit_test(a_damaged_file_stops_the_start),
        cmocka_unit_test(what_cannot_be_written_is_not_forgotten),
    };

    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
