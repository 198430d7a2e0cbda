/* Numbers as convstorectl shows them: units, rounding at their edges, sparklines. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "client/convstorectl_units.h"

static void test_counts(void **state)
{
    char text[UNITS_SIZE];

    (void)state;
    assert_string_equal(units_count(text, -1), "-");
    assert_string_equal(units_count(text, 0), "0");
    assert_string_equal(units_count(text, 999), "999");
    assert_string_equal(units_count(text, 1000), "1,000");
    assert_string_equal(units_count(text, 999999999), "999,999,999");
    assert_string_equal(units_count(text, 1000000000), "1,000 M");
    assert_string_equal(units_count(text, INT64_MAX), "9,223,372,036,854 M");
}

static void test_rates_and_shares(void **state)
{
    char text[UNITS_SIZE];

    (void)state;
    assert_string_equal(units_rate(text, NAN), "-");
    assert_string_equal(units_rate(text, 0), "0/s");
    assert_string_equal(units_rate(text, 0.25), "0.2/s");
    assert_string_equal(units_rate(text, 9.94), "9.9/s");
    assert_string_equal(units_rate(text, 9.96), "10/s");
    assert_string_equal(units_rate(text, 12345.5), "12,346/s");
    assert_string_equal(units_rate(text, INFINITY), "-");
    assert_string_equal(units_share(text, 0.8734), "87.3 %");
    assert_string_equal(units_share(text, NAN), "-");
}

static void test_bytes(void **state)
{
    char text[UNITS_SIZE];

    (void)state;
    assert_string_equal(units_bytes(text, -1), "-");
    assert_string_equal(units_bytes(text, 1023), "1023 B");
    assert_string_equal(units_bytes(text, 1024), "1.00 KiB");
    assert_string_equal(units_bytes(text, 16 << 20), "16.0 MiB");
    assert_string_equal(units_bytes(text, (1 << 20) - 1), "1.00 MiB");
    assert_string_equal(units_bytes(text, 1000ll << 20), "0.98 GiB");
    assert_string_equal(units_bytes(text, INT64_MAX), "8192 PiB");
}

/* Three digits at most, and no "1000 ms": the edges lie where rounding would make a fourth. */
static void test_durations(void **state)
{
    static const struct {
        double ms;
        const char *text;
    } cases[] = {
        {-1, "-"},          {NAN, "-"},          {0, "0 ms"},           {0.0042, "4 us"},
        {0.0994, "99 us"},  {0.0996, "0.10 ms"}, {0.213, "0.21 ms"},    {9.99, "9.99 ms"},
        {9.996, "10.0 ms"}, {99.94, "99.9 ms"},  {99.96, "100 ms"},     {999.4, "999 ms"},
        {999.6, "1.00 s"},  {99.94e3, "99.9 s"}, {99.96e3, "1.67 min"}, {6e6, "1.67 h"},
        {3.6e8, "4.17 d"},
    };
    char text[UNITS_SIZE];

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_string_equal(units_ms(text, cases[i].ms), cases[i].text);
}

static void test_ages(void **state)
{
    char text[UNITS_SIZE];

    (void)state;
    assert_string_equal(units_age(text, -1), "-");
    assert_string_equal(units_age(text, 0), "0 s");
    assert_string_equal(units_age(text, 59), "59 s");
    assert_string_equal(units_age(text, 60), "1 min");
    assert_string_equal(units_age(text, 61), "1 min 1 s");
    assert_string_equal(units_age(text, 2 * 3600 + 13 * 60 + 5), "2 h 13 min");
    assert_string_equal(units_age(text, 3 * 86400 + 59), "3 d");
}

static void test_means(void **state)
{
    char text[UNITS_SIZE];

    (void)state;
    assert_string_equal(units_mean(text, 0), "0");
    assert_string_equal(units_mean(text, 1), "1");
    assert_string_equal(units_mean(text, 12.34), "12.3");
    assert_string_equal(units_mean(text, 99.6), "100");
    assert_string_equal(units_mean(text, 1234.4), "1,234");
    assert_string_equal(units_mean(text, NAN), "-");
}

static void test_sparkline(void **state)
{
    static const double values[] = {99, NAN, 0, 1, 4, 8};
    char out[3 * 6 + 1];

    (void)state;
    /* The last five: the largest of them, not 99, is the whole height; only 0 is the lowest. */
    units_sparkline(out, values, 6, 5, true);
    assert_string_equal(out, " ▁▂▅█");
    units_sparkline(out, values, 6, 5, false);
    assert_string_equal(out, " _.=#");
    units_sparkline(out, values, 3, 6, false);
    assert_string_equal(out, "# _");
    units_sparkline(out, values + 2, 1, 6, false);
    assert_string_equal(out, "_");
    units_sparkline(out, values, 6, -3, true);
    assert_string_equal(out, "");
    units_sparkline(out, values, 0, 6, true);
    assert_string_equal(out, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts),    cmocka_unit_test(test_rates_and_shares),
        cmocka_unit_test(test_bytes),     cmocka_unit_test(test_durations),
        cmocka_unit_test(test_ages),      cmocka_unit_test(test_means),
        cmocka_unit_test(test_sparkline),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
