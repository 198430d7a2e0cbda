/* The scanner: where a value ends, in whatever pieces it comes, and what it refuses. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "proto/scan.h"
#include "tests/unit/random_msgpack.h"

#define PLENTY (64u * 1024 * 1024)

static enum scan_result scan_limited(const void *data, size_t len, size_t max_bytes,
                                     uint32_t max_elements, size_t *ret_len)
{
    struct scan s;

    scan_reset(&s);
    return scan_value(&s, data, len, max_bytes, max_elements, ret_len);
}

static enum scan_result scan_once(const void *data, size_t len, size_t *ret_len)
{
    return scan_limited(data, len, PLENTY, PLENTY, ret_len);
}

/* Feeds data in pieces of random length up to max_piece and checks that only the last byte of the
 * value makes it complete. */
static void check_pieces(const char *data, size_t len, size_t max_piece)
{
    struct scan s;
    size_t fed = 0, found = 0;
    enum scan_result result = SCAN_PARTIAL;

    scan_reset(&s);
    while (result == SCAN_PARTIAL) {
        /* The bytes move to another place each time, as they do in a buffer that grows. */
        char *moved;

        assert_true(fed < len);
        fed += 1 + (size_t)random() % max_piece;
        if (fed > len)
            fed = len;
        moved = malloc(fed);
        memcpy(moved, data, fed);
        result = scan_value(&s, moved, fed, len, PLENTY, &found);
        free(moved);
    }
    assert_int_equal(result, SCAN_COMPLETE);
    assert_int_equal(fed, len);
    assert_int_equal(found, len);
}

static void each_format_has_its_length(void **state)
{
    static const struct {
        uint8_t head[6];
        size_t head_len, len;
    } cases[] = {
        {{0x00}, 1, 1},
        {{0x7f}, 1, 1},
        {{0x80}, 1, 1},
        {{0x90}, 1, 1},
        {{0xa0}, 1, 1},
        {{0xbf}, 1, 32},
        {{0xc0}, 1, 1},
        {{0xc2}, 1, 1},
        {{0xc3}, 1, 1},
        {{0xc4, 9}, 2, 11},
        {{0xc5, 1, 2}, 3, 3 + 258},
        {{0xc6, 0, 1, 0, 1}, 5, 5 + 65537},
        {{0xc7, 9, 5}, 3, 12},
        {{0xc8, 1, 2, 5}, 4, 4 + 258},
        {{0xc9, 0, 1, 0, 1, 5}, 6, 6 + 65537},
        {{0xca}, 1, 5},
        {{0xcb}, 1, 9},
        {{0xcc}, 1, 2},
        {{0xcd}, 1, 3},
        {{0xce}, 1, 5},
        {{0xcf}, 1, 9},
        {{0xd0}, 1, 2},
        {{0xd1}, 1, 3},
        {{0xd2}, 1, 5},
        {{0xd3}, 1, 9},
        {{0xd4, 5}, 2, 3},
        {{0xd5, 5}, 2, 4},
        {{0xd6, 5}, 2, 6},
        {{0xd7, 5}, 2, 10},
        {{0xd8, 5}, 2, 18},
        {{0xd9, 9}, 2, 11},
        {{0xda, 1, 2}, 3, 3 + 258},
        {{0xdb, 0, 1, 0, 1}, 5, 5 + 65537},
        {{0xdc, 0, 3}, 3, 6},
        {{0xdd, 0, 0, 0, 3}, 5, 8},
        {{0xde, 0, 3}, 3, 9},
        {{0xdf, 0, 0, 0, 3}, 5, 11},
        {{0x93}, 1, 4},
        {{0x83}, 1, 7},
        {{0xe0}, 1, 1},
        {{0xff}, 1, 1},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *bytes = calloc(1, cases[i].len + 3); /* zeros are the integer 0 */
        size_t found = 0;

        memcpy(bytes, cases[i].head, cases[i].head_len);
        assert_int_equal(scan_once(bytes, cases[i].len + 3, &found), SCAN_COMPLETE);
        assert_int_equal(found, cases[i].len);
        for (size_t cut = 0; cut < cases[i].len && cut < 100; cut++)
            assert_int_equal(scan_once(bytes, cut, &found), SCAN_PARTIAL);
        check_pieces(bytes, cases[i].len, cases[i].len < 100 ? 1 : 1000);
        free(bytes);
    }
}

