/* Numbers with their units, and sparklines. Pure. */
#ifndef CONVSTORECTL_UNITS_H
#define CONVSTORECTL_UNITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Each writes a text to buffer and returns it: "-" where the number is unknown (below 0, NAN). */

#define UNITS_SIZE 32

const char *units_count(char buffer[UNITS_SIZE], int64_t count); /* "1,234"; "1,234 M" from 10^9 */
const char *units_rate(char buffer[UNITS_SIZE], double per_s);   /* "1,234/s", "2.5/s" */
const char *units_bytes(char buffer[UNITS_SIZE], int64_t bytes); /* "512 B", "1.5 MiB" */
const char *units_ms(char buffer[UNITS_SIZE], double ms);        /* "85 us" to "2.5 h": 3 digits */
const char *units_age(char buffer[UNITS_SIZE], int64_t seconds); /* "2 h 13 min" */
const char *units_share(char buffer[UNITS_SIZE], double share);  /* 0.5: "50.0 %" */
const char *units_mean(char buffer[UNITS_SIZE], double value);   /* "12.3", "1,234" */

/* A sparkline: the last width values as one character each, from 0 to the largest among them; NAN
 * is a blank. out: at least 3 * width + 1 bytes. utf8: blocks, else ASCII. */
void units_sparkline(char *out, const double *values, size_t count, int width, bool utf8);

#endif
