/* The text format byte by byte, the buckets of a histogram, and what metrics.listen may hold. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/exposition.h"
#include "daemon/metrics_address.h"

static char *text;
static size_t len;
static FILE *out;

static int begin(void **state)
{
    (void)state;
    out = open_memstream(&text, &len);
    return out == NULL ? -1 : 0;
}

static int end(void **state)
{
    (void)state;
    free(text);
    return 0;
}

static void wrote(const char *expected)
{
    assert_int_equal(fclose(out), 0);
    assert_string_equal(text, expected);
}

static void test_families(void **state)
{
    (void)state;
    exposition_counter(out, "a_total", "All.", 12345678901234.0);
    exposition_gauge(out, "b_seconds", "Now.", 0.1);
    wrote("# HELP a_total All.\n# TYPE a_total counter\na_total 12345678901234\n"
          "# HELP b_seconds Now.\n# TYPE b_seconds gauge\nb_seconds 0.1\n");
}

static void test_labels(void **state)
{
    (void)state;
    exposition_sample(out, "m", 1, NULL);
    exposition_sample(out, "m", 2, "x", "", NULL);
    exposition_sample(out, "m", 3, "x", "a\\b\"c\nd", "y", "{},", NULL);
    exposition_sample(out, "m", 4, "x", "gr\xc3\xbc\xc3\x9f", NULL);
    exposition_sample(out, "m", 5, "x", "gr\xfc\xdf", NULL);
    wrote("m 1\nm{x=\"\"} 2\nm{x=\"a\\\\b\\\"c\\nd\",y=\"{},\"} 3\nm{x=\"gr\xc3\xbc\xc3\x9f\"} 4\n"
          "m{x=\"gr??\"} 5\n");
}

/* The number behind the bucket with this bound, from the text. */
static unsigned long bucket(const char *bound)
{
    char start[64];
    const char *at;

    snprintf(start, sizeof start, "m_bucket{op=\"x\",le=\"%s\"} ", bound);
    at = strstr(text, start);
    assert_non_null(at);
    return strtoul(at + strlen(start), NULL, 10);
}

static void test_histogram(void **state)
{
    struct histogram *h = calloc(1, sizeof *h);

    (void)state;
    for (unsigned i = 0; i < 1000; i++)
        histogram_record(h, 10 * i);   /* 0 to 9.99 ms */
    histogram_record(h, 400000000ull); /* beyond the largest bound */
    exposition_histogram(out, "m", "op", "x", h);
    assert_int_equal(fclose(out), 0);
    assert_in_range(bucket("0.0001"), 10, 12);
    assert_in_range(bucket("0.001"), 100, 102);
    assert_in_range(bucket("0.005"), 500, 506);
    assert_int_equal(bucket("0.01"), 1000);
    assert_int_equal(bucket("300"), 1000);
    assert_int_equal(bucket("+Inf"), 1001);
    assert_non_null(strstr(text, "\nm_sum{op=\"x\"} 404.995\n"));
    assert_non_null(strstr(text, "\nm_count{op=\"x\"} 1001\n"));
    free(h);
}

static void test_addresses(void **state)
{
    static const char *const valid[] = {"127.0.0.1:9464", "localhost:0", "[::1]:9464", ":9464",
                                        "[::]:65535",     "/run/x.sock", "./x"};
    static const char *const wrong[] = {"9464",     "localhost",    "host:", "host:http",
                                        "::1:9464", "h:65536",      "h:-1",  "h:1 ",
                                        ":",        "h:99999999999"};

    (void)state;
    for (size_t i = 0; i < sizeof valid / sizeof valid[0]; i++)
        if (!metrics_address_is_valid(valid[i]))
            fail_msg("%s is refused", valid[i]);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        if (metrics_address_is_valid(wrong[i]))
            fail_msg("%s is taken", wrong[i]);
    assert_true(metrics_address_is_path("/run/x.sock"));
    assert_false(metrics_address_is_path("[::1]:9464"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_families, begin, end),
        cmocka_unit_test_setup_teardown(test_labels, begin, end),
        cmocka_unit_test_setup_teardown(test_histogram, begin, end),
        cmocka_unit_test(test_addresses),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
