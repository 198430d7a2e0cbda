/* The SQL of dead letters.
 *
 * The hard thing is a retry that neither loses nor doubles: the row is made from the letter inside
 * the database, and the letter removed, in one transaction. So nothing travels, the journal has no
 * part in it, and a crash or a lost answer leaves either the letter or the row. Retried while
 * another daemon retries the same letter, the second meets the row of the first and removes
 * nothing.
 */
#include "daemon/pgdead.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/schema.h"

#define HEAD_COLUMNS                                                                               \
    "id, user_id, conversation_id, platform, sqlstate, reason,"                                    \
    " to_char(dead_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'), created_at_us,"    \
    " octet_length(transcript)"

static const char list_sql[] = "SELECT " HEAD_COLUMNS " FROM convstore.dead_letters"
                               " WHERE id > $1::int8 ORDER BY id LIMIT $2::int4";
static const char show_sql[] = "SELECT " HEAD_COLUMNS ", transcript, summary, metadata"
                               " FROM convstore.dead_letters WHERE id = $1::int8";
static const char last_sql[] = "SELECT coalesce(max(id), 0) FROM convstore.dead_letters";
static const char next_sql[] = "SELECT id FROM convstore.dead_letters"
                               " WHERE id > $1::int8 AND id <= $2::int8 ORDER BY id LIMIT $3::int4";

/* Hours first: an interval is multiplied as a double, which holds neither part inexactly. */
static const char insert_sql[] =
    "INSERT INTO convstore.conversations"
    " (user_id, id, created_at, content_hash, platform, transcript, summary, metadata)"
    " SELECT user_id, conversation_id, timestamptz 'epoch'"
    "  + created_at_us / 3600000000 * interval '1 hour'"
    "  + created_at_us % 3600000000 * interval '1 microsecond',"
    " content_hash, platform, transcript, summary, metadata::jsonb"
    " FROM convstore.dead_letters WHERE id = $1::int8 ON CONFLICT DO NOTHING";
/* No row: there is no such letter. NULL: the insert left nothing. */
static const char check_sql[] =
    "SELECT c.content_hash = d.content_hash FROM convstore.dead_letters d"
    " LEFT JOIN convstore.conversations c ON c.user_id = d.user_id AND c.id = d.conversation_id"
    " WHERE d.id = $1::int8";
static const char backlog_sql[] =
    "INSERT INTO convstore.embedding_backlog (user_id, conversation_id, model_id)"
    " SELECT d.user_id, d.conversation_id, $2::int2 FROM convstore.dead_letters d"
    " WHERE d.id = $1::int8 AND NOT EXISTS (SELECT FROM convstore.embeddings v"
    "  WHERE v.user_id = d.user_id AND v.conversation_id = d.conversation_id"
    "  AND v.model_id = $2::int2) ON CONFLICT DO NOTHING";
static const char delete_sql[] = "DELETE FROM convstore.dead_letters WHERE id = $1::int8";
static const char refuse_sql[] = "UPDATE convstore.dead_letters SET sqlstate = $2, reason = $3,"
                                 " dead_at = now() WHERE id = $1::int8";

int pgdead_count(PGconn *conn, uint64_t *ret, struct pg_error *err)
{
    PGresult *result;

    if (pgconn_query(conn, "SELECT count(*) FROM convstore.dead_letters", 0, NULL, &result, err) !=
        0)
        return -1;
    *ret = strtoull(PQgetvalue(result, 0, 0), NULL, 10);
    PQclear(result);
    return 0;
}

int pgdead_list(PGconn *conn, int64_t after, unsigned limit, PGresult **ret, struct pg_error *err)
{
    char first[24], most[16];
    const char *params[] = {first, most};

    snprintf(first, sizeof first, "%" PRId64, after);
    snprintf(most, sizeof most, "%u", limit);
    return pgconn_query(conn, list_sql, 2, params, ret, err);
}

int pgdead_show(PGconn *conn, int64_t id, PGresult **ret, struct pg_error *err)
{
    char text[24];
    const char *params[] = {text};

    snprintf(text, sizeof text, "%" PRId64, id);
    return pgconn_query(conn, show_sql, 1, params, ret, err);
}

void pgdead_walk_one(struct pgdead_walk *walk, int64_t id)
{
    *walk = (struct pgdead_walk){.after = id - 1, .until = id, .begun = true};
}

/* The ids of the next slice; the walk is over when there are none. */
static int next_slice(PGconn *conn, struct pgdead_walk *walk, PGresult **ret, struct pg_error *err)
{
    char after[24], until[24], most[16];
    const char *params[] = {after, until, most};
    PGresult *last;

    if (!walk->begun) {
        if (pgconn_query(conn, last_sql, 0, NULL, &last, err) != 0)
            return -1;
        walk->until = strtoll(PQgetvalue(last, 0, 0), NULL, 10);
        walk->begun = true;
        PQclear(last);
    }
    snprintf(after, sizeof after, "%" PRId64, walk->after);
    snprintf(until, sizeof until, "%" PRId64, walk->until);
    snprintf(most, sizeof most, "%d", PGDEAD_SLICE);
    if (pgconn_query(conn, next_sql, 3, params, ret, err) != 0)
        return -1;
    walk->over = PQntuples(*ret) < PGDEAD_SLICE;
    return 0;
}

/* Inside a transaction. 0: the letter is a row now, or has gone; 1: *why says what stands against
 * it; -1 with *why. */
