/* The statements of the writer, and rows as their parameters.
 *
 * The hard thing is a conversation whose id is taken by another content (ID_REUSED): its vector
 * must not land beside the other's text. So vectors and backlog rows join the conversation that is
 * really stored and compare its content_hash; that costs an index look-up on a page that has just
 * been written, and keeps the usual batch at one round trip. A duplicate with the same content gets
 * its vector too, which heals one that was lost.
 *
 * unnest() stands in the target list, where the arrays are walked in step; in FROM they would be
 * copied into a tuplestore first.
 */
#include "daemon/pgstatement.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

/* Of parameters in one statement: bounds memory here, in libpq and in the server. */
#define SLICE_BYTES ((size_t)8 << 20)
#define SLICE_ROWS 1000

static const char conversations_sql[] =
    "INSERT INTO convstore.conversations"
    " (user_id, id, created_at, content_hash, platform, transcript, summary, metadata)"
    " SELECT unnest($1::text[]), unnest($2::uuid[]), unnest($3::timestamptz[]),"
    " unnest($4::bytea[]), unnest($5::text[]), unnest($6::text[]), unnest($7::text[]),"
    " unnest($8::jsonb[])"
    " ON CONFLICT DO NOTHING RETURNING user_id, id";

static const char hashes_sql[] =
    "SELECT r.n, c.content_hash"
    " FROM (SELECT generate_subscripts($1::text[], 1) n, unnest($1::text[]) u,"
    " unnest($2::uuid[]) i) r"
    " JOIN convstore.conversations c ON c.user_id = r.u AND c.id = r.i";

static const char dead_letters_sql[] =
    "INSERT INTO convstore.dead_letters (user_id, conversation_id, content_hash, created_at_us,"
    " platform, transcript, summary, metadata, sqlstate, reason)"
    " SELECT unnest($1::text[]), unnest($2::uuid[]), unnest($3::bytea[]), unnest($4::int8[]),"
    " unnest($5::text[]), unnest($6::text[]), unnest($7::text[]), unnest($8::text[]),"
    " unnest($9::text[]), unnest($10::text[])"
    " ON CONFLICT (user_id, conversation_id, content_hash) DO NOTHING";

/* $8 has the column's own array type, told when it is prepared: pgvector may live in any schema. %s
 * is the column. */
static const char vectors_sql[] =
    "INSERT INTO convstore.embeddings"
    " (user_id, conversation_id, model_id, chunk, byte_start, byte_end, %s)"
    " SELECT r.u, r.i, $1::int2, r.k, r.s, r.e, r.v"
    " FROM (SELECT unnest($2::text[]) u, unnest($3::uuid[]) i, unnest($4::bytea[]) h,"
    " unnest($5::int4[]) k, unnest($6::int4[]) s, unnest($7::int4[]) e, unnest($8) v) r"
    " JOIN convstore.conversations c"
    " ON c.user_id = r.u AND c.id = r.i AND c.content_hash = r.h"
    " ON CONFLICT DO NOTHING";

/* unnest() would flatten an array of real[]: one long array is cut into equal parts instead. */
static const char vectors_flat_sql[] =
    "INSERT INTO convstore.embeddings"
    " (user_id, conversation_id, model_id, chunk, byte_start, byte_end, %s)"
    " SELECT r.u, r.i, $1::int2, r.k, r.s, r.e,"
    " $8[(r.n - 1) * $9::int2 + 1 : r.n * $9::int2]"
    " FROM (SELECT generate_subscripts($2::text[], 1) n, unnest($2::text[]) u,"
    " unnest($3::uuid[]) i, unnest($4::bytea[]) h, unnest($5::int4[]) k, unnest($6::int4[]) s,"
    " unnest($7::int4[]) e) r"
    " JOIN convstore.conversations c"
    " ON c.user_id = r.u AND c.id = r.i AND c.content_hash = r.h"
    " ON CONFLICT DO NOTHING";

