/* Conversations: what passes, and for everything else the field and why. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <msgpack.h>
#include <stdio.h>
#include <stdlib.h>

#include "proto/message.h"
#include "proto/reply.h"

#define LITERAL(text) (text), sizeof(text) - 1

static struct wire_error err;
static struct json_buffer json;
static struct conversation_fields fields;

static const uint8_t id[16] = {0x01, 0x9a, 0xbc, 0xde, 0xf0, 0x12, 0x73, 0x45,
                               0x86, 0x78, 0x9a, 0xbc, 0xde, 0xf0, 0x12, 0x34};

struct packing {
    msgpack_sbuffer sbuf;
    msgpack_packer pk;
    uint32_t count;
};

static void pack_begin(struct packing *p)
{
    msgpack_sbuffer_init(&p->sbuf);
    msgpack_packer_init(&p->pk, &p->sbuf, msgpack_sbuffer_write);
    msgpack_pack_array(&p->pk, 1); /* room for a map's header of one byte */
    p->count = 0;
}

static void pack_key(struct packing *p, const char *key)
{
    msgpack_pack_str_with_body(&p->pk, key, strlen(key));
    p->count++;
}

static void pack_raw(struct packing *p, const char *key, const void *value, size_t len)
{
    pack_key(p, key);
    msgpack_sbuffer_write(&p->sbuf, value, len);
}

static void pack_text(struct packing *p, const char *key, const char *text)
{
    pack_key(p, key);
    msgpack_pack_str_with_body(&p->pk, text, strlen(text));
}

static int pack_decode(struct packing *p)
{
    struct reader r;

    assert_in_range(p->count, 0, 15);
    p->sbuf.data[0] = (char)(0x80 | p->count);
    reader_init(&r, p->sbuf.data, p->sbuf.size);
    err = (struct wire_error){0};
    return conversation_decode(&r, "conversation", &json, &fields, &err);
}

/* Decodes the smallest good conversation with `key` as these bytes instead or on top. The slices of
 * `fields` are dead afterwards. */
static int decode_with(const char *key, const void *value, size_t len)
{
    static const char *const required[] = {"user_id", "platform", "transcript"};
    struct packing p;
    int rc;

    pack_begin(&p);
    for (size_t i = 0; i < 3; i++)
        if (strcmp(key, required[i]) != 0)
            pack_text(&p, required[i], "x");
    pack_raw(&p, key, value, len);
    rc = pack_decode(&p);
    msgpack_sbuffer_destroy(&p.sbuf);
    return rc;
}

static void expect_error(const char *key, const void *value, size_t len, enum wire_code code,
                         const char *text)
{
    assert_int_equal(decode_with(key, value, len), -1);
    assert_string_equal(err.text, text);
    assert_int_equal(err.code, code);
}

#define REFUSED(key, bytes, text) expect_error(key, LITERAL(bytes), WIRE_INVALID_ARGUMENT, text)

static void a_full_conversation_is_decoded(void **state)
{
    struct packing p;

    (void)state;
    pack_begin(&p);
    pack_raw(&p, "created_at", LITERAL("\xd6\xff\x00\x00\x00\x05"));
    pack_raw(&p, "metadata", LITERAL("\x82\xa1z\x01\xa1y\xc0"));
    pack_text(&p, "summary", "short");
    pack_text(&p, "transcript", "user: gr\xc3\xbc\xc3\x9f dich");
    pack_text(&p, "platform", "web");
    pack_text(&p, "user_id", "u1");
    pack_text(&p, "id", "019ABCDE-f012-7345-8678-9abcdef01234");
    assert_int_equal(pack_decode(&p), 0);
    assert_true(fields.has_id);
    assert_memory_equal(fields.id, id, 16);
    assert_true(slice_equals(fields.user_id, "u1"));
    assert_true(slice_equals(fields.platform, "web"));
    assert_true(slice_equals(fields.transcript, "user: gr\xc3\xbc\xc3\x9f dich"));
    assert_true(slice_equals(fields.summary, "short"));
    assert_true(slice_equals(fields.metadata, "{\"y\":null,\"z\":1}"));
    assert_true(fields.has_created_at);
    assert_int_equal(fields.created_at_us, 5000000);
    msgpack_sbuffer_destroy(&p.sbuf);
}

