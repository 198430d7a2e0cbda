/* The reader: held against msgpack-c's own unpacker, and on bytes that are cut or wrong. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>

#include "proto/reader.h"
#include "tests/unit/random_msgpack.h"

static void check_bytes(struct slice got, const char *want, size_t len)
{
    assert_int_equal(got.len, len);
    assert_memory_equal(got.data, want, len);
}

static void check_object(struct reader *r, const msgpack_object *want);

static void check_nested(struct reader *r, const struct value *v, const msgpack_object *want)
{
    if (want->type == MSGPACK_OBJECT_ARRAY) {
        assert_int_equal(v->type, VALUE_ARRAY);
        assert_int_equal(v->count, want->via.array.size);
        for (uint32_t i = 0; i < v->count; i++)
            check_object(r, &want->via.array.ptr[i]);
        return;
    }
    assert_int_equal(v->type, VALUE_MAP);
    assert_int_equal(v->count, want->via.map.size);
    for (uint32_t i = 0; i < v->count; i++) {
        check_object(r, &want->via.map.ptr[i].key);
        check_object(r, &want->via.map.ptr[i].val);
    }
}

/* Reads the next value and compares it with what msgpack-c made of the same bytes. */
static void check_object(struct reader *r, const msgpack_object *want)
{
    struct value v;

    assert_int_equal(reader_next(r, &v), 0);
    switch (want->type) {
    case MSGPACK_OBJECT_NIL:
        assert_int_equal(v.type, VALUE_NIL);
        break;
    case MSGPACK_OBJECT_BOOLEAN:
        assert_int_equal(v.type, VALUE_BOOL);
        assert_int_equal(v.as_bool, want->via.boolean);
        break;
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
        assert_int_equal(v.type, VALUE_UINT);
        assert_true(v.as_uint == want->via.u64);
        break;
    case MSGPACK_OBJECT_NEGATIVE_INTEGER:
        assert_int_equal(v.type, VALUE_INT);
        assert_true(v.as_int == want->via.i64);
        break;
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64:
        assert_int_equal(v.type, want->type == MSGPACK_OBJECT_FLOAT32 ? VALUE_FLOAT : VALUE_DOUBLE);
        assert_memory_equal(&v.as_double, &want->via.f64, sizeof(double));
        break;
    case MSGPACK_OBJECT_STR:
        assert_int_equal(v.type, VALUE_STR);
        check_bytes(v.bytes, want->via.str.ptr, want->via.str.size);
        break;
    case MSGPACK_OBJECT_BIN:
        assert_int_equal(v.type, VALUE_BIN);
        check_bytes(v.bytes, want->via.bin.ptr, want->via.bin.size);
        break;
    case MSGPACK_OBJECT_EXT:
        assert_int_equal(v.type, VALUE_EXT);
        assert_int_equal(v.ext_type, want->via.ext.type);
        check_bytes(v.bytes, want->via.ext.ptr, want->via.ext.size);
        break;
    default:
        check_nested(r, &v, want);
    }
}

static void check_packed(const char *data, size_t len)
{
    struct reader r, skipper;
    msgpack_unpacked unpacked;
    size_t offset = 0;

    msgpack_unpacked_init(&unpacked);
    assert_int_equal(msgpack_unpack_next(&unpacked, data, len, &offset), MSGPACK_UNPACK_SUCCESS);
    reader_init(&r, data, len);
    check_object(&r, &unpacked.data);
    assert_int_equal(r.at - (const uint8_t *)data, offset);
    reader_init(&skipper, data, len);
    assert_int_equal(reader_skip(&skipper), 0);
    assert_ptr_equal(skipper.at, r.at);
    msgpack_unpacked_destroy(&unpacked);
}

static void random_values_read_as_msgpack_reads_them(void **state)
{
    (void)state;
    srandom(30);
    for (int i = 0; i < 1000; i++) {
        msgpack_sbuffer sbuf;
        msgpack_packer pk;

        msgpack_sbuffer_init(&sbuf);
        msgpack_packer_init(&pk, &sbuf, msgpack_sbuffer_write);
        pack_random(&pk, 6);
        msgpack_pack_nil(&pk);
        check_packed(sbuf.data, sbuf.size);
        msgpack_sbuffer_destroy(&sbuf);
    }
}

/* Encodings that msgpack-c's packer never picks: longer than need be, or signed for a positive. */
static void every_encoding_of_an_integer_is_read(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
        int64_t want;
    } cases[] = {
        {"\x05", 1, 5},
        {"\xe0", 1, -32},
        {"\xff", 1, -1},
        {"\xcc\x05", 2, 5},
        {"\xcd\x00\x05", 3, 5},
        {"\xce\x00\x00\x00\x05", 5, 5},
        {"\xcf\x00\x00\x00\x00\x00\x00\x00\x05", 9, 5},
        {"\xd0\x00", 2, 0},
        {"\xd0\x05", 2, 5},
        {"\xd1\x00\x05", 3, 5},
        {"\xd2\x00\x00\x00\x05", 5, 5},
        {"\xd3\x00\x00\x00\x00\x00\x00\x00\x05", 9, 5},
        {"\xd0\x80", 2, INT8_MIN},
        {"\xd1\x80\x00", 3, INT16_MIN},
        {"\xd2\x80\x00\x00\x00", 5, INT32_MIN},
        {"\xd3\x80\x00\x00\x00\x00\x00\x00\x00", 9, INT64_MIN},
        {"\xd3\xff\xff\xff\xff\xff\xff\xff\xff", 9, -1},
        {"\xcf\x7f\xff\xff\xff\xff\xff\xff\xff", 9, INT64_MAX},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct reader r;
        struct value v;

        reader_init(&r, cases[i].bytes, cases[i].len);
        assert_int_equal(reader_next(&r, &v), 0);
        assert_int_equal(v.type, cases[i].want < 0 ? VALUE_INT : VALUE_UINT);
        assert_true(v.as_int == cases[i].want);
        assert_ptr_equal(r.at, r.end);
    }
}