static const char backlog_sql[] =
    "INSERT INTO convstore.embedding_backlog (user_id, conversation_id, model_id, last_error)"
    " SELECT r.u, r.i, $1::int2, r.e"
    " FROM (SELECT unnest($2::text[]) u, unnest($3::uuid[]) i, unnest($4::bytea[]) h,"
    " unnest($5::text[]) e) r"
    " JOIN convstore.conversations c"
    " ON c.user_id = r.u AND c.id = r.i AND c.content_hash = r.h"
    " WHERE NOT EXISTS (SELECT FROM convstore.embeddings v WHERE v.user_id = r.u"
    " AND v.conversation_id = r.i AND v.model_id = $1::int2)"
    " ON CONFLICT DO NOTHING";

static const char *const names[STATEMENT_COUNT] = {
    [STATEMENT_BEGIN] = "convstore_begin",
    [STATEMENT_COMMIT] = "convstore_commit",
    [STATEMENT_BRIEF_LOCKS] = "convstore_brief_locks",
    [STATEMENT_CONVERSATIONS] = "convstore_conversations",
    [STATEMENT_HASHES] = "convstore_hashes",
    [STATEMENT_DEAD_LETTERS] = "convstore_dead_letters",
    [STATEMENT_VECTORS] = "convstore_vectors",
    [STATEMENT_BACKLOG] = "convstore_backlog",
};

static bool is_pgvector(const struct schema_vectors *vectors)
{
    return strcmp(vectors->storage, "real") != 0;
}

void pgstatement_prepare_all(struct pgpipe *pipe, const struct schema_vectors *vectors,
                             bool with_vectors)
{
    char insert_vectors[sizeof vectors_flat_sql + sizeof vectors->column];
    const char *const sql[STATEMENT_COUNT] = {
        [STATEMENT_BEGIN] = "BEGIN",
        [STATEMENT_COMMIT] = "COMMIT",
        [STATEMENT_BRIEF_LOCKS] = "SET LOCAL lock_timeout = '100ms'",
        [STATEMENT_CONVERSATIONS] = conversations_sql,
        [STATEMENT_HASHES] = hashes_sql,
        [STATEMENT_DEAD_LETTERS] = dead_letters_sql,
        [STATEMENT_VECTORS] = insert_vectors,
        [STATEMENT_BACKLOG] = backlog_sql,
    };
    const Oid real_array = 1021;
    const Oid types[8] = {
        [7] = is_pgvector(vectors) ? vectors->array_type : real_array,
    };

    snprintf(insert_vectors, sizeof insert_vectors,
             is_pgvector(vectors) ? vectors_sql : vectors_flat_sql, vectors->column);
    for (int i = 0; i < (with_vectors ? STATEMENT_COUNT : STATEMENT_VECTORS); i++)
        pgpipe_prepare(pipe, (struct pgstep){.kind = i}, names[i], sql[i],
                       i == STATEMENT_VECTORS ? 8 : 0, types);
}

void pgstatement_send(struct pgpipe *pipe, enum pgstatement statement)
{
    pgpipe_send(pipe, (struct pgstep){.kind = statement}, names[statement], NULL);
}

static const struct conversation *row_of(const struct write_batch *batch, uint32_t row)
{
    assert(row < batch->count);
    return batch->rows[row].conversation;
}

/* How many of these rows make one statement: at least one. */
static size_t slice_rows(const struct write_batch *batch, const uint32_t *rows, size_t count)
{
    size_t bytes = 0, n = 0;

    while (n < count && n < SLICE_ROWS && bytes < SLICE_BYTES)
        bytes += conversation_bytes(row_of(batch, rows[n++]));
    return n;
}

/* One array for each column, since all elements of an array stand together. */
enum column { USER_ID, ID, HASH, PLATFORM, TRANSCRIPT, SUMMARY, METADATA, METADATA_TEXT, TIME, US };