static void optional_keys_may_be_absent_or_nil(void **state)
{
    static const char *const optional[] = {"id", "summary", "metadata", "created_at"};

    (void)state;
    for (size_t i = 0; i <= 4; i++) {
        if (i < 4)
            assert_int_equal(decode_with(optional[i], LITERAL("\xc0")), 0);
        else
            assert_int_equal(decode_with("platform", LITERAL("\xa1p")), 0);
        assert_false(fields.has_id);
        assert_null(fields.summary.data);
        assert_null(fields.metadata.data);
        assert_false(fields.has_created_at);
    }
    /* Empty is not absent. */
    assert_int_equal(decode_with("summary", LITERAL("\xa0")), 0);
    assert_non_null(fields.summary.data);
    assert_int_equal(fields.summary.len, 0);
    assert_int_equal(decode_with("metadata", LITERAL("\x80")), 0);
    assert_true(slice_equals(fields.metadata, "{}"));
}

static void required_keys_are_missed_by_name(void **state)
{
    static const char *const required[] = {"user_id", "platform", "transcript"};

    (void)state;
    for (size_t missing = 0; missing < 3; missing++) {
        struct packing p;
        char text[64];

        pack_begin(&p);
        for (size_t i = 0; i < 3; i++)
            if (i != missing)
                pack_text(&p, required[i], "x");
        assert_int_equal(pack_decode(&p), -1);
        sprintf(text, "conversation.%s: missing", required[missing]);
        assert_string_equal(err.text, text);
        assert_int_equal(err.code, WIRE_INVALID_ARGUMENT);
        msgpack_sbuffer_destroy(&p.sbuf);
        sprintf(text, "conversation.%s: must be a string", required[missing]);
        assert_int_equal(decode_with(required[missing], LITERAL("\xc0")), -1);
        assert_memory_equal(err.text, text, strlen(text));
    }
}

/* A str 16 of len times 'x'. */
static char *long_text(size_t len)
{
    char *bytes = malloc(3 + len);

    bytes[0] = '\xda';
    bytes[1] = (char)(len >> 8);
    bytes[2] = (char)len;
    memset(bytes + 3, 'x', len);
    return bytes;
}

static void lengths_are_limited(void **state)
{
    static const struct {
        const char *key;
        size_t max;
    } limits[] = {{"user_id", 256}, {"platform", 64}};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        char text[120];
        size_t max = limits[i].max;
        char *bytes = long_text(max);

        assert_int_equal(decode_with(limits[i].key, bytes, max + 3), 0);
        free(bytes);
        bytes = long_text(max + 1);
        sprintf(text, "conversation.%s: must be a string of 1 to %zu bytes, got %zu bytes",
                limits[i].key, max, max + 1);
        expect_error(limits[i].key, bytes, max + 4, WIRE_TOO_LARGE, text);
        free(bytes);
    }
    REFUSED("user_id", "\xa0",
            "conversation.user_id: must be a string of 1 to 256 bytes, got 0 bytes");
    REFUSED("platform", "\xa0",
            "conversation.platform: must be a string of 1 to 64 bytes, got 0 bytes");
    REFUSED("transcript", "\xa0",
            "conversation.transcript: must be a string of at least 1 byte, got 0 bytes");
}

static void other_types_are_refused_by_name(void **state)
{
    (void)state;
    REFUSED("user_id", "\x05",
            "conversation.user_id: must be a string of 1 to 256 bytes, got an integer");
    REFUSED("platform", "\xc4\x01x",
            "conversation.platform: must be a string of 1 to 64 bytes, got binary");
    REFUSED("transcript", "\xc4\x01x",
            "conversation.transcript: must be a string of at least 1 byte, got binary");
    REFUSED("transcript", "\x91\xa1x",
            "conversation.transcript: must be a string of at least 1 byte, got an array");
    REFUSED("summary", "\xc4\x01x", "conversation.summary: must be a string or nil, got binary");
    REFUSED("summary", "\xc3", "conversation.summary: must be a string or nil, got a boolean");
    REFUSED("metadata", "\xa2{}", "conversation.metadata: must be a map, got a string");
    REFUSED("metadata", "\x90", "conversation.metadata: must be a map, got an array");
}

