/* UTF-8: every character, every place in a word, and everything that only looks like it. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "proto/utf8.h"

/* Plain and slow, from the definition in RFC 3629: decode, then ask whether it was the shortest
 * form of an allowed character. */
static size_t reference_len(const uint8_t *at, size_t len)
{
    static const uint32_t least[5] = {0, 1, 0x80, 0x800, 0x10000};
    size_t want = at[0] < 0x80       ? 1
                  : at[0] >> 5 == 6  ? 2
                  : at[0] >> 4 == 14 ? 3
                  : at[0] >> 3 == 30 ? 4
                                     : 0;
    uint32_t c;

    if (want == 0 || want > len)
        return 0;
    c = want == 1 ? at[0] : at[0] & (0x7fu >> want);
    for (size_t i = 1; i < want; i++) {
        if (at[i] >> 6 != 2)
            return 0;
        c = c << 6 | (at[i] & 0x3f);
    }
    return c < least[want] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff) ? 0 : want;
}

static ssize_t reference_first_bad(const uint8_t *data, size_t len)
{
    for (size_t at = 0, step; at < len; at += step) {
        step = reference_len(data + at, len - at);
        if (step == 0)
            return (ssize_t)at;
    }
    return -1;
}

static void every_short_sequence_is_judged_like_the_reference(void **state)
{
    uint8_t bytes[4];

    (void)state;
    for (uint32_t i = 0; i < 1u << 24; i++) {
        memcpy(bytes, &i, 3);
        bytes[3] = 0x80;
        if (utf8_first_bad((char *)bytes, 4) != reference_first_bad(bytes, 4))
            fail_msg("four bytes that begin with %02x %02x %02x", bytes[0], bytes[1], bytes[2]);
        if (utf8_first_bad((char *)bytes, 3) != reference_first_bad(bytes, 3))
            fail_msg("%02x %02x %02x", bytes[0], bytes[1], bytes[2]);
    }
    for (uint32_t i = 0; i < 1u << 24; i++) {
        bytes[0] = (uint8_t)(0xf0 + (i & 7));
        bytes[1] = (uint8_t)(i >> 3);
        bytes[2] = (uint8_t)(0x7e + (i >> 11 & 0x7f));
        bytes[3] = (uint8_t)(0x7e + (i >> 18 & 0x7f));
        if (utf8_first_bad((char *)bytes, 4) != reference_first_bad(bytes, 4))
            fail_msg("%02x %02x %02x %02x", bytes[0], bytes[1], bytes[2], bytes[3]);
    }
}

static void good_text_passes(void **state)
{
    static const char *const texts[] = {"",
                                        "a",
                                        "plain ASCII that is longer than two words",
                                        "gr\xc3\xbc\xc3\x9f",
                                        "\xe4\xbd\xa0\xe5\xa5\xbd",
                                        "\xf0\x9f\x98\x80",
                                        "\xef\xbf\xbf",
                                        "\xf4\x8f\xbf\xbf",
                                        "\x7f\x01"};

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        assert_int_equal(utf8_first_bad(texts[i], strlen(texts[i])), -1);
}

/* A bad byte, a NUL or a cut character at every offset of a longer text: the fast path must not
 * step over it, and must find the first of several. */
static void a_bad_byte_is_found_wherever_it_stands(void **state)
{
    static const char bad[] = {'\0', '\x80', '\xff', '\xc0', '\xe4'};

    (void)state;
    for (size_t len = 1; len < 70; len++) {
        for (size_t at = 0; at < len; at++) {
            for (size_t i = 0; i < sizeof bad; i++) {
                char *text = malloc(len); /* exactly: a read beyond it shows under ASan */

                memset(text, 0x01 + (int)i * 31, len);
                text[at] = bad[i];
                text[len - 1] = bad[i];
                assert_int_equal(utf8_first_bad(text, len), at);
                free(text);
            }
        }
    }
}

static void random_text_is_judged_like_the_reference(void **state)
{
    static const char *const pieces[] = {"abcdefghijklmnopq", "\xc3\xa4",         "\xe2\x82\xac",
                                         "\xf0\x9f\x98\x80",  "0123456789012345", "\xed\xa0\x80"};
    char text[512];

    (void)state;
    srandom(40);
    for (int i = 0; i < 20000; i++) {
        size_t len = 0;

        while (len < 300) {
            const char *piece = pieces[(size_t)random() % (i % 2 == 0 ? 5 : 6)];

            memcpy(text + len, piece, strlen(piece));
            len += strlen(piece);
        }
        if (i % 3 == 0)
            text[(size_t)random() % len] = (char)random();
        assert_int_equal(utf8_first_bad(text, len), reference_first_bad((uint8_t *)text, len));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_short_sequence_is_judged_like_the_reference),
        cmocka_unit_test(good_text_passes),
        cmocka_unit_test(a_bad_byte_is_found_wherever_it_stands),
        cmocka_unit_test(random_text_is_judged_like_the_reference),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
