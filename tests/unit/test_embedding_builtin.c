/* Goal of this test: the builtin embedder gives unit vectors that are the same bits everywhere,
 * finds texts that share words, and takes any bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "daemon/embedding.h"
#include "daemon/letters.h"

#define DIM BUILTIN_DIMENSION

static struct slice text_of(const char *text)
{
    return (struct slice){text, strlen(text)};
}

static void embed(const char *text, float ret[DIM])
{
    embedding_builtin(text_of(text), ret);
}

static double product(const float *a, const float *b)
{
    double sum = 0;

    for (int i = 0; i < DIM; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

static double similarity(const char *a, const char *b)
{
    float va[DIM], vb[DIM];

    embed(a, va);
    embed(b, vb);
    return product(va, vb);
}

static void test_unit_length(void **state)
{
    static const char *const texts[] = {"a", "Hello there", "", "?!", "\xff\xfe", "数据库", "🙂"};
    float v[DIM];

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        embed(texts[i], v);
        assert_true(fabs(product(v, v) - 1) < 1e-5);
    }
}

/* The bits are part of the model's name: a change here needs a new name for the model. */
static void test_same_bits_everywhere(void **state)
{
    float v[DIM];

    (void)state;
    embed("User: Where is my parcel?\nAI: Ваша посылка в пути. 荷物は配送中です。 Größe, ΟΔΟΣ 42.",
          v);
    assert_int_equal(XXH3_64bits(v, sizeof v), 0x8ec0403ee9f309c4u);
}

static void test_no_feature_is_a_fixed_vector(void **state)
{
    float empty[DIM], blank[DIM], marks[DIM];

    (void)state;
    embed("", empty);
    embed(" \n\t", blank);
    embed("... --- ?! 、。「」", marks);
    assert_memory_equal(empty, blank, sizeof empty);
    assert_memory_equal(empty, marks, sizeof empty);
    assert_true(fabs(similarity("", "I would like a table for two")) < 0.2);
}

static void test_case_and_punctuation_do_not_count(void **state)
{
    static const char *const pairs[][2] = {
        {"Hello, WORLD", "hello world"},
        {"ÀÉÎÕÜ ŁÓDŹ ŽŠČ", "àéîõü łódź žšč"},
        {"ΚΑΛΗΜΈΡΑ ΚΌΣΜΟΣ", "καλημέρα κόσμος"},
        {"ПРИВЕТ, ЁЖ И ЇЖАК", "привет ёж и їжак"},
        {"ＡＢＣ１２３", "abc123"},
        {"TIẾNG VIỆT", "tiếng việt"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++)
        assert_true(similarity(pairs[i][0], pairs[i][1]) > 0.9999);
}

static void test_texts_without_blanks_share_features(void **state)
{
    (void)state;
    double near = similarity("请帮我预订明天晚上的酒店房间", "我想预订酒店房间");
    double far = similarity("请帮我预订明天晚上的酒店房间", "银行账户余额是多少");

    assert_true(near > 0.3);
    assert_true(far < 0.15);
}

static void test_shared_words_are_near(void **state)
{
    const char *question = "The invoice from March was charged twice to my card";

    (void)state;
    assert_true(similarity(question, "my card was charged twice for the March invoice") > 0.5);
    assert_true(similarity(question, "what will the weather be like in Lisbon tomorrow") < 0.25);
}

static void test_letters_take_any_bytes(void **state)
{
    unsigned char bytes[64];

    (void)state;
    srand(1);
    for (int round = 0; round < 20000; round++) {
        size_t len = (size_t)rand() % sizeof bytes, at = 0;
        struct slice text = {(const char *)bytes, len};

        for (size_t i = 0; i < len; i++)
            bytes[i] = (unsigned char)rand();
        while (at < len) {
            size_t before = at;

            assert_true(letters_next(text, &at) <= 0x10ffff);
            assert_true(at > before && at <= len);
        }
    }
}

/* Made-up conversations; a tenth of the words of each is changed, and it must still find itself. */
enum { TEXTS = 400, WORDS = 120, LEXICON = 900 };

static void word_text(unsigned word, char ret[16])
{
    static const char *const syllables[] = {"ka", "lo", "mi", "ter", "san", "vu", "pe", "ron"};

    snprintf(ret, 16, "%s%s%s", syllables[word % 8], syllables[word / 8 % 8],
             syllables[word / 64 % 8]);
    snprintf(ret + strlen(ret), 4, "%c", 'a' + (int)(word % 26));
}

static void sentence(const unsigned words[WORDS], char *ret)
{
    char word[16];

    *ret = '\0';
    for (int i = 0; i < WORDS; i++) {
        word_text(words[i], word);
        ret = stpcpy(stpcpy(ret, word), " ");
    }
}

static void test_near_duplicates_rank_first(void **state)
{
    static unsigned words[TEXTS][WORDS];
    static float vectors[TEXTS][DIM];
    char text[WORDS * 16 + 1];
    float query[DIM];
    int first = 0;

    (void)state;
    srand(2);
    for (int i = 0; i < TEXTS; i++) {
        for (int k = 0; k < WORDS; k++) /* the square makes some words common, as in a language */
            words[i][k] = (unsigned)((rand() % LEXICON) * (rand() % LEXICON) / LEXICON);
        sentence(words[i], text);
        embed(text, vectors[i]);
    }
    for (int i = 0; i < TEXTS; i++) {
        int best = 0;

        for (int k = 0; k < WORDS; k += 10)
            words[i][k + rand() % 10] = (unsigned)rand() % LEXICON;
        sentence(words[i], text);
        embed(text, query);
        for (int k = 1; k < TEXTS; k++)
            if (product(query, vectors[k]) > product(query, vectors[best]))
                best = k;
        first += best == i;
    }
    assert_true(first >= TEXTS * 95 / 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unit_length),
        cmocka_unit_test(test_same_bits_everywhere),
        cmocka_unit_test(test_no_feature_is_a_fixed_vector),
        cmocka_unit_test(test_case_and_punctuation_do_not_count),
        cmocka_unit_test(test_texts_without_blanks_share_features),
        cmocka_unit_test(test_shared_words_are_near),
        cmocka_unit_test(test_letters_take_any_bytes),
        cmocka_unit_test(test_near_duplicates_rank_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
