/* Lines of cells in memory. The one hard thing is that colours take bytes but no columns, and UTF-8
 * takes more bytes than columns: column counts what a terminal shows, and nothing is ever cut
 * inside a character or before a colour's end. */
#include "client/convstorectl_page.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/convstorectl.h"

#define CELL_SIZE 1024
#define GROW_BYTES 4096

void page_bytes(struct page *page, const char *data, size_t len)
{
    if (page->capacity - page->len <= len) {
        size_t capacity = page->capacity * 2 + len + GROW_BYTES;
        char *grown = realloc(page->data, capacity);

        if (grown == NULL) {
            fputs("convstorectl: out of memory\n", stderr);
            exit(CTL_REFUSED);
        }
        page->data = grown;
        page->capacity = capacity;
    }
    if (len > 0)
        memcpy(page->data + page->len, data, len);
    page->len += len;
    page->data[page->len] = '\0';
}

static void put_string(struct page *page, const char *text)
{
    page_bytes(page, text, strlen(text));
}

static const char *colour_of(enum page_style style)
{
    switch (style) {
    case STYLE_PLAIN:
        return NULL;
    case STYLE_HEADING:
        return "\033[1m";
    case STYLE_FAINT:
        return "\033[2m";
    case STYLE_GOOD:
        return "\033[32m";
    case STYLE_WARN:
        return "\033[33m";
    case STYLE_BAD:
        return "\033[1;31m";
    }
    abort();
}

static bool continues_character(char byte)
{
    return ((unsigned char)byte & 0xc0) == 0x80;
}

/* The bytes of text that fit into the columns that are left. */
static size_t fitting(const struct page *page, const char *text, int *ret_width)
{
    size_t len = 0;
    int width = 0;

    while (text[len] != '\0') {
        if (!continues_character(text[len])) {
            if (page->columns > 0 && page->column + width == page->columns)
                break;
            width++;
        }
        len++;
    }
    *ret_width = width;
    return len;
}

/* Control characters of a foreign text must not reach the terminal: those of ASCII, and U+0080 to
 * U+009F, which terminals obey too. */
static void clean(char *text)
{
    for (; *text != '\0'; text++) {
        unsigned char byte = (unsigned char)*text;

        if (byte < 0x20 || byte == 0x7f)
            *text = ' ';
        else if (byte == 0xc2 && (unsigned char)text[1] >= 0x80 && (unsigned char)text[1] < 0xa0)
            text[0] = text[1] = ' ';
    }
}

void page_text(struct page *page, enum page_style style, const char *text)
{
    const char *colour = page->colour ? colour_of(style) : NULL;
    int width;
    size_t len = fitting(page, text, &width);

    if (len == 0)
        return;
    if (colour != NULL)
        put_string(page, colour);
    page_bytes(page, text, len);
    if (colour != NULL)
        put_string(page, "\033[0m");
    page->column += width;
}

void page_put(struct page *page, enum page_style style, const char *format, ...)
{
    char text[CELL_SIZE];
    size_t len;
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    /* Where vsnprintf() has cut, it may have cut inside a character. */
    len = strlen(text);
    if (len == sizeof text - 1) {
        while (len > 0 && continues_character(text[len - 1]))
            len--;
        text[len > 0 ? len - 1 : 0] = '\0';
    }
    clean(text);
    page_text(page, style, text);
}

void page_to(struct page *page, int column)
{
    do {
        page_text(page, STYLE_PLAIN, " ");
    } while (page->column < column && (page->columns == 0 || page->column < page->columns));
}

void page_right(struct page *page, int column, enum page_style style, const char *text)
{
    page_to(page, column - page_width(text));
    page_text(page, style, text);
}

void page_end_line(struct page *page)
{
    put_string(page, "\n");
    page->lines++;
    page->column = 0;
}

void page_append(struct page *page, const struct page *other, int lines)
{
    const char *at = other->data;

    assert(page->column == 0 && lines <= other->lines);
    for (int i = 0; i < lines; i++) {
        const char *newline = strchr(at, '\n');

        assert(newline != NULL);
        page_bytes(page, at, (size_t)(newline - at) + 1);
        page->lines++;
        at = newline + 1;
    }
}

void page_done(struct page *page)
{
    free(page->data);
    page->data = NULL;
    page->len = page->capacity = 0;
    page->lines = page->column = 0;
}

int page_width(const char *text)
{
    int width = 0;

    for (; *text != '\0'; text++)
        width += !continues_character(*text);
    return width;
}