static void random_values_end_where_msgpack_ends_them(void **state)
{
    (void)state;
    srandom(20);
    for (int i = 0; i < 1000; i++) {
        msgpack_sbuffer sbuf;
        msgpack_packer pk;
        size_t first, found = 0;

        msgpack_sbuffer_init(&sbuf);
        msgpack_packer_init(&pk, &sbuf, msgpack_sbuffer_write);
        pack_random(&pk, 5);
        first = sbuf.size;
        pack_random(&pk, 1); /* the next message is none of its business */
        assert_int_equal(scan_once(sbuf.data, sbuf.size, &found), SCAN_COMPLETE);
        assert_int_equal(found, first);
        check_pieces(sbuf.data, first, 1 + first / 20);
        if (first < 400)
            check_pieces(sbuf.data, first, 1);
        msgpack_sbuffer_destroy(&sbuf);
    }
}

static void messages_follow_one_another(void **state)
{
    static const char stream[] = "\x92\x01\x02\xc0\xa3"
                                 "abc";
    struct scan s;
    size_t found = 0;

    (void)state;
    scan_reset(&s);
    assert_int_equal(scan_value(&s, stream, 8, 8, 8, &found), SCAN_COMPLETE);
    assert_int_equal(found, 3);
    assert_int_equal(scan_value(&s, stream + 3, 5, 8, 8, &found), SCAN_COMPLETE);
    assert_int_equal(found, 1);
    assert_int_equal(scan_value(&s, stream + 4, 4, 8, 8, &found), SCAN_COMPLETE);
    assert_int_equal(found, 4);
    assert_int_equal(scan_value(&s, NULL, 0, 8, 8, &found), SCAN_PARTIAL);
}

static void the_unused_byte_is_bad(void **state)
{
    size_t found = 0;

    (void)state;
    assert_int_equal(scan_once("\xc1", 1, &found), SCAN_BAD);
    assert_int_equal(scan_once("\x93\x01\xc1\x01", 4, &found), SCAN_BAD);
}

/* `levels` arrays of one element around an empty one of `tag`. */
static enum scan_result scan_nested(size_t levels, uint8_t tag)
{
    uint8_t *bytes = malloc(levels);
    size_t found;
    enum scan_result result;

    memset(bytes, 0x91, levels);
    bytes[levels - 1] = tag;
    result = scan_once(bytes, levels, &found);
    free(bytes);
    return result;
}

static void depth_is_limited(void **state)
{
    (void)state;
    assert_int_equal(scan_nested(SCAN_MAX_DEPTH, 0x90), SCAN_COMPLETE);
    assert_int_equal(scan_nested(SCAN_MAX_DEPTH, 0x80), SCAN_COMPLETE);
    assert_int_equal(scan_nested(SCAN_MAX_DEPTH + 1, 0xc0), SCAN_COMPLETE);
    assert_int_equal(scan_nested(SCAN_MAX_DEPTH + 1, 0x90), SCAN_TOO_DEEP);
    assert_int_equal(scan_nested(SCAN_MAX_DEPTH + 1, 0x80), SCAN_TOO_DEEP);
    assert_int_equal(scan_nested(10000, 0x90), SCAN_TOO_DEEP);
}

/* Depth is what is open at once: a thousand arrays side by side are one level. */
static void closed_arrays_do_not_count_as_depth(void **state)
{
    uint8_t bytes[3 + 2000] = {0xdc, 1000 >> 8, 1000 & 0xff};
    size_t found = 0;

    (void)state;
    for (size_t i = 0; i < 1000; i++) {
        bytes[3 + 2 * i] = 0x91;
        bytes[4 + 2 * i] = 0x90;
    }
    assert_int_equal(scan_once(bytes, sizeof bytes, &found), SCAN_COMPLETE);
    assert_int_equal(found, sizeof bytes);
}

static void elements_are_limited_by_their_claims(void **state)
{
    size_t found = 0;

    (void)state;
    /* An array and its three elements are four values; a map of two pairs and itself are five. */
    assert_int_equal(scan_limited("\x93\x01\x02\x03", 4, 9, 4, &found), SCAN_COMPLETE);
    assert_int_equal(scan_limited("\x93", 1, 9, 3, &found), SCAN_TOO_MANY);
    assert_int_equal(scan_limited("\x82\1\1\1\1", 5, 9, 5, &found), SCAN_COMPLETE);
    assert_int_equal(scan_limited("\x82", 1, 9, 4, &found), SCAN_TOO_MANY);
    assert_int_equal(scan_limited("\xdd\xff\xff\xff\xff", 5, SIZE_MAX / 4, UINT32_MAX, &found),
                     SCAN_TOO_MANY);
    assert_int_equal(scan_limited("\xdf\xff\xff\xff\xff", 5, SIZE_MAX / 4, UINT32_MAX, &found),
                     SCAN_TOO_MANY);
    /* 2 * 0x80000000 would be 0 in 32 bits. */
    assert_int_equal(scan_limited("\xdf\x80\x00\x00\x00", 5, SIZE_MAX / 4, UINT32_MAX, &found),
                     SCAN_TOO_MANY);
    /* Claims of arrays inside one another add up. */
    assert_int_equal(scan_limited("\xdc\x01\x00\xdc\x01\x00", 6, PLENTY, 512, &found),
                     SCAN_TOO_MANY);
    assert_int_equal(scan_limited("\xdc\x01\x00\xdc\x01\x00", 6, PLENTY, 513, &found),
                     SCAN_PARTIAL);
}

