/* Random appends and consumes against a plain copy of what must be there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "daemon/inbox.h"

#define MODEL_BYTES (1 << 20)

static void test_against_model(void **state)
{
    static uint8_t model[MODEL_BYTES], piece[5000];
    struct inbox in = {0};
    size_t start = 0, end = 0;

    (void)state;
    srandom(7);
    while (end < MODEL_BYTES - sizeof piece) {
        size_t len = (size_t)random() % sizeof piece;

        for (size_t i = 0; i < len; i++)
            piece[i] = (uint8_t)random();
        assert_int_equal(inbox_append(&in, piece, len), 0);
        memcpy(model + end, piece, len);
        end += len;
        assert_int_equal(inbox_len(&in), end - start);
        assert_memory_equal(inbox_data(&in), model + start, end - start);
        len = (size_t)random() % (end - start + 1);
        inbox_consume(&in, len);
        start += len;
        assert_int_equal(inbox_len(&in), end - start);
        if (end > start)
            assert_memory_equal(inbox_data(&in), model + start, end - start);
        else
            assert_null(in.data); /* empty: no memory held */
    }
    inbox_done(&in);
    assert_int_equal(inbox_len(&in), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_model)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
