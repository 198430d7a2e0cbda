/* Messages, conversations and options: what passes, and for everything else the field and why. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <msgpack.h>
#include <stdlib.h>

#include "proto/message.h"
#include "proto/reply.h"

#define LITERAL(text) (text), sizeof(text) - 1

static struct wire_error err;
static struct json_buffer json;
static struct conversation_fields fields;

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

/* Conversations: a good one, with one field in another form. */

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
    assert_int_equal(parse(LITERAL(request), &m), 0);
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

static int free_json(void **state)
{
    (void)state;
    json_buffer_done(&json);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_is_parsed),
        cmocka_unit_test(a_notification_is_parsed),
        cmocka_unit_test(a_msgid_may_have_any_unsigned_encoding),
        cmocka_unit_test(other_forms_are_refused),
        cmocka_unit_test(a_msgid_is_found_in_a_beginning),
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
        cmocka_unit_test(options_are_decoded),
        cmocka_unit_test(other_options_are_refused),
        cmocka_unit_test(flush_takes_a_timeout_only),
    };

    return cmocka_run_group_tests(tests, NULL, free_json);
}
