/* All texts of a list of conversations as one order, and what came of it as vectors for the writer.
 * A conversation gets all of its vectors or none. Loop. */
#ifndef DAEMON_EMBEDDING_SET_H
#define DAEMON_EMBEDDING_SET_H

#include <stdbool.h>
#include <stddef.h>

#include "daemon/embedding_stage.h"
#include "daemon/embedding_text.h"
#include "daemon/pgwriter.h"

struct embedding_set {
    struct embedding_order order; /* one item for each piece */
    struct embedding_piece *pieces;
    uint32_t *rows; /* of each piece: which conversation; ascending */
    size_t capacity;
    struct write_vector *vectors; /* out of embedding_set_collect() */
    size_t vector_count;
};

/* The pieces of rows[0 … count). The conversations outlive the set. 0 or -ENOMEM; after either,
 * embedding_set_done() is due. set is all zeros before. */
int embedding_set_init(struct embedding_set *set, enum embedding_source source,
                       const struct write_row *rows, size_t count)
    __attribute__((warn_unused_result));

/* Frees what it holds and releases the vectors; it is all zeros again. The order is not waiting. */
void embedding_set_done(struct embedding_set *set);

/* After the order's on_done: fills in vectors, sorted by row and chunk, of the rows that have all
 * of theirs. Their values are good until the set is done. */
void embedding_set_collect(struct embedding_set *set);

/* Why a row has no vectors: 0 where it has them, or where its text is blank and there is nothing to
 * embed; else the gravest of its pieces' errors, of which -EAGAIN is the least. */
int embedding_set_error(const struct embedding_set *set, uint32_t row);

/* Cuts the pieces that are too long for the model (-E2BIG) in two. true: there were some, the
 * vectors are released, and the order can be wanted again. -ENOMEM counts as none. */
bool embedding_set_halve(struct embedding_set *set);

#endif
