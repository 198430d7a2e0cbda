/* What the PostgreSQL peers share: convstored's own tables in the database that --conninfo names,
 * and rows for them. The vectors are ready beforehand: a peer pays for no embedding. */
#ifndef TESTS_BENCH_PEER_PG_H
#define TESTS_BENCH_PEER_PG_H

#include <stddef.h>
#include <stdint.h>

#include <libpq-fe.h>

#include "tests/bench/payload.h"

#define PEER_PG_DIMENSION 768
#define PEER_PG_VECTORS 64
#define PEER_PG_VECTOR_BYTES (20 + PEER_PG_DIMENSION * 8) /* real[]; pgvector's is half of it */

struct peer_pg {
    const char *conninfo;
    int16_t model_id;
    size_t vector_len; /* each in the binary format of the embedding column */
    uint8_t vectors[PEER_PG_VECTORS][PEER_PG_VECTOR_BYTES];
};

/* Makes the tables where they are not there. 0, or -1 and then it was said why. */
int peer_pg_init(struct peer_pg *pg, const char *conninfo) __attribute__((warn_unused_result));

/* A connection, with synchronous_commit on; NULL: it was said why. */
PGconn *peer_pg_connect(const struct peer_pg *pg);

/* Runs statements whose rows nobody reads. 0, or -1 and then it was said why. */
int peer_pg_run(PGconn *conn, const char *sql) __attribute__((warn_unused_result));

/* The columns of one conversation in binary. The slices point into the map. */
struct peer_pg_row {
    struct payload_parts parts;
    uint8_t id[16];
    uint8_t hash[16];     /* stands for content_hash: of its size, distinct */
    uint8_t metadata[64]; /* jsonb */
    size_t metadata_len;
    const uint8_t *vector;
};
void peer_pg_row(const struct peer_pg *pg, const struct payload *p, const uint8_t *map,
                 struct peer_pg_row *ret);

#endif
