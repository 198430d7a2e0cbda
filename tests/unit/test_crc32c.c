/* CRC32C against its published values, and the two ways of computing it against each other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "daemon/crc32c.h"

static uint32_t whole(const void *bytes, size_t len)
{
    return ~crc32c_update(~0u, bytes, len);
}

/* Goal of this test: it is CRC32C (RFC 3720, B.4), not some other polynomial or order. */
static void test_known_values(void **state)
{
    uint8_t bytes[32];

    (void)state;
    assert_int_equal(whole("123456789", 9), 0xe3069283);
    memset(bytes, 0, sizeof bytes);
    assert_int_equal(whole(bytes, sizeof bytes), 0x8a9136aa);
    memset(bytes, 0xff, sizeof bytes);
    assert_int_equal(whole(bytes, sizeof bytes), 0x62a8ab43);
    for (unsigned i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)i;
    assert_int_equal(whole(bytes, sizeof bytes), 0x46dd794e);
    assert_int_equal(whole("", 0), 0);
}

/* Goal of this test: the tables, the instruction and any division into parts agree, at every length
 * and alignment. */
static void test_ways_agree(void **state)
{
    uint8_t bytes[300];

    (void)state;
    for (unsigned i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 37 + i / 11);
    for (size_t from = 0; from < 9; from++) {
        for (size_t len = 0; len + from <= sizeof bytes; len++) {
            uint32_t once = crc32c_update(1234, bytes + from, len);
            uint32_t half = crc32c_update(1234, bytes + from, len / 3);

            assert_int_equal(once, crc32c_update_table(1234, bytes + from, len));
            assert_int_equal(once, crc32c_update(half, bytes + from + len / 3, len - len / 3));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_values),
        cmocka_unit_test(test_ways_agree),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
