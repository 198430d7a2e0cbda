/* Goal of this test: a reply is believed only where count, dimension, finiteness and norm are
 * right, and a failure's class follows from its words before its status. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/embedding_reply.h"
#include "daemon/json_scan.h"

static struct slice slice_of(const char *text)
{
    return (struct slice){text, strlen(text)};
}

/* Reads a reply for two inputs of three dimensions. */
static struct two {
    float values[2][3];
    struct embed_input inputs[2];
} two;

static int read_two(const char *body)
{
    struct embed_input *inputs[2] = {&two.inputs[0], &two.inputs[1]};
    char error[256] = "";
    int rc;

    memset(&two, 0, sizeof two);
    two.inputs[0].values = two.values[0];
    two.inputs[1].values = two.values[1];
    rc = embedding_reply_ollama(slice_of(body), inputs, 2, 3, error);
    assert_int_equal(rc != 0, error[0] != '\0');
    return rc;
}

static void test_good_replies(void **state)
{
    (void)state;
    assert_int_equal(read_two("{\"model\":\"m\",\"embeddings\":[[0.5,-1e-2,3],[1,0,0]],"
                              "\"total_duration\":14143917,\"other\":{\"a\":[1,{\"b\":null}]}}"),
                     0);
    assert_int_equal(two.inputs[0].error, 0);
    assert_true(two.values[0][0] == 0.5f && two.values[0][1] == -0.01f && two.values[0][2] == 3);
    assert_true(two.values[1][0] == 1);
    assert_int_equal(read_two(" {\n\"embeddings\" : [ [ 1 , 2 , 3 ] , [ 4 , 5 , 6 ] ] } \n"), 0);
    assert_true(two.values[1][2] == 6);
}

static void test_one_bad_vector_costs_its_own_input(void **state)
{
    static const char *const bad[] = {"[1,2]",       "[1,2,3,4]", "[0,0,0]", "[1,null,3]",
                                      "[1e999,0,0]", "[]",        "null",    "[-0.0,0,1e-400]"};
    char body[256];

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        snprintf(body, sizeof body, "{\"embeddings\":[%s,[1,2,3]]}", bad[i]);
        assert_int_equal(read_two(body), 0);
        assert_int_equal(two.inputs[0].error, -EINVAL);
        assert_int_equal(two.inputs[1].error, 0);
    }
}

static void test_replies_that_are_refused_whole(void **state)
{
    static const char *const bad[] = {
        "",
        "{",
        "[]",
        "null",
        "{}",
        "{\"embeddings\":[]}",
        "{\"embeddings\":[[1,2,3]]}",
        "{\"embeddings\":[[1,2,3],[1,2,3],[1,2,3]]}",
        "{\"embeddings\":[[1,2,3],[1,2,3]]",
        "{\"embeddings\":[[1,2,3],[1,2,3]]}}",
        "{\"embeddings\":[[1,2,3],[1,2,",
        "{\"embeddings\":[[1,2,3],[1,2,x]]}",
        "{\"embeddings\":[[1,2,3],[1,2,.5]]}",
        "{\"embeddings\":[[1,2,3],[1,2,5.]]}",
        "{\"embeddings\":[[1,2,3],[1,2,1e]]}",
        "{\"embeddings\":[[1,2,3],[1,2,NaN]]}",
        "{\"embeddings\":{\"0\":[1,2,3]}}",
        "{\"embeddings\":[[1,2,3],[1,2,3]],}",
        ("{\"x\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]],"
         "\"embeddings\":[[1,2,3],[1,2,3]]}"),
    };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(read_two(bad[i]), -EBADMSG);
    assert_int_equal(read_two("{\"embeddings\":[[1,2],[1,2]]}"), -EDOM);
    assert_int_equal(read_two("{\"embeddings\":[[1,2,3,4],[1,2]]}"), -EDOM);
}