static int make_row(PGconn *conn, const char *id, const char *model_id, struct pg_error *why)
{
    const char *params[] = {id, model_id};
    PGresult *result;
    bool gone, there, same;

    if (pgconn_query(conn, insert_sql, 1, params, NULL, why) != 0 ||
        pgconn_query(conn, check_sql, 1, params, &result, why) != 0)
        return -1;
    gone = PQntuples(result) == 0;
    there = !gone && !PQgetisnull(result, 0, 0);
    same = there && PQgetvalue(result, 0, 0)[0] == 't';
    PQclear(result);
    if (gone)
        return 0;
    if (!same) {
        pg_error_set(why, PG_FAULT_DATA,
                     there ? "this user has a conversation with this id and other content"
                           : "the server took the row and does not have it: look for a trigger or "
                             "rule on convstore.conversations that drops it");
        snprintf(why->sqlstate, sizeof why->sqlstate, "%s", there ? "REUSE" : "DROP");
        return 1;
    }
    if (model_id != NULL && pgconn_query(conn, backlog_sql, 2, params, NULL, why) != 0)
        return -1;
    return pgconn_query(conn, delete_sql, 1, params, NULL, why);
}

/* BEGIN, the row, COMMIT whose own answer counts. As make_row(). */
static int make_row_for_good(PGconn *conn, const char *id, const char *model_id,
                             struct pg_error *why)
{
    PGresult *result;
    int rc;

    if (pgconn_query(conn, "BEGIN", 0, NULL, NULL, why) != 0)
        return -1;
    rc = make_row(conn, id, model_id, why);
    if (rc != 0)
        return rc;
    if (pgconn_query(conn, "COMMIT", 0, NULL, &result, why) != 0)
        return -1;
    rc = strcmp(PQcmdStatus(result), "COMMIT") == 0 ? 0 : -1;
    PQclear(result);
    if (rc != 0)
        pg_error_set(why, PG_FAULT_PASSING, "the transaction was rolled back");
    return rc;
}

/* The row's own fault: the letter stays, with its new reason. What holds others up too ends the
 * walk. */
static bool is_refusal(const struct pg_error *why)
{
    return why->fault == PG_FAULT_DATA || strcmp(why->sqlstate, "57014") == 0;
}

static const char *code_of(const struct pg_error *why)
{
    if (strcmp(why->sqlstate, "REUSE") == 0)
        return "ID_REUSED";
    return strcmp(why->sqlstate, "DROP") == 0 ? "NOT_STORED" : why->sqlstate;
}

static int refuse(PGconn *conn, struct pgdead_walk *walk, const char *id,
                  const struct pg_error *why, struct pg_error *err)
{
    const char *params[] = {id, code_of(why), why->text};

    if (pgconn_query(conn, "ROLLBACK", 0, NULL, NULL, err) != 0 ||
        pgconn_query(conn, refuse_sql, 3, params, NULL, err) != 0)
        return -1;
    if (walk->refused < PGDEAD_REFUSED_MAX) {
        struct pgdead_refusal *r = &walk->refusals[walk->refused];

        r->id = strtoll(id, NULL, 10);
        snprintf(r->code, sizeof r->code, "%s", code_of(why));
        snprintf(r->reason, sizeof r->reason, "%s", why->text);
    }
    walk->refused++;
    return 0;
}

static int retry_one(PGconn *conn, const char *id, const char *model_id, struct pgdead_walk *walk,
                     struct pg_error *err)
{
    struct pg_error why = {0};
    int rc = make_row_for_good(conn, id, model_id, &why);

    if (rc == 0) {
        walk->done++;
    } else if (is_refusal(&why)) {
        if (refuse(conn, walk, id, &why, err) != 0)
            return -1;
    } else {
        *err = why;
        snprintf(err->text, sizeof err->text, "dead letter %s: %.200s", id, why.text);
        return -1;
    }
    walk->after = strtoll(id, NULL, 10);
    return 0;
}

/* The id of the backlog's model as text; "" where no vectors are made. */
static int find_model(PGconn *conn, const struct embedding_model *model, char ret[16],
                      struct pg_error *err)
{
    struct schema_vectors vectors;
    int16_t id;

    ret[0] = '\0';
    if (model->dimension == 0)
        return 0;
    if (schema_vectors(conn, model->storage, &vectors, err) != 0 ||
        schema_model_id(conn, model, vectors.storage, &id, err) != 0)
        return -1;
    snprintf(ret, 16, "%d", id);
    return 0;
}

int pgdead_retry(PGconn *conn, const struct embedding_model *model, struct pgdead_walk *walk,
                 struct pg_error *err)
{
    PGresult *ids;
    char model_id[16];
    int rc = 0;

    if (find_model(conn, model, model_id, err) != 0 || next_slice(conn, walk, &ids, err) != 0)
        return -1;
    for (int i = 0; rc == 0 && i < PQntuples(ids); i++)
        rc = retry_one(conn, PQgetvalue(ids, i, 0), model_id[0] != '\0' ? model_id : NULL, walk,
                       err);
    PQclear(ids);
    return rc;
}

int pgdead_drop(PGconn *conn, struct pgdead_walk *walk, struct pg_error *err)
{
    PGresult *ids, *result;
    int rc = 0;

    if (next_slice(conn, walk, &ids, err) != 0)
        return -1;
    for (int i = 0; rc == 0 && i < PQntuples(ids); i++) {
        const char *params[] = {PQgetvalue(ids, i, 0)};

        rc = pgconn_query(conn, delete_sql, 1, params, &result, err);
        if (rc != 0)
            break;
        walk->done += strcmp(PQcmdTuples(result), "1") == 0;
        walk->after = strtoll(params[0], NULL, 10);
        PQclear(result);
    }
    PQclear(ids);
    return rc;
}
