/* The SQL of embedding models. Owns nothing.
 *
 * The hard thing is that there may be millions of rows: everything goes in slices along the primary
 * key, each a transaction of its own, so that nothing is locked for long, and a walk that ends in
 * the middle has done what it has done and can be begun again. */
#include "daemon/pgmodels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/schema.h"

#define SLICE "2000"
#define FIRST_ID "00000000-0000-0000-0000-000000000000"

static const char list_sql[] =
    "SELECT m.model_id, m.provider, m.model, m.dimension, m.prefix, m.source, m.storage,"
    " coalesce(v.n, 0), coalesce(b.n, 0), m.model_id = $1::int2"
    " FROM convstore.embedding_models m"
    " LEFT JOIN (SELECT model_id, count(*) n FROM convstore.embeddings GROUP BY model_id) v"
    " USING (model_id)"
    " LEFT JOIN (SELECT model_id, count(*) n FROM convstore.embedding_backlog GROUP BY model_id) b"
    " USING (model_id) ORDER BY m.model_id";

static const char find_sql[] = "SELECT FROM convstore.embedding_models WHERE model_id = $1::int2";

static const char conversations_page_sql[] =
    "SELECT user_id, id, count(*) OVER () FROM (SELECT user_id, id FROM convstore.conversations"
    " WHERE (user_id, id) > ($1::text, $2::uuid) ORDER BY user_id, id LIMIT " SLICE ") page"
    " ORDER BY user_id DESC, id DESC LIMIT 1";
static const char fill_sql[] =
    "INSERT INTO convstore.embedding_backlog (user_id, conversation_id, model_id)"
    " SELECT c.user_id, c.id, $5::int2 FROM convstore.conversations c"
    " WHERE (c.user_id, c.id) > ($1::text, $2::uuid)"
    " AND (c.user_id, c.id) <= ($3::text, $4::uuid)"
    " AND NOT EXISTS (SELECT FROM convstore.embeddings v WHERE v.user_id = c.user_id"
    " AND v.conversation_id = c.id AND v.model_id = $5::int2)"
    " ON CONFLICT DO NOTHING";

static const char vectors_page_sql[] =
    "SELECT user_id, conversation_id, count(*) OVER () FROM (SELECT user_id, conversation_id"
    " FROM convstore.embeddings WHERE (user_id, conversation_id) > ($1::text, $2::uuid)"
    " ORDER BY user_id, conversation_id LIMIT " SLICE ") page"
    " ORDER BY user_id DESC, conversation_id DESC LIMIT 1";
static const char drop_sql[] =
    "DELETE FROM convstore.embeddings WHERE (user_id, conversation_id) > ($1::text, $2::uuid)"
    " AND (user_id, conversation_id) <= ($3::text, $4::uuid) AND model_id = $5::int2";
static const char drop_backlog_sql[] =
    "DELETE FROM convstore.embedding_backlog WHERE model_id = $1::int2";
static const char drop_model_sql[] =
    "DELETE FROM convstore.embedding_models WHERE model_id = $1::int2";

int pgmodels_current(PGconn *conn, const struct embedding_model *model, int16_t *ret,
                     struct schema_vectors *ret_vectors, struct pg_error *err)
{
    *ret = 0;
    if (model->dimension == 0)
        return 0;
    if (schema_vectors(conn, model->storage, ret_vectors, err) != 0)
        return -1;
    return schema_model_id(conn, model, ret_vectors->storage, ret, err);
}

int pgmodels_list(PGconn *conn, const struct embedding_model *current, PGresult **ret,
                  struct pg_error *err)
{
    char id[16];
    const char *params[] = {id};
    struct schema_vectors ignored;
    int16_t model_id;

    if (pgmodels_current(conn, current, &model_id, &ignored, err) != 0)
        return -1;
    snprintf(id, sizeof id, "%d", model_id);
    return pgconn_query(conn, list_sql, 1, params, ret, err);
}

