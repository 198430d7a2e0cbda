/* The window over a segment, and the search for the next sound record.
 *
 * Owned by whoever reads; one thread. The one hard thing: where a record does not check, the log
 * may end there, or damage may hide records behind it, and an END may be an old one whose
 * successor's page was lost. So the rest of the segment is always searched, at every place where a
 * record may start; only when nothing is found does the segment end. The salt makes a false find as
 * likely as guessing 64 bits. */
#include "daemon/segment_cursor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/sysio.h"

#define WINDOW_BYTES (1u << 20)

void segment_cursor_init(struct segment_cursor *cursor, const struct sysio *sys)
{
    *cursor = (struct segment_cursor){.sys = sys, .fd = -1};
}

void segment_cursor_done(struct segment_cursor *cursor)
{
    free(cursor->window);
    cursor->window = NULL;
    cursor->capacity = 0;
}

void segment_cursor_start(struct segment_cursor *cursor, int fd, const struct segment_key *key,
                          uint64_t offset, uint64_t limit)
{
    cursor->fd = fd;
    cursor->key = *key;
    cursor->offset = offset;
    cursor->limit = limit;
    cursor->end = offset;
    cursor->closed = false;
    cursor->base = offset;
    cursor->len = 0;
}

static int window_reserve(struct segment_cursor *cursor, size_t need)
{
    uint64_t left = cursor->limit - cursor->base;
    size_t capacity =
        left < WINDOW_BYTES ? (size_t)left : WINDOW_BYTES; /* for little, a small one */
    uint8_t *window;

    while (capacity < need)
        capacity *= 2;
    if (capacity <= cursor->capacity)
        return 0;
    window = realloc(cursor->window, capacity);
    if (window == NULL)
        return -ENOMEM;
    cursor->window = window;
    cursor->capacity = capacity;
    return 0;
}

/* Has `need` bytes from `offset` in the window, or as many as there are. */
static int window_at(struct segment_cursor *cursor, uint64_t offset, size_t need)
{
    uint64_t read_from;
    size_t keep, want;
    ssize_t n;
    int rc;

    if (need > cursor->limit - offset)
        need = (size_t)(cursor->limit - offset);
    if (offset >= cursor->base && offset + need <= cursor->base + cursor->len)
        return 0;
    keep = offset >= cursor->base && offset < cursor->base + cursor->len
               ? (size_t)(cursor->base + cursor->len - offset)
               : 0;
    if (keep > 0)
        memmove(cursor->window, cursor->window + (offset - cursor->base), keep);
    cursor->base = offset;
    cursor->len = keep;
    rc = window_reserve(cursor, need);
    if (rc != 0)
        return rc;
    read_from = offset + keep;
    want = cursor->capacity - keep;
    if (want > cursor->limit - read_from)
        want = (size_t)(cursor->limit - read_from);
    n = sysio_read(cursor->sys, cursor->fd, cursor->window + keep, want, read_from);
    if (n < 0)
        return (int)n;
    cursor->len += (size_t)n;
    if ((size_t)n < want) /* the file is cut */
        cursor->limit = cursor->base + cursor->len;
    return 0;
}

static int check_at(struct segment_cursor *cursor, uint64_t offset, struct record_view *ret)
{
    size_t need = sizeof ret->header;

    for (;;) {
        const uint8_t *at;
        int rc;

        if (offset + need > cursor->limit)
            return 0;
        rc = window_at(cursor, offset, need);
        if (rc != 0)
            return rc;
        if (offset >= cursor->limit)
            return 0;
        at = cursor->window + (offset - cursor->base);
        rc = record_check(&cursor->key, offset, at, cursor->len - (size_t)(offset - cursor->base),
                          cursor->limit, &ret->header);
        if (rc == -EAGAIN) {
            need = sizeof ret->header + ret->header.length;
            continue;
        }
        ret->offset = offset;
        ret->payload = at + sizeof ret->header;
        return rc;
    }
}

static int search(struct segment_cursor *cursor, uint64_t from, struct record_view *ret)
{
    for (uint64_t at = from; at + sizeof ret->header <= cursor->limit; at += RECORD_ALIGN) {
        int rc = check_at(cursor, at, ret);

        if (rc != 0)
            return rc;
    }
    return 0;
}

int segment_cursor_next(struct segment_cursor *cursor, struct record_view *ret)
{
    int rc = check_at(cursor, cursor->offset, ret);

    while (rc == 0 || (rc == 1 && ret->header.type == RECORD_END)) {
        cursor->closed = rc == 1;
        if (rc == 1)
            cursor->end_seq = ret->header.seq;
        rc = search(cursor, cursor->offset + RECORD_ALIGN, ret);
        if (rc != 1)
            return rc;
        if (cursor->on_gap != NULL)
            cursor->on_gap(cursor->arg, cursor->offset, ret->offset);
        cursor->offset = ret->offset;
        cursor->end = ret->offset;
    }
    if (rc == 1) {
        cursor->closed = false;
        cursor->offset += record_bytes(ret->header.length);
        cursor->end = cursor->offset;
    }
    return rc;
}

int segment_read_header(const struct sysio *sys, int fd, struct segment_header *ret,
                        unsigned *ret_bad_copies)
{
    uint8_t page[SEGMENT_PAGE];
    int result = -EBADMSG;

    *ret_bad_copies = 0;
    for (unsigned copy = 0; copy < 2; copy++) {
        struct segment_header header;
        ssize_t n = sysio_read(sys, fd, page, sizeof page, copy * SEGMENT_COPY_AT);
        int rc = n < 0 ? (int)n : segment_decode(page, (size_t)n, &header);

        if (rc == 0 && result != 0)
            *ret = header;
        if (rc == -EBADMSG)
            (*ret_bad_copies)++;
        else if (rc != 0 && rc != -EPROTONOSUPPORT)
            return rc;
        if (result == -EBADMSG)
            result = rc;
    }
    return result;
}
