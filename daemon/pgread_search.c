/* search: by meaning, by words, or both. Owns nothing.
 *
 * One statement for all modes: `v` ranks conversations by their nearest vector, `t` by their words,
 * the other one is empty where a mode does not want it. Every part names the user, so that the
 * distance is computed over one user's vectors, exactly; where an operator has made an HNSW index
 * for this model (README), the planner may take it for a user with very many.
 *
 * The hard thing is that a conversation may have many vectors, one for each chunk: the nearest
 * vectors are taken first, and where they belong to too few conversations, eight times as many. */
#include "daemon/pgread.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/pgmodels.h"
#include "proto/reply.h"

#define FUSION_DEPTH 100 /* hybrid: how much of each ranking counts */
#define FUSION_K "60"    /* of reciprocal rank fusion: how little the first places stand out */
#define NEAR_FACTOR 8
#define NEAR_MAX 1000000
#define SQL_SIZE 6000

/* $1 user, $2 limit, $3 platform, $4 since, $5 until, $6 vector, $7 how many vectors, $8 query,
 * $9 how many conversations of each ranking. */
enum { P_USER, P_LIMIT, P_PLATFORM, P_SINCE, P_UNTIL, P_VECTOR, P_NEAR, P_QUERY, P_DEPTH, PARAMS };

#define SQL_FILTERS                                                                                \
    " AND ($3::text IS NULL OR c.platform = $3::text)"                                             \
    " AND c.created_at >= coalesce(" SQL_TIME("$4") ", '-infinity')"                               \
                                                    " AND c.created_at < coalesce(" SQL_TIME(      \
                                                        "$5") ", 'infinity')"

/* %s: the distance; %d: the model. */
static const char near_sql[] =
    "SELECT e.conversation_id, e.byte_start, e.byte_end, %s AS distance"
    " FROM convstore.embeddings e JOIN convstore.conversations c"
    "  ON c.user_id = e.user_id AND c.id = e.conversation_id"
    " WHERE e.user_id = $1 AND e.model_id = %d" SQL_FILTERS " ORDER BY distance LIMIT $7::int4";
static const char no_near_sql[] = "SELECT NULL::uuid AS conversation_id, 0 AS byte_start,"
                                  " 0 AS byte_end, 0::float8 AS distance WHERE false";

/* The document of the full-text index in the README. A tsvector holds a megabyte. */
#define SQL_DOCUMENT "left(coalesce(c.summary, '') || ' ' || c.transcript, 200000)"

/* %1$s: the text search configuration, a literal: an index has one, too. */
static const char words_sql[] =
    "SELECT id, score, row_number() OVER (ORDER BY score DESC, id) AS rank FROM"
    " (SELECT c.id, ts_rank_cd(to_tsvector(%1$s, " SQL_DOCUMENT "), q)::float8 AS score"
    "  FROM convstore.conversations c, websearch_to_tsquery(%1$s, $8) q"
    "  WHERE c.user_id = $1 AND to_tsvector(%1$s, " SQL_DOCUMENT ") @@ q" SQL_FILTERS
    "  ORDER BY score DESC, id LIMIT $9::int4) ranked";
static const char no_words_sql[] =
    "SELECT NULL::uuid AS id, 0::float8 AS score, 0::int8 AS rank WHERE false";

/* %1$s near, %2$s words, %3$s score, %4$s the text search configuration. A chunk's bytes are cut
 * between two characters of the transcript as it stands in the table. */
static const char search_sql[] =
    "WITH near AS MATERIALIZED (%1$s), v AS MATERIALIZED (SELECT *, row_number() OVER"
    "  (ORDER BY distance, id) AS rank FROM (SELECT DISTINCT ON (conversation_id)"
    "   conversation_id AS id, byte_start, byte_end, distance FROM near"
    "   ORDER BY conversation_id, distance) nearest ORDER BY distance, id LIMIT $9::int4),"
    " t AS MATERIALIZED (%2$s),"
    " hits AS MATERIALIZED (SELECT id, %3$s AS score, v.byte_start, v.byte_end,"
    "  t.rank IS NOT NULL AS worded FROM v FULL JOIN t USING (id)"
    "  ORDER BY score DESC, id LIMIT $2::int4)"
    " SELECT c.id, h.score, c.platform, " SQL_MICROSECONDS(
        "c.created_at") ", " SQL_SUMMARY ","
                        " CASE WHEN h.worded THEN ts_headline(%4$s, " SQL_DOCUMENT
                        ", websearch_to_tsquery(%4$s, $8),"
                        "   'StartSel=\"\", StopSel=\"\", MaxFragments=1, MinWords=20, "
                        "MaxWords=40')"
                        "  WHEN h.byte_end > 0 THEN "
                        "left(convert_from(substring(convert_to(c.transcript, 'UTF8')"
                        "   FROM h.byte_start + 1 FOR h.byte_end - h.byte_start), 'UTF8'), 2000)"
                        "  ELSE left(coalesce(nullif(c.summary, ''), c.transcript), 400) END,"
                        " c.metadata::text, (SELECT count(*) FROM near), (SELECT count(*) FROM v)"
                        " FROM hits h JOIN convstore.conversations c ON c.user_id = $1 AND c.id = "
                        "h.id"
                        " ORDER BY h.score DESC, h.id";
