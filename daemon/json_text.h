/* A growing buffer for JSON that is written from front to back. Kept from one request to the next.
 * One thread. */
#ifndef DAEMON_JSON_TEXT_H
#define DAEMON_JSON_TEXT_H

#include <stdbool.h>
#include <stddef.h>

#include "proto/slice.h"

struct json_text {
    char *data;
    size_t len;
    size_t capacity;
    bool no_memory; /* stays set until json_text_clear(); what was written is not whole */
};

void json_text_clear(struct json_text *t); /* keeps the memory */
void json_text_done(struct json_text *t);

/* Appends text as it stands. */
void json_text_raw(struct json_text *t, const char *text);

/* Appends text with JSON's escapes, without the quotes around it. */
void json_text_escaped(struct json_text *t, struct slice text);

#endif
