/* Quantiles within 1 % of the exact ones, on 1,000,000 values of several shapes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>

#include "daemon/histogram.h"

#define VALUES 1000000

static uint64_t values[VALUES];

static int compare(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

static void check_shape(uint64_t (*shape)(double uniform))
{
    static const double quantiles[] = {0, 0.001, 0.1, 0.5, 0.9, 0.95, 0.99, 0.999, 0.9999, 1};
    struct histogram *h = calloc(1, sizeof *h);

    srandom(42);
    for (size_t i = 0; i < VALUES; i++) {
        values[i] = shape(((double)random() + 1) / 2147483649.0);
        histogram_record(h, values[i]);
    }
    qsort(values, VALUES, sizeof values[0], compare);
    assert_int_equal(h->count, VALUES);
    assert_int_equal(h->max, values[VALUES - 1]);
    for (size_t i = 0; i < sizeof quantiles / sizeof quantiles[0]; i++) {
        size_t rank = (size_t)ceil(quantiles[i] * VALUES);
        double exact = (double)values[rank > 0 ? rank - 1 : 0];
        double got = (double)histogram_quantile(h, quantiles[i]);

        if (fabs(got - exact) > exact * 0.01)
            fail_msg("quantile %g: %g, exactly %g", quantiles[i], got, exact);
    }
    free(h);
}

static uint64_t uniform(double u)
{
    return (uint64_t)(u * 1e6);
}

static uint64_t exponential(double u)
{
    return (uint64_t)(-log(u) * 5000);
}

static uint64_t heavy_tail(double u)
{
    return (uint64_t)(100 / pow(u, 1.5));
}

static uint64_t two_humps(double u)
{
    return u < 0.9 ? (uint64_t)(200 + u * 50) : (uint64_t)(800000 + u * 100000);
}

static void test_shapes(void **state)
{
    (void)state;
    check_shape(uniform);
    check_shape(exponential);
    check_shape(heavy_tail);
    check_shape(two_humps);
}

static void test_edges(void **state)
{
    struct histogram *h = calloc(1, sizeof *h);

    (void)state;
    assert_int_equal(histogram_quantile(h, 0.5), 0);
    histogram_record(h, 0);
    assert_int_equal(histogram_quantile(h, 1), 0);
    histogram_record(h, UINT64_MAX); /* beyond the top: counted, its own maximum kept */
    assert_int_equal(h->count, 2);
    assert_true(h->max == UINT64_MAX);
    assert_true(histogram_quantile(h, 1) > (1ull << HISTOGRAM_TOP_BIT) / 100 * 99);
    free(h);
}

/* Slices of a time added together are as one histogram of all of it. */
static void test_slices_add_up(void **state)
{
    struct histogram *all = calloc(1, sizeof *all), *sum = calloc(1, sizeof *sum);
    struct histogram_slice *slices = calloc(3, sizeof *slices);

    (void)state;
    srandom(7);
    for (unsigned i = 0; i < 30000; i++) {
        uint64_t value = heavy_tail(((double)random() + 1) / 2147483649.0);

        histogram_record(all, value);
        histogram_slice_record(&slices[i % 3], value);
    }
    for (unsigned i = 0; i < 3; i++)
        histogram_add(sum, &slices[i]);
    assert_memory_equal(sum, all, sizeof *all);
    free(all);
    free(sum);
    free(slices);
}

static void test_counts_to(void **state)
{
    static const uint64_t bounds[] = {0, 50, 51, 10000, 100000, UINT64_MAX};
    struct histogram *h = calloc(1, sizeof *h);
    uint64_t counts[6];

    (void)state;
    histogram_counts_to(h, bounds, 6, counts);
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(counts[i], 0);
    for (unsigned i = 1; i <= 100000; i++)
        histogram_record(h, i);
    histogram_counts_to(h, bounds, 6, counts);
    assert_int_equal(counts[0], 0);
    assert_int_equal(counts[1], 50);
    assert_int_equal(counts[2], 51);
    assert_in_range(counts[3], 10000, 10000 + 128); /* its bucket ends later */
    assert_int_equal(counts[4], 100000);
    assert_int_equal(counts[5], 100000);
    free(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slices_add_up),
        cmocka_unit_test(test_counts_to),
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_edges),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
