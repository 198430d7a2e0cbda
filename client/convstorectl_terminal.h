/* The terminal: whether it shows colours and blocks, and a full screen that is given back as it
 * was. There is one of it: the standard input and output of the process. */
#ifndef CONVSTORECTL_TERMINAL_H
#define CONVSTORECTL_TERMINAL_H

#include <stdbool.h>
#include <stddef.h>

#include "client/convstorectl_page.h"

/* --color=WHEN: auto, always or never; false where it is none of these. auto, as is NULL: a
 * terminal that is not dumb, and no $NO_COLOR. */
bool terminal_colour(const char *when, bool *ret_colour) __attribute__((warn_unused_result));

/* Whether the locale's texts are UTF-8. */
bool terminal_utf8(void);

/* Of standard output; 24 x 80 where it does not say. */
void terminal_size(int *ret_rows, int *ret_columns);

/* All of it to standard output. 0, or a negative errno; -EPIPE: nobody reads any more. */
int terminal_write(const char *data, size_t len) __attribute__((warn_unused_result));

/* The page from the upper left corner on, at most rows of its lines, and nothing of what stood
 * there before. 0, or a negative errno. */
int terminal_show(const struct page *page, int rows) __attribute__((warn_unused_result));

/* The full screen: the alternate screen without a cursor, keys as they are pressed and not shown.
 * False where this process is in the background: it then waits for SIGCONT. Leaving gives back what
 * was before; exit(3) and a crash do so too. Both may be called twice. */
bool terminal_enter(void);
void terminal_leave(void);

#endif
