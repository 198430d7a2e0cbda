/* Goal of this test: each operation is counted since the start and over two windows that move on;
 * services may record operations of their own, within rules; and none of it costs the loop much. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "daemon/stats.h"

#define MS 1000000u

static int setup(void **state)
{
    static struct stats stats;

    memset(&stats, 0, sizeof stats);
    *state = &stats;
    stats_turn(&stats, 1000003);
    return stats_init(&stats);
}

static int teardown(void **state)
{
    stats_done(*state);
    return 0;
}

static uint64_t count_in(const struct stats *stats, enum stats_window window)
{
    struct stats_figures figures;

    stats_figures(stats, OPERATION_QUEUE, window, &figures);
    return figures.count;
}

static void test_figures(void **state)
{
    struct stats *stats = *state;
    struct stats_figures f;

    assert_string_equal(stats_name(stats, OPERATION_QUEUE), "queue");
    assert_string_equal(stats_name(stats, OPERATION_END_TO_END), "end_to_end");
    assert_int_equal(stats->operation_count, OPERATION_COUNT);
    stats_figures(stats, OPERATION_QUEUE, STATS_LAST_MINUTE, &f);
    assert_true(f.count == 0 && f.p99 == 0 && f.mean == 0);
    for (unsigned i = 1; i <= 1000; i++)
        stats_record(stats, OPERATION_QUEUE, (uint64_t)i * MS, i % 10 != 0);
    for (enum stats_window w = STATS_SINCE_START; w <= STATS_LAST_5_MINUTES; w++) {
        stats_figures(stats, OPERATION_QUEUE, w, &f);
        assert_int_equal(f.count, 1000);
        assert_int_equal(f.errors, 100);
        assert_true(f.mean == 500500);
        assert_true(fabs((double)f.p50 - 500000) <= 5000);
        assert_true(fabs((double)f.p95 - 950000) <= 9500);
        assert_true(fabs((double)f.p99 - 990000) <= 9900);
        assert_int_equal(f.max, 1000000);
    }
    assert_int_equal(stats_histogram(stats, OPERATION_QUEUE)->count, 1000);
    assert_int_equal(stats_errors(stats, OPERATION_QUEUE), 100);
    stats_figures(stats, OPERATION_EMBEDDING, STATS_SINCE_START, &f);
    assert_int_equal(f.count, 0);
}

/* What is recorded now is in each window as long as it says, then no more. */
static void test_windows_move_on(void **state)
{
    static const struct {
        enum stats_window window;
        uint64_t at_least_s, at_most_s;
    } windows[] = {{STATS_LAST_MINUTE, 50, 60}, {STATS_LAST_5_MINUTES, 250, 300}};

    for (uint64_t phase = 0; phase < 50; phase += 7)
        for (unsigned i = 0; i < 2; i++) {
            struct stats *stats = *state;
            uint64_t from = stats->turned_s + 1000 + phase, gone = 0;

            stats_turn(stats, from);
            assert_int_equal(count_in(stats, windows[i].window), 0);
            stats_record(stats, OPERATION_QUEUE, 5 * MS, false);
            for (uint64_t s = 1; s <= windows[i].at_most_s && gone == 0; s++) {
                stats_turn(stats, from + s);
                if (count_in(stats, windows[i].window) == 0)
                    gone = s;
            }
            assert_in_range(gone, windows[i].at_least_s, windows[i].at_most_s);
        }
}

/* A loop that stood still for long empties everything with one turn. */
static void test_a_long_pause(void **state)
{
    struct stats *stats = *state;

    for (unsigned s = 0; s < 600; s++) {
        stats_turn(stats, stats->turned_s + 1);
        stats_record(stats, OPERATION_QUEUE, 5 * MS, true);
    }
    assert_in_range(count_in(stats, STATS_LAST_MINUTE), 51, 60);
    assert_in_range(count_in(stats, STATS_LAST_5_MINUTES), 251, 300);
    stats_turn(stats, stats->turned_s + 100000);
    assert_int_equal(count_in(stats, STATS_LAST_MINUTE), 0);
    assert_int_equal(count_in(stats, STATS_LAST_5_MINUTES), 0);
    assert_int_equal(count_in(stats, STATS_SINCE_START), 600);
}

