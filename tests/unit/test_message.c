/* Messages and options: what passes, and for everything else what is wrong. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "proto/message.h"

#define LITERAL(text) (text), sizeof(text) - 1

static struct wire_error err;

/* Messages. */

static int parse(const void *data, size_t len, struct message *ret)
{
    err = (struct wire_error){0};
    return message_parse(data, len, ret, &err);
}

static void a_request_is_parsed(void **state)
{
    struct message m;
    struct value v;

    (void)state;
    assert_int_equal(parse(LITERAL("\x94\x00\x07\xa4ping\x92\x2a\xc3"), &m), 0);
    assert_int_equal(m.type, MESSAGE_REQUEST);
    assert_true(m.has_msgid);
    assert_int_equal(m.msgid, 7);
    assert_true(slice_equals(m.method, "ping"));
    assert_int_equal(m.param_count, 2);
    assert_int_equal(reader_next(&m.params, &v), 0);
    assert_int_equal(v.as_uint, 42);
    assert_int_equal(reader_skip(&m.params), 0);
    assert_ptr_equal(m.params.at, m.params.end);
}

static void a_notification_is_parsed(void **state)
{
    struct message m;

    (void)state;
    assert_int_equal(parse(LITERAL("\x93\x02\xa5store\x90"), &m), 0);
    assert_int_equal(m.type, MESSAGE_NOTIFICATION);
    assert_false(m.has_msgid);
    assert_true(slice_equals(m.method, "store"));
    assert_int_equal(m.param_count, 0);
    /* As pynvim sends one. */
    assert_int_equal(parse(LITERAL("\x93\x02\xc4\x05store\x90"), &m), 0);
    assert_int_equal(m.type, MESSAGE_NOTIFICATION);
    assert_true(slice_equals(m.method, "store"));
}

static void a_msgid_may_have_any_unsigned_encoding(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
        uint32_t want;
    } cases[] = {
        {LITERAL("\x94\x00\x00\xa1m\x90"), 0},
        {LITERAL("\x94\x00\x7f\xa1m\x90"), 127},
        {LITERAL("\x94\x00\xcc\x05\xa1m\x90"), 5},
        {LITERAL("\x94\x00\xcd\x00\x05\xa1m\x90"), 5},
        {LITERAL("\x94\x00\xce\xff\xff\xff\xff\xa1m\x90"), UINT32_MAX},
        {LITERAL("\x94\x00\xcf\x00\x00\x00\x00\xff\xff\xff\xff\xa1m\x90"), UINT32_MAX},
        {LITERAL("\xdd\x00\x00\x00\x04\xcc\x00\x03\xd9\x01m\xdc\x00\x00"), 3},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct message m;
        uint32_t peeked = 1234;

        assert_int_equal(parse(cases[i].bytes, cases[i].len, &m), 0);
        assert_true(m.msgid == cases[i].want);
        assert_true(message_peek_msgid(cases[i].bytes, cases[i].len, &peeked));
        assert_true(peeked == cases[i].want);
    }
}

