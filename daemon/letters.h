/* Text as a run of lower-case letters and digits: what the builtin embedder reads. Pure, any
 * thread. */
#ifndef DAEMON_LETTERS_H
#define DAEMON_LETTERS_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/slice.h"

/* Scripts that put no blanks between words: Han and Kana. Each character counts as a word. */
bool letters_is_ideograph(uint32_t letter);

/* A text without any letter or digit. */
bool letters_none(struct slice text);

/* letters_next() of each byte below 0x80. */
extern const uint8_t letters_ascii[0x80];

/* letters_next() where the byte at *at is 0x80 or more. */
uint32_t letters_next_beyond_ascii(struct slice text, size_t *at);

/* Reads one character at *at and moves on (by one byte where it is no UTF-8). The character in
 * lower case where it is a letter, a digit or anything else that carries meaning (a mark, an
 * emoji); 0 where it separates words. at must be below text.len. */
static inline uint32_t letters_next(struct slice text, size_t *at)
{
    uint32_t c = (unsigned char)text.data[*at];

    if (c >= 0x80)
        return letters_next_beyond_ascii(text, at);
    (*at)++;
    return letters_ascii[c];
}

#endif
