/* The schema convstore. Runs on the thread that owns the connection.
 *
 * The hard thing is several daemons that start at once. Whoever gets the advisory lock migrates;
 * the others poll for it and then find the work done. They never wait inside the server: a session
 * that waits in pg_advisory_lock() holds a snapshot, which a concurrent index build waits for in
 * its turn. The lock belongs to the transaction, so that no crash can leave it behind.
 */
#include "daemon/schema.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/schema_1.sql.h"
#include "daemon/schema_2.sql.h"
#include "daemon/schema_grants.sql.h"

#define LOCK_POLL_MS 100
#define LOCK_WAIT_MS 20000
#define LOCK_KEY "7165066987191955314" /* "convstor" */

const char *schema_sql(int version)
{
    static const char *const migrations[SCHEMA_VERSION] = {schema_1_sql, schema_2_sql};

    assert(version >= 1 && version <= SCHEMA_VERSION);
    return migrations[version - 1];
}

const char *schema_grants(void)
{
    return schema_grants_sql;
}

static void pause_ms(int ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
}

/* One number from a query that gives one. */
static int query_int(PGconn *conn, const char *sql, int *ret, struct pg_error *err)
{
    PGresult *result;

    if (pgconn_query(conn, sql, 0, NULL, &result, err) != 0)
        return -1;
    *ret = PQntuples(result) == 1 ? atoi(PQgetvalue(result, 0, 0)) : 0;
    PQclear(result);
    return 0;
}

static int check_server(PGconn *conn, struct pg_error *err)
{
    const char *encoding = PQparameterStatus(conn, "server_encoding");

    if (PQserverVersion(conn) < SCHEMA_SERVER_VERSION_MIN) {
        pg_error_set(err, PG_FAULT_STOPPED,
                     "the server is PostgreSQL %s; 14 or newer is needed: upgrade it",
                     PQparameterStatus(conn, "server_version"));
        return -1;
    }
    if (encoding == NULL || strcmp(encoding, "UTF8") != 0) {
        pg_error_set(err, PG_FAULT_STOPPED,
                     "database %s has the encoding %s; make one with ENCODING 'UTF8'", PQdb(conn),
                     encoding != NULL ? encoding : "(unknown)");
        return -1;
    }
    return 0;
}

/* 0 where there is no schema yet. */
static int read_version(PGconn *conn, int *ret, struct pg_error *err)
{
    int there;

    if (query_int(conn,
                  "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
                  " WHERE n.nspname = 'convstore' AND c.relname = 'schema_version'",
                  &there, err) != 0)
        return -1;
    *ret = 0;
    if (!there)
        return 0;
    return query_int(conn, "SELECT coalesce(max(version), 0) FROM convstore.schema_version", ret,
                     err);
}

/* Leaves the connection inside a transaction that holds the lock. */
static int take_lock(PGconn *conn, struct pg_error *err)
{
    for (int waited_ms = 0; waited_ms < LOCK_WAIT_MS; waited_ms += LOCK_POLL_MS) {
        int mine;

        if (pgconn_query(conn, "BEGIN", 0, NULL, NULL, err) != 0 ||
            query_int(conn, "SELECT pg_try_advisory_xact_lock(" LOCK_KEY ")::int", &mine, err) != 0)
            return -1;
        if (mine)
            return 0;
        if (pgconn_query(conn, "ROLLBACK", 0, NULL, NULL, err) != 0)
            return -1;
        pause_ms(LOCK_POLL_MS);
    }
    pg_error_set(err, PG_FAULT_PASSING, "another daemon has been migrating the schema for %d s",
                 LOCK_WAIT_MS / 1000);
    return -1;
}

static int migrate(PGconn *conn, struct pg_error *err)
{
    int version;

    if (take_lock(conn, err) != 0 || read_version(conn, &version, err) != 0)
        return -1;
    for (int v = version + 1; v <= SCHEMA_VERSION; v++)
        if (pgconn_query(conn, schema_sql(v), 0, NULL, NULL, err) != 0)
            return -1;
    return pgconn_query(conn, "COMMIT", 0, NULL, NULL, err);
}

int schema_version(PGconn *conn, int *ret, struct pg_error *err)
{
    return check_server(conn, err) == 0 ? read_version(conn, ret, err) : -1;
}

