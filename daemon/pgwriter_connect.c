/* The connection of a writer: opened and set up where there is none, closed after errors that it
 * does not survive. Owns the PGconn; lives on one write worker.
 *
 * The hard thing is pgvector that appears in a running database, or rather its column, which an
 * operator adds through any daemon (convstorectl migrate-vectors): a writer that falls back on
 * real[] looks for it every LOOK_MS and begins anew where it is there. */
#include "daemon/pgwriter_internal.h"

#include <stdio.h>
#include <string.h>

void pgwriter_disconnect(struct pgwriter *w)
{
    PQfinish(w->conn);
    w->conn = NULL;
    w->pipe.conn = NULL;
    w->found.connected = false;
}

bool pgwriter_is_farewell(const char *sqlstate)
{
    return sqlstate != NULL && strncmp(sqlstate, "57P", 3) == 0;
}

static void on_notice(void *arg, const PGresult *result)
{
    struct pgwriter *w = arg;

    if (pgwriter_is_farewell(PQresultErrorField(result, PG_DIAG_SQLSTATE)))
        w->farewell = true;
}

static void on_prepared(void *arg, const struct pgstep *step, const PGresult *result)
{
    struct pg_error *error = arg;

    (void)step;
    if (error->fault == PG_FAULT_NONE && PQresultStatus(result) == PGRES_FATAL_ERROR)
        pg_error_from_result(error, result);
}

static int prepare(struct pgwriter *w, struct pg_error *err)
{
    struct pg_error error = {0};

    if (!PQenterPipelineMode(w->conn)) {
        pg_error_from_conn(err, w->conn);
        return -1;
    }
    w->pipe.conn = w->conn;
    pgstatement_prepare_all(&w->pipe, &w->vectors, w->config->model.dimension > 0);
    pgpipe_sync(&w->pipe);
    if (pgpipe_collect(&w->pipe, on_prepared, &error, err) != 0)
        return -1;
    if (error.fault == PG_FAULT_NONE)
        return 0;
    *err = error;
    return -1;
}

static int set_up(struct pgwriter *w, struct pg_error *err)
{
    const struct pgwriter_config *config = w->config;

    if (schema_ensure(w->conn, config->auto_migrate, err) != 0 ||
        schema_vectors(w->conn, config->model.storage, &w->vectors, err) != 0)
        return -1;
    if (config->model.dimension > 0 && w->vectors.storage[0] == '\0') {
        pg_error_set(err, PG_FAULT_STOPPED,
                     "the table convstore.embeddings is missing: restore it, or make it again as "
                     "\"convstorectl schema\" shows");
        return -1;
    }
    if (config->model.dimension > 0 &&
        schema_model_id(w->conn, &config->model, w->vectors.storage, &w->model_id, err) != 0)
        return -1;
    return prepare(w, err);
}

static void note_vectors(struct pgwriter *w)
{
    memcpy(w->found.pgvector_version, w->vectors.pgvector_version,
           sizeof w->found.pgvector_version);
    memcpy(w->found.storage, w->vectors.storage, sizeof w->found.storage);
    w->found.pgvector_old = w->vectors.pgvector_old && w->config->model.dimension > 0 &&
                            strcmp(w->vectors.storage, w->config->model.storage) != 0;
    w->found.vectors_movable = w->vectors.movable && w->config->model.dimension > 0;
}

/* Whether vectors would be stored another way now. What goes wrong here goes wrong again in the
 * batch, where it is told. */
static bool storage_has_changed(struct pgwriter *w)
{
    const struct embedding_model *model = &w->config->model;
    struct schema_vectors now;
    struct pg_error err;

    if (model->dimension == 0 || strcmp(w->vectors.storage, model->storage) == 0 ||
        pgconn_now_ms() < w->look_at_ms)
        return false;
    w->look_at_ms = pgconn_now_ms() + PGWRITER_LOOK_MS;
    if (!PQexitPipelineMode(w->conn) || schema_vectors(w->conn, model->storage, &now, &err) != 0 ||
        !PQenterPipelineMode(w->conn) || strcmp(now.storage, w->vectors.storage) != 0)
        return true;
    w->vectors = now;
    note_vectors(w);
    return false;
}

int pgwriter_connect(struct pgwriter *w, struct pg_error *err)
{
    struct pgconn_settings settings;

    if (w->conn != NULL && pgconn_alive(w->conn) && !w->farewell && !storage_has_changed(w))
        return 0;
    pgwriter_disconnect(w);
    w->farewell = false;
    if (pgconn_open(w->config->conninfo, &w->conn, &settings, err) != 0)
        return -1;
    PQsetNoticeReceiver(w->conn, on_notice, w);
    if (set_up(w, err) != 0) {
        pgwriter_disconnect(w);
        /* No row has been sent yet: none can be at fault. */
        if (err->fault == PG_FAULT_DATA)
            err->fault = PG_FAULT_PASSING;
        return -1;
    }
    w->found.connected = true;
    w->found.server_version = PQserverVersion(w->conn);
    w->found.fsync_off = settings.fsync_off;
    w->found.timeline = settings.timeline;
    w->incarnation = settings.incarnation;
    w->look_at_ms = pgconn_now_ms() + PGWRITER_LOOK_MS;
    note_vectors(w);
    return 0;
}

void pgwriter_after_error(struct pgwriter *w, const struct pg_error *err)
{
    if (err->fault != PG_FAULT_PASSING && err->fault != PG_FAULT_DATA)
        pgwriter_disconnect(w);
}