static void text_must_be_utf8_without_nul(void **state)
{
    static const char *const keys[] = {"user_id", "platform", "transcript", "summary"};

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        char text[80];

        sprintf(text, "conversation.%s: invalid UTF-8 at byte 2", keys[i]);
        REFUSED(keys[i], "\xa3xy\xff", text);
        sprintf(text, "conversation.%s: NUL at byte 1; text must not hold any", keys[i]);
        REFUSED(keys[i], "\xa3x\0y", text);
    }
    REFUSED("metadata", "\x81\xa1k\xa1\xff",
            "conversation.metadata[\"k\"]: invalid UTF-8 at byte 0 of a string");
}

static void ids_are_uuids(void **state)
{
    static const char text[] =
        "conversation.id: must be a UUID: a string of 36 characters or binary of 16 bytes";
    char bin[18] = "\xc4\x10", short_bin[17] = "\xc4\x0f", long_bin[19] = "\xc4\x11",
         str[18] = "\xd9\x10";

    (void)state;
    memcpy(bin + 2, id, 16);
    assert_int_equal(decode_with("id", bin, sizeof bin), 0);
    assert_true(fields.has_id);
    assert_memory_equal(fields.id, id, 16);
    expect_error("id", short_bin, sizeof short_bin, WIRE_INVALID_ARGUMENT, text);
    expect_error("id", long_bin, sizeof long_bin, WIRE_INVALID_ARGUMENT, text);
    expect_error("id", str, sizeof str, WIRE_INVALID_ARGUMENT, text);
    REFUSED("id", "\x05", text);
    REFUSED("id", "\xa0", text);
    REFUSED("id",
            "\xd9\x24"
            "019abcde-f012-7345-8678-9abcdef0123x",
            text);
    /* Binary of 36 bytes is no text. */
    REFUSED("id",
            "\xc4\x24"
            "019abcde-f012-7345-8678-9abcdef01234",
            text);
}

static void check_time(const void *bytes, size_t len, int64_t us)
{
    if (decode_with("created_at", bytes, len) != 0)
        fail_msg("%s", err.text);
    assert_true(fields.has_created_at);
    assert_true(fields.created_at_us == us);
}

static void times_have_three_forms_or_are_milliseconds(void **state)
{
    (void)state;
    /* 32 bit: unsigned seconds. */
    check_time(LITERAL("\xd6\xff\x00\x00\x00\x00"), 0);
    check_time(LITERAL("\xd6\xff\xff\xff\xff\xff"), 4294967295 * 1000000);
    /* 64 bit: 30 bits of nanoseconds, 34 of seconds; an ext 8 of the same length too. */
    check_time(LITERAL("\xd7\xff\x00\x00\x1f\x3c\x00\x00\x00\x01"), 1000001);
    check_time(LITERAL("\xd7\xff\xee\x6b\x27\xff\xff\xff\xff\xff"), 17179869183999999);
    check_time(LITERAL("\xc7\x08\xff\xee\x6b\x27\xfc\x00\x00\x00\x00"), 999999);
    /* 96 bit: nanoseconds, then signed seconds. Cut down to microseconds, towards the past. */
    check_time(LITERAL("\xc7\x0c\xff\x00\x00\x03\xe7\x00\x00\x00\x00\x00\x00\x00\x02"), 2000000);
    check_time(LITERAL("\xc7\x0c\xff\x3b\x9a\xc9\xff\xff\xff\xff\xff\xff\xff\xff\xff"), -1);
    check_time(LITERAL("\xc7\x0c\xff\x00\x00\x00\x01\xff\xff\xff\xff\xff\xff\xff\xff"), -1000000);
    /* Milliseconds in any encoding. */
    check_time(LITERAL("\x05"), 5000);
    check_time(LITERAL("\xff"), -1000);
    check_time(LITERAL("\xd1\xfc\x17"), -1001000);
    check_time(LITERAL("\xd1\xfc\x18"), -1000000);
    check_time(LITERAL("\xcf\x00\x00\x01\x99\x00\x00\x00\x00"), 0x19900000000 * 1000);
}

