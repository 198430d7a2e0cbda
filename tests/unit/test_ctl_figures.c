/* The stats map of older, newer and wrong daemons, and what happened between two of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/convstorectl_figures.h"

static struct figures read_map(const char *json)
{
    struct figures figures;

    assert_int_equal(figures_read(json, &figures), 0);
    return figures;
}

static void test_everything_is_read(void **state)
{
    struct figures f = read_map(
        "{\"version\": \"0.2\", \"health\": \"critical\", \"uptime_s\": 30, \"queued\": 7,"
        "\"embedding_backlog\": 3, \"journal\": {\"bytes\": 1024, \"disk_free_bytes\": 7, "
        "\"records_per_sync\": 2},"
        "\"cache\": {\"hit_rate\": 0.25}, \"database\": {\"state\": \"down\"},"
        "\"embedding\": {\"state\": \"ok\", \"servers\": [{\"url\": \"u\", \"state\": \"open\","
        "\"failures\": 4, \"self_test\": {\"state\": \"warning\", \"text\": \"why\"}}]},"
        "\"alerts\": [{\"name\": \"n\", \"severity\": \"critical\", \"text\": \"t\","
        "\"figure\": \"queued\", \"value\": 7, \"threshold\": 5.5, \"since_ms\": 1000,"
        "\"action\": \"a\"}],"
        "\"operations\": {\"queue\": {\"count\": 90, \"p99_ms\": 1.5,"
        "\"last_minute\": {\"count\": 60, \"p99_ms\": 2}, \"last_5_minutes\": {\"count\": 90}},"
        "\"chat_turn\": {\"count\": 1}}}");

    (void)state;
    assert_string_equal(f.version, "0.2");
    assert_int_equal(f.queued, 7);
    assert_int_equal(f.embedding.backlog, 3);
    assert_int_equal(f.journal.bytes, 1024);
    assert_int_equal(f.journal.disk_free_bytes, 7);
    assert_true(f.journal.records_per_sync == 2.0);
    assert_true(f.cache.hit_rate == 0.25);
    assert_string_equal(f.database.state, "down");
    assert_int_equal(f.embedding.server_count, 1);
    assert_int_equal(f.embedding.servers[0].failures, 4);
    assert_string_equal(f.embedding.servers[0].self_test_text, "why");
    assert_int_equal(f.alert_count, 1);
    assert_string_equal(f.alerts[0].action, "a");
    assert_int_equal(f.alerts[0].since_ms, 1000);
    assert_int_equal(f.operation_count, 2);
    assert_string_equal(f.operations[1].name, "chat_turn");
    assert_int_equal(figures_recent(&f), WINDOW_MINUTE);
    assert_true(figures_latency(&f, "queue", WINDOW_MINUTE).p99_ms == 2.0);
    assert_int_equal(figures_latency(&f, "queue", WINDOW_START).count, 90);
    figures_done(&f);
}

/* Everything is missing, or of another type than it should be. */
static void test_what_is_missing_is_unknown(void **state)
{
    static const char *const maps[] = {
        "{}",
        "{\"queued\": \"many\", \"health\": 5, \"uptime_s\": -3, \"journal\": [1], \"cache\": null,"
        "\"alerts\": {\"a\": 1}, \"operations\": [1, 2], \"embedding\": {\"servers\": 5}}",
    };

    (void)state;
    for (size_t i = 0; i < sizeof maps / sizeof maps[0]; i++) {
        struct figures f = read_map(maps[i]);

        assert_int_equal(f.queued, -1);
        assert_int_equal(f.uptime_s, -1);
        assert_string_equal(f.health, "");
        assert_int_equal(f.journal.bytes, -1);
        assert_true(isnan(f.cache.hit_rate));
        assert_int_equal(f.alert_count + f.operation_count + f.embedding.server_count, 0);
        assert_int_equal(figures_latency(&f, "queue", WINDOW_START).count, -1);
        assert_int_equal(figures_recent(&f), WINDOW_START);
        figures_done(&f);
    }
}