static void other_forms_are_refused(void **state)
{
    static const char shape[] =
        "message: must be an array that begins with 0 (request) or 2 (notification)";
    static const char msgid[] = "message: the msgid must be an unsigned integer of at most 32 bits";
    static const struct {
        const char *bytes;
        size_t len;
        const char *text;
        bool has_msgid;
    } cases[] = {
        {LITERAL("\x07"), shape, false},
        {LITERAL("\x80"), shape, false},
        {LITERAL("\xa1m"), shape, false},
        {LITERAL("\xc0"), shape, false},
        {LITERAL("\x90"), shape, false},
        {LITERAL(""), shape, false},
        {LITERAL("\x91"), shape, false},
        {LITERAL("\x94\x03\x07\xa1m\x90"), shape, false},
        {LITERAL("\x94\xff\x07\xa1m\x90"), shape, false},
        {LITERAL("\x94\xc0\x07\xa1m\x90"), shape, false},
        {LITERAL("\x94\xcf\x00\x00\x00\x01\x00\x00\x00\x00\x07\xa1m\x90"), shape, false},
        {LITERAL("\x94\x01\x07\xc0\xc0"), "message: a client may not send responses", false},
        {LITERAL("\x91\x00"), "message: a request has 4 elements, got 1", false},
        {LITERAL("\x93\x00\x07\xa1m"), "message: a request has 4 elements, got 3", true},
        {LITERAL("\x95\x00\x07\xa1m\x90\xc0"), "message: a request has 4 elements, got 5", true},
        {LITERAL("\x92\x02\xa1m"), "message: a notification has 3 elements, got 2", false},
        {LITERAL("\x94\x02\x07\xa1m\x90"), "message: a notification has 3 elements, got 4", false},
        {LITERAL("\x94\x00\xff\xa1m\x90"), msgid, false},
        {LITERAL("\x94\x00\xd0\x05\xa1m\x90"), msgid, false},
        {LITERAL("\x94\x00\xd3\x00\x00\x00\x00\x00\x00\x00\x05\xa1m\x90"), msgid, false},
        {LITERAL("\x94\x00\xcf\x00\x00\x00\x01\x00\x00\x00\x00\xa1m\x90"), msgid, false},
        {LITERAL("\x94\x00\xc0\xa1m\x90"), msgid, false},
        {LITERAL("\x94\x00\xa1m\xa1m\x90"), msgid, false},
        {LITERAL("\x94\x00\xca\x00\x00\x00\x00\xa1m\x90"), msgid, false},
        {LITERAL("\x94\x00\x07\x01\x90"), "message: the method must be a string", true},
        {LITERAL("\x94\x00\x07\xc4\x01m\x90"), "message: the method must be a string", true},
        {LITERAL("\x94\x00\x07"), "message: the method must be a string", true},
        {LITERAL("\x94\x00\x07\xa1m\x80"), "message: params must be an array", true},
        {LITERAL("\x94\x00\x07\xa1m\xc0"), "message: params must be an array", true},
        {LITERAL("\x94\x00\x07\xa1m"), "message: params must be an array", true},
        {LITERAL("\x93\x02\xc0\x90"), "message: the method must be a string", false},
        {LITERAL("\x93\x02\xa1m\xc0"), "message: params must be an array", false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct message m;

        assert_int_equal(parse(cases[i].bytes, cases[i].len, &m), -1);
        assert_string_equal(err.text, cases[i].text);
        assert_int_equal(err.code, WIRE_INVALID_ARGUMENT);
        assert_int_equal(m.has_msgid, cases[i].has_msgid);
        if (m.has_msgid)
            assert_int_equal(m.msgid, 7);
    }
}

/* The beginning of a message is enough; less than the msgid is not. */
static void a_msgid_is_found_in_a_beginning(void **state)
{
    static const char start[] = "\x94\x00\xce\x00\x01\x00\x00\xa5sto";
    uint32_t msgid = 0;

    (void)state;
    for (size_t cut = 0; cut < sizeof start; cut++)
        assert_int_equal(message_peek_msgid(start, cut, &msgid), cut >= 7);
    assert_int_equal(msgid, 65536);
    assert_false(message_peek_msgid(LITERAL("\x93\x02\x05"), &msgid));
    assert_false(message_peek_msgid(LITERAL("\x94\x01\x05"), &msgid));
    assert_false(message_peek_msgid(LITERAL("\x91\x00\x05"), &msgid));
    assert_false(message_peek_msgid(LITERAL("\x94\x00\xd0\x05"), &msgid));
    assert_false(message_peek_msgid(LITERAL("garbage"), &msgid));
    assert_false(message_peek_msgid(NULL, 0, &msgid));
    assert_true(message_peek_msgid(LITERAL("\xdd\xff\xff\xff\xff\x00\x05"), &msgid));
    assert_int_equal(msgid, 5);
}

/* Options. */

static int store_options(const void *bytes, size_t len, struct store_options *ret)
{
    struct reader r;

    reader_init(&r, bytes, len);
    err = (struct wire_error){0};
    return store_options_decode(&r, ret, &err);
}

static void options_are_decoded(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
        bool wait_stored;
        uint32_t timeout_ms;
    } cases[] = {
        {LITERAL("\xc0"), false, 0},
        {LITERAL("\x80"), false, 0},
        {LITERAL("\x81\xa4wait\xa6stored"), true, 0},
        {LITERAL("\x81\xa4wait\xa7"
                 "durable"),
         false, 0},
        {LITERAL("\x81\xa4wait\xc0"), false, 0},
        {LITERAL("\x81\xaatimeout_ms\xc0"), false, 0},
        {LITERAL("\x81\xaatimeout_ms\x01"), false, 1},
        {LITERAL("\x82\xaatimeout_ms\xce\x05\x26\x5c\x00\xa4wait\xa6stored"), true, 86400000},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct store_options options;

        assert_int_equal(store_options(cases[i].bytes, cases[i].len, &options), 0);
        assert_int_equal(options.wait_stored, cases[i].wait_stored);
        assert_int_equal(options.timeout_ms, cases[i].timeout_ms);
    }
}

