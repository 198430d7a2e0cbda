/* The errors of the wire: [code, name, text, retry_after_ms or nil]. See PROTOCOL.md. */
#ifndef PROTO_ERROR_H
#define PROTO_ERROR_H

#include <stdarg.h>

#include "proto/slice.h"

enum wire_code {
    WIRE_OK = 0,
    WIRE_INVALID_ARGUMENT = 1,
    WIRE_TOO_LARGE = 2,
    WIRE_QUEUE_FULL = 3,
    WIRE_SHUTTING_DOWN = 4,
    WIRE_UNAVAILABLE = 5,
    WIRE_NOT_FOUND = 6,
    WIRE_PERMISSION_DENIED = 7,
    WIRE_UNKNOWN_METHOD = 8,
    WIRE_STORAGE_FAILED = 9,
    WIRE_INTERNAL = 10,
};

struct wire_error {
    enum wire_code code;
    int retry_after_ms; /* -1: nil */
    char text[240];     /* names what and why; valid UTF-8; never a transcript's content */
};

/* "INVALID_ARGUMENT" and so on; "UNKNOWN" for a code that is not in the table. */
const char *wire_code_name(int code);

/* Fills *ret and returns -1, so that a decoder can say `return wire_fail(err, …)`. */
int wire_fail(struct wire_error *ret, enum wire_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define WIRE_QUOTE_SIZE 136

/* A peer's text (a key, a method's name) for an error text or a log: in quotes, its first 32 bytes,
 * all but printable ASCII as \xNN, "..." where it was cut. Returns ret. */
const char *wire_quote(struct slice text, char ret[WIRE_QUOTE_SIZE]);

#endif
