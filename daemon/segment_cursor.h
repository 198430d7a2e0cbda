/* Reads the records of one segment file in order, through a window of bounded size, and finds its
 * way again behind damaged bytes. Used by recovery, by the read-back, by moves and by verify. */
#ifndef DAEMON_SEGMENT_CURSOR_H
#define DAEMON_SEGMENT_CURSOR_H

#include <stdbool.h>

#include "daemon/segment.h"

struct sysio;

struct segment_cursor {
    const struct sysio *sys;
    int fd; /* the caller's */
    struct segment_key key;
    uint64_t offset;  /* of the next record */
    uint64_t limit;   /* nothing at or behind it is read */
    uint64_t end;     /* behind the last sound record */
    bool closed;      /* an END stands at `end` */
    uint64_t end_seq; /* what that END says of the next number */
    /* Bytes that are no record, with a sound one behind them. May be NULL. */
    void (*on_gap)(void *arg, uint64_t from, uint64_t to);
    void *arg;
    uint8_t *window;
    size_t capacity, len;
    uint64_t base; /* of the window in the file */
};

struct record_view {
    struct record_header header;
    uint64_t offset;
    const uint8_t *payload; /* until the next call */
};

void segment_cursor_init(struct segment_cursor *cursor, const struct sysio *sys);
void segment_cursor_done(struct segment_cursor *cursor);

/* From `offset` to `limit` of the file; the window's memory is kept. */
void segment_cursor_start(struct segment_cursor *cursor, int fd, const struct segment_key *key,
                          uint64_t offset, uint64_t limit);

/* 1 with the next record (never an END); 0: no sound record is left; or a negative errno. */
int segment_cursor_next(struct segment_cursor *cursor, struct record_view *ret)
    __attribute__((warn_unused_result));

/* Reads a header from either copy. 0, -EBADMSG, -EPROTONOSUPPORT or another negative errno.
 * *ret_bad_copies: how many of the two are damaged. */
int segment_read_header(const struct sysio *sys, int fd, struct segment_header *ret,
                        unsigned *ret_bad_copies) __attribute__((warn_unused_result));

#endif
