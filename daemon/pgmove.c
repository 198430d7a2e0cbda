/* The SQL of convstorectl migrate-vectors. Owns nothing.
 *
 * Another storage is another model: a vector moves by becoming a row of the new model, and its old
 * row goes in the same transaction. The hard thing is a daemon that has not noticed yet and still
 * writes and claims for the old one: nothing that it commits meanwhile is taken away unseen, since
 * an old row is deleted only where the conversation has a new one, and what comes behind the walk
 * is found by the next. Chunks of a conversation move together.
 *
 * Two statements and no data-modifying WITH for the vectors: they may be distributed. */
#include "daemon/pgmove.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/schema.h"

#define MOVE_LOCK_TIMEOUT "1s" /* writers queue behind the lock that ALTER TABLE waits for */
#define SIBLINGS_MAX 4

/* The column to, the column from. pgvector's casts between its types and real[] are those of an
 * assignment. A conversation that is being erased gets no new vector (see pgforget.c). */
static const char copy_sql[] =
    "INSERT INTO convstore.embeddings"
    " (user_id, conversation_id, model_id, chunk, byte_start, byte_end, made_at, %s)"
    " SELECT v.user_id, v.conversation_id, $6::int2, v.chunk, v.byte_start, v.byte_end, v.made_at,"
    " v.%s FROM convstore.embeddings v"
    " WHERE (v.user_id, v.conversation_id) > ($1::text, $2::uuid)"
    " AND (v.user_id, v.conversation_id) <= ($3::text, $4::uuid) AND v.model_id = $5::int2"
    " AND NOT EXISTS (SELECT FROM convstore.embeddings n WHERE n.user_id = v.user_id"
    " AND n.conversation_id = v.conversation_id AND n.model_id = $6::int2)"
    " AND EXISTS (SELECT FROM convstore.conversations c WHERE c.user_id = v.user_id"
    " AND c.id = v.conversation_id)"
    " ON CONFLICT DO NOTHING";
static const char remove_sql[] =
    "DELETE FROM convstore.embeddings v"
    " WHERE (v.user_id, v.conversation_id) > ($1::text, $2::uuid)"
    " AND (v.user_id, v.conversation_id) <= ($3::text, $4::uuid) AND v.model_id = $5::int2"
    " AND EXISTS (SELECT FROM convstore.embeddings n WHERE n.user_id = v.user_id"
    " AND n.conversation_id = v.conversation_id AND n.model_id = $6::int2)";
static const char backlog_sql[] =
    "WITH moved AS (DELETE FROM convstore.embedding_backlog b USING"
    "  (SELECT user_id, conversation_id FROM convstore.embedding_backlog"
    "   WHERE model_id = $1::int2 LIMIT 2000) page"
    "  WHERE b.user_id = page.user_id AND b.conversation_id = page.conversation_id"
    "  AND b.model_id = $1::int2 RETURNING b.*),"
    " put AS (INSERT INTO convstore.embedding_backlog"
    "  (user_id, conversation_id, model_id, attempts, next_attempt_at, last_error)"
    "  SELECT user_id, conversation_id, $2::int2, attempts, next_attempt_at, last_error FROM moved"
    "  ON CONFLICT DO NOTHING)"
    " SELECT count(*) FROM moved";

/* The same way of making vectors, stored in its way. */
struct stored_model {
    char id[16];
    char storage[16];
    char column[32];
};

static int run(PGconn *conn, const char *sql, int count, const char *const params[],
               uint64_t *ret_rows, struct pg_error *err)
{
    PGresult *result;

    if (pgconn_query(conn, sql, count, params, &result, err) != 0)
        return -1;
    if (ret_rows != NULL)
        *ret_rows += strtoull(PQcmdTuples(result), NULL, 10);
    PQclear(result);
    return 0;
}

static int refuse(const struct schema_vectors *found, struct pg_error *err)
{
    pg_error_set(err, PG_FAULT_STOPPED,
                 found->movable ? "convstore.embeddings has no column for pgvector's types: apply "
                                  "the output of \"convstorectl schema\" as its owner"
                                : "pgvector 0.7 or newer is not in this database: "
                                  "CREATE EXTENSION vector");
    return -1;
}

int pgmove_begin(PGconn *conn, const struct embedding_model *model, bool auto_migrate,
                 bool *ret_added, struct pg_error *err)
{
    struct schema_vectors found;

    *ret_added = false;
    if (schema_vectors(conn, model->storage, &found, err) != 0)
        return -1;
    if (strcmp(found.storage, model->storage) == 0)
        return 0;
    if (!found.movable || !auto_migrate)
        return refuse(&found, err);
    *ret_added = true;
    return run(conn, "BEGIN", 0, NULL, NULL, err) != 0 ||
                   run(conn, "SET LOCAL lock_timeout = '" MOVE_LOCK_TIMEOUT "'", 0, NULL, NULL,
                       err) != 0 ||
                   run(conn, schema_sql(SCHEMA_PGVECTOR), 0, NULL, NULL, err) != 0 ||
                   run(conn, "COMMIT", 0, NULL, NULL, err) != 0
               ? -1
               : 0;
}

