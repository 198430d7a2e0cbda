/* Pieces of conversations beside the items of one order. Owns the arrays and a reference to each
 * vector that came; lives on the loop thread.
 *
 * Invariant: pieces, rows and order.items run side by side, sorted by row and by place in the
 * conversation, so that a piece's chunk number is its place among those of its row. */
#include "daemon/embedding_set.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int set_alloc(struct embedding_set *set, size_t capacity)
{
    if (capacity == 0)
        return 0;
    set->pieces = calloc(capacity, sizeof *set->pieces);
    set->rows = calloc(capacity, sizeof *set->rows);
    set->vectors = calloc(capacity, sizeof *set->vectors);
    set->order.items = calloc(capacity, sizeof *set->order.items);
    set->capacity = capacity;
    return set->pieces != NULL && set->rows != NULL && set->vectors != NULL &&
                   set->order.items != NULL
               ? 0
               : -ENOMEM;
}

static void set_add(struct embedding_set *set, uint32_t row, const struct embedding_piece *piece)
{
    size_t i = set->order.count++;

    assert(i < set->capacity);
    set->pieces[i] = *piece;
    set->rows[i] = row;
    set->order.items[i].text = piece->text;
}

int embedding_set_init(struct embedding_set *set, enum embedding_source source,
                       const struct write_row *rows, size_t count)
{
    struct embedding_piece piece;
    size_t pieces = 0;

    for (size_t i = 0; i < count; i++) {
        struct embedding_cutter cutter = embedding_cutter_start(rows[i].conversation, source);

        while (embedding_cutter_next(&cutter, &piece))
            pieces++;
    }
    if (set_alloc(set, pieces) != 0)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        struct embedding_cutter cutter = embedding_cutter_start(rows[i].conversation, source);

        while (embedding_cutter_next(&cutter, &piece))
            set_add(set, (uint32_t)i, &piece);
    }
    return 0;
}

static void release_vectors(struct embedding_set *set)
{
    for (size_t i = 0; i < set->order.count; i++) {
        vector_release(set->order.items[i].vector);
        set->order.items[i].vector = NULL;
    }
    set->vector_count = 0;
}

void embedding_set_done(struct embedding_set *set)
{
    if (set->order.items != NULL)
        release_vectors(set);
    free(set->pieces);
    free(set->rows);
    free(set->vectors);
    free(set->order.items);
    memset(set, 0, sizeof *set);
}

/* Transcript chunks count from 1, so that chunk 0 is the whole in every source. */
static uint32_t first_chunk(const struct embedding_piece *piece)
{
    return piece->byte_end == 0 ? 0 : 1;
}

void embedding_set_collect(struct embedding_set *set)
{
    const struct embedding_item *items = set->order.items;
    size_t count = set->order.count;

    set->vector_count = 0;
    for (size_t first = 0, end; first < count; first = end) {
        size_t kept = set->vector_count;
        uint32_t chunk = first_chunk(&set->pieces[first]);

        for (end = first; end < count && set->rows[end] == set->rows[first]; end++) {
            if (items[end].vector == NULL)
                continue;
            set->vectors[set->vector_count++] =
                (struct write_vector){.row = set->rows[end],
                                      .chunk = chunk++,
                                      .byte_start = set->pieces[end].byte_start,
                                      .byte_end = set->pieces[end].byte_end,
                                      .values = items[end].vector->values};
        }
        if (set->vector_count - kept < end - first)
            set->vector_count = kept;
    }
}

int embedding_set_error(const struct embedding_set *set, uint32_t row)
{
    int error = 0;

    for (size_t i = 0; i < set->order.count && set->rows[i] <= row; i++)
        if (set->rows[i] == row && set->order.items[i].vector == NULL &&
            (error == 0 || error == -EAGAIN) && !embedding_text_is_blank(set->pieces[i].text))
            error = set->order.items[i].error;
    return error;
}

static bool is_too_long(const struct embedding_set *set, size_t i)
{
    return set->order.items[i].error == -E2BIG &&
           set->pieces[i].text.len >= EMBEDDING_PIECE_MIN_BYTES;
}

bool embedding_set_halve(struct embedding_set *set)
{
    struct embedding_set halved = {.order = {.on_done = set->order.on_done,
                                             .deadline_ms = set->order.deadline_ms,
                                             .patient = set->order.patient,
                                             .apart = set->order.apart,
                                             .cached_only = set->order.cached_only}};
    struct embedding_piece second;
    size_t too_long = 0;

    for (size_t i = 0; i < set->order.count; i++)
        too_long += is_too_long(set, i);
    if (too_long == 0)
        return false;
    if (set_alloc(&halved, set->order.count + too_long) != 0) {
        embedding_set_done(&halved);
        return false;
    }
    for (size_t i = 0; i < set->order.count; i++) {
        struct embedding_piece piece = set->pieces[i];
        bool two = is_too_long(set, i) && embedding_piece_halve(&piece, &second);

        set_add(&halved, set->rows[i], &piece);
        if (two)
            set_add(&halved, set->rows[i], &second);
    }
    embedding_set_done(set);
    *set = halved;
    return true;
}
