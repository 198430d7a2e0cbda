/* Goal of this test: chunks cover a transcript without a gap, overlap, end between turns where they
 * can and never inside a character; a set gives a row all of its vectors or none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/embedding_set.h"
#include "daemon/embedding_text.h"
#include "proto/utf8.h"

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

/* All pieces; their number. */
static size_t cut(const struct conversation *c, enum embedding_source source,
                  struct embedding_piece pieces[], size_t max)
{
    struct embedding_cutter cutter = embedding_cutter_start(c, source);
    size_t count = 0;

    while (count < max && embedding_cutter_next(&cutter, &pieces[count]))
        count++;
    return count;
}

/* The rules that hold for every transcript. */
static void check_chunks(const char *text)
{
    static struct embedding_piece pieces[EMBEDDING_CHUNKS_MAX + 1];
    struct conversation *c = conversation_of(text, NULL);
    size_t count = cut(c, SOURCE_TRANSCRIPT, pieces, EMBEDDING_CHUNKS_MAX + 1);
    size_t end = 0;

    assert_in_range(count, 1, EMBEDDING_CHUNKS_MAX);
    for (size_t i = 0; i < count; i++) {
        const struct embedding_piece *piece = &pieces[i];

        assert_int_equal(piece->text.len, piece->byte_end - piece->byte_start);
        assert_memory_equal(piece->text.data, text + piece->byte_start, piece->text.len);
        assert_in_range(piece->text.len, 1, EMBEDDING_CHUNK_BYTES);
        assert_true(utf8_first_bad(piece->text.data, piece->text.len) < 0);
        if (i > 0) {
            assert_in_range(piece->byte_start, pieces[i - 1].byte_start + 1, end - 1);
            assert_in_range(end - piece->byte_start, 1, 2 * EMBEDDING_CHUNK_OVERLAP);
        } else {
            assert_int_equal(piece->byte_start, 0);
        }
        end = piece->byte_end;
    }
    assert_int_equal(end, strlen(text));
    conversation_free(c);
}

static void test_turns_stay_together(void **state)
{
    static struct embedding_piece pieces[64];
    char *text = calloc(1, 20000);
    struct conversation *c;
    size_t count, len = 0;

    (void)state;
    for (int turn = 0; len < 15000; turn++)
        len += (size_t)sprintf(text + len, "%s: this is turn number %d of them, and it\ngoes on\n",
                               turn % 2 == 0 ? "User" : "AI", turn);
    check_chunks(text);
    c = conversation_of(text, NULL);
    count = cut(c, SOURCE_TRANSCRIPT, pieces, 64);
    assert_in_range(count, 8, 12);
    for (size_t i = 0; i < count; i++)
        assert_true(strncmp(pieces[i].text.data, "User: ", 6) == 0 ||
                    strncmp(pieces[i].text.data, "AI: ", 4) == 0);
    conversation_free(c);
    free(text);
}

static void test_chunks_at_random(void **state)
{
    static const char *const parts[] = {
        "a", " ", "\n", "\nUser: ", "\xc3\xa9", "\xe4\xb8\xad", "\xf0\x9f\x99\x82", "word ", ":"};
    char *text = malloc(40000 + 16);

    (void)state;
    srand(3);
    for (int round = 0; round < 300; round++) {
        size_t target = (size_t)rand() % 40000, kinds = 1 + (size_t)rand() % 9, len = 1;

        text[0] = 'x'; /* something to find */
        text[1] = '\0';
        while (len < target)
            len += (size_t)sprintf(text + len, "%s", parts[(size_t)rand() % kinds]);
        for (size_t i = 0; i < len; i += 50) /* so that no chunk is left out for want of letters */
            if ((unsigned char)text[i] < 0x80)
                text[i] = 'y';
        check_chunks(text);
    }
    free(text);
}