static int find_target(PGconn *conn, const struct embedding_model *model, struct stored_model *ret,
                       struct pg_error *err)
{
    struct schema_vectors found;
    int16_t id;

    if (schema_vectors(conn, model->storage, &found, err) != 0)
        return -1;
    if (strcmp(found.storage, model->storage) != 0)
        return refuse(&found, err);
    if (schema_model_id(conn, model, found.storage, &id, err) != 0)
        return -1;
    snprintf(ret->id, sizeof ret->id, "%d", id);
    snprintf(ret->storage, sizeof ret->storage, "%s", found.storage);
    snprintf(ret->column, sizeof ret->column, "%s", found.column);
    return 0;
}

/* The models that differ in storage alone and have a column here; how many, or -1. */
static int find_siblings(PGconn *conn, const struct stored_model *target,
                         struct stored_model ret[SIBLINGS_MAX], struct pg_error *err)
{
    static const char sql[] =
        "SELECT o.model_id, o.storage FROM convstore.embedding_models m"
        " JOIN convstore.embedding_models o USING (provider, model, dimension, prefix, source)"
        " WHERE m.model_id = $1::int2 AND o.storage <> m.storage";
    const char *params[] = {target->id};
    PGresult *result;
    int count = 0;

    if (pgconn_query(conn, sql, 1, params, &result, err) != 0)
        return -1;
    for (int i = 0; i < PQntuples(result) && count >= 0 && count < SIBLINGS_MAX; i++) {
        struct stored_model *sibling = &ret[count];
        struct schema_vectors found;

        snprintf(sibling->id, sizeof sibling->id, "%s", PQgetvalue(result, i, 0));
        snprintf(sibling->storage, sizeof sibling->storage, "%s", PQgetvalue(result, i, 1));
        if (schema_vectors(conn, sibling->storage, &found, err) != 0) {
            count = -1;
        } else if (strcmp(found.storage, sibling->storage) == 0) {
            snprintf(sibling->column, sizeof sibling->column, "%s", found.column);
            count++;
        }
    }
    PQclear(result);
    return count;
}

/* range: the begin and the end of the slice, each as user_id and conversation_id. */
static int move_rows(PGconn *conn, const struct stored_model *from, const struct stored_model *to,
                     const char *const range[4], uint64_t *ret_moved, struct pg_error *err)
{
    const char *params[] = {range[0], range[1], range[2], range[3], from->id, to->id};
    char copy[sizeof copy_sql + sizeof to->column + sizeof from->column];

    snprintf(copy, sizeof copy, copy_sql, to->column, from->column);
    return run(conn, "BEGIN", 0, NULL, NULL, err) != 0 ||
                   run(conn, copy, 6, params, NULL, err) != 0 ||
                   run(conn, remove_sql, 6, params, ret_moved, err) != 0 ||
                   run(conn, "COMMIT", 0, NULL, NULL, err) != 0
               ? -1
               : 0;
}

static int move_backlog(PGconn *conn, const struct stored_model *from,
                        const struct stored_model *to, uint64_t *ret_moved, struct pg_error *err)
{
    const char *params[] = {from->id, to->id};
    PGresult *result;

    if (pgconn_query(conn, backlog_sql, 2, params, &result, err) != 0)
        return -1;
    *ret_moved += strtoull(PQgetvalue(result, 0, 0), NULL, 10);
    PQclear(result);
    return 0;
}

int pgmove_slice(PGconn *conn, const struct embedding_model *model, struct pgmodels_walk *walk,
                 struct pg_error *err)
{
    struct stored_model target, siblings[SIBLINGS_MAX];
    struct pgmodels_slice slice;
    uint64_t backlog = 0;
    int count;

    if (find_target(conn, model, &target, err) != 0)
        return -1;
    count = find_siblings(conn, &target, siblings, err);
    if (count < 0 || pgmodels_next_slice(conn, walk, &slice, err) != 0)
        return -1;
    for (int i = 0; i < count; i++) {
        const char *range[] = {walk->user_id, slice.from_id, slice.user_id, slice.id};

        if (slice.seen > 0 ? move_rows(conn, &siblings[i], &target, range, &walk->done, err) != 0
                           : move_backlog(conn, &siblings[i], &target, &backlog, err) != 0)
            return -1;
    }
    walk->backlog += backlog;
    walk->over = slice.seen == 0 && backlog == 0;
    pgmodels_advance(walk, &slice);
    return 0;
}
