/* Batches for the tests of the writer: one writer on one database of its own, rows and vectors made
 * by number. */
#ifndef TESTS_UNIT_PG_BATCH_H
#define TESTS_UNIT_PG_BATCH_H

#include "pg_fixture.h"

#include "daemon/pgwriter.h"

#define DIMENSION 8
#define ROWS_MAX 1000

static struct pgwriter_config config;
static struct pgwriter *writer;
static struct write_batch batch;
static struct write_row rows[ROWS_MAX];
static struct write_vector vectors[ROWS_MAX];
static float values[ROWS_MAX][DIMENSION];

static int setup(void **state)
{
    int ret = pg_test_setup(state);

    config = (struct pgwriter_config){
        .conninfo = pg_conninfo,
        .auto_migrate = true,
        .model = {.provider = "builtin",
                  .model = "hash",
                  .dimension = DIMENSION,
                  .prefix = "",
                  .source = "summary",
                  .storage = "vector"},
    };
    writer = pgwriter_new(&config);
    assert_non_null(writer);
    batch = (struct write_batch){.rows = rows, .vectors = vectors};
    return ret;
}

/* The same by COPY, whatever the number of rows. */
static int setup_copy(void **state)
{
    int ret = setup(state);

    config.copy_rows = 1;
    return ret;
}

static void clear_rows(void)
{
    for (size_t i = 0; i < batch.count; i++)
        conversation_free(rows[i].conversation);
    batch = (struct write_batch){.rows = rows, .vectors = vectors};
}

static int teardown(void **state)
{
    clear_rows();
    pgwriter_free(writer);
    return pg_test_teardown(state);
}

static struct slice text(const char *s)
{
    return (struct slice){s, s != NULL ? strlen(s) : 0};
}

/* The next row of the batch; the last two bytes of its id are the number. */
static void add_full(const struct conversation_fields *fields, unsigned number)
{
    uint8_t id[16] = {0};

    id[14] = (uint8_t)(number >> 8);
    id[15] = (uint8_t)number;
    assert_true(batch.count < ROWS_MAX);
    rows[batch.count].conversation = conversation_new(fields, id, 1700000000123456);
    assert_non_null(rows[batch.count].conversation);
    batch.count++;
}

static void add(const char *user, unsigned number, const char *transcript)
{
    add_full(&(struct conversation_fields){.user_id = text(user),
                                           .platform = text("test"),
                                           .transcript = text(transcript)},
             number);
}

/* A vector for the row that was added last. */
static void add_vector(uint32_t chunk)
{
    size_t v = batch.vector_count++;

    for (int i = 0; i < DIMENSION; i++)
        values[v][i] = (float)v + (float)i / 8;
    vectors[v] = (struct write_vector){.row = (uint32_t)batch.count - 1,
                                       .chunk = chunk,
                                       .byte_start = chunk * 10,
                                       .byte_end = chunk * 10 + chunk,
                                       .values = values[v]};
}

#define assert_outcome(expected)                                                                   \
    do {                                                                                           \
        pgwriter_write(writer, &batch);                                                            \
        if (batch.outcome != (expected))                                                           \
            fail_msg("outcome %d, not %d: %s %s", batch.outcome, (expected), batch.sqlstate,       \
                     batch.error);                                                                 \
    } while (0)

static void assert_verdicts(enum row_verdict expected)
{
    for (size_t i = 0; i < batch.count; i++)
        if (rows[i].verdict != expected)
            fail_msg("row %zu: verdict %d, not %d", i, rows[i].verdict, expected);
}

#endif
