/* Conversations in memory, found by user and id. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "daemon/pending.h"

static struct pending pending;

static struct slice text(const char *s)
{
    return (struct slice){s, strlen(s)};
}

static struct conversation *make(const char *user, const uint8_t id[16])
{
    struct conversation_fields fields = {
        .user_id = text(user), .platform = text("p"), .transcript = text("t")};
    struct conversation *c = conversation_new(&fields, id, 1);

    assert_non_null(c);
    return c;
}

static void a_user_and_an_id_find_it(void **state)
{
    struct conversation *all[1000];
    uint8_t id[16] = {0};

    (void)state;
    for (int i = 0; i < 1000; i++) {
        id[0] = (uint8_t)(i / 2), id[1] = (uint8_t)(i / 512);
        all[i] = make(i % 2 == 0 ? "ann" : "bob", id);
        pending_add(&pending, all[i]);
    }
    for (int i = 0; i < 1000; i++) {
        id[0] = (uint8_t)(i / 2), id[1] = (uint8_t)(i / 512);
        assert_ptr_equal(pending_find(&pending, text(i % 2 == 0 ? "ann" : "bob"), id), all[i]);
        assert_null(pending_find(&pending, text("an"), id));
        assert_null(pending_find(&pending, text("anna"), id));
    }
    for (int i = 0; i < 1000; i++) {
        id[0] = (uint8_t)(i / 2), id[1] = (uint8_t)(i / 512);
        pending_remove(all[i]);
        conversation_free(all[i]);
        assert_null(pending_find(&pending, text(i % 2 == 0 ? "ann" : "bob"), id));
    }
}

static void the_same_may_be_there_twice(void **state)
{
    const uint8_t id[16] = {7};
    struct conversation *first = make("ann", id), *second = make("ann", id);

    (void)state;
    pending_add(&pending, first);
    pending_add(&pending, second);
    pending_remove(second);
    conversation_free(second);
    assert_ptr_equal(pending_find(&pending, text("ann"), id), first);
    pending_remove(first);
    conversation_free(first);
    assert_null(pending_find(&pending, text("ann"), id));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_user_and_an_id_find_it),
        cmocka_unit_test(the_same_may_be_there_twice),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
