/* JSON as PostgreSQL prints it -> MessagePack. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "proto/json.h"
#include "proto/jsonb.h"

static msgpack_sbuffer out;

static int pack(const char *json)
{
    msgpack_sbuffer_clear(&out);
    return jsonb_pack(&out, (struct slice){json, strlen(json)});
}

/* The value that comes out, read back by msgpack-c and printed by it. */
static void assert_prints(const char *json, const char *expected)
{
    msgpack_unpacked value;
    char text[512];
    size_t at = 0;

    assert_int_equal(pack(json), 0);
    msgpack_unpacked_init(&value);
    assert_int_equal(msgpack_unpack_next(&value, out.data, out.size, &at), MSGPACK_UNPACK_SUCCESS);
    assert_int_equal(at, out.size);
    text[msgpack_object_print_buffer(text, sizeof text - 1, value.data)] = '\0';
    assert_string_equal(text, expected);
    msgpack_unpacked_destroy(&value);
}

static void every_kind_of_value(void **state)
{
    (void)state;
    assert_prints("null", "nil");
    assert_prints(" [true, false,null ] ", "[true, false, nil]");
    assert_prints("{}", "{}");
    assert_prints("{\"a\": [], \"b\": {\"c\": [1, [2]]}}", "{\"a\"=>[], \"b\"=>{\"c\"=>[1, [2]]}}");
    assert_prints("\"\"", "\"\"");
    assert_prints("\"a\\\"b\\\\c\\/d\"", "\"a\"b\\c/d\"");
    assert_int_equal(pack("\"\\b\\f\\n\\r\\t\\u0001\\u001f\\u007f\xc3\xa9\""), 0);
    assert_int_equal(out.size, 1 + 10);
    assert_memory_equal(out.data + 1, "\b\f\n\r\t\x01\x1f\x7f\xc3\xa9", 10);
}

static void numbers_keep_what_fits(void **state)
{
    (void)state;
    assert_prints("0", "0");
    assert_prints("-1", "-1");
    assert_prints("18446744073709551615", "18446744073709551615");
    assert_prints("-9223372036854775808", "-9223372036854775808");
    assert_prints("18446744073709551616", "18446744073709551616.000000");
    assert_prints("-9223372036854775809", "-9223372036854775808.000000");
    assert_prints("1.0", "1.000000");
    assert_prints("-0.5", "-0.500000");
    assert_prints("1e3", "1000.000000");
}

static void what_is_no_json_is_refused(void **state)
{
    static const char *const bad[] = {
        "",    " ",       "{",     "[1",    "[1,]",        "{\"a\"}",     "{\"a\":}", "{1:2}",
        "\"a", "\"\\x\"", "nul",   "truex", "1 2",         "\"\\u12\"",   "[1 2]",    "{\"a\":1,}",
        "-",   "1-2",     "1.2.3", "+",     "\"\\u0000\"", "\"\\u00e9\"", "]",        "\"\\",
    };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (pack(bad[i]) != -EBADMSG)
            fail_msg("%s was taken", bad[i]);
}

static void depth_has_a_limit(void **state)
{
    char json[2 * (JSONB_MAX_DEPTH + 1) + 1] = "";

    (void)state;
    assert_true(JSONB_MAX_DEPTH > JSON_MAX_DEPTH);
    memset(json, '[', JSONB_MAX_DEPTH);
    memset(json + JSONB_MAX_DEPTH, ']', JSONB_MAX_DEPTH);
    assert_int_equal(pack(json), 0);
    assert_int_equal(out.size, 5 * JSONB_MAX_DEPTH);
    memset(json, '[', JSONB_MAX_DEPTH + 1);
    memset(json + JSONB_MAX_DEPTH + 1, ']', JSONB_MAX_DEPTH + 1);
    assert_int_equal(pack(json), -EBADMSG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_of_value),
        cmocka_unit_test(numbers_keep_what_fits),
        cmocka_unit_test(what_is_no_json_is_refused),
        cmocka_unit_test(depth_has_a_limit),
    };
    int rc;

    msgpack_sbuffer_init(&out);
    rc = cmocka_run_group_tests(tests, NULL, NULL);
    msgpack_sbuffer_destroy(&out);
    return rc;
}
