/* The front is moved up only when room is short at the end, so that handling messages one by one
 * never copies the same byte again and again. */
#include "daemon/inbox.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_CAPACITY 4096

int inbox_append(struct inbox *in, const uint8_t *data, size_t len)
{
    size_t kept = inbox_len(in);
    size_t need = kept + len;

    if (in->end + len > in->capacity && need <= in->capacity / 2) {
        memmove(in->data, inbox_data(in), kept);
        in->start = 0;
        in->end = kept;
    } else if (in->end + len > in->capacity) {
        size_t capacity = need < FIRST_CAPACITY ? FIRST_CAPACITY : need + need / 2;
        uint8_t *bigger = malloc(capacity);

        if (bigger == NULL)
            return -ENOMEM;
        if (kept > 0)
            memcpy(bigger, inbox_data(in), kept);
        free(in->data);
        *in = (struct inbox){.data = bigger, .end = kept, .capacity = capacity};
    }
    memcpy(in->data + in->end, data, len);
    in->end += len;
    return 0;
}

void inbox_consume(struct inbox *in, size_t len)
{
    assert(len <= inbox_len(in));
    in->start += len;
    if (in->start == in->end)
        inbox_done(in);
}

void inbox_done(struct inbox *in)
{
    free(in->data);
    *in = (struct inbox){0};
}
