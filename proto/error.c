/* The errors of the wire. Pure, any thread.
 *
 * Invariant: an error's text is valid UTF-8, whatever a peer sent and wherever it had to be cut. */
#include "proto/error.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "proto/utf8.h"

#define QUOTE_MAX_BYTES 32

static_assert(WIRE_QUOTE_SIZE >= 4 * QUOTE_MAX_BYTES + sizeof "\"...\"", "every byte as \\xNN");

const char *wire_code_name(int code)
{
    static const char *const names[] = {
        [WIRE_OK] = "OK",
        [WIRE_INVALID_ARGUMENT] = "INVALID_ARGUMENT",
        [WIRE_TOO_LARGE] = "TOO_LARGE",
        [WIRE_QUEUE_FULL] = "QUEUE_FULL",
        [WIRE_SHUTTING_DOWN] = "SHUTTING_DOWN",
        [WIRE_UNAVAILABLE] = "UNAVAILABLE",
        [WIRE_NOT_FOUND] = "NOT_FOUND",
        [WIRE_PERMISSION_DENIED] = "PERMISSION_DENIED",
        [WIRE_UNKNOWN_METHOD] = "UNKNOWN_METHOD",
        [WIRE_STORAGE_FAILED] = "STORAGE_FAILED",
        [WIRE_INTERNAL] = "INTERNAL",
    };

    if (code < 0 || (size_t)code >= sizeof names / sizeof names[0])
        return "UNKNOWN";
    return names[code];
}

int wire_fail(struct wire_error *ret, enum wire_code code, const char *format, ...)
{
    va_list args;
    ssize_t bad;

    ret->code = code;
    ret->retry_after_ms = -1;
    va_start(args, format);
    if (vsnprintf(ret->text, sizeof ret->text, format, args) < 0)
        ret->text[0] = '\0';
    va_end(args);
    /* The cut at the end of the buffer may have gone through a character. */
    bad = utf8_first_bad(ret->text, strlen(ret->text));
    if (bad >= 0)
        ret->text[bad] = '\0';
    return -1;
}

const char *wire_quote(struct slice text, char ret[WIRE_QUOTE_SIZE])
{
    size_t shown = text.len < QUOTE_MAX_BYTES ? text.len : QUOTE_MAX_BYTES;
    char *at = ret;

    *at++ = '"';
    for (size_t i = 0; i < shown; i++) {
        unsigned char c = (unsigned char)text.data[i];

        if (c >= 0x20 && c < 0x7f && c != '"' && c != '\\')
            *at++ = (char)c;
        else
            at += sprintf(at, "\\x%02x", c);
    }
    strcpy(at, shown < text.len ? "...\"" : "\"");
    return ret;
}
