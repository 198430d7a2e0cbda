/* status, get and list: each one statement along the primary key or the index by time. Owns
 * nothing. */
#include "daemon/pgread.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "daemon/pgmodels.h"
#include "proto/jsonb.h"
#include "proto/reply.h"
#include "proto/uuid.h"

/* One row always; what is not there is NULL. */
static const char status_sql[] = "SELECT " SQL_MICROSECONDS("c.created_at") ", " SQL_MICROSECONDS(
    "c.stored_at") ", b.attempts, b.last_error, d.sqlstate, d.reason,"
                   " EXISTS (SELECT FROM convstore.embeddings v WHERE v.user_id = $1 AND"
                   "  v.conversation_id = $2::uuid AND v.model_id = $3::int2)"
                   " FROM (SELECT 1) one"
                   " LEFT JOIN convstore.conversations c ON c.user_id = $1 AND c.id = $2::uuid"
                   " LEFT JOIN convstore.embedding_backlog b ON b.user_id = $1 AND"
                   "  b.conversation_id = $2::uuid AND b.model_id = $3::int2"
                   " LEFT JOIN LATERAL (SELECT sqlstate, reason FROM convstore.dead_letters"
                   "  WHERE user_id = $1 AND conversation_id = $2::uuid ORDER BY id DESC LIMIT 1) "
                   "d ON true";
enum {
    STATUS_CREATED,
    STATUS_STORED,
    STATUS_ATTEMPTS,
    STATUS_LAST_ERROR,
    STATUS_SQLSTATE,
    STATUS_REASON,
    STATUS_VECTOR
};

static const char get_sql[] =
    "SELECT c.id, c.platform, " SQL_MICROSECONDS("c.created_at") ", " SQL_MICROSECONDS(
        "c.stored_at") ", c.summary, c.metadata::text, c.transcript"
                       " FROM convstore.conversations c WHERE c.user_id = $1 AND c.id = $2::uuid";

static const char list_sql[] =
    "SELECT c.id, c.platform, " SQL_MICROSECONDS("c.created_at") ", " SQL_MICROSECONDS(
        "c.stored_at") ", " SQL_SUMMARY ", c.metadata::text, octet_length(c.transcript)"
                       " FROM convstore.conversations c WHERE c.user_id = $1"
                       " AND c.created_at <= coalesce(" SQL_TIME(
                           "$2") ", 'infinity')"
                                 " AND (c.created_at < coalesce(" SQL_TIME(
                                     "$2") ", 'infinity') OR c.id > $3::uuid)"
                                           " ORDER BY c.created_at DESC, c.id LIMIT $4::int4";
enum {
    COLUMN_ID,
    COLUMN_PLATFORM,
    COLUMN_CREATED,
    COLUMN_STORED,
    COLUMN_SUMMARY,
    COLUMN_METADATA,
    COLUMN_TRANSCRIPT
};

/* Columns as values. */

struct pgread_row pgread_row(msgpack_sbuffer *out, const PGresult *rows)
{
    struct pgread_row r = {.out = out, .rows = rows};

    msgpack_packer_init(&r.pk, out, msgpack_sbuffer_write);
    return r;
}

static struct slice field(const struct pgread_row *r, int column)
{
    if (PQgetisnull(r->rows, r->row, column))
        return (struct slice){NULL, 0};
    return (struct slice){PQgetvalue(r->rows, r->row, column),
                          (size_t)PQgetlength(r->rows, r->row, column)};
}

void pgread_pack_text(struct pgread_row *r, const char *key, int column)
{
    pack_str(&r->pk, key);
    pack_slice(&r->pk, field(r, column));
}

void pgread_pack_time(struct pgread_row *r, const char *key, int column)
{
    struct slice text = field(r, column);

    pack_str(&r->pk, key);
    if (text.data != NULL)
        pack_time(&r->pk, strtoll(text.data, NULL, 10));
    else
        msgpack_pack_nil(&r->pk);
}

void pgread_pack_int(struct pgread_row *r, const char *key, int column)
{
    pack_str(&r->pk, key);
    msgpack_pack_int64(&r->pk, strtoll(PQgetvalue(r->rows, r->row, column), NULL, 10));
}

void pgread_pack_json(struct pgread_row *r, const char *key, int column)
{
    struct slice json = field(r, column);
    int rc = 0;

    pack_str(&r->pk, key);
    if (json.data == NULL)
        msgpack_pack_nil(&r->pk);
    else
        rc = jsonb_pack(r->out, json);
    if (r->error == 0)
        r->error = rc;
}

int pgread_row_check(const struct pgread_row *r, struct pg_error *err)
{
    if (r->error == 0)
        return 0;
    pg_error_set(err, PG_FAULT_DATA, "%s",
                 r->error == -ENOMEM ? "out of memory"
                                     : "the metadata of a row cannot be read: it is nested deeper "
                                       "than this daemon takes");
    return -1;
}

/* status */

struct status {
    const char *state;
    struct slice error;
    char text[300];
};

static void judge(const struct pgread_row *r, struct status *ret)
{
    bool due = field(r, STATUS_ATTEMPTS).data != NULL;
    bool has_vector = PQgetvalue(r->rows, 0, STATUS_VECTOR)[0] == 't';

    *ret = (struct status){.state = has_vector && !due ? "embedded" : "stored"};
    if (field(r, STATUS_CREATED).data != NULL) {
        ret->error = field(r, STATUS_LAST_ERROR);
        return;
    }
    ret->state = "failed";
    snprintf(ret->text, sizeof ret->text, "%s: %.256s", PQgetvalue(r->rows, 0, STATUS_SQLSTATE),
             PQgetvalue(r->rows, 0, STATUS_REASON));
    ret->error = (struct slice){ret->text, strlen(ret->text)};
}

