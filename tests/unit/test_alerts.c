/* Goal of this test: an alert is raised when its figure has stood beyond the threshold for long
 * enough, cleared when it has been well for long enough, and never flaps in between; states are as
 * they are. The clock is the test's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "daemon/alerts.h"

#define WALL_MS 1700000000000u

static struct {
    struct alerts alerts;
    struct alert_figure figures[ALERT_COUNT];
    struct alerts_settings settings;
    uint64_t now_ms;
    char changes[256]; /* "warning none ..." */
} t;

static void on_change(const struct alert *alert, enum alert_severity before)
{
    size_t len = strlen(t.changes);

    assert_int_not_equal(alert->severity, before);
    snprintf(t.changes + len, sizeof t.changes - len, "%s ", alert_severity_name(alert->severity));
}

static int setup(void **state)
{
    (void)state;
    memset(&t, 0, sizeof t);
    t.settings = (struct alerts_settings){.raise_after_ms = 10000, .clear_after_ms = 30000};
    alerts_init(&t.alerts);
    return 0;
}

/* The figure has this value for so many seconds, looked at each second. */
static enum alert_severity hold(enum alert_id id, double value, unsigned seconds)
{
    t.figures[id].known = true;
    t.figures[id].value = value;
    for (unsigned i = 0; i < seconds; i++) {
        t.now_ms += 1000;
        alerts_update(&t.alerts, t.figures, &t.settings, t.now_ms, WALL_MS + t.now_ms, on_change);
    }
    return alerts_get(&t.alerts, id)->severity;
}

static void thresholds(enum alert_id id, double warning, double critical)
{
    t.figures[id].warning = warning;
    t.figures[id].critical = critical;
}

static void test_raised_and_cleared(void **state)
{
    const struct alert *alert = alerts_get(&t.alerts, ALERT_EMBEDDING_SLOW);

    (void)state;
    thresholds(ALERT_EMBEDDING_SLOW, 500, 5000);
    assert_int_equal(hold(ALERT_EMBEDDING_SLOW, 499, 100), ALERT_NONE);
    assert_int_equal(hold(ALERT_EMBEDDING_SLOW, 812, 10), ALERT_NONE);
    assert_int_equal(hold(ALERT_EMBEDDING_SLOW, 812, 1), ALERT_WARNING);
    assert_string_equal(alert->name, "embedding_slow");
    assert_string_equal(
        alert->text,
        "p99 of requests to the embedder in the last minute: 812 ms, threshold 500 ms");
    assert_string_equal(alert->figure, "operations.embedding.last_minute.p99_ms");
    assert_true(alert->value == 812 && alert->threshold == 500);
    assert_int_equal(alert->since_ms, WALL_MS + t.now_ms);
    assert_int_equal(alerts_raised(&t.alerts), 1);
    assert_string_equal(alert_health_name(alerts_worst(&t.alerts)), "warning");

    /* Better, but not by a tenth, is not well. */
    assert_int_equal(hold(ALERT_EMBEDDING_SLOW, 451, 1000), ALERT_WARNING);
    assert_int_equal(hold(ALERT_EMBEDDING_SLOW, 449, 30), ALERT_WARNING);
    assert_int_equal(hold(ALERT_EMBEDDING_SLOW, 449, 1), ALERT_NONE);
    assert_string_equal(t.changes, "warning none ");
    assert_string_equal(alert_health_name(alerts_worst(&t.alerts)), "healthy");
}

static void test_peaks_and_dips_change_nothing(void **state)
{
    (void)state;
    thresholds(ALERT_QUEUE_DEPTH, 100, 0);
    for (unsigned i = 0; i < 50; i++) {
        assert_int_equal(hold(ALERT_QUEUE_DEPTH, 1000, 10), ALERT_NONE);
        assert_int_equal(hold(ALERT_QUEUE_DEPTH, 0, 1), ALERT_NONE);
    }
    hold(ALERT_QUEUE_DEPTH, 1000, 11);
    for (unsigned i = 0; i < 50; i++) {
        assert_int_equal(hold(ALERT_QUEUE_DEPTH, 0, 30), ALERT_WARNING);
        assert_int_equal(hold(ALERT_QUEUE_DEPTH, 1000, 1), ALERT_WARNING);
    }
    assert_string_equal(t.changes, "warning ");
}

static void test_two_severities(void **state)
{
    const struct alert *alert = alerts_get(&t.alerts, ALERT_QUEUE_AGE);
    uint64_t since_ms;

    (void)state;
    thresholds(ALERT_QUEUE_AGE, 60000, 600000);
    hold(ALERT_QUEUE_AGE, 61000, 11);
    since_ms = alert->since_ms;
    assert_int_equal(hold(ALERT_QUEUE_AGE, 600000, 11), ALERT_CRITICAL);
    assert_true(alert->threshold == 600000);
    assert_int_equal(alert->since_ms, since_ms);
    assert_string_equal(alert_health_name(alerts_worst(&t.alerts)), "critical");
    assert_int_equal(hold(ALERT_QUEUE_AGE, 300000, 31), ALERT_WARNING);
    assert_true(alert->threshold == 60000);
    assert_int_equal(hold(ALERT_QUEUE_AGE, 0, 31), ALERT_NONE);
    assert_string_equal(t.changes, "warning critical warning none ");
    /* Far beyond at once is critical at once, with no warning on the way. */
    hold(ALERT_QUEUE_AGE, 700000, 11);
    assert_string_equal(t.changes, "warning critical warning none critical ");
}

