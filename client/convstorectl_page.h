/* A page of text for people: lines of cells, colours where they are wanted, numbers with their
 * units. One thread; writes to memory only. */
#ifndef CONVSTORECTL_PAGE_H
#define CONVSTORECTL_PAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum page_style { STYLE_PLAIN, STYLE_HEADING, STYLE_FAINT, STYLE_GOOD, STYLE_WARN, STYLE_BAD };

/* Clear it to zero, then set colour and columns. */
struct page {
    bool colour; /* else no control character is written */
    int columns; /* what would stand further to the right is left out; 0: no bound */
    char *data;  /* NULL while empty; ends in NUL */
    size_t len, capacity;
    int lines;  /* ended ones */
    int column; /* where the next character of the line stands, from 0 */
};

/* Ends the process (CTL_REFUSED) without memory, as all that grow a page do. Control characters of
 * foreign texts become blanks; newlines too. */
void page_put(struct page *page, enum page_style style, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* A text of this program's own, of any length. */
void page_text(struct page *page, enum page_style style, const char *text);

/* Blanks up to a column; at least one where the line is there already. */
void page_to(struct page *page, int column);

/* Text that ends before a column; at least one blank stands before it. */
void page_right(struct page *page, int column, enum page_style style, const char *text);

void page_end_line(struct page *page);

/* Bytes as they are, which the caller vouches for; the column does not move. */
void page_bytes(struct page *page, const char *data, size_t len);

/* The first lines of another page, behind this one's last line. */
void page_append(struct page *page, const struct page *other, int lines);
void page_done(struct page *page);

/* Characters of a UTF-8 text: the columns it takes. */
int page_width(const char *text);

#endif
