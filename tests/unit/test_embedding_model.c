/* Goal of this test: what the configuration leaves open is filled in from the model's name or asked
 * for, and the text that stands for a conversation is cut between two characters. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/embedding_model.h"
#include "daemon/embedding_text.h"

static const char *const automatic = "auto";

static int resolve(const char *provider, const char *model, uint64_t dimensions, const char *prefix,
                   struct embedding_model *ret)
{
    struct config config = {0};
    char error[256] = "";
    int rc;

    config.embedding.provider = (char *)provider;
    config.embedding.model = (char *)model;
    config.embedding.dimensions = dimensions;
    config.embedding.document_prefix = (char *)prefix;
    config.embedding.source = (char *)"summary";
    config.embedding.storage = (char *)"vector";
    rc = embedding_model_resolve(&config, ret, error);
    assert_int_equal(rc != 0, strstr(error, "embedding.dimensions") != NULL);
    return rc;
}

static void check(const char *model, uint64_t dimensions, const char *prefix, uint32_t dimension,
                  const char *expected_prefix)
{
    struct embedding_model found;

    assert_int_equal(resolve("ollama", model, dimensions, prefix, &found), 0);
    assert_string_equal(found.provider, "ollama");
    assert_string_equal(found.model, model);
    assert_int_equal(found.dimension, dimension);
    assert_string_equal(found.prefix, expected_prefix);
    assert_string_equal(found.source, "summary");
    assert_string_equal(found.storage, "vector");
}

static void test_known_models(void **state)
{
    (void)state;
    check("nomic-embed-text", 0, automatic, 768, "search_document: ");
    check("nomic-embed-text:v1.5", 0, automatic, 768, "search_document: ");
    check("hub.example/team/nomic-embed-text:latest", 0, automatic, 768, "search_document: ");
    check("nomic-embed-text", 256, automatic, 256, "search_document: ");
    check("nomic-embed-text", 0, "", 768, "");
    check("nomic-embed-text", 0, "mine: ", 768, "mine: ");
    check("qwen3-embedding:0.6b", 0, automatic, 1024, "");
    check("qwen3-embedding", 0, automatic, 4096, "");
    check("someone/unheard-of", 512, automatic, 512, "");
}

static void test_unknown_dimensions_are_asked_for(void **state)
{
    struct embedding_model found = {.model = "untouched"};

    (void)state;
    assert_int_equal(resolve("ollama", "unheard-of", 0, automatic, &found), -EINVAL);
    assert_int_equal(resolve("ollama", "nomic-embed-tex", 0, automatic, &found), -EINVAL);
    assert_int_equal(resolve("ollama", "qwen3-embedding:1b", 0, automatic, &found), -EINVAL);
    assert_int_equal(resolve("builtin", "any", 512, automatic, &found), -EINVAL);
    assert_string_equal(found.model, "untouched");
}

static void test_providers_without_a_model(void **state)
{
    struct embedding_model found;

    (void)state;
    assert_int_equal(resolve("builtin", "any", 0, automatic, &found), 0);
    assert_string_equal(found.model, "hash-v1");
    assert_int_equal(found.dimension, 768);
    assert_string_equal(found.prefix, "");
    assert_int_equal(resolve("none", "any", 0, automatic, &found), 0);
    assert_int_equal(found.dimension, 0);
}

static void test_cut(void **state)
{
    const char *const text = "aé€🙂";
    const size_t ends[] = {0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10, 10};

    (void)state;
    for (size_t max = 0; max < sizeof ends / sizeof ends[0]; max++)
        assert_int_equal(embedding_text_cut((struct slice){text, 10}, max).len, ends[max]);
}

static struct conversation *conversation_of(const char *transcript, const char *summary)
{
    static const uint8_t id[16] = {1};
    struct conversation_fields fields = {
        .user_id = {"u", 1},
        .platform = {"p", 1},
        .transcript = {transcript, strlen(transcript)},
    };
    struct conversation *c;

    if (summary != NULL)
        fields.summary = (struct slice){summary, strlen(summary)};
    c = conversation_new(&fields, id, 0);
    assert_non_null(c);
    return c;
}

static void check_text(const char *transcript, const char *summary, const char *expected)
{
    struct conversation *c = conversation_of(transcript, summary);
    struct slice text = embedding_text(c);

    assert_int_equal(text.len, strlen(expected));
    assert_memory_equal(text.data, expected, text.len);
    conversation_free(c);
}

static void test_summary_or_transcript(void **state)
{
    char *text = malloc(3 * EMBEDDING_TEXT_MAX_BYTES + 1);

    (void)state;
    check_text("User: hello", "a greeting", "a greeting");
    check_text("User: hello", NULL, "User: hello");
    check_text("User: hello", "", "User: hello");
    check_text("User: hello", " - ", "User: hello");
    memset(text, 'a', 3 * EMBEDDING_TEXT_MAX_BYTES);
    text[3 * EMBEDDING_TEXT_MAX_BYTES] = '\0';
    for (int i = 0; i < 2; i++) {
        struct conversation *c = conversation_of(text, i == 0 ? NULL : text);

        assert_int_equal(embedding_text(c).len, EMBEDDING_TEXT_MAX_BYTES);
        conversation_free(c);
    }
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_models),
        cmocka_unit_test(test_unknown_dimensions_are_asked_for),
        cmocka_unit_test(test_providers_without_a_model),
        cmocka_unit_test(test_cut),
        cmocka_unit_test(test_summary_or_transcript),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
