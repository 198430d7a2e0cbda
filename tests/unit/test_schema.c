/* The schema: made once by however many daemons start together, left alone when it is newer,
 * refused clearly when it cannot be used; and the row that names a way of making vectors. */
#include "pg_fixture.h"

#include <pthread.h>

#include "daemon/schema.h"

static PGconn *conn;
static struct pg_error err;

static PGconn *open_on(const char *conninfo)
{
    struct pgconn_settings settings;
    PGconn *c = NULL;

    if (pgconn_open(conninfo, &c, &settings, &err) != 0)
        fail_msg("%s", err.text);
    return c;
}

static int setup(void **state)
{
    int ret = pg_test_setup(state);

    conn = open_on(pg_conninfo);
    memset(&err, 0, sizeof err);
    return ret;
}

static int teardown(void **state)
{
    PQfinish(conn);
    return pg_test_teardown(state);
}

static void apply_by_hand(int first, int last)
{
    for (int version = first; version <= last; version++)
        pg_do("%s", schema_sql(version));
}

static bool pgvector_can_be_had(void)
{
    return pg_int("SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'") > 0;
}

static void is_made_once(void **state)
{
    (void)state;
    assert_int_equal(schema_ensure(conn, true, &err), 0);
    assert_int_equal(schema_ensure(conn, true, &err), 0);
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.schema_version"), SCHEMA_VERSION);
    assert_int_equal(pg_int("SELECT max(version) FROM convstore.schema_version"), SCHEMA_VERSION);
    apply_by_hand(1, SCHEMA_VERSION); /* once more: nothing changes */
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.schema_version"), SCHEMA_VERSION);
    assert_string_equal(pg_text("SELECT collation_name FROM information_schema.columns WHERE"
                                " table_schema = 'convstore' AND table_name = 'conversations'"
                                " AND column_name = 'user_id'"),
                        "C");
}

#define DAEMONS 6

static void *start_daemon(void *ret)
{
    const struct embedding_model model = {"builtin", "hash", 768, "", "summary", "vector"};
    struct pgconn_settings settings;
    struct pg_error error = {0};
    PGconn *c = NULL;
    int16_t model_id = 0;

    if (pgconn_open(pg_conninfo, &c, &settings, &error) == 0 && schema_ensure(c, true, &error) == 0)
        (void)!schema_model_id(c, &model, "vector", &model_id, &error);
    if (model_id == 0)
        fprintf(stderr, "%s %s\n", error.sqlstate, error.text);
    PQfinish(c);
    *(int *)ret = model_id;
    return NULL;
}

static void daemons_that_start_together_make_it_once(void **state)
{
    pthread_t threads[DAEMONS];
    int model_ids[DAEMONS];

    (void)state;
    for (int i = 0; i < DAEMONS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, start_daemon, &model_ids[i]), 0);
    for (int i = 0; i < DAEMONS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < DAEMONS; i++) {
        assert_int_not_equal(model_ids[i], 0);
        assert_int_equal(model_ids[i], model_ids[0]);
    }
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.schema_version"), SCHEMA_VERSION);
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.embedding_models"), 1);
}

static void waits_its_turn_without_waiting_in_the_server(void **state)
{
    pthread_t thread;
    int model_id;

    (void)state;
    pg_do("BEGIN");
    pg_do("SELECT pg_advisory_xact_lock(%s)", "7165066987191955314");
    assert_int_equal(pthread_create(&thread, NULL, start_daemon, &model_id), 0);
    for (int i = 0; i < 5; i++) {
        usleep(100 * 1000);
        assert_int_equal(pg_int("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
                                " AND NOT granted"),
                         0);
        assert_string_equal(pg_text("SELECT to_regclass('convstore.schema_version')"), "(null)");
    }
    pg_do("COMMIT");
    pthread_join(thread, NULL);
    assert_int_not_equal(model_id, 0);
}

static void a_newer_schema_is_fine_and_stays(void **state)
{
    (void)state;
    assert_int_equal(schema_ensure(conn, true, &err), 0);
    pg_do("INSERT INTO convstore.schema_version (version) VALUES (99)");
    assert_int_equal(schema_ensure(conn, true, &err), 0);
    assert_int_equal(schema_ensure(conn, false, &err), 0);
    assert_int_equal(pg_int("SELECT max(version) FROM convstore.schema_version"), 99);
}

static void without_auto_migrate_it_only_looks(void **state)
{
    (void)state;
    assert_int_equal(schema_ensure(conn, false, &err), -1);
    assert_int_equal(err.fault, PG_FAULT_STOPPED);
    assert_non_null(strstr(err.text, "convstorectl schema"));
    assert_string_equal(pg_text("SELECT to_regnamespace('convstore')"), "(null)");
    apply_by_hand(1, SCHEMA_VERSION - 1);
    assert_int_equal(schema_ensure(conn, false, &err), -1);
    apply_by_hand(SCHEMA_VERSION, SCHEMA_VERSION);
    assert_int_equal(schema_ensure(conn, false, &err), 0);
}

static void another_encoding_is_refused(void **state)
{
    char conninfo[1024];
    PGconn *latin;

    (void)state;
    pg_do("CREATE DATABASE %s_latin1 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"
          " TEMPLATE template0",
          PQdb(pg_admin));
    snprintf(conninfo, sizeof conninfo, "%s dbname=%s_latin1", pg_base, PQdb(pg_admin));
    latin = open_on(conninfo);
    assert_int_equal(schema_ensure(latin, true, &err), -1);
    PQfinish(latin);
    pg_do("DROP DATABASE %s_latin1", PQdb(pg_admin));
    assert_int_equal(err.fault, PG_FAULT_STOPPED);
    assert_non_null(strstr(err.text, "LATIN1"));
}

