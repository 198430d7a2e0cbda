/* The item that flows: packing, unpacking, order, lists; and the content hash that tells a resend
 * from a reused id. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/conversation.h"

#define SLICE(text)                                                                                \
    {                                                                                              \
        text, sizeof(text) - 1                                                                     \
    }

static const uint8_t id[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

static struct conversation_fields sample(void)
{
    return (struct conversation_fields){
        .user_id = SLICE("ann"),
        .platform = SLICE("web"),
        .transcript = SLICE("User: hi\nAI: hello"),
        .summary = SLICE("A greeting"),
        .metadata = SLICE("{\"a\":1}"),
        .has_created_at = true,
        .created_at_us = 1700000000123456,
    };
}

static struct conversation *make(const struct conversation_fields *fields)
{
    struct conversation *c = conversation_new(fields, id, 1800000000000000);

    assert_non_null(c);
    return c;
}

static void test_holds_what_it_was_given(void **state)
{
    struct conversation_fields fields = sample();
    struct conversation *c = make(&fields);

    (void)state;
    assert_true(slice_equals(conversation_user_id(c), "ann"));
    assert_true(slice_equals(conversation_platform(c), "web"));
    assert_true(slice_equals(conversation_transcript(c), "User: hi\nAI: hello"));
    assert_true(slice_equals(conversation_summary(c), "A greeting"));
    assert_true(slice_equals(conversation_metadata(c), "{\"a\":1}"));
    assert_memory_equal(conversation_header(c)->id, id, 16);
    assert_int_equal(conversation_header(c)->created_at_us, 1700000000123456);
    assert_int_equal(conversation_header(c)->arrived_at_us, 1800000000000000);
    conversation_free(c);
}

static void test_absent_is_not_empty(void **state)
{
    struct conversation_fields fields = sample();
    struct conversation *c;

    (void)state;
    fields.summary = (struct slice){"", 0};
    fields.metadata = (struct slice){NULL, 0};
    fields.has_created_at = false;
    c = make(&fields);
    assert_non_null(conversation_summary(c).data);
    assert_int_equal(conversation_summary(c).len, 0);
    assert_null(conversation_metadata(c).data);
    assert_int_equal(conversation_header(c)->created_at_us, 1800000000000000);
    conversation_free(c);
}

static void test_unpack_gives_the_same(void **state)
{
    struct conversation_fields fields = sample();
    struct conversation *c = make(&fields), *back = NULL;

    (void)state;
    assert_int_equal(conversation_unpack(c->packed, c->packed_len, &back), 0);
    assert_int_equal(back->packed_len, c->packed_len);
    assert_memory_equal(back->packed, c->packed, c->packed_len);
    assert_true(back->replayed);
    conversation_free(back);
    conversation_free(c);
}

/* Whatever lengths the bytes claim, none is read beyond their end (ASan watches). */
static void test_unpack_refuses_damage(void **state)
{
    struct conversation_fields fields = sample();
    struct conversation *c = make(&fields), *back = NULL;

    (void)state;
    for (size_t len = 0; len < c->packed_len; len++) {
        uint8_t *cut = malloc(len + 1);

        memcpy(cut, c->packed, len);
        assert_int_equal(conversation_unpack(cut, len, &back), -EBADMSG);
        free(cut);
    }
    for (size_t i = 48; i < sizeof(struct packed_conversation); i++) { /* flags and lengths */
        uint8_t *bent = malloc(c->packed_len);

        memcpy(bent, c->packed, c->packed_len);
        bent[i] ^= 0xff;
        if (conversation_unpack(bent, c->packed_len, &back) == 0) {
            assert_true(i < 52); /* unknown flags alone leave the lengths whole */
            conversation_free(back);
        }
        free(bent);
    }
    conversation_free(c);
}

