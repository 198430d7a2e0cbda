/* Metadata as JSON: the same text for the same map, numbers that survive, and all that JSON or
 * PostgreSQL cannot hold refused by name. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <float.h>
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <time.h>

#include "proto/json.h"
#include "proto/message.h"
#include "tests/unit/random_msgpack.h"

#define LITERAL(text) (text), sizeof(text) - 1

static struct json_buffer buffer;
static struct wire_error err;

static int convert(const void *data, size_t len)
{
    struct reader r;

    reader_init(&r, data, len);
    err = (struct wire_error){0};
    return json_from_msgpack(&r, "m", &buffer, &err);
}

static void expect(const void *data, size_t len, const char *json)
{
    char text[512];

    if (convert(data, len) != 0)
        fail_msg("%s", err.text);
    assert_in_range(buffer.len, 0, sizeof text - 1);
    memcpy(text, buffer.data, buffer.len);
    text[buffer.len] = '\0';
    assert_string_equal(text, json);
}

static void expect_error(const void *data, size_t len, enum wire_code code, const char *text)
{
    assert_int_equal(convert(data, len), -1);
    assert_string_equal(err.text, text);
    assert_int_equal(err.code, code);
    assert_int_equal(err.retry_after_ms, -1);
}

#define REFUSED(bytes, text) expect_error(LITERAL(bytes), WIRE_INVALID_ARGUMENT, text)

static void values_have_their_json(void **state)
{
    (void)state;
    expect(LITERAL("\x80"), "{}");
    expect(LITERAL("\x81\xa1k\xc0"), "{\"k\":null}");
    expect(LITERAL("\x81\xa1k\xc2"), "{\"k\":false}");
    expect(LITERAL("\x81\xa1k\xc3"), "{\"k\":true}");
    expect(LITERAL("\x81\xa1k\x90"), "{\"k\":[]}");
    expect(LITERAL("\x81\xa1k\x93\x01\xff\xa1x"), "{\"k\":[1,-1,\"x\"]}");
    expect(LITERAL("\x81\xa1k\x81\xa0\x80"), "{\"k\":{\"\":{}}}");
    expect(LITERAL("\x81\xa1k\xcf\xff\xff\xff\xff\xff\xff\xff\xff"),
           "{\"k\":18446744073709551615}");
    expect(LITERAL("\x81\xa1k\xd3\x80\x00\x00\x00\x00\x00\x00\x00"),
           "{\"k\":-9223372036854775808}");
}

static void the_reader_stands_behind_the_map(void **state)
{
    struct reader r;

    (void)state;
    reader_init(&r, LITERAL("\x81\xa1k\x91\x80\x07"));
    assert_int_equal(json_from_msgpack(&r, "m", &buffer, &err), 0);
    assert_int_equal(r.end - r.at, 1);
}

static void strings_are_escaped(void **state)
{
    (void)state;
    expect(LITERAL("\x81\xa1k\xb0"
                   "a\"b\\c\b\f\n\r\t\x01\x1f\x7f/\xc3\xa4"),
           "{\"k\":\"a\\\"b\\\\c\\b\\f\\n\\r\\t\\u0001\\u001f\x7f/\xc3\xa4\"}");
    expect(LITERAL("\x81\xa3\"\n\"\xa1\""), "{\"\\\"\\n\\\"\":\"\\\"\"}");
}

/* Every character below 0x80 comes back from another JSON reader as it went in. */
static void every_ascii_character_survives(void **state)
{
    char bytes[3 + 2 + 127] = "\x81\xa1k\xd9\x7f";
    json_t *root;

    (void)state;
    for (int c = 1; c < 128; c++)
        bytes[4 + c] = (char)c;
    assert_int_equal(convert(bytes, sizeof bytes), 0);
    root = json_loadb(buffer.data, buffer.len, 0, NULL);
    assert_non_null(root);
    assert_memory_equal(json_string_value(json_object_get(root, "k")), bytes + 5, 127);
    json_decref(root);
}

static void keys_are_sorted_by_bytes(void **state)
{
    (void)state;
    expect(LITERAL("\x83\xa1"
                   "a\x01\xa1"
                   "b\x02\xa1"
                   "c\x03"),
           "{\"a\":1,\"b\":2,\"c\":3}");
    expect(LITERAL("\x86\xa1"
                   "b\x01\xa2"
                   "aa\x02\xa1"
                   "a\x03\xa0\x04\xa1"
                   "B\x05\xa2\xc3\xa4\x06"),
           "{\"\":4,\"B\":5,\"a\":3,\"aa\":2,\"b\":1,\"\xc3\xa4\":6}");
    /* By the key itself, not by its escaped form: a newline comes before a space. */
    expect(LITERAL("\x82\xa1 \x01\xa1\n\x02"), "{\"\\n\":2,\" \":1}");
    /* Inner maps too, also where the outer one moves their text. */
    expect(LITERAL("\x82\xa1z\x82\xa1"
                   "d\x01\xa1"
                   "c\x91\x82\xa1y\x02\xa1x\x03\xa1"
                   "a\x80"),
           "{\"a\":{},\"z\":{\"c\":[{\"x\":3,\"y\":2}],\"d\":1}}");
}

