/* A view of bytes that somebody else owns. data is NULL where the field is absent. */
#ifndef PROTO_SLICE_H
#define PROTO_SLICE_H

#include <stddef.h>
#include <string.h>

struct slice {
    const char *data;
    size_t len;
};

static inline int slice_equals(struct slice s, const char *text)
{
    size_t len = strlen(text);
    return s.len == len && memcmp(s.data, text, len) == 0;
}

#endif
