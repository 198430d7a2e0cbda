/* The writer against a real PostgreSQL: what is stored, byte for byte, and what is said of it. */
#include "pg_batch.h"

#include <limits.h>

#include "daemon/schema.h"

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
    assert_verdicts(ROW_STORED);
    assert_string_equal(batch.sqlstate, "");
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.conversations"), 3);
    assert_string_equal(pg_text("SELECT embedding::real[] FROM convstore.embeddings"
                                " WHERE user_id = 'bob' AND chunk = 1 AND byte_start = 10"
                                " AND byte_end = 11"),
                        "{2,2.125,2.25,2.375,2.5,2.625,2.75,2.875}");
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.embeddings"), 3);
    assert_string_equal(pg_text("SELECT user_id || conversation_id FROM"
                                " convstore.embedding_backlog"),
                        "ann00000000-0000-0000-0000-000000000002");
    assert_true(pgwriter_found(writer).connected);
    assert_true(pgwriter_found(writer).server_version >= 140000);
    assert_string_equal(pgwriter_found(writer).storage,
                        pgwriter_found(writer).pgvector_version[0] != '\0' ? "vector" : "real");
    assert_false(pgwriter_found(writer).vectors_movable);
}

/* The texts of the first row as PostgreSQL's hex, against the bytes given. */
static void assert_bytes(const char *column, const char *expected, size_t len)
{
    const char *got = pg_text("SELECT encode(convert_to(%s, 'UTF8'), 'hex') FROM"
                              " convstore.conversations WHERE user_id LIKE 'u%%'",
                              column);

    assert_int_equal(strlen(got), 2 * len);
    for (size_t i = 0; i < len; i++) {
        char hex[3];

        snprintf(hex, sizeof hex, "%02x", (unsigned char)expected[i]);
        assert_memory_equal(got + 2 * i, hex, 2);
    }
}

static void stores_byte_for_byte(void **state)
{
    static const char transcript[] = "\x01\t\r\n\\x41 'quoted' \"too\" {1,2} NULL \xc3\xa9 "
                                     "\xf0\x9f\x98\x80 \xef\xbf\xbf \xf4\x8f\xbf\xbf\x7f";
    static const char user[] = "u\\,\"{} \xe2\x82\xac";
    static const char metadata[] = "{\"a\": [1, 2.50, null, true], \"\xc3\xa9\": {\"b\": \"x\"}}";

    (void)state;
    add_full(&(struct conversation_fields){.user_id = text(user),
                                           .platform = text("p'"),
                                           .transcript = text(transcript),
                                           .summary = {"", 0},
                                           .metadata = text(metadata)},
             7);
    add("v", 8, "no summary, no metadata");
    assert_outcome(WRITE_DONE);
    assert_bytes("user_id", user, sizeof user - 1);
    assert_bytes("transcript", transcript, sizeof transcript - 1);
    assert_bytes("platform", "p'", 2);
    assert_bytes("summary", "", 0);
    assert_string_equal(pg_text("SELECT metadata = '%s'::jsonb FROM convstore.conversations"
                                " WHERE user_id <> 'v'",
                                metadata),
                        "t");
    assert_string_equal(pg_text("SELECT summary IS NULL AND metadata IS NULL FROM"
                                " convstore.conversations WHERE user_id = 'v'"),
                        "t");
    for (int i = 0; i < 16; i++)
        assert_int_equal(
            pg_int("SELECT get_byte(content_hash, %d) FROM convstore.conversations"
                   " WHERE user_id = 'v' AND id = '00000000-0000-0000-0000-000000000008'",
                   i),
            conversation_header(rows[1].conversation)->content_hash[i]);
}

static void add_at(unsigned number, int64_t created_at_us)
{
    add_full(&(struct conversation_fields){.user_id = text("t"),
                                           .platform = text("test"),
                                           .transcript = text("when"),
                                           .has_created_at = true,
                                           .created_at_us = created_at_us},
             number);
}

static const char *stored_time(unsigned number)
{
    return pg_text("SELECT created_at AT TIME ZONE 'UTC' FROM convstore.conversations"
                   " WHERE id::text LIKE '%%%u'",
                   number);
}

static void stores_times_to_the_microsecond(void **state)
{
    (void)state;
    add_at(1, 0);
    add_at(2, -1);
    add_at(3, 1700000000123456);
    add_at(4, -210866803200000000); /* PostgreSQL's first moment */
    add_at(5, INT64_MAX);           /* its last is beyond ours */
    assert_outcome(WRITE_DONE);
    assert_string_equal(stored_time(1), "1970-01-01 00:00:00");
    assert_string_equal(stored_time(2), "1969-12-31 23:59:59.999999");
    assert_string_equal(stored_time(3), "2023-11-14 22:13:20.123456");
    assert_string_equal(stored_time(4), "4714-11-24 00:00:00 BC");
    assert_string_equal(stored_time(5), "294247-01-10 04:00:54.775807");
}