/* Many pairs in random order: more than the first allocation holds, and all still there. */
static void many_keys_in_any_order_give_one_text(void **state)
{
    char first[32768];
    size_t first_len = 0;

    (void)state;
    srandom(50);
    for (int round = 0; round < 5; round++) {
        msgpack_sbuffer sbuf;
        msgpack_packer pk;
        int order[1000];

        for (int i = 0; i < 1000; i++) {
            int at = (int)(random() % (i + 1));

            order[i] = order[at];
            order[at] = i;
        }
        msgpack_sbuffer_init(&sbuf);
        msgpack_packer_init(&pk, &sbuf, msgpack_sbuffer_write);
        msgpack_pack_map(&pk, 1000);
        for (int i = 0; i < 1000; i++) {
            char key[16];

            msgpack_pack_str_with_body(&pk, key, (size_t)sprintf(key, "key %d", order[i]));
            msgpack_pack_int(&pk, order[i]);
        }
        assert_int_equal(convert(sbuf.data, sbuf.size), 0);
        msgpack_sbuffer_destroy(&sbuf);
        if (round == 0) {
            assert_in_range(buffer.len, 10000, sizeof first);
            first_len = buffer.len;
            memcpy(first, buffer.data, first_len);
        }
        assert_int_equal(buffer.len, first_len);
        assert_memory_equal(buffer.data, first, first_len);
    }
    assert_memory_equal(first, "{\"key 0\":0,\"key 1\":1,\"key 10\":10,", 33);
}

static void duplicate_keys_are_refused(void **state)
{
    (void)state;
    REFUSED("\x82\xa1"
            "a\x01\xa1"
            "a\x01",
            "m: duplicate key \"a\"");
    REFUSED("\x83\xa1"
            "a\x01\xa1"
            "b\x01\xa1"
            "a\x02",
            "m: duplicate key \"a\"");
    REFUSED("\x81\xa1k\x82\xa1\n\x01\xd9\x01\n\x01", "m: duplicate key \"\\x0a\"");
    expect(LITERAL("\x82\xa1"
                   "a\x81\xa1"
                   "a\x01\xa1"
                   "b\x81\xa1"
                   "a\x01"),
           "{\"a\":{\"a\":1},\"b\":{\"a\":1}}");
}

static void what_json_cannot_hold_is_refused(void **state)
{
    (void)state;
    REFUSED("\x81\xa1k\xc4\x01x", "m[\"k\"]: JSON has no form for binary");
    REFUSED("\x81\xa1k\xd6\xff\x00\x00\x00\x00", "m[\"k\"]: JSON has no form for an extension");
    REFUSED("\x81\xa1k\xca\x7f\xc0\x00\x00", "m[\"k\"]: JSON knows no NaN");
    REFUSED("\x81\xa1k\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00", "m[\"k\"]: JSON knows no infinity");
    REFUSED("\x81\xa1k\xcb\xff\xf0\x00\x00\x00\x00\x00\x00", "m[\"k\"]: JSON knows no infinity");
    REFUSED("\x81\x01\x01", "m: keys must be strings, got an integer");
    REFUSED("\x81\xc4\x01k\x01", "m: keys must be strings, got binary");
    REFUSED("\x81\xa1k\x81\xc0\xc0", "m[\"k\"]: keys must be strings, got nil");
    REFUSED("\x90", "m: must be a map, got an array");
    REFUSED("\xc0", "m: must be a map, got nil");
}

static void text_that_postgresql_refuses_is_refused(void **state)
{
    (void)state;
    REFUSED("\x81\xa1k\xa3"
            "a\0b",
            "m[\"k\"]: NUL at byte 1 of a string");
    REFUSED("\x81\xa1k\xa3"
            "ab\xff",
            "m[\"k\"]: invalid UTF-8 at byte 2 of a string");
    REFUSED("\x81\xa1\xff\x01", "m[\"\\xff\"]: invalid UTF-8 at byte 0 of a string");
    REFUSED("\x81\xa1\0\x01", "m[\"\\x00\"]: NUL at byte 0 of a string");
    REFUSED("\x81\xa1k\x91\xa3\xed\xa0\x80", "m[\"k\"]: invalid UTF-8 at byte 0 of a string");
    /* After an inner map the outer key's name is back. */
    REFUSED("\x81\xa1k\x92\x81\xa1j\x01\xa1\xff", "m[\"k\"]: invalid UTF-8 at byte 0 of a string");
}