static void the_largest_claim_that_fits_32_bits_is_kept(void **state)
{
    size_t found = 0;

    (void)state;
    assert_int_equal(scan_limited("\xdd\xff\xff\xff\xfe", 5, SIZE_MAX / 4, UINT32_MAX, &found),
                     SCAN_PARTIAL);
    assert_int_equal(scan_limited("\xdf\x7f\xff\xff\xff", 5, SIZE_MAX / 4, UINT32_MAX, &found),
                     SCAN_PARTIAL);
}

static void bytes_are_limited_by_their_claims(void **state)
{
    char text[2 + 200] = {(char)0xd9, (char)200};
    size_t found = 0;

    (void)state;
    assert_int_equal(scan_limited(text, sizeof text, sizeof text, 9, &found), SCAN_COMPLETE);
    assert_int_equal(scan_limited(text, 2, sizeof text - 1, 9, &found), SCAN_TOO_LARGE);
    assert_int_equal(scan_limited("\xdb\xff\xff\xff\xff", 5, 4 << 20, 9, &found), SCAN_TOO_LARGE);
    assert_int_equal(scan_limited("\xc9\xff\xff\xff\xff\x01", 6, 4 << 20, 9, &found),
                     SCAN_TOO_LARGE);
    /* Three more elements need three more bytes. */
    assert_int_equal(scan_limited("\x94\xa1", 2, 6, 9, &found), SCAN_PARTIAL);
    assert_int_equal(scan_limited("\x94\xa1", 2, 5, 9, &found), SCAN_TOO_LARGE);
    assert_int_equal(scan_limited("\x94", 1, 4, 9, &found), SCAN_TOO_LARGE);
    assert_int_equal(scan_limited("\xdd\x00\x0f\xff\xff", 5, 4096, PLENTY, &found), SCAN_TOO_LARGE);
    /* A number's payload, and a header that would itself be too long. */
    assert_int_equal(scan_limited("\xcf", 1, 8, 9, &found), SCAN_TOO_LARGE);
    assert_int_equal(scan_limited("\xdb", 1, 4, 9, &found), SCAN_TOO_LARGE);
}

/* A reader whose buffer holds max_bytes must never be told to wait for more than fits. */
static void partial_always_leaves_room(void **state)
{
    (void)state;
    srandom(21);
    for (int i = 0; i < 200000; i++) {
        uint8_t bytes[12];
        size_t max_bytes = 1 + (size_t)random() % 12, found = 0;
        enum scan_result result;

        for (size_t at = 0; at < sizeof bytes; at++)
            bytes[at] = (uint8_t)(random() % 3 == 0 ? random() : 0x80 + random() % 96);
        result = scan_limited(bytes, max_bytes, max_bytes, 100, &found);
        assert_int_not_equal(result, SCAN_PARTIAL);
        if (result == SCAN_COMPLETE)
            assert_true(found <= max_bytes);
    }
}

static void a_refusal_stays(void **state)
{
    struct scan s;
    size_t found;

    (void)state;
    scan_reset(&s);
    assert_int_equal(scan_value(&s, "\x92\x01\xdb\xff\xff\xff", 6, 100, 9, &found), SCAN_PARTIAL);
    for (int i = 0; i < 2; i++)
        assert_int_equal(scan_value(&s, "\x92\x01\xdb\xff\xff\xff\xff", 7, 100, 9, &found),
                         SCAN_TOO_LARGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_format_has_its_length),
        cmocka_unit_test(random_values_end_where_msgpack_ends_them),
        cmocka_unit_test(messages_follow_one_another),
        cmocka_unit_test(the_unused_byte_is_bad),
        cmocka_unit_test(depth_is_limited),
        cmocka_unit_test(closed_arrays_do_not_count_as_depth),
        cmocka_unit_test(elements_are_limited_by_their_claims),
        cmocka_unit_test(the_largest_claim_that_fits_32_bits_is_kept),
        cmocka_unit_test(bytes_are_limited_by_their_claims),
        cmocka_unit_test(partial_always_leaves_room),
        cmocka_unit_test(a_refusal_stays),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