static void other_options_are_refused(void **state)
{
    static const char wait[] = "options.wait: must be \"durable\" or \"stored\"";
    static const char timeout[] = "options.timeout_ms: must be an integer from 1 to 86400000";
    static const struct {
        const char *bytes;
        size_t len;
        const char *text;
    } cases[] = {
        {LITERAL("\x90"), "options: must be a map or nil, got an array"},
        {LITERAL("\x81\xa4wait\xa4soon"), wait},
        {LITERAL("\x81\xa4wait\xa0"), wait},
        {LITERAL("\x81\xa4wait\xc3"), wait},
        {LITERAL("\x81\xa4wait\xc4\x06stored"), wait},
        {LITERAL("\x81\xaatimeout_ms\x00"), timeout},
        {LITERAL("\x81\xaatimeout_ms\xff"), timeout},
        {LITERAL("\x81\xaatimeout_ms\xce\x05\x26\x5c\x01"), timeout},
        {LITERAL("\x81\xaatimeout_ms\xca\x3f\x80\x00\x00"), timeout},
        {LITERAL("\x81\xaatimeout_ms\xa1"
                 "1"),
         timeout},
        {LITERAL("\x81\xa7timeout\x01"), "options: unknown key \"timeout\""},
        {LITERAL("\x81\xa1\xff\x01"), "options: unknown key \"\\xff\""},
        {LITERAL("\x81\x01\x01"), "options: keys must be strings, got an integer"},
        {LITERAL("\x82\xa4wait\xc0\xa4wait\xc0"), "options: duplicate key \"wait\""},
        {LITERAL("\x82\xaatimeout_ms\x01\xaatimeout_ms\x01"),
         "options: duplicate key \"timeout_ms\""},
        {LITERAL(""), "options: not MessagePack"},
        {LITERAL("\x81"), "options: not MessagePack"},
        {LITERAL("\x81\xa4wait"), "options: not MessagePack"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct store_options options;

        assert_int_equal(store_options(cases[i].bytes, cases[i].len, &options), -1);
        assert_string_equal(err.text, cases[i].text);
        assert_int_equal(err.code, WIRE_INVALID_ARGUMENT);
    }
}

static void flush_takes_a_timeout_only(void **state)
{
    struct reader r;
    uint32_t timeout_ms = 7;

    (void)state;
    reader_init(&r, LITERAL("\x81\xaatimeout_ms\x05"));
    assert_int_equal(flush_options_decode(&r, &timeout_ms, &err), 0);
    assert_int_equal(timeout_ms, 5);
    reader_init(&r, LITERAL("\xc0"));
    assert_int_equal(flush_options_decode(&r, &timeout_ms, &err), 0);
    assert_int_equal(timeout_ms, 0);
    reader_init(&r, LITERAL("\x81\xa4wait\xa6stored"));
    assert_int_equal(flush_options_decode(&r, &timeout_ms, &err), -1);
    assert_string_equal(err.text, "options: unknown key \"wait\"");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_is_parsed),
        cmocka_unit_test(a_notification_is_parsed),
        cmocka_unit_test(a_msgid_may_have_any_unsigned_encoding),
        cmocka_unit_test(other_forms_are_refused),
        cmocka_unit_test(a_msgid_is_found_in_a_beginning),
        cmocka_unit_test(options_are_decoded),
        cmocka_unit_test(other_options_are_refused),
        cmocka_unit_test(flush_takes_a_timeout_only),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