static void test_less_is_worse(void **state)
{
    const struct alert *alert = alerts_get(&t.alerts, ALERT_DISK_SPACE);

    (void)state;
    thresholds(ALERT_DISK_SPACE, 1024.0 * 1024 * 1024, 256.0 * 1024 * 1024);
    assert_int_equal(hold(ALERT_DISK_SPACE, 2e9, 100), ALERT_NONE);
    assert_int_equal(hold(ALERT_DISK_SPACE, 1e9, 11), ALERT_WARNING);
    assert_string_equal(alert->text,
                        "space left on the journal's disk: 953.7 MiB, threshold 1.0 GiB");
    assert_int_equal(hold(ALERT_DISK_SPACE, 0, 11), ALERT_CRITICAL);
    assert_int_equal(hold(ALERT_DISK_SPACE, 1.15e9, 31), ALERT_WARNING);
    assert_int_equal(hold(ALERT_DISK_SPACE, 1.2e9, 31), ALERT_NONE);
}

static void test_off_and_unknown(void **state)
{
    (void)state;
    thresholds(ALERT_CACHE_HIT_RATE, 0, 0);
    thresholds(ALERT_DEAD_LETTERS, 0, 0);
    assert_int_equal(hold(ALERT_CACHE_HIT_RATE, 0, 100), ALERT_NONE);
    assert_int_equal(hold(ALERT_DEAD_LETTERS, 1e9, 100), ALERT_NONE);
    /* Switched off while it is raised. */
    thresholds(ALERT_DEAD_LETTERS, 1, 0);
    assert_int_equal(hold(ALERT_DEAD_LETTERS, 5, 11), ALERT_WARNING);
    thresholds(ALERT_DEAD_LETTERS, 0, 0);
    assert_int_equal(hold(ALERT_DEAD_LETTERS, 5, 1), ALERT_NONE);
    /* Nothing to judge by: not well, not bad; what is raised goes in its time. */
    thresholds(ALERT_ACK_SLOW, 20, 0);
    assert_int_equal(hold(ALERT_ACK_SLOW, 50, 11), ALERT_WARNING);
    t.figures[ALERT_ACK_SLOW].known = false;
    for (unsigned i = 0; i < 31; i++) {
        assert_int_equal(alerts_get(&t.alerts, ALERT_ACK_SLOW)->severity, ALERT_WARNING);
        t.now_ms += 1000;
        alerts_update(&t.alerts, t.figures, &t.settings, t.now_ms, WALL_MS, on_change);
    }
    assert_int_equal(alerts_get(&t.alerts, ALERT_ACK_SLOW)->severity, ALERT_NONE);
}

static void test_states(void **state)
{
    const struct alert *alert = alerts_get(&t.alerts, ALERT_DATABASE_DOWN);

    (void)state;
    t.figures[ALERT_DATABASE_DOWN].text = "connection refused";
    assert_int_equal(hold(ALERT_DATABASE_DOWN, 1, 1), ALERT_CRITICAL);
    assert_string_equal(alert->text, "connection refused");
    assert_true(alert->value == 1 && alert->threshold == 1);
    t.figures[ALERT_DATABASE_DOWN].text = "no route to host";
    hold(ALERT_DATABASE_DOWN, 1, 1);
    assert_string_equal(alert->text, "no route to host");
    assert_int_equal(hold(ALERT_DATABASE_DOWN, 0, 1), ALERT_NONE);
    assert_string_equal(t.changes, "critical none ");
}

/* Each has a name of its own, what it looks at and what to do. */
static void test_every_alert_says_what_to_do(void **state)
{
    (void)state;
    for (enum alert_id id = 0; id < ALERT_COUNT; id++) {
        const struct alert *alert = alerts_get(&t.alerts, id);

        assert_true(strlen(alert->name) > 3 && strlen(alert->figure) > 3);
        assert_true(strlen(alert->action) > 10);
        assert_int_equal(alert->severity, ALERT_NONE);
        for (enum alert_id other = 0; other < id; other++)
            assert_string_not_equal(alert->name, alerts_get(&t.alerts, other)->name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_raised_and_cleared, setup),
        cmocka_unit_test_setup(test_peaks_and_dips_change_nothing, setup),
        cmocka_unit_test_setup(test_two_severities, setup),
        cmocka_unit_test_setup(test_less_is_worse, setup),
        cmocka_unit_test_setup(test_off_and_unknown, setup),
        cmocka_unit_test_setup(test_states, setup),
        cmocka_unit_test_setup(test_every_alert_says_what_to_do, setup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