enum {
    HIT_ID,
    HIT_SCORE,
    HIT_PLATFORM,
    HIT_CREATED,
    HIT_SUMMARY,
    HIT_SNIPPET,
    HIT_METADATA,
    HIT_NEAR,
    HIT_CONVERSATIONS
};
#define HIT_FIELDS 7

static const char *score_sql(enum search_mode mode)
{
    if (mode == SEARCH_VECTOR)
        return "1 - v.distance";
    if (mode == SEARCH_TEXT)
        return "t.score";
    return "coalesce(1.0::float8 / (" FUSION_K " + v.rank), 0) +"
           " coalesce(1.0::float8 / (" FUSION_K " + t.rank), 0)";
}

/* The text of a SQL literal, quotes included. */
static void quote(const char *text, char *ret, size_t size)
{
    size_t n = 0;

    ret[n++] = '\'';
    for (; *text != '\0' && n + 3 < size; text++) {
        if (*text == '\'')
            ret[n++] = '\'';
        ret[n++] = *text;
    }
    ret[n++] = '\'';
    ret[n] = '\0';
}

/* pgvector may live in any schema. Its cosine distance; without it the same in plain SQL. */
static int distance_sql(PGconn *conn, const struct schema_vectors *vectors, uint32_t dimension,
                        char *ret, size_t size, struct pg_error *err)
{
    char type[16];
    const char *params[] = {type}, *schema;
    PGresult *rows;

    if (strcmp(vectors->storage, "real") == 0) {
        snprintf(ret, size,
                 "(SELECT 1 - sum(a::float8 * b) / sqrt(sum(a::float8 * a) * sum(b::float8 * b))"
                 " FROM unnest(e.%s, (SELECT translate($6, '[]', '{}')::real[])) u (a, b))",
                 vectors->column);
        return 0;
    }
    snprintf(type, sizeof type, "%u", vectors->type);
    if (pgconn_query_prepared(conn, "schema_of_type",
                              "SELECT quote_ident(n.nspname) FROM pg_type t JOIN pg_namespace n"
                              " ON n.oid = t.typnamespace WHERE t.oid = $1::oid",
                              1, params, &rows, err) != 0)
        return -1;
    schema = PQntuples(rows) > 0 ? PQgetvalue(rows, 0, 0) : "public";
    snprintf(ret, size, "e.%1$s::%2$s.%3$s(%4$u) OPERATOR(%2$s.<=>) $6::%2$s.%3$s(%4$u)",
             vectors->column, schema, vectors->storage, dimension);
    PQclear(rows);
    return 0;
}

struct statement {
    char name[64];
    char sql[SQL_SIZE];
};

static int make_statement(PGconn *conn, const struct pgread *read, struct statement *ret,
                          struct pg_error *err)
{
    enum search_mode mode = read->request->mode;
    char language[160], distance[600], near[2000], words[2500];
    struct schema_vectors vectors;
    int16_t model_id = 0;
    int len;

    quote(read->language, language, sizeof language - 16);
    strcat(language, "::regconfig");
    snprintf(near, sizeof near, "%s", no_near_sql);
    snprintf(words, sizeof words, "%s", no_words_sql);
    if (mode != SEARCH_TEXT) {
        if (pgmodels_current(conn, read->model, &model_id, &vectors, err) != 0 ||
            distance_sql(conn, &vectors, read->model->dimension, distance, sizeof distance, err) !=
                0)
            return -1;
        snprintf(near, sizeof near, near_sql, distance, model_id);
    }
    if (mode != SEARCH_VECTOR)
        snprintf(words, sizeof words, words_sql, language);
    len = snprintf(ret->sql, sizeof ret->sql, search_sql, near, words, score_sql(mode), language);
    snprintf(ret->name, sizeof ret->name, "search_%d_%d_%s", mode, model_id,
             model_id != 0 ? vectors.column : "");
    if (len < (int)sizeof ret->sql)
        return 0;
    pg_error_set(err, PG_FAULT_STOPPED, "search.language is too long a name");
    return -1;
}