static void add_field(struct pgparams *p, enum column column, const struct conversation *c)
{
    const struct packed_conversation *head = conversation_header(c);

    switch (column) {
    case USER_ID:
        pgparams_add_text(p, conversation_user_id(c));
        break;
    case ID:
        pgparams_add(p, head->id, sizeof head->id);
        break;
    case HASH:
        pgparams_add(p, head->content_hash, sizeof head->content_hash);
        break;
    case PLATFORM:
        pgparams_add_text(p, conversation_platform(c));
        break;
    case TRANSCRIPT:
        pgparams_add_text(p, conversation_transcript(c));
        break;
    case SUMMARY:
        pgparams_add_text(p, conversation_summary(c));
        break;
    case METADATA:
        pgparams_add_jsonb(p, conversation_metadata(c));
        break;
    case METADATA_TEXT:
        pgparams_add_text(p, conversation_metadata(c));
        break;
    case TIME:
        pgparams_add_time(p, head->created_at_us);
        break;
    case US:
        pgparams_add_int8(p, head->created_at_us);
        break;
    }
}

static Oid column_type(enum column column)
{
    static const Oid types[] = {
        [USER_ID] = PG_TEXT,     [ID] = PG_UUID,
        [HASH] = PG_BYTEA,       [PLATFORM] = PG_TEXT,
        [TRANSCRIPT] = PG_TEXT,  [SUMMARY] = PG_TEXT,
        [METADATA] = PG_JSONB,   [METADATA_TEXT] = PG_TEXT,
        [TIME] = PG_TIMESTAMPTZ, [US] = PG_INT8,
    };
    return types[column];
}

static void add_column(struct pgparams *p, const struct write_batch *batch, const uint32_t *rows,
                       size_t count, enum column column)
{
    pgparams_array(p, column_type(column), count);
    for (size_t i = 0; i < count; i++)
        add_field(p, column, row_of(batch, rows[i]));
}

void pgstatement_conversations(struct pgpipe *pipe, struct pgparams *params,
                               const struct write_batch *batch, const uint32_t *rows, size_t count)
{
    static const enum column columns[] = {USER_ID,  ID,         TIME,    HASH,
                                          PLATFORM, TRANSCRIPT, SUMMARY, METADATA};

    for (size_t first = 0, n; first < count; first += n) {
        n = slice_rows(batch, rows + first, count - first);
        pgparams_reset(params);
        for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
            add_column(params, batch, rows + first, n, columns[i]);
        pgpipe_send(pipe,
                    (struct pgstep){.kind = STATEMENT_CONVERSATIONS, .first = first, .count = n},
                    names[STATEMENT_CONVERSATIONS], params);
    }
}

void pgstatement_hashes(struct pgpipe *pipe, struct pgparams *params,
                        const struct write_batch *batch, const uint32_t *rows, size_t count)
{
    for (size_t first = 0, n; first < count; first += n) {
        n = count - first < SLICE_ROWS ? count - first : SLICE_ROWS;
        pgparams_reset(params);
        add_column(params, batch, rows + first, n, USER_ID);
        add_column(params, batch, rows + first, n, ID);
        pgpipe_send(pipe, (struct pgstep){.kind = STATEMENT_HASHES, .first = first, .count = n},
                    names[STATEMENT_HASHES], params);
    }
}

void pgstatement_backlog(struct pgpipe *pipe, struct pgparams *params,
                         const struct write_batch *batch, const uint32_t *rows, size_t count,
                         int16_t model_id, const char *error)
{
    struct slice text = {error, error != NULL ? strlen(error) : 0};

    for (size_t first = 0, n; first < count; first += n) {
        n = count - first < SLICE_ROWS ? count - first : SLICE_ROWS;
        pgparams_reset(params);
        pgparams_int2(params, model_id);
        add_column(params, batch, rows + first, n, USER_ID);
        add_column(params, batch, rows + first, n, ID);
        add_column(params, batch, rows + first, n, HASH);
        pgparams_array(params, PG_TEXT, n);
        for (size_t i = 0; i < n; i++)
            pgparams_add_text(params, text);
        pgpipe_send(pipe, (struct pgstep){.kind = STATEMENT_BACKLOG, .first = first, .count = n},
                    names[STATEMENT_BACKLOG], params);
    }
}