/* What no door check should let in, but a journal of another version might hold. */
static void buries_what_the_types_refuse(void **state)
{
    (void)state;
    add_at(1, INT64_MIN); /* not -infinity */
    add_at(2, -210866803200000001);
    add_full(&(struct conversation_fields){.user_id = text("u"),
                                           .platform = text("p"),
                                           .transcript = text("t"),
                                           .metadata = text("{\"a\": \"\\u0000\"}")},
             3);
    add("v", 4, "fine");
    assert_outcome(WRITE_SUSPECT);
    batch.isolate = true;
    assert_outcome(WRITE_DONE);
    for (int i = 0; i < 3; i++)
        assert_int_equal(rows[i].verdict, ROW_DEAD);
    assert_int_equal(rows[3].verdict, ROW_STORED);
    assert_string_equal(pg_text("SELECT string_agg(sqlstate, ' ' ORDER BY conversation_id) FROM"
                                " convstore.dead_letters"),
                        "22008 22008 22P05");
    assert_string_equal(pg_text("SELECT metadata FROM convstore.dead_letters"
                                " WHERE sqlstate = '22P05'"),
                        "{\"a\": \"\\u0000\"}");
    assert_string_equal(pg_text("SELECT min(created_at_us) FROM convstore.dead_letters"),
                        "-9223372036854775808");
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

static void writes_no_backlog_for_what_has_its_vector_or_another_text(void **state)
{
    (void)state;
    add("ann", 1, "hello");
    add_vector(0);
    assert_outcome(WRITE_DONE);
    clear_rows();
    add("ann", 1, "hello");
    add("bob", 1, "waits");
    assert_outcome(WRITE_DONE);
    clear_rows();
    add("ann", 1, "other words");
    assert_outcome(WRITE_DONE);
    assert_string_equal(pg_text("SELECT string_agg(user_id, ' ') FROM"
                                " convstore.embedding_backlog"),
                        "bob");
}

static void a_key_twice_in_a_batch_harms_nothing(void **state)
{
    (void)state;
    add("ann", 1, "hello");
    add("ann", 1, "hello");
    add("ann", 1, "other");
    add("bob", 1, "next");
    assert_outcome(WRITE_DONE);
    assert_int_equal(rows[0].verdict, ROW_STORED);
    assert_int_equal(rows[1].verdict, ROW_DUPLICATE);
    assert_int_equal(rows[2].verdict, ROW_DEAD);
    assert_int_equal(rows[3].verdict, ROW_STORED);
}

static void writes_no_vectors_for_dimension_0(void **state)
{
    (void)state;
    config.model.dimension = 0;
    add("ann", 1, "hello");
    assert_outcome(WRITE_DONE);
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.embedding_models"), 0);
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.embedding_backlog"), 0);
}

static void writes_real_arrays_without_pgvector(void **state)
{
    (void)state;
    pg_do("CREATE SCHEMA convstore; CREATE TABLE convstore.embeddings (user_id text,"
          " conversation_id uuid, model_id smallint, chunk int, byte_start int, byte_end int,"
          " made_at timestamptz DEFAULT now(), embedding real[] NOT NULL,"
          " PRIMARY KEY (user_id, conversation_id, model_id, chunk))");
    for (unsigned i = 0; i < 20; i++) {
        add("ann", i, "hello");
        add_vector(0);
    }
    assert_outcome(WRITE_DONE);
    assert_string_equal(pgwriter_found(writer).storage, "real");
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.embeddings WHERE"
                            " array_length(embedding, 1) = 8 AND embedding[1] ="
                            " get_byte(uuid_send(conversation_id), 15)"
                            " AND embedding[8] = embedding[1] + 0.875"),
                     20);
    assert_string_equal(pg_text("SELECT storage FROM convstore.embedding_models"), "real");
}

/* Whether the halves that are stored are what the server itself makes of the floats. */
static void assert_halves_are_right(const float *floats, size_t count)
{
    char list[DIMENSION * 24] = "", *at = list;

    for (size_t i = 0; i < count; i++)
        at += sprintf(at, "%s%.9g", i > 0 ? "," : "", (double)floats[i]);
    if (pg_int("SELECT count(*) FROM convstore.embeddings WHERE embedding IS NULL"
               " AND embedding_halfvec = '[%s]'::vector::halfvec",
               list) == 0)
        fail_msg("not stored as the server rounds it: %s", list);
}