static void cut_bytes_are_refused(void **state)
{
    static const char whole[] = "\x82\xa1k\x92\x01\xa2xy\xa1j\x81\xa1i\xcb\x3f\xf0\0\0\0\0\0\0";

    (void)state;
    for (size_t cut = 0; cut < sizeof whole - 1; cut++) {
        char *bytes = malloc(cut + 1);

        memcpy(bytes, whole, cut);
        assert_int_equal(convert(bytes, cut), -1);
        assert_int_equal(err.code, WIRE_INVALID_ARGUMENT);
        assert_non_null(strstr(err.text, "not MessagePack"));
        free(bytes);
    }
    assert_int_equal(convert(whole, sizeof whole - 1), 0);
}

static const char *double_text(double number)
{
    static char text[64];
    msgpack_sbuffer sbuf;
    msgpack_packer pk;

    msgpack_sbuffer_init(&sbuf);
    msgpack_packer_init(&pk, &sbuf, msgpack_sbuffer_write);
    msgpack_pack_map(&pk, 1);
    msgpack_pack_str_with_body(&pk, "k", 1);
    msgpack_pack_double(&pk, number);
    assert_int_equal(convert(sbuf.data, sbuf.size), 0);
    msgpack_sbuffer_destroy(&sbuf);
    assert_in_range(buffer.len, 7, sizeof text);
    memcpy(text, buffer.data + 5, buffer.len - 6);
    text[buffer.len - 6] = '\0';
    return text;
}

static void doubles_are_short_and_exact(void **state)
{
    static const double edges[] = {DBL_MAX,   DBL_MIN, 5e-324, -DBL_MAX,
                                   0.1 + 0.2, 1.0 / 3, 1e15,   123456789012345680.0};

    (void)state;
    assert_string_equal(double_text(0.1), "0.1");
    assert_string_equal(double_text(5), "5");
    assert_string_equal(double_text(-0.5), "-0.5");
    assert_string_equal(double_text(0.30000000000000004), "0.30000000000000004");
    assert_string_equal(double_text(1e308), "1e+308");
    assert_string_equal(double_text(-0.0), "-0");
    for (size_t i = 0; i < sizeof edges / sizeof edges[0]; i++)
        assert_true(strtod(double_text(edges[i]), NULL) == edges[i]);
    srandom(51);
    for (int i = 0; i < 20000; i++) {
        uint64_t bits = (uint64_t)random() << 33 ^ (uint64_t)random() << 11 ^ (uint64_t)random();
        double number;

        memcpy(&number, &bits, sizeof number);
        if (isfinite(number))
            assert_true(strtod(double_text(number), NULL) == number);
    }
}

static void floats_keep_their_nine_digits(void **state)
{
    (void)state;
    expect(LITERAL("\x81\xa1k\xca\x3f\x00\x00\x00"), "{\"k\":0.5}");
    expect(LITERAL("\x81\xa1k\xca\x3d\xcc\xcc\xcd"), "{\"k\":0.100000001}");
    expect(LITERAL("\x81\xa1k\xca\x7f\x7f\xff\xff"), "{\"k\":3.40282347e+38}");
}

/* `levels` levels in all: the metadata map, arrays or maps inside, an empty one last. */
static int convert_nested(size_t levels, bool maps)
{
    char *bytes = malloc(3 * levels + 1), *at = bytes;
    int rc;

    for (size_t level = 1; level < levels; level++) {
        if (maps || level == 1) {
            memcpy(at, "\x81\xa1k", 3);
            at += 3;
        } else {
            *at++ = '\x91';
        }
    }
    *at++ = maps || levels == 1 ? '\x80' : '\x90';
    rc = convert(bytes, (size_t)(at - bytes));
    free(bytes);
    return rc;
}

static void sixty_four_levels_pass_and_no_more(void **state)
{
    (void)state;
    assert_int_equal(convert_nested(1, true), 0);
    assert_int_equal(convert_nested(64, true), 0);
    assert_int_equal(convert_nested(64, false), 0);
    for (int maps = 0; maps < 2; maps++) {
        assert_int_equal(convert_nested(65, maps), -1);
        assert_int_equal(err.code, WIRE_INVALID_ARGUMENT);
        assert_string_equal(err.text, "m[\"k\"]: nested deeper than 64 levels");
    }
    assert_int_equal(convert_nested(10000, false), -1);
}