static struct slice text(const char *name)
{
    return (struct slice){name, strlen(name)};
}

static void test_names_of_services(void **state)
{
    struct stats *stats = *state;
    struct stats_figures f;
    struct wire_error err;
    char name[STATS_NAME_MAX + 2];

    assert_int_equal(stats_record_named(stats, text("llm.answer"), 12.5, true, &err), 0);
    assert_int_equal(stats_record_named(stats, text("llm.answer"), 0, false, &err), 0);
    assert_int_equal(stats->operation_count, OPERATION_COUNT + 1);
    assert_string_equal(stats_name(stats, OPERATION_COUNT), "llm.answer");
    stats_figures(stats, OPERATION_COUNT, STATS_LAST_MINUTE, &f);
    assert_true(f.count == 2 && f.errors == 1 && f.max == 12500);

    memset(name, 'x', sizeof name);
    name[STATS_NAME_MAX + 1] = '\0';
    for (size_t i = 0; i < 5; i++) {
        const char *bad[] = {"", "a b", "a\"b", "\xc3\xa4", name};

        assert_int_equal(stats_record_named(stats, text(bad[i]), 1, true, &err), -1);
        assert_int_equal(err.code, WIRE_INVALID_ARGUMENT);
        assert_non_null(strstr(err.text, "operation: must be 1 to 64"));
    }
    assert_int_equal(stats_record_named(stats, (struct slice){"a\0b", 3}, 1, true, &err), -1);
    assert_int_equal(stats_record_named(stats, text(name + 1), 1, true, &err), 0);
    for (size_t i = 0; i < 5; i++) {
        const double bad[] = {-0.001, (double)NAN, (double)INFINITY, 86400000.1, 1e300};

        assert_int_equal(stats_record_named(stats, text("ok"), bad[i], true, &err), -1);
        assert_non_null(strstr(err.text, "duration_ms: must be"));
    }
    assert_int_equal(stats_record_named(stats, text("ok"), 86400000, true, &err), 0);
    assert_int_equal(stats_record_named(stats, text("queue"), 1, true, &err), -1);
    assert_non_null(strstr(err.text, "the daemon's own"));
    for (unsigned i = 3; i < STATS_RECORDED_MAX; i++) {
        snprintf(name, sizeof name, "n%u", i);
        assert_int_equal(stats_record_named(stats, text(name), 1, true, &err), 0);
    }
    assert_int_equal(stats_record_named(stats, text("one-more"), 1, true, &err), -1);
    assert_non_null(strstr(err.text, "64 names"));
    assert_int_equal(stats_record_named(stats, text("ok"), 1, true, &err), 0);
}

/* The fastest of several rounds of processor time: what else the machine does does not count. */
static void test_recording_costs_little(void **state)
{
    enum { RECORDS = 200000, ROUNDS = 20 };
    struct stats *stats = *state;
    double best_ns = 1e9;

    for (unsigned round = 0; round < ROUNDS; round++) {
        struct timespec from, to;
        uint64_t value = 88172645463325252u;
        double ns;

        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
        for (unsigned i = 0; i < RECORDS; i++) {
            value ^= value << 13;
            value ^= value >> 7;
            value ^= value << 17;
            stats_record(stats, (enum operation)(value % OPERATION_COUNT), value >> 40, true);
        }
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
        ns = (double)(to.tv_sec - from.tv_sec) * 1e9 + (double)(to.tv_nsec - from.tv_nsec);
        if (ns / RECORDS < best_ns)
            best_ns = ns / RECORDS;
    }
    print_message("# stats_record: %.1f ns\n", best_ns);
    assert_true(best_ns < 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_figures, setup, teardown),
        cmocka_unit_test_setup_teardown(test_windows_move_on, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_long_pause, setup, teardown),
        cmocka_unit_test_setup_teardown(test_names_of_services, setup, teardown),
        cmocka_unit_test_setup_teardown(test_recording_costs_little, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
