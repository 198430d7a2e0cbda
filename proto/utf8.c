/* Checks that text is what PostgreSQL takes in a UTF8 database. Pure, any thread.
 *
 * The hard thing: transcripts are megabytes of mostly ASCII and are checked on the loop, so ASCII
 * goes 16 bytes at a time; NUL is found by the same arithmetic. */
#include "proto/utf8.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define ONES 0x0101010101010101u
#define HIGHS 0x8080808080808080u

static uint64_t load(const uint8_t *at)
{
    uint64_t word;

    memcpy(&word, at, sizeof word);
    return word;
}

/* High bits set: somewhere in the word is a byte of 0x80 or more, or a NUL. A NUL borrows when one
 * is taken from it; a byte that only looks like one because its neighbour borrowed does no harm,
 * since that neighbour is a NUL itself. */
static uint64_t suspects(uint64_t word)
{
    return (word | (word - ONES)) & HIGHS;
}

static bool is_continuation(uint8_t byte)
{
    return (byte & 0xc0) == 0x80;
}

/* The length of the well formed sequence that starts here, 0 where there is none: table 3-7 of the
 * Unicode standard. The second byte's range is what rules out overlong forms, surrogates and
 * everything above U+10FFFF. */
static size_t sequence_len(const uint8_t *at, size_t len)
{
    uint8_t lead = at[0];

    if (lead < 0x80)
        return lead != 0;
    if (lead < 0xc2 || lead > 0xf4 || len < 2)
        return 0;
    if (lead < 0xe0)
        return is_continuation(at[1]) ? 2 : 0;
    if (len < 3 || !is_continuation(at[1]) || !is_continuation(at[2]))
        return 0;
    if (lead < 0xf0) {
        bool overlong = lead == 0xe0 && at[1] < 0xa0;
        bool surrogate = lead == 0xed && at[1] > 0x9f;

        return overlong || surrogate ? 0 : 3;
    }
    if (len < 4 || !is_continuation(at[3]))
        return 0;
    return (lead == 0xf0 && at[1] < 0x90) || (lead == 0xf4 && at[1] > 0x8f) ? 0 : 4;
}

ssize_t utf8_first_bad(const char *data, size_t len)
{
    const uint8_t *bytes = (const uint8_t *)data;
    size_t at = 0;

    while (at < len) {
        size_t step;

        while (len - at >= 16 && (suspects(load(bytes + at)) | suspects(load(bytes + at + 8))) == 0)
            at += 16;
        if (at == len)
            break;
        step = sequence_len(bytes + at, len - at);
        if (step == 0)
            return (ssize_t)at;
        at += step;
    }
    return -1;
}