static void writes_halfvec(void **state)
{
    static const float edges[][DIMENSION] = {
        {0.0f, -0.0f, 1.0f, -1.0f, 65504.0f, -65504.0f, 65519.996f, 0.5f},
        {0x1p-14f, 0x1.ffcp-15f, 0x1p-24f, 0x1p-25f, 0x1.8p-25f, -0x1p-26f, 1e-30f, 0x1.ffep-15f},
        {0x1.002p0f, 0x1.006p0f, 0x1.0021p0f, 0x1.001ffp0f, -0x1.ffep0f, 0x1.8p-24f, 0x1.4p-23f, 3},
    };
    enum { EDGES = sizeof edges / sizeof edges[0], ROWS = 200 };
    unsigned random = 1;

    (void)state;
    if (!pg_int("SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'"))
        skip();
    config.model.storage = "halfvec";
    for (unsigned i = 0; i < ROWS; i++) {
        add("ann", i, "hello");
        add_vector(0);
        for (size_t k = 0; k < DIMENSION; k++)
            values[i][k] = i < EDGES ? edges[i][k] : (float)(rand_r(&random) % 2001) / 1000 - 1;
    }
    assert_outcome(WRITE_DONE);
    assert_string_equal(pgwriter_found(writer).storage, "halfvec");
    assert_string_equal(pg_text("SELECT storage FROM convstore.embedding_models"), "halfvec");
    for (unsigned i = 0; i < ROWS; i++)
        assert_halves_are_right(values[i], DIMENSION);
}

/* What halfvec cannot hold costs the vector, not the text. */
static void a_value_that_halfvec_cannot_hold_is_refused(void **state)
{
    (void)state;
    if (!pg_int("SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'"))
        skip();
    config.model.storage = "halfvec";
    add("ann", 1, "hello");
    add_vector(0);
    values[0][3] = 65520;
    assert_outcome(WRITE_SUSPECT);
    batch.isolate = true;
    assert_outcome(WRITE_DONE);
    assert_verdicts(ROW_STORED);
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.embeddings"), 0);
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.embedding_backlog"), 1);
}

/* Another daemon has added the columns meanwhile. */
static void goes_over_to_pgvector_while_it_runs(void **state)
{
    (void)state;
    if (!pg_int("SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'"))
        skip();
    pg_do("CREATE SCHEMA convstore; CREATE TABLE convstore.embeddings (user_id text,"
          " conversation_id uuid, model_id smallint, chunk int, byte_start int, byte_end int,"
          " made_at timestamptz DEFAULT now(), embedding real[] NOT NULL,"
          " PRIMARY KEY (user_id, conversation_id, model_id, chunk))");
    add("ann", 1, "hello");
    add_vector(0);
    assert_outcome(WRITE_DONE);
    assert_false(pgwriter_found(writer).vectors_movable);
    pg_do("CREATE EXTENSION vector");
    usleep((PGWRITER_LOOK_MS + 100) * 1000);
    clear_rows();
    add("ann", 2, "hello");
    add_vector(0);
    assert_outcome(WRITE_DONE);
    assert_true(pgwriter_found(writer).vectors_movable);
    assert_string_equal(pgwriter_found(writer).storage, "real");
    pg_do("%s", schema_sql(2));
    usleep((PGWRITER_LOOK_MS + 100) * 1000);
    clear_rows();
    add("ann", 3, "hello");
    add_vector(0);
    assert_outcome(WRITE_DONE);
    assert_string_equal(pgwriter_found(writer).storage, "vector");
    assert_false(pgwriter_found(writer).vectors_movable);
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.embeddings WHERE embedding IS NULL"
                            " AND vector_dims(embedding_vector) = 8"),
                     1);
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.embedding_models"), 2);
}

static void a_missing_table_of_vectors_is_named(void **state)
{
    (void)state;
    config.model.dimension = 0;
    add("ann", 1, "hello");
    assert_outcome(WRITE_DONE); /* makes the schema */
    pg_do("DROP TABLE convstore.embeddings");
    pgwriter_free(writer);
    config.model.dimension = DIMENSION;
    writer = pgwriter_new(&config);
    assert_outcome(WRITE_STOPPED);
    assert_non_null(strstr(batch.error, "convstore.embeddings"));
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.embedding_models"), 0);
}

