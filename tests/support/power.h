/* Simulated power loss, from a seed. */
#ifndef TESTS_POWER_H
#define TESTS_POWER_H

#include <stdint.h>
#include <stdio.h>

/* Checks at least that many crashed states, episode after episode from `seed` on, and prints what
 * was tried. No acknowledged record may be missing, none may appear that never was written or whose
 * done note was synced, none twice; a failure prints the seed of its episode and ends the program.
 */
void power_run(uint64_t states, uint64_t seed, FILE *out);

#endif
