/* Pages of text: alignment, cutting, colours, foreign control characters; the page of `stats` and
 * the dashboard of `top` on screens of every size. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/convstorectl_page.h"
#include "client/convstorectl_stats_page.h"
#include "client/convstorectl_top_view.h"

static void test_cells_are_aligned(void **state)
{
    struct page page = {.colour = false};

    (void)state;
    page_put(&page, STYLE_HEADING, "größe");
    page_right(&page, 12, STYLE_BAD, "12 ms");
    page_to(&page, 14);
    page_put(&page, STYLE_PLAIN, "x");
    page_to(&page, 3); /* is behind us: one blank */
    page_put(&page, STYLE_PLAIN, "y");
    page_end_line(&page);
    assert_string_equal(page.data, "größe  12 ms  x y\n");
    assert_int_equal(page.lines, 1);
    page_done(&page);
}

/* What is cut is cut at a character's end, and a colour is always ended. */
static void test_columns_bound_a_line(void **state)
{
    struct page page = {.colour = true, .columns = 5};

    (void)state;
    page_put(&page, STYLE_PLAIN, "ab");
    page_put(&page, STYLE_BAD, "üöä€");
    page_put(&page, STYLE_GOOD, "gone");
    page_right(&page, 20, STYLE_PLAIN, "gone");
    page_end_line(&page);
    assert_string_equal(page.data, "ab\033[1;31müöä\033[0m\n");
    page_done(&page);
}

static void test_foreign_control_characters(void **state)
{
    struct page page = {.colour = false};

    (void)state;
    page_put(&page, STYLE_PLAIN, "a%sb", "\033[2J\n\t\x7f\xc2\x9b");
    assert_string_equal(page.data, "a [2J     b");
    page_done(&page);
}

static void test_a_long_text_is_cut_between_characters(void **state)
{
    struct page page = {.colour = false};
    char text[3001];

    (void)state;
    for (int i = 0; i < 1000; i++)
        memcpy(text + 3 * i, "€", 4);
    page_put(&page, STYLE_PLAIN, "%s", text);
    assert_int_equal(page.len % 3, 0);
    assert_true(page.len > 900 && memcmp(page.data + page.len - 3, "€", 3) == 0);
    page_done(&page);
}

static const char stats[] =
    "{\"version\": \"0.1.0\", \"health\": \"warning\", \"uptime_s\": 7980, \"connections\": 1,"
    "\"queued\": 1234, \"processing\": 500, \"oldest_queued_ms\": 2300, \"completed\": 9876543,"
    "\"dead_letters\": 2, \"failed\": 0, \"duplicates\": 0, \"rejected\": 0, "
    "\"embedding_backlog\": 0,"
    "\"alerts\": [{\"name\": \"queue_age\", \"severity\": \"warning\", \"text\": \"rows are late\","
    "\"figure\": \"oldest_queued_ms\", \"value\": 2300, \"threshold\": 2000, \"action\": "
    "\"wait\"}],"
    "\"journal\": {\"bytes\": 34603008, \"segments\": 2, \"syncs\": 10, \"records_per_sync\": "
    "12.34},"
    "\"database\": {\"state\": \"up\", \"server_version\": 150020, \"pace\": 15120},"
    "\"embedding\": {\"state\": \"ok\", \"provider\": \"ollama\", \"servers\": [{\"url\": "
    "\"http://e\","
    "\"state\": \"open\", \"requests\": 5, \"failures\": 3, \"last_error\": \"refused\"}]},"
    "\"operations\": {\"queue\": {\"count\": 5, \"errors\": 0, \"p50_ms\": 0.2, \"p99_ms\": 1,"
    "\"last_minute\": {\"count\": 3, \"errors\": 0, \"p99_ms\": 1, \"max_ms\": 9}},"
    "\"batch_insert\": {\"count\": 5, \"errors\": 1, \"p99_ms\": 50,"
    "\"last_minute\": {\"count\": 2, \"errors\": 7, \"p99_ms\": 5, \"max_ms\": 8}},"
    "\"idle\": {\"count\": 0, \"last_minute\": {\"count\": 0, \"p99_ms\": 0, \"max_ms\": 0}}}}";

static void check_holds(const struct page *page, const char *text)
{
    if (strstr(page->data, text) == NULL)
        fail_msg("\"%s\" is not in:\n%s", text, page->data);
}

static void test_page_of_stats(void **state)
{
    struct page page = {.colour = false};
    struct figures figures;

    (void)state;
    assert_int_equal(figures_read(stats, &figures), 0);
    stats_page(&page, &figures, NULL);
    check_holds(&page, "convstored 0.1.0  warning  up 2 h 13 min  1 connection\n");
    check_holds(&page, "warning   queue_age: rows are late\n          do: wait\n");
    check_holds(&page, "\nqueue        queued                   1,234     oldest                 "
                       " 2.30 s\n");
    check_holds(&page, "\njournal      size                  33.0 MiB     disk free              "
                       "      -\n");
    check_holds(&page, "PostgreSQL               15.20\n");
    check_holds(&page, "\n             pace                  15,120/s\n");
    check_holds(&page, "http://e  open, 5 requests, 3 failures\n");
    check_holds(&page, "last error: refused\n");
    check_holds(&page, "\nqueue        1 min     0.1/s       -       -");
    check_holds(&page, "\n               all     0.0/s 0.20 ms       - 1.00 ms");
    check_holds(&page, "\nidle           all       0/s       -       -"); /* once */
    assert_null(strchr(page.data, '\033'));
    page_done(&page);
    figures_done(&figures);
}