static void test_sources(void **state)
{
    struct embedding_piece pieces[4];
    struct conversation *both = conversation_of("User: hello", "a greeting");
    struct conversation *plain = conversation_of("User: hello", " ");

    (void)state;
    assert_int_equal(cut(both, SOURCE_SUMMARY, pieces, 4), 1);
    assert_memory_equal(pieces[0].text.data, "a greeting", 10);
    assert_int_equal(pieces[0].byte_end, 0);
    assert_int_equal(cut(both, SOURCE_TRANSCRIPT, pieces, 4), 1);
    assert_memory_equal(pieces[0].text.data, "User: hello", 11);
    assert_int_equal(pieces[0].byte_end, 11);
    assert_int_equal(cut(both, SOURCE_BOTH, pieces, 4), 2);
    assert_memory_equal(pieces[0].text.data, "a greeting", 10);
    assert_int_equal(pieces[1].byte_end, 11);
    assert_int_equal(cut(plain, SOURCE_BOTH, pieces, 4), 1);
    assert_int_equal(pieces[0].byte_end, 11);
    assert_int_equal(embedding_source_of("summary"), SOURCE_SUMMARY);
    assert_int_equal(embedding_source_of("transcript"), SOURCE_TRANSCRIPT);
    assert_int_equal(embedding_source_of("both"), SOURCE_BOTH);
    conversation_free(both);
    conversation_free(plain);
}

static void test_halves(void **state)
{
    char text[129];
    struct embedding_piece piece = {{text, 128}, 1000, 1128}, second;

    (void)state;
    memset(text, 'a', 128);
    text[128] = '\0';
    text[59] = '\n';
    assert_true(embedding_piece_halve(&piece, &second));
    assert_int_equal(piece.text.len, 60);
    assert_int_equal(piece.byte_start, 1000);
    assert_int_equal(piece.byte_end, 1060);
    assert_ptr_equal(second.text.data, text + 60);
    assert_int_equal(second.text.len, 68);
    assert_int_equal(second.byte_start, 1060);
    assert_int_equal(second.byte_end, 1128);
    piece = (struct embedding_piece){{text, 128}, 0, 0};
    assert_false(embedding_piece_halve(&piece, &second));
    assert_int_equal(piece.text.len, 60);
    assert_int_equal(piece.byte_end, 0);
}

/* What the stage would do: each item its vector, or an error. */
static void answer(struct embedding_set *set, size_t i, int error)
{
    set->order.items[i].error = error;
    set->order.items[i].vector = error == 0 ? vector_new(2) : NULL;
}

static void test_a_row_gets_all_or_none(void **state)
{
    char text[3 * EMBEDDING_CHUNK_BYTES / 2];
    struct write_row rows[3] = {{0}};
    struct embedding_set set = {0};

    (void)state;
    memset(text, 'a', sizeof text);
    text[sizeof text - 1] = '\0';
    rows[0].conversation = conversation_of(text, "short");
    rows[1].conversation = conversation_of(text, "short");
    rows[2].conversation = conversation_of(" ", NULL);
    assert_int_equal(embedding_set_init(&set, SOURCE_BOTH, rows, 3), 0);
    assert_int_equal(set.order.count, 7);
    for (size_t i = 0; i < 7; i++)
        answer(&set, i, i == 4 ? -E2BIG : i == 5 ? -EAGAIN : i == 6 ? -EINVAL : 0);
    embedding_set_collect(&set);
    assert_int_equal(set.vector_count, 3);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(set.vectors[i].row, 0);
        assert_int_equal(set.vectors[i].chunk, i);
        assert_ptr_equal(set.vectors[i].values, set.order.items[i].vector->values);
    }
    assert_int_equal(set.vectors[0].byte_end, 0);
    assert_int_equal(set.vectors[2].byte_end, sizeof text - 1);
    assert_int_equal(embedding_set_error(&set, 0), 0);
    assert_int_equal(embedding_set_error(&set, 1), -E2BIG);
    assert_int_equal(embedding_set_error(&set, 2), 0); /* blank: nothing is missing */

    set.order.cached_only = true;
    assert_true(embedding_set_halve(&set));
    assert_true(set.order.cached_only);
    assert_int_equal(set.order.count, 8);
    for (size_t i = 0; i < 8; i++)
        answer(&set, i, 0);
    embedding_set_collect(&set);
    assert_int_equal(set.vector_count, 8);
    assert_int_equal(set.vectors[4].row, 1);
    assert_int_equal(set.vectors[4].chunk, 1);
    assert_int_equal(set.vectors[4].byte_end, set.vectors[5].byte_start);
    assert_int_equal(set.vectors[6].chunk, 3);
    assert_false(embedding_set_halve(&set));
    embedding_set_done(&set);
    for (size_t i = 0; i < 3; i++)
        conversation_free(rows[i].conversation);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_turns_stay_together),
        cmocka_unit_test(test_chunks_at_random),
        cmocka_unit_test(test_sources),
        cmocka_unit_test(test_halves),
        cmocka_unit_test(test_a_row_gets_all_or_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
