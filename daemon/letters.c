/* Which characters make up words, and their lower case. Owns nothing.
 *
 * The hard thing: no table of a library is used, since its version (and the locale) would make
 * another vector from the same text on another machine. The rules below are written out instead;
 * they cover the simple case mappings of Latin, Greek, Cyrillic and Armenian. A character that they
 * do not know counts as a letter without case, which costs a match and never an error. */
#include "daemon/letters.h"

#include <stddef.h>

#define ALPHABET                                                                                   \
    'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l', 'm', 'n', 'o', 'p', 'q', 'r', 's', \
        't', 'u', 'v', 'w', 'x', 'y', 'z'

/* A table, not comparisons: which byte is a letter cannot be foretold. */
const uint8_t letters_ascii[0x80] = {
    ['0'] = '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', ['A'] = ALPHABET, ['a'] = ALPHABET,
};

/* The number of bytes that the sequence at data takes, with the code point; 0 where it is
 * malformed. The first byte is 0x80 or more. */
static size_t decode(const unsigned char *data, size_t len, uint32_t *ret)
{
    static const uint32_t smallest[5] = {0, 0, 0x80, 0x800, 0x10000};
    size_t need = data[0] < 0xc2   ? 0
                  : data[0] < 0xe0 ? 2
                  : data[0] < 0xf0 ? 3
                  : data[0] < 0xf5 ? 4
                                   : 0;
    uint32_t c = data[0] & (0x7fu >> need);

    if (need == 0 || need > len)
        return 0;
    for (size_t i = 1; i < need; i++) {
        if ((data[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (data[i] & 0x3fu);
    }
    if (c < smallest[need] || c > 0x10ffff)
        return 0;
    *ret = c;
    return need;
}

/* Blanks and punctuation beyond ASCII: Latin-1's, the general block, CJK's and the full-width
 * forms. */
static bool is_separator(uint32_t c)
{
    if (c < 0xc0)
        return c != 0xaa && c != 0xb5 && c != 0xba;
    if (c < 0x2000)
        return c == 0xd7 || c == 0xf7 || c == 0x37e || c == 0x387 || c == 0x589 || c == 0x5be ||
               c == 0x60c || c == 0x61b || c == 0x61f || c == 0x6d4 || c == 0x964 || c == 0x965 ||
               c == 0x1680;
    return c <= 0x206f || (c >= 0x2e00 && c <= 0x2e7f) || (c >= 0x3000 && c <= 0x3004) ||
           (c >= 0x3008 && c <= 0x3020) || c == 0x30fb || (c >= 0xfe10 && c <= 0xfe6f) ||
           (c >= 0xff01 && c <= 0xff0f) || (c >= 0xff1a && c <= 0xff20) ||
           (c >= 0xff3b && c <= 0xff40) || (c >= 0xff5b && c <= 0xff65) || c == 0xfeff ||
           c == 0xfffd;
}

/* Latin beyond ASCII, where capital and small letter mostly alternate. */
static uint32_t lower_latin(uint32_t c)
{
    if (c >= 0xc0 && c <= 0xde)
        return c + 32; /* the multiplication sign, 0xd7, is a separator */
    if (c == 0x130 || c == 0x178)
        return c == 0x130 ? 'i' : 0xff;
    if ((c >= 0x100 && c <= 0x137) || (c >= 0x14a && c <= 0x177) || (c >= 0x1de && c <= 0x1ef) ||
        (c >= 0x1f8 && c <= 0x21f) || (c >= 0x222 && c <= 0x233))
        return c | 1;
    if ((c >= 0x139 && c <= 0x148) || (c >= 0x179 && c <= 0x17e) || (c >= 0x1cd && c <= 0x1dc))
        return c + (c & 1);
    return c;
}

static uint32_t lower_greek(uint32_t c)
{
    if (c >= 0x391 && c <= 0x3ab)
        return c + 32;
    switch (c) {
    case 0x386:
        return 0x3ac;
    case 0x388:
    case 0x389:
    case 0x38a:
        return c + 37;
    case 0x38c:
        return 0x3cc;
    case 0x38e:
    case 0x38f:
        return c + 63;
    case 0x3c2: /* the sigma at a word's end */
        return 0x3c3;
    default:
        return c;
    }
}

static uint32_t lower_cyrillic(uint32_t c)
{
    if (c <= 0x40f)
        return c + 80;
    if (c <= 0x42f)
        return c + 32;
    if (c == 0x4c0)
        return 0x4cf;
    if (c >= 0x4c1 && c <= 0x4ce)
        return c + (c & 1);
    if ((c >= 0x460 && c <= 0x481) || (c >= 0x48a && c <= 0x4bf) || c >= 0x4d0)
        return c | 1;
    return c;
}

static uint32_t lower(uint32_t c)
{
    if (c < 0x250)
        return lower_latin(c);
    if (c >= 0x370 && c < 0x400)
        return lower_greek(c);
    if (c >= 0x400 && c < 0x530)
        return lower_cyrillic(c);
    if (c >= 0x531 && c <= 0x556) /* Armenian */
        return c + 48;
    if ((c >= 0x1e00 && c <= 0x1e95) || (c >= 0x1ea0 && c <= 0x1eff)) /* Vietnamese and others */
        return c | 1;
    if (c >= 0xff10 && c <= 0xff19) /* full-width digits and letters are ASCII's */
        return c - 0xff10 + '0';
    if (c >= 0xff21 && c <= 0xff3a)
        return c - 0xff21 + 'a';
    if (c >= 0xff41 && c <= 0xff5a)
        return c - 0xff41 + 'a';
    return c;
}

uint32_t letters_next_beyond_ascii(struct slice text, size_t *at)
{
    const unsigned char *data = (const unsigned char *)text.data + *at;
    uint32_t c;
    size_t step;

    step = decode(data, text.len - *at, &c);
    if (step == 0) {
        (*at)++;
        return 0;
    }
    *at += step;
    return is_separator(c) ? 0 : lower(c);
}

bool letters_is_ideograph(uint32_t c)
{
    return c >= 0x3005 && ((c <= 0x30ff) || (c >= 0x31f0 && c <= 0x31ff) ||
                           (c >= 0x3400 && c <= 0x9fff) || (c >= 0xf900 && c <= 0xfaff) ||
                           (c >= 0xff66 && c <= 0xff9f) || (c >= 0x20000 && c <= 0x3ffff));
}

bool letters_none(struct slice text)
{
    size_t at = 0;

    while (at < text.len)
        if (letters_next(text, &at) != 0)
            return false;
    return true;
}