static void test_no_map(void **state)
{
    struct figures f;

    (void)state;
    assert_int_equal(figures_read("[1]", &f), -EPROTO);
    assert_int_equal(figures_read("not json", &f), -EPROTO);
    figures_done(&f);
}

/* More operations than there is room for: the first ones stay, nothing is written behind them. */
static void test_too_many_operations(void **state)
{
    json_t *operations = json_object(), *root = json_pack("{s:o}", "operations", operations);
    char name[16], *json;
    struct figures f;

    (void)state;
    for (int i = 0; i < FIGURES_OPERATIONS_MAX + 10; i++) {
        snprintf(name, sizeof name, "op%d", i);
        json_object_set_new(operations, name, json_pack("{s:i}", "count", i));
    }
    json = json_dumps(root, 0);
    f = read_map(json);
    assert_int_equal(f.operation_count, FIGURES_OPERATIONS_MAX);
    assert_string_equal(f.operations[FIGURES_OPERATIONS_MAX - 1].name, "op127");
    assert_int_equal(f.operations[FIGURES_OPERATIONS_MAX - 1].windows[WINDOW_START].count, 127);
    figures_done(&f);
    free(json);
    json_decref(root);
}

static void test_rate_of_a_young_daemon(void **state)
{
    struct figures f = read_map("{\"uptime_s\": 20}");
    struct figures_latency latency = {.count = 600};

    (void)state;
    assert_true(figures_rate(&f, &latency, WINDOW_MINUTE) == 30.0);
    f.uptime_s = 100;
    assert_true(figures_rate(&f, &latency, WINDOW_MINUTE) == 10.0);
    assert_true(figures_rate(&f, &latency, WINDOW_FIVE_MINUTES) == 6.0);
    f.uptime_s = 1200;
    assert_true(figures_rate(&f, &latency, WINDOW_FIVE_MINUTES) == 2.0);
    assert_true(figures_rate(&f, &latency, WINDOW_START) == 0.5);
    latency.count = -1;
    assert_true(isnan(figures_rate(&f, &latency, WINDOW_START)));
    figures_done(&f);
}

#define SAMPLE(uptime, completed, count, mean)                                                     \
    "{\"uptime_s\": " #uptime ", \"completed\": " #completed                                       \
    ", \"operations\": {\"queue\": {\"count\": " #count ", \"mean_ms\": " #mean "}}}"

static void test_between_two_samples(void **state)
{
    struct figures before = read_map(SAMPLE(10, 100, 100, 2.0));
    struct figures now = read_map(SAMPLE(12, 150, 300, 4.0));
    struct figures_change change = figures_between(&before, &now, 2);

    (void)state;
    assert_true(change.acked_per_s == 100.0);
    assert_true(change.stored_per_s == 25.0);
    assert_true(change.ack_mean_ms == 5.0); /* (300 * 4 - 100 * 2) / 200 */

    /* Nothing came in between: a rate of 0, and no mean. */
    change = figures_between(&now, &now, 1);
    assert_true(change.acked_per_s == 0.0);
    assert_true(isnan(change.ack_mean_ms));

    /* A daemon that was started anew counts from 0: nothing can be told. */
    change = figures_between(&now, &before, 2);
    assert_true(isnan(change.acked_per_s) && isnan(change.stored_per_s));
    assert_true(isnan(change.ack_mean_ms));
    figures_done(&now);

    /* No means: they stay unknown. */
    now = read_map("{\"uptime_s\": 12, \"operations\": {\"queue\": {\"count\": 300}}}");
    change = figures_between(&before, &now, 2);
    assert_true(change.acked_per_s == 100.0);
    assert_true(isnan(change.ack_mean_ms));
    figures_done(&before);
    figures_done(&now);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_everything_is_read),
        cmocka_unit_test(test_what_is_missing_is_unknown),
        cmocka_unit_test(test_no_map),
        cmocka_unit_test(test_too_many_operations),
        cmocka_unit_test(test_rate_of_a_young_daemon),
        cmocka_unit_test(test_between_two_samples),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
