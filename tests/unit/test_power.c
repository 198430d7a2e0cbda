/* The journal through 100,000 losses of power; `make campaign-power` does 10 million. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/power.h"

/* Goal of this test: whatever a loss of power leaves on the disk, recovery finds every acknowledged
 * record, once, and nothing that was not written. power_run() ends the program otherwise. */
static void test_power_loss(void **state)
{
    (void)state;
    power_run(100000, 1, stdout);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_power_loss)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
