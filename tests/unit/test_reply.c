/* Replies and errors: unpacked again with msgpack-c. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <string.h>

#include "proto/reply.h"
#include "proto/utf8.h"

static msgpack_sbuffer sbuf;
static msgpack_packer pk;
static msgpack_unpacked unpacked;

static int begin(void **state)
{
    (void)state;
    msgpack_sbuffer_init(&sbuf);
    msgpack_packer_init(&pk, &sbuf, msgpack_sbuffer_write);
    msgpack_unpacked_init(&unpacked);
    return 0;
}

static int end(void **state)
{
    (void)state;
    msgpack_unpacked_destroy(&unpacked);
    msgpack_sbuffer_destroy(&sbuf);
    return 0;
}

/* The one value that was packed. */
static const msgpack_object *packed(void)
{
    size_t offset = 0;

    assert_int_equal(msgpack_unpack_next(&unpacked, sbuf.data, sbuf.size, &offset),
                     MSGPACK_UNPACK_SUCCESS);
    assert_int_equal(offset, sbuf.size);
    return &unpacked.data;
}

static void check_str(const msgpack_object *o, const char *want)
{
    assert_int_equal(o->type, MSGPACK_OBJECT_STR);
    assert_int_equal(o->via.str.size, strlen(want));
    assert_memory_equal(o->via.str.ptr, want, strlen(want));
}

static const msgpack_object *check_array4(const msgpack_object *o)
{
    assert_int_equal(o->type, MSGPACK_OBJECT_ARRAY);
    assert_int_equal(o->via.array.size, 4);
    return o->via.array.ptr;
}

static void a_result_has_no_error(void **state)
{
    const msgpack_object *reply;

    (void)state;
    reply_begin(&pk, UINT32_MAX);
    pack_str(&pk, "result");
    reply = check_array4(packed());
    assert_int_equal(reply[0].via.u64, 1);
    assert_int_equal(reply[1].via.u64, UINT32_MAX);
    assert_int_equal(reply[2].type, MSGPACK_OBJECT_NIL);
    check_str(&reply[3], "result");
}

static void an_error_has_its_four_parts(void **state)
{
    struct wire_error err = {WIRE_QUEUE_FULL, 250, "the queue is full"};
    const msgpack_object *reply, *parts;

    (void)state;
    reply_error(&pk, true, 0, &err);
    reply = check_array4(packed());
    assert_int_equal(reply[0].via.u64, 1);
    assert_int_equal(reply[1].type, MSGPACK_OBJECT_POSITIVE_INTEGER);
    assert_int_equal(reply[1].via.u64, 0);
    assert_int_equal(reply[3].type, MSGPACK_OBJECT_NIL);
    parts = check_array4(&reply[2]);
    assert_int_equal(parts[0].via.u64, 3);
    check_str(&parts[1], "QUEUE_FULL");
    check_str(&parts[2], "the queue is full");
    assert_int_equal(parts[3].via.u64, 250);
}

static void an_error_without_msgid_says_nil(void **state)
{
    struct wire_error err;
    const msgpack_object *reply;

    (void)state;
    assert_int_equal(wire_fail(&err, WIRE_TOO_LARGE, "%d bytes", 7), -1);
    reply_error(&pk, false, 99, &err);
    reply = check_array4(packed());
    assert_int_equal(reply[1].type, MSGPACK_OBJECT_NIL);
    check_str(&reply[2].via.array.ptr[2], "7 bytes");
    assert_int_equal(reply[2].via.array.ptr[3].type, MSGPACK_OBJECT_NIL);
}

static void retry_at_once_is_not_nil(void **state)
{
    struct wire_error err = {WIRE_SHUTTING_DOWN, 0, "draining"};

    (void)state;
    pack_error(&pk, &err);
    assert_int_equal(check_array4(packed())[3].type, MSGPACK_OBJECT_POSITIVE_INTEGER);
}