static void times_end_where_postgresql_or_int64_does(void **state)
{
    static const char text[] =
        "conversation.created_at: must be from 4713-01-01 BC to 294246-12-31";

    (void)state;
    /* -210863520000 s and -210863520001 s */
    check_time(LITERAL("\xc7\x0c\xff\x00\x00\x00\x00\xff\xff\xff\xce\xe7\x8e\x07\x00"),
               -210863520000 * 1000000);
    REFUSED("created_at", "\xc7\x0c\xff\x3b\x9a\xc9\xff\xff\xff\xff\xce\xe7\x8e\x06\xff", text);
    /* 9223371244800 s - 1 ns, and that second */
    check_time(LITERAL("\xc7\x0c\xff\x3b\x9a\xc9\xff\x00\x00\x08\x63\x7b\xc4\x44\xff"),
               9223371244799999999);
    REFUSED("created_at", "\xc7\x0c\xff\x00\x00\x00\x00\x00\x00\x08\x63\x7b\xc4\x45\x00", text);
    REFUSED("created_at", "\xc7\x0c\xff\x00\x00\x00\x00\x80\x00\x00\x00\x00\x00\x00\x00", text);
    REFUSED("created_at", "\xc7\x0c\xff\x00\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff", text);
    REFUSED("created_at", "\xcf\xff\xff\xff\xff\xff\xff\xff\xff", text);
    REFUSED("created_at", "\xcf\x7f\xff\xff\xff\xff\xff\xff\xff", text);
    REFUSED("created_at", "\xd3\x80\x00\x00\x00\x00\x00\x00\x00", text);
}

static void other_times_are_refused(void **state)
{
    static const char nanoseconds[] =
        "conversation.created_at: nanoseconds must be at most 999999999, got 1000000000";

    (void)state;
    REFUSED("created_at", "\xd7\xff\xee\x6b\x28\x00\x00\x00\x00\x00", nanoseconds);
    REFUSED("created_at", "\xc7\x0c\xff\x3b\x9a\xca\x00\x00\x00\x00\x00\x00\x00\x00\x00",
            nanoseconds);
    REFUSED("created_at", "\xd4\xff\x00",
            "conversation.created_at: a timestamp has 4, 8 or 12 bytes, got 1");
    REFUSED("created_at", "\xd6\x05\x00\x00\x00\x00",
            "conversation.created_at: must be a timestamp (extension -1) or integer milliseconds, "
            "got extension 5");
    REFUSED("created_at", "\xca\x00\x00\x00\x00",
            "conversation.created_at: must be a timestamp (extension -1) or integer milliseconds, "
            "got a float");
    REFUSED("created_at",
            "\xaa"
            "2026-01-01",
            "conversation.created_at: must be a timestamp (extension -1) or integer milliseconds, "
            "got a string");
}

static void unknown_and_duplicate_keys_are_named(void **state)
{
    struct packing p;

    (void)state;
    REFUSED("userid", "\xc0", "conversation: unknown key \"userid\"");
    REFUSED("", "\xc0", "conversation: unknown key \"\"");
    REFUSED("\xff\n\"", "\xc0", "conversation: unknown key \"\\xff\\x0a\\x22\"");
    REFUSED("0123456789abcdef0123456789abcdefX", "\xc0",
            "conversation: unknown key \"0123456789abcdef0123456789abcdef...\"");
    pack_begin(&p);
    pack_text(&p, "user_id", "x");
    pack_text(&p, "user_id", "x");
    assert_int_equal(pack_decode(&p), -1);
    assert_string_equal(err.text, "conversation: duplicate key \"user_id\"");
    msgpack_sbuffer_destroy(&p.sbuf);
    /* nil counts as seen. */
    pack_begin(&p);
    pack_raw(&p, "summary", LITERAL("\xc0"));
    pack_text(&p, "summary", "x");
    assert_int_equal(pack_decode(&p), -1);
    assert_string_equal(err.text, "conversation: duplicate key \"summary\"");
    msgpack_sbuffer_destroy(&p.sbuf);
}