int pgmodels_find(PGconn *conn, const struct embedding_model *current, int16_t *model_id,
                  bool *ret_exists, bool *ret_current, struct pg_error *err)
{
    char id[16];
    struct schema_vectors ignored;
    int16_t current_model_id;
    PGresult *result;

    if (pgmodels_current(conn, current, &current_model_id, &ignored, err) != 0)
        return -1;
    if (*model_id == 0)
        *model_id = current_model_id;
    snprintf(id, sizeof id, "%d", *model_id);
    if (pgconn_query(conn, find_sql, 1, (const char *[]){id}, &result, err) != 0)
        return -1;
    *ret_exists = PQntuples(result) > 0;
    *ret_current = *model_id == current_model_id;
    PQclear(result);
    return 0;
}

static int read_page(PGconn *conn, const char *sql, const struct pgmodels_walk *walk,
                     struct pgmodels_slice *ret, struct pg_error *err)
{
    PGresult *page;

    ret->from_id = walk->id[0] != '\0' ? walk->id : FIRST_ID;
    ret->seen = 0;
    if (pgconn_query(conn, sql, 2, (const char *[]){walk->user_id, ret->from_id}, &page, err) != 0)
        return -1;
    if (PQntuples(page) > 0) {
        snprintf(ret->user_id, sizeof ret->user_id, "%s", PQgetvalue(page, 0, 0));
        snprintf(ret->id, sizeof ret->id, "%s", PQgetvalue(page, 0, 1));
        ret->seen = strtoull(PQgetvalue(page, 0, 2), NULL, 10);
    }
    PQclear(page);
    return 0;
}

int pgmodels_next_slice(PGconn *conn, const struct pgmodels_walk *walk, struct pgmodels_slice *ret,
                        struct pg_error *err)
{
    return read_page(conn, vectors_page_sql, walk, ret, err);
}

void pgmodels_advance(struct pgmodels_walk *walk, const struct pgmodels_slice *slice)
{
    if (slice->seen == 0)
        return;
    walk->seen += slice->seen;
    memcpy(walk->user_id, slice->user_id, sizeof walk->user_id);
    memcpy(walk->id, slice->id, sizeof walk->id);
}

/* The statement for the next slice, behind which the walk stands then. */
static int do_slice(PGconn *conn, const char *page_sql, const char *work_sql, const char *model_id,
                    struct pgmodels_walk *walk, struct pg_error *err)
{
    struct pgmodels_slice slice;
    PGresult *result;

    if (read_page(conn, page_sql, walk, &slice, err) != 0)
        return -1;
    walk->over = slice.seen == 0;
    if (walk->over)
        return 0;
    if (pgconn_query(
            conn, work_sql, 5,
            (const char *[]){walk->user_id, slice.from_id, slice.user_id, slice.id, model_id},
            &result, err) != 0)
        return -1;
    walk->done += strtoull(PQcmdTuples(result), NULL, 10);
    PQclear(result);
    pgmodels_advance(walk, &slice);
    return 0;
}

int pgmodels_fill(PGconn *conn, int16_t model_id, struct pgmodels_walk *walk, struct pg_error *err)
{
    char text[16];

    snprintf(text, sizeof text, "%d", model_id);
    return do_slice(conn, conversations_page_sql, fill_sql, text, walk, err);
}

int pgmodels_drop(PGconn *conn, int16_t model_id, struct pgmodels_walk *walk, struct pg_error *err)
{
    const char *const last[] = {drop_backlog_sql, drop_model_sql};
    char text[16];
    const char *params[] = {text};
    PGresult *result;

    snprintf(text, sizeof text, "%d", model_id);
    if (do_slice(conn, vectors_page_sql, drop_sql, text, walk, err) != 0)
        return -1;
    for (size_t i = 0; walk->over && i < sizeof last / sizeof last[0]; i++) {
        if (pgconn_query(conn, last[i], 1, params, &result, err) != 0)
            return -1;
        PQclear(result);
    }
    return 0;
}
