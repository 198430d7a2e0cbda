/* See peer_pg.h. */
#include "tests/bench/peer_pg.h"

#include <assert.h>
#include <endian.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "daemon/pgconn.h"
#include "daemon/pgencode.h"
#include "daemon/schema.h"
#include "proto/uuid.h"

static void say(const char *what, const char *why)
{
    fprintf(stderr, "convstore-bench: %s: %.*s\n", what, (int)strcspn(why, "\n"), why);
}

static void put_float(uint8_t *at, float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    bits = htobe32(bits);
    memcpy(at, &bits, sizeof bits);
}

static void put_int4(uint8_t *at, uint32_t value)
{
    value = htobe32(value);
    memcpy(at, &value, sizeof value);
}

/* A random unit vector, as pgvector's vector (dimension, 0, floats) or as real[]. */
static size_t make_vector(uint8_t *out, bool pgvector, uint64_t *random)
{
    const uint32_t head[] = {1, 0, PG_FLOAT4, PEER_PG_DIMENSION, 1};
    float values[PEER_PG_DIMENSION];
    double sum = 0;
    size_t n = 0;

    for (int i = 0; i < PEER_PG_DIMENSION; i++) {
        values[i] = (float)(payload_random(random) >> 40) / 8388608.0f - 1.0f;
        sum += (double)values[i] * (double)values[i];
    }
    if (pgvector) {
        put_int4(out, (uint32_t)PEER_PG_DIMENSION << 16);
        n = 4;
    } else {
        for (size_t i = 0; i < sizeof head / sizeof *head; i++, n += 4)
            put_int4(out + n, head[i]);
    }
    for (int i = 0; i < PEER_PG_DIMENSION; i++, n += 4) {
        if (!pgvector) {
            put_int4(out + n, 4);
            n += 4;
        }
        put_float(out + n, values[i] / (float)sqrt(sum));
    }
    return n;
}

int peer_pg_init(struct peer_pg *pg, const char *conninfo)
{
    const struct embedding_model model = {.provider = "bench",
                                          .model = "random",
                                          .dimension = PEER_PG_DIMENSION,
                                          .prefix = "",
                                          .source = "transcript",
                                          .storage = "vector"};
    struct pgconn_settings settings;
    struct schema_vectors vectors;
    struct pg_error err;
    PGconn *conn = NULL;
    uint64_t random = 1;
    int status = pgconn_open(conninfo, &conn, &settings, &err);

    *pg = (struct peer_pg){.conninfo = conninfo};
    if (status == 0)
        status = schema_ensure(conn, true, &err);
    if (status == 0)
        status = schema_vectors(conn, model.storage, &vectors, &err);
    if (status == 0)
        status = schema_model_id(conn, &model, vectors.storage, &pg->model_id, &err);
    if (status == 0 && settings.fsync_off)
        say("the server has fsync off", "its figures are no measure");
    if (status != 0)
        say("PostgreSQL", err.text);
    for (int i = 0; status == 0 && i < PEER_PG_VECTORS; i++)
        pg->vector_len =
            make_vector(pg->vectors[i], strcmp(vectors.storage, "vector") == 0, &random);
    PQfinish(conn);
    return status;
}

PGconn *peer_pg_connect(const struct peer_pg *pg)
{
    PGconn *conn = PQconnectdb(pg->conninfo);

    if (PQstatus(conn) == CONNECTION_OK && peer_pg_run(conn, "SET synchronous_commit = on") == 0)
        return conn;
    say("PostgreSQL", PQerrorMessage(conn));
    PQfinish(conn);
    return NULL;
}

int peer_pg_run(PGconn *conn, const char *sql)
{
    PGresult *result = PQexec(conn, sql);
    ExecStatusType status = PQresultStatus(result);
    bool good = status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK || status == PGRES_COPY_IN;

    if (!good)
        say(sql, PQresultErrorMessage(result));
    PQclear(result);
    return good ? 0 : -1;
}

void peer_pg_row(const struct peer_pg *pg, const struct payload *p, const uint8_t *map,
                 struct peer_pg_row *ret)
{
    struct slice json;
    uint64_t half;
    int status;

    payload_parts(p, map, &ret->parts);
    status = uuid_parse(ret->parts.id.data, ret->parts.id.len, ret->id);
    assert(status == 0);
    memcpy(&half, ret->id + 8, sizeof half);
    for (int i = 0; i < 2; i++) {
        uint64_t word = payload_random(&half);

        memcpy(ret->hash + 8 * i, &word, sizeof word);
    }
    json = ret->parts.metadata_json;
    assert(json.len < sizeof ret->metadata);
    ret->metadata[0] = 1; /* jsonb's version */
    memcpy(ret->metadata + 1, json.data, json.len);
    ret->metadata_len = 1 + json.len;
    ret->vector = pg->vectors[ret->id[15] % PEER_PG_VECTORS];
}