/* A daemon that tells nothing makes a page of dashes. */
static void test_page_of_nothing(void **state)
{
    struct page page = {.colour = false};
    struct figures figures;

    (void)state;
    assert_int_equal(figures_read("{}", &figures), 0);
    stats_page(&page, &figures, NULL);
    check_holds(&page, "health unknown  up -  - connections");
    check_holds(&page, "state                        -");
    assert_null(strstr(page.data, "pace"));
    page_done(&page);
    figures_done(&figures);
}

/* ---- the dashboard ---- */

static struct trends trends;

static void draw(struct top_view *view, struct page *page)
{
    *page = (struct page){.colour = view->colour};
    top_view_draw(view, page);
}

static struct top_view view_of(const struct figures *figures, int rows, int columns)
{
    return (struct top_view){.figures = figures,
                             .trends = &trends,
                             .clock = "12:34:56",
                             .interval_s = 1,
                             .rows = rows,
                             .columns = columns,
                             .utf8 = true};
}

static void check_lines(const struct page *page, int columns)
{
    const char *at = page->data;

    while (*at != '\0') {
        const char *newline = strchr(at, '\n');
        char line[1024];

        assert_non_null(newline);
        snprintf(line, sizeof line, "%.*s", (int)(newline - at), at);
        assert_true(page_width(line) <= columns);
        at = newline + 1;
    }
}

/* No screen gets more than it holds; the smallest still says who and how; a large one has it all.
 */
static void test_every_size_of_a_screen(void **state)
{
    struct figures figures;
    struct page page;

    (void)state;
    assert_int_equal(figures_read(stats, &figures), 0);
    for (int rows = 1; rows < 40; rows++) {
        for (int columns = 1; columns < 140; columns += 3) {
            struct top_view view = view_of(&figures, rows, columns);

            draw(&view, &page);
            assert_true(page.lines > 0 && page.lines <= rows);
            check_lines(&page, columns);
            if (columns > 30)
                check_holds(&page, "convstored 0.1.0  warning");
            if (columns > 30 && rows > 4)
                check_holds(&page, "queue_age");
            if (columns > 30 && rows > 6)
                check_holds(&page, "acked ");
            if (columns > 90 && rows > 30)
                check_holds(&page, "\n\nq quit");
            page_done(&page);
        }
    }
    figures_done(&figures);
}

/* The operations as they stand in the table, by their first letters. */
static void order_of(struct top_view *view, char ret_order[4])
{
    struct page page;
    const char *at;

    draw(view, &page);
    at = strstr(page.data, "operation");
    assert_non_null(at);
    for (int i = 0; i < 3; i++) {
        at = strchr(at, '\n') + 1;
        ret_order[i] = *at;
    }
    ret_order[3] = '\0';
    page_done(&page);
}

static void test_table_is_sorted(void **state)
{
    static const struct {
        enum top_sort sort;
        enum figures_window window;
        const char *order;
    } cases[] = {
        {SORT_AS_SENT, WINDOW_MINUTE, "qbi"}, {SORT_P99, WINDOW_MINUTE, "bqi"},
        {SORT_MAX, WINDOW_MINUTE, "qbi"},     {SORT_ERRORS, WINDOW_MINUTE, "bqi"},
        {SORT_COUNT, WINDOW_START, "qbi"},    {SORT_P99, WINDOW_START, "bqi"},
    };
    struct figures figures;
    struct top_view view;
    char order[4];

    (void)state;
    assert_int_equal(figures_read(stats, &figures), 0);
    view = view_of(&figures, 40, 120);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        view.sort = cases[i].sort;
        view.window = cases[i].window;
        order_of(&view, order);
        assert_string_equal(order, cases[i].order);
    }
    figures_done(&figures);
}

static void test_dashboard_without_a_daemon(void **state)
{
    struct top_view view = view_of(NULL, 24, 80);
    struct page page;

    (void)state;
    view.trouble = "cannot connect to /x: No such file or directory";
    draw(&view, &page);
    check_holds(&page, "not reachable, trying again");
    check_holds(&page, "cannot connect to /x");
    page_done(&page);
}

/* The trends keep the latest samples, and what is unknown leaves a gap. */
static void test_trends_keep_the_latest(void **state)
{
    struct figures_change change = {.acked_per_s = 0, .stored_per_s = NAN};
    struct figures figures;

    (void)state;
    memset(&trends, 0, sizeof trends);
    assert_int_equal(figures_read(stats, &figures), 0);
    for (int i = 0; i < TREND_SAMPLES + 5; i++) {
        change.acked_per_s = i;
        trends_add(&trends, &figures, i == TREND_SAMPLES ? NULL : &change);
    }
    assert_int_equal(trends.count, TREND_SAMPLES);
    assert_true(trends.values[TREND_ACKED][0] == 5.0);
    assert_true(trends.values[TREND_ACKED][TREND_SAMPLES - 1] == TREND_SAMPLES + 4.0);
    assert_true(isnan(trends.values[TREND_ACKED][TREND_SAMPLES - 5]));
    assert_true(isnan(trends.values[TREND_STORED][3]));
    assert_true(trends.values[TREND_QUEUED][3] == 1234.0);
    assert_true(trends.values[TREND_ACK_P99][3] == 1.0);
    figures_done(&figures);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cells_are_aligned),
        cmocka_unit_test(test_columns_bound_a_line),
        cmocka_unit_test(test_foreign_control_characters),
        cmocka_unit_test(test_a_long_text_is_cut_between_characters),
        cmocka_unit_test(test_page_of_stats),
        cmocka_unit_test(test_page_of_nothing),
        cmocka_unit_test(test_every_size_of_a_screen),
        cmocka_unit_test(test_table_is_sorted),
        cmocka_unit_test(test_dashboard_without_a_daemon),
        cmocka_unit_test(test_trends_keep_the_latest),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
