/* Lines out of a descriptor that may be a file, a pipe or a terminal. Reads only when asked, so
 * that a slow writer never holds up the answers that come in meanwhile.
 *
 * Invariant: a line that is over CTL_LINE_MAX_BYTES is never in memory whole: its bytes are thrown
 * away up to its newline, and then it is reported once. */
#include "client/convstorectl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define READ_BYTES (256 * 1024)

static void consume(struct ctl_lines *lines, size_t len)
{
    lines->start += len;
    lines->len -= len;
    lines->consumed += len;
    lines->looked = 0;
}

static enum ctl_line end_of_line(struct ctl_lines *lines, size_t len, size_t newline,
                                 const char **ret, size_t *ret_len)
{
    bool too_long = lines->skipping || len > CTL_LINE_MAX_BYTES;

    *ret = len > 0 ? lines->data + lines->start : "";
    *ret_len = len;
    lines->number++;
    lines->skipping = false;
    consume(lines, len + newline);
    return too_long ? CTL_LINE_TOO_LONG : CTL_LINE;
}

enum ctl_line ctl_lines_next(struct ctl_lines *lines, const char **ret, size_t *ret_len)
{
    if (lines->len > lines->looked) {
        const char *from = lines->data + lines->start;
        const char *newline = memchr(from + lines->looked, '\n', lines->len - lines->looked);

        if (newline != NULL)
            return end_of_line(lines, (size_t)(newline - from), 1, ret, ret_len);
    }
    if (lines->at_end)
        return lines->len > 0 || lines->skipping ? end_of_line(lines, lines->len, 0, ret, ret_len)
                                                 : CTL_LINE_END;
    lines->looked = lines->len;
    if (lines->skipping || lines->len > CTL_LINE_MAX_BYTES) {
        lines->skipping = true;
        consume(lines, lines->len);
    }
    return CTL_LINE_NEEDS_INPUT;
}

static int reserve(struct ctl_lines *lines)
{
    size_t capacity = lines->capacity * 2 > 2 * READ_BYTES ? lines->capacity * 2 : 2 * READ_BYTES;
    char *data;

    if (lines->start > 0) {
        memmove(lines->data, lines->data + lines->start, lines->len);
        lines->start = 0;
    }
    if (lines->capacity - lines->len >= READ_BYTES)
        return 0;
    data = realloc(lines->data, capacity);
    if (data == NULL)
        return -ENOMEM;
    lines->data = data;
    lines->capacity = capacity;
    return 0;
}

void ctl_lines_fill(struct ctl_lines *lines)
{
    ssize_t n = -1;

    errno = ENOMEM;
    if (reserve(lines) == 0)
        n = read(lines->fd, lines->data + lines->len, lines->capacity - lines->len);
    if (n > 0) {
        lines->len += (size_t)n;
        return;
    }
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    lines->at_end = true;
    lines->failed = n < 0;
    lines->error = errno;
}

void ctl_lines_done(struct ctl_lines *lines)
{
    free(lines->data);
    lines->data = NULL;
}