static void every_encoding_of_a_string_is_read(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
    } cases[] = {
        {"\xa2hi", 3}, {"\xd9\x02hi", 4}, {"\xda\x00\x02hi", 5}, {"\xdb\x00\x00\x00\x02hi", 7}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct reader r;
        struct value v;

        reader_init(&r, cases[i].bytes, cases[i].len);
        assert_int_equal(reader_next(&r, &v), 0);
        assert_int_equal(v.type, VALUE_STR);
        assert_true(slice_equals(v.bytes, "hi"));
        assert_false(slice_equals(v.bytes, "h"));
    }
}

/* Cut anywhere, it is refused and the reader stays where it was. */
static void cut_values_are_refused(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
    } cases[] = {
        {"\xa2hi", 3},
        {"\xdb\x00\x00\x00\x02hi", 7},
        {"\xc4\x01x", 3},
        {"\xc7\x01\x05x", 4},
        {"\xd5\x05xy", 4},
        {"\xcd\x01\x02", 3},
        {"\xca\x00\x00\x00\x00", 5},
        {"\xdd\x00\x00\x00\x00", 5},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (size_t cut = 0; cut < cases[i].len; cut++) {
            struct reader r;
            struct value v;

            reader_init(&r, cases[i].bytes, cut);
            assert_int_equal(reader_next(&r, &v), -EBADMSG);
            assert_int_equal(reader_skip(&r), -EBADMSG);
            assert_ptr_equal(r.at, cases[i].bytes);
        }
    }
}

static void lies_are_refused(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
    } skips[] = {
        {"\xc1", 1},
        {"\x92\x01", 2},
        {"\x81\x01", 2},
        {"\x92\x01\xc1", 3},
        {"\xdd\xff\xff\xff\xff", 5},
        {"\xdf\xff\xff\xff\xff", 5},
        {"\xdf\x80\x00\x00\x00\x01", 6},
    };
    struct reader r;
    struct value v;

    (void)state;
    for (size_t i = 0; i < sizeof skips / sizeof skips[0]; i++) {
        reader_init(&r, skips[i].bytes, skips[i].len);
        assert_int_equal(reader_skip(&r), -EBADMSG);
    }
    reader_init(&r, "\xc1", 1);
    assert_int_equal(reader_next(&r, &v), -EBADMSG);
    reader_init(&r, NULL, 0);
    assert_int_equal(reader_next(&r, &v), -EBADMSG);
    assert_int_equal(reader_skip(&r), -EBADMSG);
    /* The largest counts are read as they are; whoever loops over them meets the end. */
    reader_init(&r, "\xdf\xff\xff\xff\xff", 5);
    assert_int_equal(reader_next(&r, &v), 0);
    assert_int_equal(v.count, UINT32_MAX);
}

static void deep_values_are_skipped_without_recursion(void **state)
{
    size_t len = 1000000;
    char *bytes = malloc(len);
    struct reader r;

    (void)state;
    memset(bytes, 0x91, len);
    bytes[len - 1] = 0;
    reader_init(&r, bytes, len);
    assert_int_equal(reader_skip(&r), 0);
    assert_ptr_equal(r.at, r.end);
    reader_init(&r, bytes, len - 1);
    assert_int_equal(reader_skip(&r), -EBADMSG);
    free(bytes);
}

static void types_have_names(void **state)
{
    (void)state;
    assert_string_equal(value_type_name(VALUE_NIL), "nil");
    assert_string_equal(value_type_name(VALUE_BOOL), "a boolean");
    assert_string_equal(value_type_name(VALUE_UINT), "an integer");
    assert_string_equal(value_type_name(VALUE_INT), "an integer");
    assert_string_equal(value_type_name(VALUE_FLOAT), "a float");
    assert_string_equal(value_type_name(VALUE_DOUBLE), "a float");
    assert_string_equal(value_type_name(VALUE_STR), "a string");
    assert_string_equal(value_type_name(VALUE_BIN), "binary");
    assert_string_equal(value_type_name(VALUE_ARRAY), "an array");
    assert_string_equal(value_type_name(VALUE_MAP), "a map");
    assert_string_equal(value_type_name(VALUE_EXT), "an extension");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_values_read_as_msgpack_reads_them),
        cmocka_unit_test(every_encoding_of_an_integer_is_read),
        cmocka_unit_test(every_encoding_of_a_string_is_read),
        cmocka_unit_test(cut_values_are_refused),
        cmocka_unit_test(lies_are_refused),
        cmocka_unit_test(deep_values_are_skipped_without_recursion),
        cmocka_unit_test(types_have_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