static void slices_and_ids_are_strings(void **state)
{
    static const uint8_t id[16] = {0xab, 0xcd, [15] = 0x01};

    (void)state;
    msgpack_pack_array(&pk, 4);
    pack_slice(&pk, (struct slice){"abc", 2});
    pack_slice(&pk, (struct slice){"", 0});
    pack_slice(&pk, (struct slice){NULL, 0});
    pack_id(&pk, id);
    check_array4(packed());
    check_str(&unpacked.data.via.array.ptr[0], "ab");
    check_str(&unpacked.data.via.array.ptr[1], "");
    assert_int_equal(unpacked.data.via.array.ptr[2].type, MSGPACK_OBJECT_NIL);
    check_str(&unpacked.data.via.array.ptr[3], "abcd0000-0000-0000-0000-000000000001");
}

static void codes_have_names(void **state)
{
    static const char *const names[] = {
        "OK",          "INVALID_ARGUMENT", "TOO_LARGE",         "QUEUE_FULL",     "SHUTTING_DOWN",
        "UNAVAILABLE", "NOT_FOUND",        "PERMISSION_DENIED", "UNKNOWN_METHOD", "STORAGE_FAILED",
        "INTERNAL",
    };

    (void)state;
    for (int code = 0; code <= 10; code++)
        assert_string_equal(wire_code_name(code), names[code]);
    assert_string_equal(wire_code_name(-1), "UNKNOWN");
    assert_string_equal(wire_code_name(11), "UNKNOWN");
}

/* An error text that is cut, or was made from broken bytes, is still valid UTF-8. */
static void error_texts_are_utf8_wherever_they_are_cut(void **state)
{
    struct wire_error err;

    (void)state;
    for (int shift = 0; shift < 4; shift++) {
        char text[400] = "";

        memset(text, '.', (size_t)shift);
        for (int i = 0; i < 90; i++)
            strcat(text, "\xf0\x9f\x98\x80");
        assert_int_equal(wire_fail(&err, WIRE_INTERNAL, "%s", text), -1);
        assert_int_equal(utf8_first_bad(err.text, strlen(err.text)), -1);
        assert_in_range(strlen(err.text), sizeof err.text - 4, sizeof err.text - 1);
        assert_memory_equal(err.text, text, strlen(err.text));
    }
    assert_int_equal(wire_fail(&err, WIRE_INTERNAL, "ab%ccd", 0xff), -1);
    assert_string_equal(err.text, "ab");
}

static void quotes_are_printable(void **state)
{
    char quoted[WIRE_QUOTE_SIZE], all_bad[33];

    (void)state;
    assert_string_equal(wire_quote((struct slice){"", 0}, quoted), "\"\"");
    assert_string_equal(wire_quote((struct slice){"a b~", 4}, quoted), "\"a b~\"");
    assert_string_equal(wire_quote((struct slice){"\"\\\n\0\x7f\xe4", 6}, quoted),
                        "\"\\x22\\x5c\\x0a\\x00\\x7f\\xe4\"");
    assert_string_equal(wire_quote((struct slice){"0123456789abcdef0123456789abcdef", 32}, quoted),
                        "\"0123456789abcdef0123456789abcdef\"");
    memset(all_bad, 0xff, sizeof all_bad);
    wire_quote((struct slice){all_bad, sizeof all_bad}, quoted);
    assert_int_equal(strlen(quoted), 1 + 32 * 4 + 4);
    assert_string_equal(quoted + strlen(quoted) - 8, "\\xff...\"");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_result_has_no_error, begin, end),
        cmocka_unit_test_setup_teardown(an_error_has_its_four_parts, begin, end),
        cmocka_unit_test_setup_teardown(an_error_without_msgid_says_nil, begin, end),
        cmocka_unit_test_setup_teardown(retry_at_once_is_not_nil, begin, end),
        cmocka_unit_test_setup_teardown(slices_and_ids_are_strings, begin, end),
        cmocka_unit_test(codes_have_names),
        cmocka_unit_test(error_texts_are_utf8_wherever_they_are_cut),
        cmocka_unit_test(quotes_are_printable),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
