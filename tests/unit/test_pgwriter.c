/* The writer against a real PostgreSQL: what is stored, what is said of it, and what happens when
 * the server refuses, locks, dies or is cut off. */
#include "pg_fixture.h"

#include <math.h>
#include <pthread.h>

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

/* The next row of the batch; ids are 16 bytes whose last two are the number. */
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

static enum write_outcome write_batch(void)
{
    pgwriter_write(writer, &batch);
    return batch.outcome;
}

#define assert_outcome(expected)                                                                   \
    do {                                                                                           \
        enum write_outcome got_ = write_batch();                                                   \
        if (got_ != (expected))                                                                    \
            fail_msg("outcome %d, not %d: %s %s", got_, (expected), batch.sqlstate, batch.error);  \
    } while (0)

static void stores_rows_and_vectors(void **state)
{
    (void)state;
    add("ann", 1, "hello");
    add_vector(0);
    add("ann", 2, "two");
    add("bob", 1, "three");
    add_vector(0);
    add_vector(1);
    assert_outcome(WRITE_DONE);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(rows[i].verdict, ROW_STORED);
    assert_string_equal(batch.sqlstate, "");
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.conversations"), 3);
    assert_string_equal(pg_text("SELECT embedding FROM convstore.embeddings WHERE user_id = 'bob'"
                                " AND chunk = 1 AND byte_start = 10 AND byte_end = 11"),
                        "[2,2.125,2.25,2.375,2.5,2.625,2.75,2.875]");
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.embeddings"), 3);
    assert_string_equal(pg_text("SELECT user_id || conversation_id FROM"
                                " convstore.embedding_backlog"),
                        "ann00000000-0000-0000-0000-000000000002");
    assert_true(pgwriter_found(writer).connected);
    assert_false(pgwriter_found(writer).vectors_are_real);
    assert_true(pgwriter_found(writer).server_version >= 140000);
    assert_string_not_equal(pgwriter_found(writer).pgvector_version, "");
}

static void tells_duplicates_from_reused_ids(void **state)
{
    (void)state;
    add("ann", 1, "hello");
    assert_outcome(WRITE_DONE);
    clear_rows();
    add("ann", 1, "hello"); /* the same again, and this time with its vector */
    add_vector(0);
    add("ann", 2, "new");
    add_vector(0);
    add("bob", 1, "the same id under another user");
    add_vector(0);
    assert_outcome(WRITE_DONE);
    assert_int_equal(rows[0].verdict, ROW_DUPLICATE);
    assert_int_equal(rows[1].verdict, ROW_STORED);
    assert_int_equal(rows[2].verdict, ROW_STORED);
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.embeddings"), 3);
    clear_rows();
    add("ann", 1, "other words");
    add_vector(0);
    add_vector(1);
    assert_outcome(WRITE_DONE);
    assert_int_equal(rows[0].verdict, ROW_DEAD);
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.embeddings"), 3);
    assert_string_equal(pg_text("SELECT transcript FROM convstore.conversations"
                                " WHERE user_id = 'ann' AND id::text LIKE '%%1'"),
                        "hello");
    assert_string_equal(pg_text("SELECT concat_ws('|', user_id, conversation_id, transcript,"
                                " platform, sqlstate, created_at_us) FROM convstore.dead_letters"),
                        "ann|00000000-0000-0000-0000-000000000001|other words|test|ID_REUSED|"
                        "1700000000123456");
    assert_outcome(WRITE_DONE); /* a replay of it is the same dead letter */
    assert_int_equal(rows[0].verdict, ROW_DEAD);
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.dead_letters"), 1);
}

static void buries_poison_and_stores_the_rest(void **state)
{
    (void)state;
    assert_outcome(WRITE_DONE); /* nothing to write: not even a connection */
    assert_false(pgwriter_found(writer).connected);
    add("ann", 1, "warm up");
    assert_outcome(WRITE_DONE);
    clear_rows();
    pg_do("ALTER TABLE convstore.conversations ADD CONSTRAINT no_poison"
          " CHECK (transcript <> 'poison')");
    for (unsigned i = 0; i < 100; i++) {
        add("bob", i, i % 20 == 3 ? "poison" : "fine");
        add_vector(0);
    }
    assert_outcome(WRITE_SUSPECT);
    assert_string_equal(batch.sqlstate, "23514");
    assert_non_null(strstr(batch.error, "no_poison"));
    assert_null(strstr(batch.error, "Failing row"));
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(rows[i].verdict, ROW_PENDING);
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.conversations"), 1);
    batch.isolate = true;
    assert_outcome(WRITE_DONE);
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(rows[i].verdict, i % 20 == 3 ? ROW_DEAD : ROW_STORED);
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.conversations"), 96);
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.embeddings"), 95);
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.dead_letters WHERE sqlstate = '23514'"
                            " AND reason LIKE '%%no_poison%%' AND transcript = 'poison'"),
                     5);
    assert_outcome(WRITE_DONE);
    assert_int_equal(rows[0].verdict, ROW_DUPLICATE);
    assert_int_equal(rows[3].verdict, ROW_DEAD);
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.dead_letters"), 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(stores_rows_and_vectors, setup, teardown),
        cmocka_unit_test_setup_teardown(tells_duplicates_from_reused_ids, setup, teardown),
        cmocka_unit_test_setup_teardown(buries_poison_and_stores_the_rest, setup, teardown),
    };

    return cmocka_run_group_tests(tests, pg_group_setup, pg_group_teardown);
}