static void expect_hash(const struct conversation_fields *fields, bool same)
{
    struct conversation_fields first = sample();
    struct conversation *a = make(&first), *b = make(fields);
    int differ =
        memcmp(conversation_header(a)->content_hash, conversation_header(b)->content_hash, 16);

    assert_int_equal(differ == 0, same);
    conversation_free(a);
    conversation_free(b);
}

static void test_content_hash(void **state)
{
    struct conversation_fields fields;

    (void)state;
    fields = sample();
    expect_hash(&fields, true);
    fields.user_id = (struct slice)SLICE("bob"); /* part of the key, not of the content */
    expect_hash(&fields, true);
    fields = sample();
    fields.transcript = (struct slice)SLICE("User: hi\nAI: hellO");
    expect_hash(&fields, false);
    fields = sample();
    fields.platform = (struct slice)SLICE("webUser: hi"); /* bytes that move between fields */
    fields.transcript = (struct slice)SLICE("\nAI: hello");
    expect_hash(&fields, false);
    fields = sample();
    fields.summary = (struct slice){NULL, 0};
    expect_hash(&fields, false);
    fields = sample();
    fields.metadata = (struct slice){NULL, 0};
    expect_hash(&fields, false);
    fields = sample();
    fields.created_at_us++;
    expect_hash(&fields, false);
    fields = sample();
    fields.has_created_at = false;
    expect_hash(&fields, false);
}

/* A resend without created_at arrives at another time: still the same content. */
static void test_arrival_is_no_content(void **state)
{
    struct conversation_fields fields = sample();
    struct conversation *a, *b;

    (void)state;
    fields.has_created_at = false;
    a = conversation_new(&fields, id, 1);
    b = conversation_new(&fields, id, 2);
    assert_memory_equal(conversation_header(a)->content_hash, conversation_header(b)->content_hash,
                        16);
    conversation_free(a);
    conversation_free(b);
}

static void test_order_is_that_of_the_key(void **state)
{
    struct conversation_fields fields = sample();
    uint8_t later[16] = {1, 2, 4};
    struct conversation *ann, *annie, *ann_later;

    (void)state;
    ann = make(&fields);
    ann_later = conversation_new(&fields, later, 0);
    fields.user_id = (struct slice)SLICE("annie");
    annie = make(&fields);
    assert_true(conversation_compare(ann, annie) < 0);
    assert_true(conversation_compare(annie, ann_later) > 0);
    assert_true(conversation_compare(ann, ann_later) < 0);
    assert_int_equal(conversation_compare(ann, ann), 0);
    conversation_free(ann);
    conversation_free(annie);
    conversation_free(ann_later);
}

static void test_list(void **state)
{
    struct conversation_fields fields = sample();
    struct conversation_list list = {0};
    struct conversation *a = make(&fields), *b = make(&fields), *c = make(&fields);

    (void)state;
    conversation_list_push(&list, b);
    conversation_list_push(&list, c);
    conversation_list_push_front(&list, a);
    assert_int_equal(list.count, 3);
    assert_int_equal(list.bytes, 3 * conversation_bytes(a));
    assert_ptr_equal(conversation_list_pop(&list), a);
    assert_ptr_equal(conversation_list_pop(&list), b);
    assert_ptr_equal(conversation_list_pop(&list), c);
    assert_null(conversation_list_pop(&list));
    assert_int_equal(list.bytes, 0);
    conversation_list_push_front(&list, a);
    assert_ptr_equal(list.tail, a);
    assert_ptr_equal(conversation_list_pop(&list), a);
    conversation_free(a);
    conversation_free(b);
    conversation_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_holds_what_it_was_given),
        cmocka_unit_test(test_absent_is_not_empty),
        cmocka_unit_test(test_unpack_gives_the_same),
        cmocka_unit_test(test_unpack_refuses_damage),
        cmocka_unit_test(test_content_hash),
        cmocka_unit_test(test_arrival_is_no_content),
        cmocka_unit_test(test_order_is_that_of_the_key),
        cmocka_unit_test(test_list),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
