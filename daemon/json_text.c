/* JSON text in the making. Owns its memory, which only grows: a worker's requests are of one size.
 * Running out of memory is noted once and looked at when all is written. */
#include "daemon/json_text.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_CAPACITY 4096

void json_text_clear(struct json_text *t)
{
    t->len = 0;
    t->no_memory = false;
}

void json_text_done(struct json_text *t)
{
    free(t->data);
    *t = (struct json_text){0};
}

static bool reserve(struct json_text *t, size_t more)
{
    size_t capacity = t->capacity > 0 ? t->capacity : FIRST_CAPACITY;
    char *data;

    if (t->capacity - t->len >= more)
        return true;
    if (more > SIZE_MAX / 4 || t->len > SIZE_MAX / 4) {
        t->no_memory = true;
        return false;
    }
    while (capacity - t->len < more)
        capacity *= 2;
    data = realloc(t->data, capacity);
    if (data == NULL) {
        t->no_memory = true;
        return false;
    }
    t->data = data;
    t->capacity = capacity;
    return true;
}

static void append(struct json_text *t, const char *data, size_t len)
{
    if (len == 0 || !reserve(t, len))
        return;
    memcpy(t->data + t->len, data, len);
    t->len += len;
}

void json_text_raw(struct json_text *t, const char *text)
{
    append(t, text, strlen(text));
}

static bool needs_escape(char c)
{
    return (unsigned char)c < 0x20 || c == '"' || c == '\\';
}

static void append_escape(struct json_text *t, char c)
{
    char escape[8];

    if (c == '\n')
        append(t, "\\n", 2);
    else if ((unsigned char)c < 0x20)
        append(t, escape, (size_t)snprintf(escape, sizeof escape, "\\u%04x", (unsigned)c));
    else
        append(t, (char[]){'\\', c}, 2);
}

void json_text_escaped(struct json_text *t, struct slice text)
{
    size_t done = 0;

    for (size_t at = 0; at < text.len; at++) {
        if (!needs_escape(text.data[at]))
            continue;
        append(t, text.data + done, at - done);
        append_escape(t, text.data[at]);
        done = at + 1;
    }
    append(t, text.data + done, text.len - done);
}