int schema_ensure(PGconn *conn, bool auto_migrate, struct pg_error *err)
{
    int version;

    if (schema_version(conn, &version, err) != 0)
        return -1;
    if (version >= SCHEMA_VERSION)
        return 0;
    if (auto_migrate)
        return migrate(conn, err);
    pg_error_set(err, PG_FAULT_STOPPED,
                 "schema convstore is at version %d and this daemon needs %d: apply the output of "
                 "\"convstorectl schema\", or set database.auto_migrate = true",
                 version, SCHEMA_VERSION);
    return -1;
}

/* Where the wanted column is missing, the one named embedding is the fallback. */
static const char vectors_sql[] =
    "SELECT c.storage, c.attname, c.oid, c.typarray, e.extversion, c.storage <> $1 AND e.new,"
    " NOT e.new FROM (SELECT 1) one LEFT JOIN (SELECT extversion, string_to_array(substring("
    "  extversion FROM '^[0-9]+\\.[0-9]+'), '.')::int[] >= string_to_array('" SCHEMA_PGVECTOR_MIN
    "', '.')::int[] AS new FROM pg_extension WHERE extname = 'vector') e ON true LEFT JOIN"
    " (SELECT CASE t.typname WHEN '_float4' THEN 'real' ELSE t.typname END AS storage, a.attname,"
    "  t.oid, t.typarray FROM pg_attribute a"
    "  JOIN pg_class c ON c.oid = a.attrelid AND c.relname = 'embeddings'"
    "  JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'convstore'"
    "  JOIN pg_type t ON t.oid = a.atttypid"
    "  WHERE a.attname IN ('embedding', 'embedding_vector', 'embedding_halfvec')) c"
    " ON c.storage = $1 OR c.attname = 'embedding'"
    " ORDER BY c.storage = $1 DESC LIMIT 1";

int schema_vectors(PGconn *conn, const char *wanted, struct schema_vectors *ret,
                   struct pg_error *err)
{
    PGresult *result;

    if (pgconn_query(conn, vectors_sql, 1, &wanted, &result, err) != 0)
        return -1;
    snprintf(ret->storage, sizeof ret->storage, "%s", PQgetvalue(result, 0, 0));
    snprintf(ret->column, sizeof ret->column, "%s", PQgetvalue(result, 0, 1));
    ret->type = (Oid)strtoul(PQgetvalue(result, 0, 2), NULL, 10);
    ret->array_type = (Oid)strtoul(PQgetvalue(result, 0, 3), NULL, 10);
    snprintf(ret->pgvector_version, sizeof ret->pgvector_version, "%s", PQgetvalue(result, 0, 4));
    ret->movable = strcmp(PQgetvalue(result, 0, 5), "t") == 0;
    ret->pgvector_old = strcmp(PQgetvalue(result, 0, 6), "t") == 0;
    PQclear(result);
    return 0;
}

static const char find_model_sql[] =
    "SELECT model_id FROM convstore.embedding_models WHERE provider = $1 AND model = $2"
    " AND dimension = $3::int AND prefix = $4 AND source = $5 AND storage = $6";
static const char make_model_sql[] =
    "INSERT INTO convstore.embedding_models (provider, model, dimension, prefix, source, storage)"
    " VALUES ($1, $2, $3::int, $4, $5, $6) ON CONFLICT DO NOTHING";

int schema_model_id(PGconn *conn, const struct embedding_model *model, const char *storage,
                    int16_t *ret, struct pg_error *err)
{
    char dimension[16];
    const char *params[] = {model->provider, model->model,
                            dimension,       model->prefix != NULL ? model->prefix : "",
                            model->source,   storage};

    snprintf(dimension, sizeof dimension, "%u", model->dimension);
    /* The second look finds what this or another daemon has just made. */
    for (int look = 0; look < 2; look++) {
        PGresult *result;
        int found = 0;

        if (pgconn_query(conn, find_model_sql, 6, params, &result, err) != 0)
            return -1;
        if (PQntuples(result) > 0)
            found = atoi(PQgetvalue(result, 0, 0));
        PQclear(result);
        if (found != 0) {
            *ret = (int16_t)found;
            return 0;
        }
        if (look > 0)
            break;
        if (pgconn_query(conn, make_model_sql, 6, params, &result, err) != 0)
            return -1;
        PQclear(result);
    }
    pg_error_set(err, PG_FAULT_PASSING, "the row of convstore.embedding_models vanished");
    return -1;
}