static void other_things_than_maps_are_refused(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
        const char *text;
    } cases[] = {
        {LITERAL("\xc0"), "conversations[3]: must be a map, got nil"},
        {LITERAL("\x91\x80"), "conversations[3]: must be a map, got an array"},
        {LITERAL("\x81\x05\x05"), "conversations[3]: keys must be strings, got an integer"},
        {LITERAL("\x81\xc4\x02id\x05"), "conversations[3]: keys must be strings, got binary"},
        {LITERAL("\x80"), "conversations[3].user_id: missing"},
        {LITERAL("\xdf\xff\xff\xff\xff"), "conversations[3]: not MessagePack"},
        {LITERAL(""), "conversations[3]: not MessagePack"},
        {LITERAL("\x81\xa2id"), "conversations[3].id: not MessagePack"},
        {LITERAL("\x81\xa7summary"), "conversations[3].summary: not MessagePack"},
        {LITERAL("\x81\xa7user_id"), "conversations[3].user_id: not MessagePack"},
        {LITERAL("\x81\xaatranscript"), "conversations[3].transcript: not MessagePack"},
        {LITERAL("\x81\xa8metadata"), "conversations[3].metadata: not MessagePack"},
        {LITERAL("\x81\xaa"
                 "created_at"),
         "conversations[3].created_at: not MessagePack"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct reader r;

        reader_init(&r, cases[i].bytes, cases[i].len);
        assert_int_equal(conversation_decode(&r, "conversations[3]", &json, &fields, &err), -1);
        assert_string_equal(err.text, cases[i].text);
        assert_int_equal(err.code, WIRE_INVALID_ARGUMENT);
    }
}

/* store_many reads one after another from the same list. */
static void the_reader_stands_behind_a_conversation(void **state)
{
    static const char two[] = "\x83\xa7user_id\xa1u\xa8platform\xa1p\xaatranscript\xa1t\x07";
    struct reader r;

    (void)state;
    reader_init(&r, LITERAL(two));
    assert_int_equal(conversation_decode(&r, "conversation", &json, &fields, &err), 0);
    assert_int_equal(r.end - r.at, 1);
}

/* The bytes that PROTOCOL.md shows: request and answer. */
static void the_protocols_worked_example_holds(void **state)
{
    static const char request[] =
        "\x94\x00\x01\xa5store\x91\x84\xa7user_id\xa2u1\xa8platform\xa3web\xaatranscript"
        "\xa8user: hi\xa2id\xd9\x24"
        "019abcde-f012-7345-8678-9abcdef01234";
    static const char answer[] = "\x94\x01\x01\xc0\x81\xa2id\xd9\x24"
                                 "019abcde-f012-7345-8678-9abcdef01234";
    msgpack_sbuffer sbuf;
    msgpack_packer pk;
    struct message m;

    (void)state;
    assert_int_equal(sizeof request - 1, 96);
    assert_int_equal(message_parse(LITERAL(request), &m, &err), 0);
    assert_int_equal(conversation_decode(&m.params, "conversation", &json, &fields, &err), 0);
    assert_true(slice_equals(fields.transcript, "user: hi"));
    msgpack_sbuffer_init(&sbuf);
    msgpack_packer_init(&pk, &sbuf, msgpack_sbuffer_write);
    reply_begin(&pk, m.msgid);
    msgpack_pack_map(&pk, 1);
    pack_str(&pk, "id");
    pack_id(&pk, fields.id);
    assert_int_equal(sbuf.size, sizeof answer - 1);
    assert_memory_equal(sbuf.data, answer, sbuf.size);
    msgpack_sbuffer_destroy(&sbuf);
}

static int free_json(void **state)
{
    (void)state;
    json_buffer_done(&json);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_full_conversation_is_decoded),
        cmocka_unit_test(optional_keys_may_be_absent_or_nil),
        cmocka_unit_test(required_keys_are_missed_by_name),
        cmocka_unit_test(lengths_are_limited),
        cmocka_unit_test(other_types_are_refused_by_name),
        cmocka_unit_test(text_must_be_utf8_without_nul),
        cmocka_unit_test(ids_are_uuids),
        cmocka_unit_test(times_have_three_forms_or_are_milliseconds),
        cmocka_unit_test(times_end_where_postgresql_or_int64_does),
        cmocka_unit_test(other_times_are_refused),
        cmocka_unit_test(unknown_and_duplicate_keys_are_named),
        cmocka_unit_test(other_things_than_maps_are_refused),
        cmocka_unit_test(the_reader_stands_behind_a_conversation),
        cmocka_unit_test(the_protocols_worked_example_holds),
    };

    return cmocka_run_group_tests(tests, NULL, free_json);
}