/* A role that owns its schema, in a database where it may make nothing else. */
static void a_role_that_owns_only_its_schema_suffices(void **state)
{
    char role[64], conninfo[1024];
    PGconn *c;

    (void)state;
    snprintf(role, sizeof role, "unit_owner_%d", (int)getpid());
    pg_do("DROP ROLE IF EXISTS %s", role);
    pg_do("CREATE ROLE %s LOGIN; CREATE SCHEMA convstore AUTHORIZATION %s", role, role);
    snprintf(conninfo, sizeof conninfo, "%s user=%s", pg_conninfo, role);
    c = open_on(conninfo);
    if (schema_ensure(c, true, &err) != 0)
        fail_msg("%s %s", err.sqlstate, err.text);
    PQfinish(c);
    /* It cannot create the extension: no reason to stop. */
    assert_string_equal(pg_text("SELECT format_type(atttypid, -1) FROM pg_attribute WHERE attrelid"
                                " = 'convstore.embeddings'::regclass AND attname = 'embedding'"),
                        "real[]");
    pg_do("DROP OWNED BY %s; DROP ROLE %s", role, role);
}

static void assert_found(const char *wanted, const char *storage, const char *column, bool movable)
{
    struct schema_vectors v;

    assert_int_equal(schema_vectors(conn, wanted, &v, &err), 0);
    assert_string_equal(v.storage, storage);
    assert_string_equal(v.column, column);
    assert_int_equal(v.movable, movable);
    if (storage[0] != '\0' && strcmp(storage, "real") != 0)
        assert_int_equal(v.array_type, pg_int("SELECT '%s[]'::regtype::oid", storage));
}

static void finds_how_vectors_are_stored(void **state)
{
    struct schema_vectors v;

    (void)state;
    assert_found("vector", "", "", false);
    assert_int_equal(schema_ensure(conn, true, &err), 0);
    if (!pgvector_can_be_had()) {
        assert_found("vector", "real", "embedding", false);
        return;
    }
    assert_found("vector", "vector", "embedding", false);
    assert_found("halfvec", "halfvec", "embedding_halfvec", false);
    assert_int_equal(schema_vectors(conn, "vector", &v, &err), 0);
    assert_string_equal(v.pgvector_version,
                        pg_text("SELECT extversion FROM pg_extension WHERE extname = 'vector'"));
    assert_int_equal(pg_int("SELECT count(*) FROM pg_attribute WHERE attrelid ="
                            " 'convstore.embeddings'::regclass AND attname LIKE 'embedding%%'"
                            " AND attstorage = 'm'"),
                     2);
}

/* The tables were made without it. */
static void pgvector_that_appears_gets_its_columns(void **state)
{
    (void)state;
    if (!pgvector_can_be_had())
        return;
    pg_do("CREATE SCHEMA convstore; CREATE TABLE convstore.embeddings (user_id text,"
          " conversation_id uuid, model_id smallint, chunk int, embedding real[] NOT NULL,"
          " PRIMARY KEY (user_id, conversation_id, model_id, chunk)) PARTITION BY HASH (user_id);"
          " CREATE TABLE convstore.embeddings_0 PARTITION OF convstore.embeddings"
          " FOR VALUES WITH (MODULUS 1, REMAINDER 0)");
    assert_int_equal(schema_ensure(conn, true, &err), 0);
    assert_found("vector", "real", "embedding", false);
    pg_do("CREATE SCHEMA other; CREATE EXTENSION vector SCHEMA other");
    pg_do("SET search_path = other, pg_catalog");
    assert_found("vector", "real", "embedding", true);
    apply_by_hand(2, 2);
    apply_by_hand(2, 2);
    assert_found("vector", "vector", "embedding_vector", false);
    assert_found("halfvec", "halfvec", "embedding_halfvec", false);
    assert_found("real", "real", "embedding", false);
}

static void each_way_of_making_vectors_has_its_row(void **state)
{
    struct embedding_model model = {"ollama", "nomic", 768, NULL, "summary", "vector"};
    int16_t first, again, other;

    (void)state;
    assert_int_equal(schema_ensure(conn, true, &err), 0);
    assert_int_equal(schema_model_id(conn, &model, "vector", &first, &err), 0);
    assert_int_equal(schema_model_id(conn, &model, "vector", &again, &err), 0);
    assert_int_equal(first, again);
    model.prefix = "search_document: ";
    assert_int_equal(schema_model_id(conn, &model, "vector", &other, &err), 0);
    assert_int_not_equal(first, other);
    assert_int_equal(schema_model_id(conn, &model, "real", &again, &err), 0);
    assert_int_not_equal(again, other);
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.embedding_models"), 3);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(is_made_once),
        TEST(daemons_that_start_together_make_it_once),
        TEST(waits_its_turn_without_waiting_in_the_server),
        TEST(a_newer_schema_is_fine_and_stays),
        TEST(without_auto_migrate_it_only_looks),
        TEST(another_encoding_is_refused),
        TEST(a_role_that_owns_only_its_schema_suffices),
        TEST(finds_how_vectors_are_stored),
        TEST(pgvector_that_appears_gets_its_columns),
        TEST(each_way_of_making_vectors_has_its_row),
    };

    return cmocka_run_group_tests(tests, pg_group_setup, pg_group_teardown);
}