/* The keys of the vectors' conversations, and the vectors' own small columns. */
static void add_vector_columns(struct pgparams *p, const struct write_batch *batch, size_t first,
                               size_t count)
{
    static const enum column columns[] = {USER_ID, ID, HASH};
    const struct write_vector *v = batch->vectors + first;

    for (size_t c = 0; c < sizeof columns / sizeof *columns; c++) {
        pgparams_array(p, column_type(columns[c]), count);
        for (size_t i = 0; i < count; i++)
            add_field(p, columns[c], row_of(batch, v[i].row));
    }
    pgparams_array(p, PG_INT4, count);
    for (size_t i = 0; i < count; i++)
        pgparams_add_int4(p, (int32_t)v[i].chunk);
    pgparams_array(p, PG_INT4, count);
    for (size_t i = 0; i < count; i++)
        pgparams_add_int4(p, (int32_t)v[i].byte_start);
    pgparams_array(p, PG_INT4, count);
    for (size_t i = 0; i < count; i++)
        pgparams_add_int4(p, (int32_t)v[i].byte_end);
}

void pgstatement_add_vector(struct pgparams *p, const float *values,
                            const struct schema_vectors *how, uint32_t dimension)
{
    if (strcmp(how->storage, "halfvec") == 0)
        pgparams_add_halfvec(p, values, dimension);
    else
        pgparams_add_vector(p, values, dimension);
}

static void add_values(struct pgparams *p, const struct write_vector *v, size_t count,
                       const struct schema_vectors *how, uint32_t dimension)
{
    if (!is_pgvector(how)) {
        pgparams_array(p, PG_FLOAT4, count * dimension);
        for (size_t i = 0; i < count; i++)
            pgparams_add_floats(p, v[i].values, dimension);
        pgparams_int2(p, (int16_t)dimension);
        return;
    }
    pgparams_array(p, how->type, count);
    for (size_t i = 0; i < count; i++)
        pgstatement_add_vector(p, v[i].values, how, dimension);
}

void pgstatement_vectors(struct pgpipe *pipe, struct pgparams *params,
                         const struct write_batch *batch, size_t first, size_t count,
                         int16_t model_id, const struct schema_vectors *how, uint32_t dimension)
{
    size_t most = 1 + SLICE_BYTES / ((size_t)dimension * 8 + 1);
    const struct write_vector *v = batch->vectors + first;

    for (size_t done = 0, n; done < count; done += n, v += n) {
        n = count - done < most ? count - done : most;
        pgparams_reset(params);
        pgparams_int2(params, model_id);
        add_vector_columns(params, batch, first + done, n);
        add_values(params, v, n, how, dimension);
        pgpipe_send(pipe,
                    (struct pgstep){.kind = STATEMENT_VECTORS, .first = first + done, .count = n},
                    names[STATEMENT_VECTORS], params);
    }
}

void pgstatement_dead_letters(struct pgpipe *pipe, struct pgparams *params,
                              const struct write_batch *batch, const struct refusal *refusals,
                              size_t count)
{
    static const enum column columns[] = {USER_ID,  ID,         HASH,    US,
                                          PLATFORM, TRANSCRIPT, SUMMARY, METADATA_TEXT};

    for (size_t first = 0, n; first < count; first += n) {
        const struct refusal *r = refusals + first;
        size_t bytes = 0;

        for (n = 0; first + n < count && n < SLICE_ROWS && bytes < SLICE_BYTES; n++)
            bytes += conversation_bytes(row_of(batch, r[n].row));
        pgparams_reset(params);
        for (size_t c = 0; c < sizeof columns / sizeof *columns; c++) {
            pgparams_array(params, column_type(columns[c]), n);
            for (size_t i = 0; i < n; i++)
                add_field(params, columns[c], row_of(batch, r[i].row));
        }
        pgparams_array(params, PG_TEXT, n);
        for (size_t i = 0; i < n; i++)
            pgparams_add(params, r[i].code, strlen(r[i].code));
        pgparams_array(params, PG_TEXT, n);
        for (size_t i = 0; i < n; i++)
            pgparams_add(params, r[i].reason, strlen(r[i].reason));
        pgpipe_send(pipe,
                    (struct pgstep){.kind = STATEMENT_DEAD_LETTERS, .first = first, .count = n},
                    names[STATEMENT_DEAD_LETTERS], params);
    }
}
