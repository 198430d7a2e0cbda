/* Bytes of one connection that have come but cannot be handled yet: a message that is half there,
 * or what a stop left unread. Owns its memory; none while empty. Loop. */
#ifndef DAEMON_INBOX_H
#define DAEMON_INBOX_H

#include <stddef.h>
#include <stdint.h>

struct inbox {
    uint8_t *data;
    size_t start; /* handled already */
    size_t end;
    size_t capacity;
};

static inline const uint8_t *inbox_data(const struct inbox *in)
{
    return in->data + in->start;
}

static inline size_t inbox_len(const struct inbox *in)
{
    return in->end - in->start;
}

/* Puts bytes behind what is kept. 0 or -ENOMEM, and then nothing has changed. */
int inbox_append(struct inbox *in, const uint8_t *data, size_t len)
    __attribute__((warn_unused_result));

/* Drops len bytes at the front. */
void inbox_consume(struct inbox *in, size_t len);

/* Drops all. */
void inbox_done(struct inbox *in);

#endif
