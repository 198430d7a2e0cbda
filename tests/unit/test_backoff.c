/* Goal of this test: pauses double up to their cap, are spread evenly from nothing to their bound,
 * and stay within it however many failures there were. */
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/backoff.h"

#define BASE_MS 100
#define CAP_MS 10000
#define DRAWS 200000
#define PARTS 10

struct spread {
    uint64_t least, most;
    unsigned in_part[PARTS]; /* of 1 to bound, cut into equal parts */
};

static struct spread draw(unsigned failures, uint64_t bound)
{
    struct spread spread = {.least = UINT64_MAX};

    for (int i = 0; i < DRAWS; i++) {
        uint64_t ms = backoff_ms(failures, BASE_MS, CAP_MS);

        assert_in_range(ms, 1, bound);
        spread.least = ms < spread.least ? ms : spread.least;
        spread.most = ms > spread.most ? ms : spread.most;
        spread.in_part[(ms - 1) * PARTS / bound]++;
    }
    return spread;
}

/* A part has a tenth of the draws, with a standard deviation of 134 draws: 5 % off is 7 of those.
 */
static void check_spread(unsigned failures, uint64_t bound)
{
    struct spread spread = draw(failures, bound);

    assert_in_range(spread.least, 1, bound / 100);
    assert_in_range(spread.most, bound - bound / 100, bound);
    for (int i = 0; i < PARTS; i++)
        assert_in_range(spread.in_part[i], DRAWS / PARTS * 95 / 100, DRAWS / PARTS * 105 / 100);
}

static void test_doubles_to_its_cap(void **state)
{
    uint64_t bound = BASE_MS;

    (void)state;
    srandom(1);
    for (unsigned failures = 0; failures < 10; failures++) {
        check_spread(failures, bound);
        bound = bound * 2 < CAP_MS ? bound * 2 : CAP_MS;
    }
    assert_int_equal(bound, CAP_MS);
}

static void test_any_number_of_failures(void **state)
{
    static const unsigned many[] = {18, 19, 20, 21,   31,      32,      33,
                                    63, 64, 65, 1000, INT_MAX, UINT_MAX};

    (void)state;
    srandom(2);
    for (size_t i = 0; i < sizeof many / sizeof *many; i++)
        check_spread(many[i], CAP_MS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_doubles_to_its_cap),
        cmocka_unit_test(test_any_number_of_failures),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