static void pack_status(struct pgread *read, const PGresult *rows)
{
    struct pgread_row r = pgread_row(&read->out, rows);
    struct status status;

    read->found = field(&r, STATUS_CREATED).data != NULL || field(&r, STATUS_REASON).data != NULL;
    if (!read->found)
        return;
    judge(&r, &status);
    msgpack_pack_map(&r.pk, 5);
    pack_str(&r.pk, "state");
    pack_str(&r.pk, status.state);
    pgread_pack_int(&r, "attempts", STATUS_ATTEMPTS);
    pack_str(&r.pk, "error");
    pack_slice(&r.pk, status.error);
    pgread_pack_time(&r, "created_at", STATUS_CREATED);
    pgread_pack_time(&r, "stored_at", STATUS_STORED);
}

int pgread_status(PGconn *conn, struct pgread *read, struct pg_error *err)
{
    char id[UUID_TEXT_LEN + 1], model[16];
    const char *params[] = {read->request->user_id, id, model};
    struct schema_vectors ignored;
    int16_t model_id;
    PGresult *rows;

    uuid_format(read->request->id, id);
    if (pgmodels_current(conn, read->model, &model_id, &ignored, err) != 0)
        return -1;
    snprintf(model, sizeof model, "%d", model_id);
    if (pgconn_query_prepared(conn, "status", status_sql, 3, params, &rows, err) != 0)
        return -1;
    pack_status(read, rows);
    PQclear(rows);
    return 0;
}

/* get */

static void pack_row(struct pgread_row *r)
{
    pgread_pack_text(r, "id", COLUMN_ID);
    pgread_pack_text(r, "platform", COLUMN_PLATFORM);
    pgread_pack_time(r, "created_at", COLUMN_CREATED);
    pgread_pack_time(r, "stored_at", COLUMN_STORED);
    pgread_pack_text(r, "summary", COLUMN_SUMMARY);
    pgread_pack_json(r, "metadata", COLUMN_METADATA);
}
#define COLUMN_FIELDS 6

int pgread_get(PGconn *conn, struct pgread *read, struct pg_error *err)
{
    char id[UUID_TEXT_LEN + 1];
    const char *params[] = {read->request->user_id, id};
    struct pgread_row r;
    PGresult *rows;
    int rc = 0;

    uuid_format(read->request->id, id);
    if (pgconn_query_prepared(conn, "get", get_sql, 2, params, &rows, err) != 0)
        return -1;
    read->found = PQntuples(rows) > 0;
    if (read->found) {
        r = pgread_row(&read->out, rows);
        msgpack_pack_map(&r.pk, COLUMN_FIELDS + 2);
        pack_str(&r.pk, "user_id");
        pack_str(&r.pk, read->request->user_id);
        pack_row(&r);
        pgread_pack_text(&r, "transcript", COLUMN_TRANSCRIPT);
        rc = pgread_row_check(&r, err);
    }
    PQclear(rows);
    return rc;
}

/* list */

/* Packs rows until there are `limit` or they fill the result; how many. */
static int pack_rows(struct pgread_row *r, msgpack_sbuffer *out, int limit)
{
    while (r->row < limit && r->row < PQntuples(r->rows) && out->size < PGREAD_RESULT_BYTES) {
        msgpack_pack_map(&r->pk, COLUMN_FIELDS + 1);
        pack_row(r);
        pgread_pack_int(r, "transcript_bytes", COLUMN_TRANSCRIPT);
        r->row++;
    }
    return r->row;
}

static int pack_list(struct pgread *read, const PGresult *rows, struct pg_error *err)
{
    msgpack_sbuffer page;
    struct pgread_row r;
    char cursor[CURSOR_SIZE];
    msgpack_packer pk;
    int count;

    msgpack_sbuffer_init(&page); /* how many fit is known when they are packed */
    r = pgread_row(&page, rows);
    count = pack_rows(&r, &page, (int)read->request->limit);
    msgpack_packer_init(&pk, &read->out, msgpack_sbuffer_write);
    msgpack_pack_map(&pk, 2);
    pack_str(&pk, "conversations");
    msgpack_pack_array(&pk, (size_t)count);
    msgpack_sbuffer_write(&read->out, page.data, page.size);
    msgpack_sbuffer_destroy(&page);
    pack_str(&pk, "next");
    if (count < PQntuples(rows)) {
        read_cursor_format(strtoll(PQgetvalue(rows, count - 1, COLUMN_CREATED), NULL, 10),
                           PQgetvalue(rows, count - 1, COLUMN_ID), cursor);
        pack_str(&pk, cursor);
    } else {
        msgpack_pack_nil(&pk);
    }
    return pgread_row_check(&r, err);
}

int pgread_list(PGconn *conn, struct pgread *read, struct pg_error *err)
{
    const struct read_request *request = read->request;
    char before[24], id[UUID_TEXT_LEN + 1], limit[16];
    const char *params[] = {request->user_id, request->has_before ? before : NULL, id, limit};
    PGresult *rows;
    int rc;

    snprintf(before, sizeof before, "%" PRId64, request->before_us);
    uuid_format(request->before_id, id);
    snprintf(limit, sizeof limit, "%u", request->limit + 1); /* one more tells whether to go on */
    if (pgconn_query_prepared(conn, "list", list_sql, 4, params, &rows, err) != 0)
        return -1;
    read->found = true;
    rc = pack_list(read, rows, err);
    PQclear(rows);
    return rc;
}
