/* The same functions as in the daemon make the connection, look at the schema and try the embedder,
 * so that what is found here is found there too. */
#include "daemon/check.h"

#include <curl/curl.h>
#include <string.h>

#include "daemon/embedding_endpoints.h"
#include "daemon/embedding_model.h"
#include "daemon/embedding_selftest.h"
#include "daemon/pgconn.h"
#include "daemon/schema.h"

/* What the tables of vectors are, or will be, made with. */
static bool check_pgvector(PGconn *conn, FILE *out, struct pg_error *err)
{
    PGresult *result;

    if (pgconn_query(conn,
                     "SELECT coalesce(installed_version, default_version),"
                     " CASE WHEN string_to_array(substring(coalesce(installed_version,"
                     "  default_version) FROM '^[0-9]+\\.[0-9]+'), '.')::int[] < ARRAY[0, 7]"
                     " THEN ' is too old (0.7 is needed): vectors are stored as real[]'"
                     " WHEN installed_version IS NULL"
                     " THEN ' is not in this database yet: made with the tables, if the role may'"
                     " ELSE '' END FROM pg_available_extensions WHERE name = 'vector'",
                     0, NULL, &result, err) != 0)
        return false;
    if (PQntuples(result) > 0)
        fprintf(out, "# database: pgvector %s%s\n", PQgetvalue(result, 0, 0),
                PQgetvalue(result, 0, 1));
    else
        fprintf(out, "# database: no pgvector: vectors are stored as real[]\n");
    PQclear(result);
    return true;
}

/* Whether tables that are missing could be made. */
static bool may_create(PGconn *conn, FILE *out, struct pg_error *err)
{
    PGresult *result;
    bool may;

    if (pgconn_query(conn, "SELECT has_database_privilege(current_database(), 'CREATE')", 0, NULL,
                     &result, err) != 0)
        return false;
    may = PQgetvalue(result, 0, 0)[0] == 't';
    PQclear(result);
    if (may)
        fprintf(out, "# database: no schema convstore yet; the daemon makes it\n");
    else
        pg_error_set(err, PG_FAULT_STOPPED,
                     "no schema convstore yet, and %s may not make one: apply the output of "
                     "\"convstorectl schema\", or GRANT CREATE ON DATABASE",
                     PQuser(conn));
    return may;
}

static bool check_schema(const struct config *config, PGconn *conn, int version, FILE *out,
                         struct pg_error *err)
{
    if (version == 0 && config->database.auto_migrate)
        return may_create(conn, out, err);
    if (version < SCHEMA_VERSION && !config->database.auto_migrate)
        return schema_ensure(conn, false, err) == 0; /* says what is to be applied */
    fprintf(out, "# database: schema convstore, version %d%s\n", version,
            version < SCHEMA_VERSION ? "; the daemon migrates it" : "");
    return true;
}

static bool check_connection(const struct config *config, PGconn *conn, FILE *out,
                             struct pg_error *err)
{
    int version;

    fprintf(out, "# database: connected to %s as %s on %s, PostgreSQL %s, encoding %s\n",
            PQdb(conn), PQuser(conn), PQhost(conn), PQparameterStatus(conn, "server_version"),
            PQparameterStatus(conn, "server_encoding"));
    return schema_version(conn, &version, err) == 0 && check_pgvector(conn, out, err) &&
           check_schema(config, conn, version, out, err);
}

static bool check_database(const struct config *config, FILE *out)
{
    struct pgconn_settings settings;
    struct pg_error err;
    PGconn *conn;
    bool good;

    if (pgconn_open(config->database.conninfo, &conn, &settings, &err) != 0) {
        fprintf(out, "# database: FAILED: %s\n", err.text);
        return false;
    }
    good = check_connection(config, conn, out, &err);
    if (!good)
        fprintf(out, "# database: FAILED: %s\n", err.text);
    if (settings.fsync_off)
        fprintf(out, "# database: WARNING: fsync=off: a crash there can lose committed rows\n");
    PQfinish(conn);
    return good;
}

static bool check_server(const struct config *config, const struct embedding_model *model,
                         const char *url, FILE *out)
{
    struct embed_request request = {.prefix = model->prefix, .dimension = model->dimension};
    struct embedding_selftest found = {.text = "out of memory"};
    struct embedder *embedder = embedder_new(config, url);
    char shown[128];

    endpoint_shown_url(url, shown);
    if (embedder != NULL)
        embedding_selftest_run(embedder, &request, &found);
    embedder_free(embedder);
    fprintf(out, "# embedder: %s: %s%s\n", shown,
            found.state == SELFTEST_DUE       ? "FAILED: "
            : found.state == SELFTEST_WARNING ? "WARNING: "
                                              : "",
            found.text);
    return found.state != SELFTEST_DUE;
}

static bool check_servers(const struct config *config, const struct embedding_model *model,
                          FILE *out)
{
    struct endpoints endpoints;
    bool good = endpoints_init(&endpoints, config->embedding.url) == 0;

    for (unsigned i = 0; i < endpoints.count; i++)
        good = check_server(config, model, endpoints.urls[i], out) && good;
    endpoints_done(&endpoints);
    return good;
}

static bool check_embedder(const struct config *config, FILE *out)
{
    struct embedding_model model;
    char error[256];

    if (embedding_model_resolve(config, &model, error) != 0) {
        fprintf(out, "# embedder: FAILED: %s\n", error);
        return false;
    }
    if (model.dimension == 0 || strcmp(model.provider, "builtin") == 0) {
        fprintf(out, "# embedder: %s needs no server\n", model.provider);
        return true;
    }
    return check_servers(config, &model, out);
}

bool check_connect(const struct config *config, FILE *out)
{
    bool database, embedder;

    curl_global_init(CURL_GLOBAL_DEFAULT);
    database = check_database(config, out);
    embedder = check_embedder(config, out);
    curl_global_cleanup();
    return database && embedder;
}
