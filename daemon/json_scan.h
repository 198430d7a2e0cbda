/* Reads JSON front to back without building a tree: for replies that are a few keys around
 * megabytes of numbers, where a tree costs 200 microseconds for each vector of 768 numbers and this
 * costs 10. Pure, any thread. */
#ifndef DAEMON_JSON_SCAN_H
#define DAEMON_JSON_SCAN_H

#include <stdbool.h>

#include "proto/slice.h"

#define JSON_SCAN_MAX_DEPTH 32

struct json_scan {
    const char *at;
    const char *end;
};

struct json_scan json_scan_start(struct slice text);

/* Takes c where it is the next character after blanks. */
bool json_scan_take(struct json_scan *s, char c);

/* All that is left is blanks. */
bool json_scan_at_end(struct json_scan *s);

/* The next value as a string, as it stands between its quotes (escapes are left alone); the slice
 * points into the text. 0 or -EBADMSG. */
int json_scan_string(struct json_scan *s, struct slice *ret) __attribute__((warn_unused_result));

/* The next value as a number; null is not a number (NaN), as some servers write it so. 0 or
 * -EBADMSG. */
int json_scan_float(struct json_scan *s, float *ret) __attribute__((warn_unused_result));

/* Leaves one value of any kind out. 0 or -EBADMSG (deeper than JSON_SCAN_MAX_DEPTH, too). */
int json_scan_skip(struct json_scan *s) __attribute__((warn_unused_result));

#endif
