/* UUIDs: the text form both ways, and version 7's fields. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <time.h>

#include "proto/uuid.h"

static const uint8_t sample[16] = {0x01, 0x9a, 0xbc, 0xde, 0xf0, 0x12, 0x73, 0x45,
                                   0x86, 0x78, 0x9a, 0xbc, 0xde, 0xf0, 0x12, 0x34};
static const char sample_text[] = "019abcde-f012-7345-8678-9abcdef01234";

static void text_goes_both_ways(void **state)
{
    char text[UUID_TEXT_LEN + 1];
    uint8_t id[16];

    (void)state;
    uuid_format(sample, text);
    assert_string_equal(text, sample_text);
    assert_int_equal(uuid_parse(text, UUID_TEXT_LEN, id), 0);
    assert_memory_equal(id, sample, 16);
    assert_int_equal(uuid_parse("019ABCDE-F012-7345-8678-9abcDEF01234", UUID_TEXT_LEN, id), 0);
    assert_memory_equal(id, sample, 16);
}

static void every_byte_survives(void **state)
{
    (void)state;
    for (int byte = 0; byte < 256; byte++) {
        uint8_t id[16], back[16];
        char text[UUID_TEXT_LEN + 1];

        memset(id, byte, sizeof id);
        uuid_format(id, text);
        assert_int_equal(uuid_parse(text, UUID_TEXT_LEN, back), 0);
        assert_memory_equal(id, back, 16);
    }
}

static void other_text_is_refused(void **state)
{
    static const char wrong[] = "gG/:@`{-+ \0\x80";

    (void)state;
    for (size_t at = 0; at < UUID_TEXT_LEN; at++) {
        for (size_t i = 0; i < sizeof wrong; i++) {
            char text[UUID_TEXT_LEN + 1];
            uint8_t id[16] = {42};

            strcpy(text, sample_text);
            if (text[at] == wrong[i])
                continue;
            text[at] = wrong[i];
            assert_int_equal(uuid_parse(text, UUID_TEXT_LEN, id), -EINVAL);
            assert_int_equal(id[0], 42);
        }
    }
}

static void other_lengths_are_refused(void **state)
{
    uint8_t id[16];

    (void)state;
    assert_int_equal(uuid_parse(sample_text, 35, id), -EINVAL);
    assert_int_equal(uuid_parse(sample_text, 37, id), -EINVAL);
    assert_int_equal(uuid_parse("", 0, id), -EINVAL);
    assert_int_equal(uuid_parse("019abcdef012734586789abcdef01234", 32, id), -EINVAL);
}

static uint64_t milliseconds(const uint8_t id[16])
{
    uint64_t ms = 0;

    for (int i = 0; i < 6; i++)
        ms = ms << 8 | id[i];
    return ms;
}

static void version_7_carries_the_time(void **state)
{
    uint64_t before = (uint64_t)time(NULL) * 1000, last = 0;
    uint8_t id[16], other[16];

    (void)state;
    for (int i = 0; i < 1000; i++) {
        uuid_make_v7(id);
        assert_int_equal(id[6] >> 4, 7);
        assert_int_equal(id[8] >> 6, 2);
        assert_true(milliseconds(id) >= last);
        last = milliseconds(id);
    }
    assert_true(last >= before && last < before + 60000);
    uuid_make_v7(other);
    assert_memory_not_equal(id + 6, other + 6, 10);
}

/* Each random bit is seen both as 0 and as 1; the fixed ones are not. */
static void the_rest_is_random(void **state)
{
    uint8_t ones[16] = {0}, zeros[16] = {0};

    (void)state;
    for (int i = 0; i < 200; i++) {
        uint8_t id[16];

        uuid_make_v7(id);
        for (int at = 6; at < 16; at++) {
            ones[at] |= id[at];
            zeros[at] |= (uint8_t)~id[at];
        }
    }
    for (int at = 6; at < 16; at++)
        assert_int_equal(ones[at] & zeros[at], at == 6 ? 0x0f : at == 8 ? 0x3f : 0xff);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_goes_both_ways),        cmocka_unit_test(every_byte_survives),
        cmocka_unit_test(other_text_is_refused),      cmocka_unit_test(other_lengths_are_refused),
        cmocka_unit_test(version_7_carries_the_time), cmocka_unit_test(the_rest_is_random),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
