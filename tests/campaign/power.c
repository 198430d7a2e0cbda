/* Simulated power loss in any quantity: power [--states N] [--seed S]. After a failure, `--states
 * 1` with the printed seed replays it. */
#include "tests/support/power.h"

#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
    uint64_t states = 100000, seed = 1;

    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--states") == 0)
            states = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--seed") == 0)
            seed = strtoull(argv[i + 1], NULL, 10);
    }
    power_run(states, seed, stdout);
    return 0;
}