/* More than any socket buffer holds in both directions: neither side may wait for the other. */
static void a_large_batch_is_no_pipeline_deadlock(void **state)
{
    static char transcript[60 * 1024];

    (void)state;
    for (size_t i = 0; i < sizeof transcript - 1; i++)
        transcript[i] = (char)('a' + (i * i + i / 7) % 26);
    for (unsigned i = 0; i < 1000; i++) {
        add("a user whose name takes part in what comes back", i, transcript);
        add_vector(0);
    }
    assert_outcome(WRITE_DONE);
    assert_verdicts(ROW_STORED);
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.conversations WHERE"
                            " length(transcript) = 61439"),
                     1000);
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.embeddings"), 1000);
    assert_outcome(WRITE_DONE);
    assert_verdicts(ROW_DUPLICATE);
    batch.isolate = true;
    assert_outcome(WRITE_DONE);
    assert_verdicts(ROW_DUPLICATE);
}

static void writes_into_partitions(void **state)
{
    (void)state;
    pg_do("CREATE SCHEMA convstore; CREATE TABLE convstore.conversations (user_id text,"
          " id uuid, created_at timestamptz, stored_at timestamptz DEFAULT now(),"
          " content_hash bytea, platform text, transcript text, summary text, metadata jsonb,"
          " PRIMARY KEY (user_id, id)) PARTITION BY HASH (user_id)");
    for (int i = 0; i < 4; i++)
        pg_do("CREATE TABLE convstore.conversations_%d PARTITION OF convstore.conversations"
              " FOR VALUES WITH (MODULUS 4, REMAINDER %d)",
              i, i);
    for (unsigned i = 0; i < 40; i++) {
        char user[16];

        snprintf(user, sizeof user, "user %02u", i);
        add(user, i, "hello");
        add_vector(0);
    }
    assert_outcome(WRITE_DONE);
    assert_verdicts(ROW_STORED);
    assert_outcome(WRITE_DONE);
    assert_verdicts(ROW_DUPLICATE);
    assert_int_equal(pg_int("SELECT count(DISTINCT tableoid) FROM convstore.conversations"), 4);
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.embeddings"), 40);
}

static void write_new_row(void)
{
    static unsigned number = 100;

    clear_rows();
    add("new", number++, "hello");
    assert_outcome(WRITE_DONE);
    assert_verdicts(ROW_STORED);
}

/* What the rows that are there came by. */
static void assert_ways(const char *expected)
{
    assert_string_equal(pg_text("SELECT string_agg(way, ' ' ORDER BY n) FROM public.ways"),
                        expected);
}

static void a_resend_among_new_rows_rests_copy(void **state)
{
    (void)state;
    write_new_row();
    pg_do("CREATE TABLE public.ways (n serial, way text);"
          "CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN"
          " INSERT INTO public.ways (way) VALUES (substring(current_query() from 'COPY|INSERT'));"
          " RETURN NULL; END $f$;"
          "CREATE TRIGGER t AFTER INSERT ON convstore.conversations"
          " FOR EACH STATEMENT EXECUTE FUNCTION public.f()");
    write_new_row();
    assert_ways("COPY");
    add("new", 999, "comes with one that is there already");
    assert_outcome(WRITE_DONE);
    assert_int_equal(rows[0].verdict, ROW_DUPLICATE);
    assert_int_equal(rows[1].verdict, ROW_STORED);
    for (int i = 0; i < 3; i++)
        write_new_row();
    assert_ways("COPY INSERT INSERT INSERT COPY");
    clear_rows();
    add("ann", 1, "was tried before");
    rows[0].conversation->replayed = true;
    assert_outcome(WRITE_DONE);
    assert_ways("COPY INSERT INSERT INSERT COPY INSERT");
}

#define TEST(f)                                                                                    \
    cmocka_unit_test_setup_teardown(f, setup, teardown),                                           \
    {                                                                                              \
#f "_by_copy", f, setup_copy, teardown, NULL                                               \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(stores_rows_and_vectors),
        TEST(stores_byte_for_byte),
        TEST(stores_times_to_the_microsecond),
        TEST(buries_what_the_types_refuse),
        TEST(tells_duplicates_from_reused_ids),
        TEST(writes_no_backlog_for_what_has_its_vector_or_another_text),
        TEST(a_key_twice_in_a_batch_harms_nothing),
        TEST(writes_no_vectors_for_dimension_0),
        TEST(writes_real_arrays_without_pgvector),
        TEST(writes_halfvec),
        TEST(a_value_that_halfvec_cannot_hold_is_refused),
        TEST(goes_over_to_pgvector_while_it_runs),
        TEST(a_missing_table_of_vectors_is_named),
        TEST(a_large_batch_is_no_pipeline_deadlock),
        TEST(writes_into_partitions),
        cmocka_unit_test_setup_teardown(a_resend_among_new_rows_rests_copy, setup_copy, teardown),
    };

    return cmocka_run_group_tests(tests, pg_group_setup, pg_group_teardown);
}