/* Depth is what is open at once: a hundred arrays side by side are one level. */
static void closed_levels_do_not_count(void **state)
{
    char bytes[6 + 200] = "\x81\xa1k\xdc\x00\x64";

    (void)state;
    for (int i = 0; i < 100; i++)
        memcpy(bytes + 6 + 2 * i, "\x91\x80", 2);
    assert_int_equal(convert(bytes, sizeof bytes), 0);
}

/* {"k":"xxx…"} whose JSON has json_len bytes. */
static int convert_sized(size_t json_len)
{
    size_t text_len = json_len - 8;
    char *bytes = malloc(8 + text_len);
    int rc;

    memcpy(bytes, "\x81\xa1k\xdb", 4);
    for (int i = 0; i < 4; i++)
        bytes[4 + i] = (char)(text_len >> (24 - 8 * i));
    memset(bytes + 8, 'x', text_len);
    rc = convert(bytes, 8 + text_len);
    free(bytes);
    return rc;
}

static void the_json_is_limited(void **state)
{
    (void)state;
    assert_int_equal(convert_sized(METADATA_MAX_BYTES), 0);
    assert_int_equal(buffer.len, METADATA_MAX_BYTES);
    assert_int_equal(convert_sized(METADATA_MAX_BYTES + 1), -1);
    assert_int_equal(err.code, WIRE_TOO_LARGE);
    assert_string_equal(err.text, "m: must be at most 262144 bytes as JSON");
    assert_int_equal(convert_sized(3 * METADATA_MAX_BYTES), -1);
    assert_int_equal(err.code, WIRE_TOO_LARGE);
}

/* The worst case for the work: big unsorted maps at every level, so that each level moves all that
 * is inside it. It must stay a matter of milliseconds; the limit here leaves room for sanitizers.
 */
static void hostile_nesting_costs_bounded_work(void **state)
{
    size_t leaf = METADATA_MAX_BYTES - 1024;
    char *bytes = malloc(64 * 6 + leaf + 8), *at = bytes;
    clock_t begin = clock();

    (void)state;
    for (int level = 0; level < 64; level++) {
        memcpy(at, "\x82\xa1z\x00\xa1k", 6);
        at += 6;
    }
    *at++ = '\xdb';
    for (int i = 0; i < 4; i++)
        *at++ = (char)(leaf >> (24 - 8 * i));
    memset(at, 'x', leaf);
    at += leaf;
    assert_int_equal(convert(bytes, (size_t)(at - bytes)), 0);
    assert_memory_equal(buffer.data, "{\"k\":{\"k\":{\"k\":", 15);
    assert_memory_equal(buffer.data + buffer.len - 14, ",\"z\":0},\"z\":0}", 14);
    assert_true(clock() - begin < CLOCKS_PER_SEC / 2);
    free(bytes);
}

/* A failure leaves nothing behind that the next map would show. */
static void the_buffer_is_used_again(void **state)
{
    (void)state;
    assert_int_equal(convert(LITERAL("\x82\xa1k\xa5hello\xa1j\xc1")), -1);
    expect(LITERAL("\x81\xa1k\x01"), "{\"k\":1}");
}

static int free_buffer(void **state)
{
    (void)state;
    json_buffer_done(&buffer);
    assert_null(buffer.data);
    json_buffer_done(&buffer);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_have_their_json),
        cmocka_unit_test(the_reader_stands_behind_the_map),
        cmocka_unit_test(strings_are_escaped),
        cmocka_unit_test(every_ascii_character_survives),
        cmocka_unit_test(keys_are_sorted_by_bytes),
        cmocka_unit_test(many_keys_in_any_order_give_one_text),
        cmocka_unit_test(duplicate_keys_are_refused),
        cmocka_unit_test(what_json_cannot_hold_is_refused),
        cmocka_unit_test(text_that_postgresql_refuses_is_refused),
        cmocka_unit_test(cut_bytes_are_refused),
        cmocka_unit_test(doubles_are_short_and_exact),
        cmocka_unit_test(floats_keep_their_nine_digits),
        cmocka_unit_test(sixty_four_levels_pass_and_no_more),
        cmocka_unit_test(closed_levels_do_not_count),
        cmocka_unit_test(the_json_is_limited),
        cmocka_unit_test(hostile_nesting_costs_bounded_work),
        cmocka_unit_test(the_buffer_is_used_again),
    };

    return cmocka_run_group_tests(tests, NULL, free_buffer);
}