static void test_numbers_come_out_as_strtof_reads_them(void **state)
{
    char text[64];
    float mine;

    (void)state;
    srand(4);
    for (int i = 0; i < 200000; i++) {
        double value = ((double)rand() / RAND_MAX - 0.5) * pow(10, rand() % 60 - 40);
        struct json_scan s;

        snprintf(text, sizeof text, "%.*g", 1 + rand() % 20, value);
        s = json_scan_start(slice_of(text));
        assert_int_equal(json_scan_float(&s, &mine), 0);
        assert_true(json_scan_at_end(&s));
        assert_true(fabsf(mine - strtof(text, NULL)) <= fabsf(mine) * 1.2e-7f + 1.5e-45f);
    }
}

static void test_numbers_at_the_edges(void **state)
{
    static const struct {
        const char *text;
        float value;
    } cases[] = {
        {"0", 0},
        {"-0.0", 0},
        {"1e38", 1e38f},
        {"1e39", INFINITY},
        {"-1e999999999999", -INFINITY},
        {"1e-999999999999", 0},
        {"0.000000000000000000000000000000000000000000000001e48", 1},
        {"100000000000000000000000000000000000000", 1e38f},
        {"0.10000000000000000000000000000000000000000000000", 0.1f},
        {"123456789012345678901234567890e-29", 1.2345679f},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct json_scan s = json_scan_start(slice_of(cases[i].text));
        float value;

        assert_int_equal(json_scan_float(&s, &value), 0);
        assert_true(value == cases[i].value);
    }
}

static void test_classes(void **state)
{
    static const struct {
        long status;
        const char *body;
        enum reply_class class;
    } cases[] = {
        {200, "", REPLY_VECTORS},
        {404, "{\"error\":\"model \\\"x\\\" not found, try pulling it first\"}", REPLY_CONFIG},
        {401, "", REPLY_CONFIG},
        {403, "", REPLY_CONFIG},
        {301, "", REPLY_CONFIG},
        {405, "", REPLY_CONFIG},
        {408, "", REPLY_TRANSIENT},
        {429, "", REPLY_LIMITED},
        {500, "{\"error\":\"boom\"}", REPLY_FAILED},
        {502, "", REPLY_TRANSIENT},
        {503, "{\"error\":\"server busy, please try again.\"}", REPLY_TRANSIENT},
        {504, "", REPLY_TRANSIENT},
        {400, "{\"error\":\"do embedding request: Post \\\"http://…\\\": EOF\"}", REPLY_CRASHED},
        {400, "{\"error\":\"the input length exceeds the context length\"}", REPLY_TOO_LONG},
        {500, "input (900 tokens) is too large to process", REPLY_TOO_LONG},
        {422, "inputs must have less than 512 tokens", REPLY_TOO_LONG},
        {413, "", REPLY_TOO_LONG},
        {400, "{\"error\":\"embedding contains NaN or Inf values\"}", REPLY_BAD_INPUT},
        {500, "{\"error\":\"json: unsupported value: NaN\"}", REPLY_BAD_INPUT},
        {400, "{\"error\":\"something else\"}", REPLY_BAD_INPUT},
        {422, "", REPLY_BAD_INPUT},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(embedding_reply_classify(cases[i].status, slice_of(cases[i].body)),
                         cases[i].class);
}

static void test_messages_are_one_clean_line(void **state)
{
    char message[128];

    (void)state;
    embedding_reply_message(slice_of("{\"error\":\"model \\\"x\\\" not found\\nline\"}"), message);
    assert_string_equal(message, "model \"x\" not found?line");
    embedding_reply_message(slice_of("{\"error\":{\"message\":\"no key\"}}"), message);
    assert_string_equal(message, "no key");
    embedding_reply_message(slice_of("<html>busy</html>"), message);
    assert_string_equal(message, "");
    embedding_reply_message((struct slice){NULL, 0}, message);
    assert_string_equal(message, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_replies),
        cmocka_unit_test(test_one_bad_vector_costs_its_own_input),
        cmocka_unit_test(test_replies_that_are_refused_whole),
        cmocka_unit_test(test_numbers_come_out_as_strtof_reads_them),
        cmocka_unit_test(test_numbers_at_the_edges),
        cmocka_unit_test(test_classes),
        cmocka_unit_test(test_messages_are_one_clean_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
