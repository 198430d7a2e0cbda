/* The format of headers and records, as bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/segment.h"
#include "daemon/segment_cursor.h"
#include "daemon/sysio.h"

static const struct segment_header sample = {
    .salt = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16},
    .index = 42,
    .segment_bytes = 65536,
    .next_seq = 1000,
    .trim_point = 40,
    .created_us = 1700000000000000};

/* Goal of this test: both copies of a header say what was put in, and an empty segment ends where
 * its records would begin. */
static void test_header(void **state)
{
    uint8_t pages[3 * SEGMENT_PAGE];
    struct segment_header header;
    struct record_header end;
    struct segment_key key;

    (void)state;
    segment_encode(&sample, pages);
    for (size_t copy = 0; copy <= SEGMENT_COPY_AT; copy += SEGMENT_COPY_AT) {
        assert_int_equal(segment_decode(pages + copy, SEGMENT_PAGE, &header), 0);
        assert_memory_equal(header.magic, "CSJRNL\r\n", 8);
        assert_int_equal(header.version, 1);
        assert_memory_equal(header.salt, sample.salt, 16);
        assert_true(header.index == 42 && header.segment_bytes == 65536);
        assert_true(header.next_seq == 1000 && header.trim_point == 40);
    }
    segment_key_init(&key, header.salt);
    assert_int_equal(
        record_check(&key, SEGMENT_DATA, pages + SEGMENT_DATA, SEGMENT_PAGE, sizeof pages, &end),
        1);
    assert_int_equal(end.type, RECORD_END);
    assert_true(end.seq == 1000);
}

/* Goal of this test: any flipped bit of a header is found, and so is a short one. */
static void test_header_damage(void **state)
{
    uint8_t pages[3 * SEGMENT_PAGE];
    struct segment_header header;

    (void)state;
    segment_encode(&sample, pages);
    for (size_t bit = 0; bit < 8 * sizeof header; bit++) {
        pages[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(segment_decode(pages, SEGMENT_PAGE, &header), -EBADMSG);
        pages[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (size_t len = 0; len < sizeof header; len++)
        assert_int_equal(segment_decode(pages, len, &header), -EBADMSG);
    assert_int_equal(segment_decode(pages, sizeof header, &header), 0);
}

static size_t make_record(const struct segment_key *key, uint64_t offset, const char *payload,
                          uint8_t *ret)
{
    struct record_header header = {.length = (uint32_t)strlen(payload),
                                   .type = RECORD_CONVERSATION,
                                   .seq = 77,
                                   .arrived_us = 5};

    memset(ret, 0, 256);
    record_seal(key, offset, payload, &header);
    memcpy(ret, &header, sizeof header);
    memcpy(ret + sizeof header, payload, header.length);
    return (size_t)record_bytes(header.length);
}

/* Goal of this test: a record checks at its own place under its own salt, and nowhere else, under
 * no other, and with no bit changed. */
static void test_record(void **state)
{
    static const char payload[] = "what the user said";
    struct segment_key key, other;
    struct record_header header;
    uint8_t salt[16], bytes[256];
    size_t len;

    (void)state;
    segment_key_init(&key, sample.salt);
    len = make_record(&key, 8192, payload, bytes);
    assert_int_equal(len, 64);
    assert_int_equal(record_check(&key, 8192, bytes, len, 65536, &header), 1);
    assert_true(header.seq == 77 && header.length == sizeof payload - 1);
    for (uint64_t offset = 8192 - 1600; offset < 8192 + 1600; offset += RECORD_ALIGN)
        if (offset != 8192)
            assert_int_equal(record_check(&key, offset, bytes, len, 65536, &header), 0);
    for (unsigned bit = 0; bit < 128; bit++) {
        memcpy(salt, sample.salt, sizeof salt);
        salt[bit / 8] ^= (uint8_t)(1u << bit % 8);
        segment_key_init(&other, salt);
        assert_int_equal(record_check(&other, 8192, bytes, len, 65536, &header), 0);
    }
    for (size_t bit = 0; bit < 8 * (sizeof header + sizeof payload - 1); bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_not_equal(record_check(&key, 8192, bytes, len, 65536, &header), 1);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

/* Goal of this test: what is not all there is asked for, and what would reach over the end of the
 * segment is no record. */
static void test_record_short(void **state)
{
    struct record_header header;
    struct segment_key key;
    uint8_t bytes[256];

    (void)state;
    segment_key_init(&key, sample.salt);
    make_record(&key, 8192, "0123456789", bytes);
    for (size_t len = 0; len < sizeof header; len++)
        assert_int_equal(record_check(&key, 8192, bytes, len, 65536, &header), 0);
    for (size_t len = sizeof header; len < sizeof header + 10; len++) {
        assert_int_equal(record_check(&key, 8192, bytes, len, 65536, &header), -EAGAIN);
        assert_int_equal(header.length, 10);
    }
    assert_int_equal(record_check(&key, 8192, bytes, 64, 8192 + 48, &header), 1);
    assert_int_equal(record_check(&key, 8192, bytes, 64, 8192 + 47, &header), 0);
    memset(bytes, 0, sizeof bytes);
    assert_int_equal(record_check(&key, 8192, bytes, 64, 65536, &header), 0); /* zeros are none */
}

/* Goal of this test: a reading of little does not leave the window small for the next one. */
static void test_window(void **state)
{
    enum { RECORDS = 4000, RECORD_BYTES = 64 };
    struct segment_cursor cursor;
    struct record_view view;
    struct segment_key key;
    uint8_t bytes[256];
    unsigned found = 0;
    int fd = memfd_create("segment", MFD_CLOEXEC);

    (void)state;
    assert_true(fd >= 0);
    segment_key_init(&key, sample.salt);
    for (uint64_t at = SEGMENT_DATA; at < SEGMENT_DATA + RECORDS * RECORD_BYTES;
         at += RECORD_BYTES) {
        assert_int_equal(make_record(&key, at, "what the user said", bytes), RECORD_BYTES);
        assert_int_equal(pwrite(fd, bytes, RECORD_BYTES, (off_t)at), RECORD_BYTES);
    }
    segment_cursor_init(&cursor, sysio_real());
    segment_cursor_start(&cursor, fd, &key, SEGMENT_DATA, SEGMENT_DATA + RECORD_BYTES);
    assert_int_equal(segment_cursor_next(&cursor, &view), 1);
    assert_int_equal(segment_cursor_next(&cursor, &view), 0);
    assert_int_equal(cursor.capacity, RECORD_BYTES);
    segment_cursor_start(&cursor, fd, &key, SEGMENT_DATA, SEGMENT_DATA + RECORDS * RECORD_BYTES);
    while (segment_cursor_next(&cursor, &view) == 1)
        found++;
    assert_int_equal(found, RECORDS);
    assert_int_equal(cursor.capacity, RECORDS * RECORD_BYTES);
    segment_cursor_done(&cursor);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_header), cmocka_unit_test(test_header_damage),
        cmocka_unit_test(test_record), cmocka_unit_test(test_record_short),
        cmocka_unit_test(test_window),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