/* "[0.1,…]"; the caller frees. NULL: no memory. */
static char *vector_text(const float *values, uint32_t dimension)
{
    size_t size = 3 + (size_t)dimension * 16, n = 0;
    char *text = malloc(size);

    if (text == NULL)
        return NULL;
    for (uint32_t i = 0; i < dimension; i++)
        n += (size_t)snprintf(text + n, size - n, "%c%.9g", i == 0 ? '[' : ',', (double)values[i]);
    snprintf(text + n, size - n, "]");
    return text;
}

static int64_t number(const PGresult *rows, int column)
{
    return PQntuples(rows) > 0 ? strtoll(PQgetvalue(rows, 0, column), NULL, 10) : 0;
}

/* Asks for more vectors while those there are belong to too few conversations. */
static int ask(PGconn *conn, const struct statement *s, const char *params[PARAMS], int64_t depth,
               PGresult **ret, struct pg_error *err)
{
    char near[24];

    params[P_NEAR] = near;
    for (int64_t n = depth * NEAR_FACTOR;; n *= NEAR_FACTOR) {
        snprintf(near, sizeof near, "%" PRId64, n);
        if (pgconn_query_prepared(conn, s->name, s->sql, PARAMS, params, ret, err) != 0)
            return -1;
        if (number(*ret, HIT_NEAR) < n || number(*ret, HIT_CONVERSATIONS) >= depth || n > NEAR_MAX)
            return 0;
        PQclear(*ret);
    }
}

static int pack_hits(struct pgread *read, const PGresult *rows, struct pg_error *err)
{
    struct pgread_row r;
    msgpack_sbuffer hits;
    msgpack_packer pk;

    msgpack_sbuffer_init(&hits); /* how many fit is known when they are packed */
    r = pgread_row(&hits, rows);
    for (; r.row < PQntuples(rows) && hits.size < PGREAD_RESULT_BYTES; r.row++) {
        msgpack_pack_map(&r.pk, HIT_FIELDS);
        pgread_pack_text(&r, "id", HIT_ID);
        pack_str(&r.pk, "score");
        msgpack_pack_double(&r.pk, strtod(PQgetvalue(rows, r.row, HIT_SCORE), NULL));
        pgread_pack_text(&r, "platform", HIT_PLATFORM);
        pgread_pack_time(&r, "created_at", HIT_CREATED);
        pgread_pack_text(&r, "summary", HIT_SUMMARY);
        pgread_pack_text(&r, "snippet", HIT_SNIPPET);
        pgread_pack_json(&r, "metadata", HIT_METADATA);
    }
    msgpack_packer_init(&pk, &read->out, msgpack_sbuffer_write);
    msgpack_pack_map(&pk, 1);
    pack_str(&pk, "results");
    msgpack_pack_array(&pk, (size_t)r.row);
    msgpack_sbuffer_write(&read->out, hits.data, hits.size);
    msgpack_sbuffer_destroy(&hits);
    return pgread_row_check(&r, err);
}

static void set_params(const struct read_request *request, char numbers[4][24],
                       const char *params[PARAMS])
{
    snprintf(numbers[0], 24, "%u", request->limit);
    snprintf(numbers[1], 24, "%" PRId64, request->since_us);
    snprintf(numbers[2], 24, "%" PRId64, request->until_us);
    params[P_USER] = request->user_id;
    params[P_LIMIT] = numbers[0];
    params[P_PLATFORM] = request->platform[0] != '\0' ? request->platform : NULL;
    params[P_SINCE] = request->has_since ? numbers[1] : NULL;
    params[P_UNTIL] = request->has_until ? numbers[2] : NULL;
    params[P_QUERY] = request->query;
    params[P_DEPTH] = numbers[3];
}

int pgread_search(PGconn *conn, struct pgread *read, struct pg_error *err)
{
    const struct read_request *request = read->request;
    int64_t depth = request->mode == SEARCH_HYBRID ? FUSION_DEPTH : request->limit;
    const char *params[PARAMS] = {NULL};
    char numbers[4][24], *vector = NULL;
    struct statement s;
    PGresult *rows;
    int rc;

    if (make_statement(conn, read, &s, err) != 0)
        return -1;
    set_params(request, numbers, params);
    snprintf(numbers[3], sizeof numbers[3], "%" PRId64, depth);
    if (request->mode != SEARCH_TEXT) {
        params[P_VECTOR] = vector = vector_text(read->vector, read->model->dimension);
        if (vector == NULL) {
            pg_error_no_memory(err);
            return -1;
        }
    }
    rc = ask(conn, &s, params, depth, &rows, err);
    free(vector);
    if (rc != 0)
        return -1;
    read->found = true;
    rc = pack_hits(read, rows, err);
    PQclear(rows);
    return rc;
}
