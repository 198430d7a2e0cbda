/* The writer when the server refuses, locks, drops, dies or is cut off: the outcome that it gives,
 * and that nothing is lost or stored twice by trying again. */
#include "pg_batch.h"

#include "daemon/schema.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

static void sleep_ms(int ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
}

/* The schema is there, the writer connected, its tables empty. */
static void warm_up(void)
{
    add("warm", 1, "up");
    assert_outcome(WRITE_DONE);
    clear_rows();
    pg_do("TRUNCATE convstore.conversations, convstore.embeddings, convstore.embedding_backlog");
}

static void add_many(unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        add("bob", i, i % 20 == 3 ? "poison" : "fine");
        add_vector(0);
    }
}

/* A trigger on a table whose body is this PL/pgSQL, run for rows where the condition holds. */
static void add_trigger(const char *table, const char *when, const char *condition,
                        const char *body)
{
    pg_do("CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN"
          " IF %s THEN %s; END IF; RETURN NEW; END $f$;"
          " CREATE %s ON convstore.%s FOR EACH ROW EXECUTE FUNCTION public.f()",
          condition, body, when, table);
}
#define BEFORE "TRIGGER t BEFORE INSERT"
#define POISON "NEW.transcript = 'poison'"

static int stored(void)
{
    return pg_int("SELECT count(*) FROM convstore.conversations");
}

static void poison_is_buried_and_the_rest_stored(void **state)
{
    (void)state;
    assert_outcome(WRITE_DONE); /* nothing to write: it only connects */
    assert_true(pgwriter_found(writer).connected);
    warm_up();
    pg_do("ALTER TABLE convstore.conversations ADD CONSTRAINT no_poison"
          " CHECK (transcript <> 'poison')");
    add_many(100);
    assert_outcome(WRITE_SUSPECT);
    assert_string_equal(batch.sqlstate, "23514");
    assert_non_null(strstr(batch.error, "no_poison"));
    assert_null(strstr(batch.error, "Failing row")); /* DETAIL would show the text */
    assert_verdicts(ROW_PENDING);
    assert_int_equal(stored(), 0);
    batch.isolate = true;
    for (int round = 0; round < 2; round++) {
        assert_outcome(WRITE_DONE);
        for (unsigned i = 0; i < 100; i++)
            assert_int_equal(rows[i].verdict, i % 20 == 3 ? ROW_DEAD
                                              : round > 0 ? ROW_DUPLICATE
                                                          : ROW_STORED);
        assert_int_equal(stored(), 95);
        assert_int_equal(pg_int("SELECT count(*) FROM convstore.embeddings"), 95);
        assert_int_equal(pg_int("SELECT count(*) FROM convstore.dead_letters WHERE sqlstate ="
                                " '23514' AND reason LIKE '%%no_poison%%' AND transcript ="
                                " 'poison'"),
                         5);
    }
}

/* A deferred constraint fails in COMMIT itself. */
static void what_commit_refuses_is_not_stored(void **state)
{
    (void)state;
    warm_up();
    pg_do("CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN"
          " IF NEW.transcript = 'poison' THEN RAISE 'no' USING ERRCODE = '23000'; END IF;"
          " RETURN NULL; END $f$; CREATE CONSTRAINT TRIGGER t AFTER INSERT ON"
          " convstore.conversations DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
          " EXECUTE FUNCTION public.f()");
    add_many(40);
    assert_outcome(WRITE_SUSPECT);
    assert_string_equal(batch.sqlstate, "23000");
    assert_verdicts(ROW_PENDING);
    assert_int_equal(stored(), 0);
    batch.isolate = true;
    assert_outcome(WRITE_DONE);
    assert_int_equal(rows[3].verdict, ROW_DEAD);
    assert_int_equal(rows[4].verdict, ROW_STORED);
    assert_int_equal(stored(), 38);
}

static void each_sqlstate_has_its_outcome(void **state)
{
    static const struct {
        const char *sqlstate;
        enum write_outcome outcome;
    } cases[] = {
        {"40001", WRITE_RETRY},   {"40P01", WRITE_RETRY},       {"53100", WRITE_RETRY},
        {"53200", WRITE_RETRY},   {"55P03", WRITE_RETRY},       {"57014", WRITE_RETRY},
        {"25006", WRITE_RETRY},   {"08006", WRITE_UNREACHABLE}, {"58030", WRITE_UNREACHABLE},
        {"22001", WRITE_SUSPECT}, {"23505", WRITE_SUSPECT},     {"54000", WRITE_SUSPECT},
        {"XX000", WRITE_SUSPECT}, {"P0001", WRITE_SUSPECT},     {"42501", WRITE_STOPPED},
        {"28000", WRITE_STOPPED},
    };

    (void)state;
    warm_up();
    add("ann", 1, "poison");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char body[64];

        snprintf(body, sizeof body, "RAISE 'as told' USING ERRCODE = '%s'", cases[i].sqlstate);
        add_trigger("conversations", BEFORE, POISON, body);
        assert_outcome(cases[i].outcome);
        assert_string_equal(batch.sqlstate, cases[i].sqlstate);
        assert_string_equal(batch.error, "as told");
        assert_verdicts(ROW_PENDING);
        assert_false(batch.lost_in_flight);
        pg_do("DROP FUNCTION public.f CASCADE");
    }
    assert_outcome(WRITE_DONE);
    assert_verdicts(ROW_STORED);
}

static void a_refused_vector_costs_only_the_vector(void **state)
{
    (void)state;
    warm_up();
    pg_do("ALTER TABLE convstore.embeddings ADD CONSTRAINT no_7 CHECK (chunk <> 7)");
    for (unsigned i = 0; i < 40; i++) {
        add("bob", i, "fine");
        add_vector(0);
        if (i % 10 == 2)
            add_vector(7);
    }
    assert_outcome(WRITE_SUSPECT);
    batch.isolate = true;
    assert_outcome(WRITE_DONE);
    assert_verdicts(ROW_STORED);
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.embeddings"), 36);
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.embedding_backlog"
                            " WHERE last_error LIKE '%%no_7%%'"),
                     4);
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.dead_letters"), 0);
}

static void a_locked_table_is_waited_for(void **state)
{
    PGconn *other;

    (void)state;
    warm_up();
    other = pg_connect(pg_conninfo);
    pg_do_on(other, "BEGIN; LOCK TABLE convstore.conversations IN ACCESS EXCLUSIVE MODE");
    add_many(40);
    batch.isolate = batch.last_attempt = true; /* even so: a lock is no row's fault */
    batch.count = batch.vector_count = 1;
    assert_outcome(WRITE_RETRY);
    assert_string_equal(batch.sqlstate, "55P03");
    assert_verdicts(ROW_PENDING);
    PQfinish(other);
    batch.count = batch.vector_count = 40;
    assert_outcome(WRITE_DONE);
    assert_verdicts(ROW_STORED);
}

/* The printed grants, with this role's name where theirs stands. */
static void grant_what_we_print(const char *role)
{
    char sql[8192] = "";
    const char *at = schema_grants(), *to;

    while ((to = strstr(at, "TO convstore;")) != NULL) {
        strncat(sql, at, (size_t)(to - at));
        strcat(strcat(strcat(sql, "TO "), role), ";");
        at = to + strlen("TO convstore;");
    }
    pg_do("%s", sql);
}

static void lost_rights_and_tables_stop_the_writer(void **state)
{
    char conninfo[1024], role[64];

    (void)state;
    snprintf(role, sizeof role, "unit_role_%d", (int)getpid());
    pg_do("DROP ROLE IF EXISTS %s", role);
    pg_do("CREATE ROLE %s LOGIN", role);
    warm_up();
    grant_what_we_print(role);
    pg_do("TRUNCATE convstore.embedding_models"); /* the role makes its own row */
    pgwriter_free(writer);
    snprintf(conninfo, sizeof conninfo, "%s user=%s", pg_conninfo, role);
    config.conninfo = conninfo;
    writer = pgwriter_new(&config);
    add_many(40);
    assert_outcome(WRITE_DONE);
    pg_do("REVOKE INSERT ON convstore.conversations FROM %s", role);
    assert_outcome(WRITE_STOPPED);
    assert_string_equal(batch.sqlstate, "42501");
    batch.isolate = batch.last_attempt = true;
    assert_outcome(WRITE_STOPPED);
    assert_verdicts(ROW_PENDING);
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.dead_letters"), 0);
    pg_do("GRANT INSERT ON convstore.conversations TO %s", role);
    assert_outcome(WRITE_DONE);
    pg_do("ALTER TABLE convstore.conversations RENAME TO gone");
    assert_outcome(WRITE_STOPPED);
    assert_string_equal(batch.sqlstate, "42P01");
    pg_do("ALTER TABLE convstore.gone RENAME TO conversations");
    assert_outcome(WRITE_DONE);
    pgwriter_free(writer);
    writer = NULL;
    pg_do("DROP OWNED BY %s; DROP ROLE %s", role, role);
}

static void a_dead_letter_that_cannot_be_written_stops_the_writer(void **state)
{
    (void)state;
    warm_up();
    pg_do("ALTER TABLE convstore.conversations ADD CONSTRAINT no_poison"
          " CHECK (transcript <> 'poison');"
          "ALTER TABLE convstore.dead_letters ADD CONSTRAINT none CHECK (false)");
    add_many(40);
    batch.isolate = true;
    assert_outcome(WRITE_STOPPED);
    assert_int_equal(rows[2].verdict, ROW_STORED);
    assert_int_equal(rows[3].verdict, ROW_PENDING);
    pg_do("ALTER TABLE convstore.dead_letters DROP CONSTRAINT none");
    assert_outcome(WRITE_DONE);
    assert_int_equal(rows[3].verdict, ROW_DEAD);
}

static void a_row_that_a_trigger_drops_is_never_called_stored(void **state)
{
    (void)state;
    warm_up();
    add_trigger("conversations", BEFORE, POISON, "RETURN NULL");
    add_many(40);
    assert_outcome(WRITE_RETRY);
    assert_int_equal(rows[3].verdict, ROW_PENDING);
    assert_int_equal(rows[4].verdict, ROW_STORED);
    batch.isolate = true;
    assert_outcome(WRITE_RETRY);
    batch.last_attempt = true;
    assert_outcome(WRITE_DONE);
    assert_int_equal(rows[3].verdict, ROW_DEAD);
    assert_string_equal(pg_text("SELECT string_agg(DISTINCT sqlstate, ' ') FROM"
                                " convstore.dead_letters"),
                        "NOT_STORED");
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.embeddings"), 38);
}

static void a_statement_that_never_fits_is_buried_at_the_last_attempt(void **state)
{
    (void)state;
    warm_up();
    add_trigger("conversations", BEFORE, POISON, "RAISE 'too slow' USING ERRCODE = '57014'");
    add_many(5);
    batch.isolate = true;
    assert_outcome(WRITE_RETRY);
    assert_int_equal(rows[3].verdict, ROW_PENDING);
    batch.last_attempt = true;
    assert_outcome(WRITE_DONE);
    assert_int_equal(rows[3].verdict, ROW_DEAD);
}

/* Connections */

static const char terminate_sql[] =
    "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name = 'convstored'";

static void a_connection_ended_while_idle_is_replaced(void **state)
{
    (void)state;
    warm_up();
    assert_int_equal(pg_int("%s", terminate_sql), 1);
    add_many(3);
    assert_outcome(WRITE_DONE);
}

static const char sleeping_sql[] =
    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
    " AND application_name = 'convstored' AND wait_event = 'PgSleep'";

static bool has_row(PGconn *conn, const char *sql)
{
    PGresult *result = PQexec(conn, sql);
    bool has = PQntuples(result) > 0;

    PQclear(result);
    return has;
}

/* When the row is in the hands of the trigger that sleeps. */
static void *terminate_soon(void *arg)
{
    PGconn *other = PQconnectdb(pg_conninfo);

    (void)arg;
    for (int i = 0; i < 200 && !has_row(other, sleeping_sql); i++)
        sleep_ms(50);
    PQclear(PQexec(other, terminate_sql));
    PQfinish(other);
    return NULL;
}

static void a_terminated_backend_is_unreachable(void **state)
{
    pthread_t thread;

    (void)state;
    warm_up();
    add_trigger("conversations", BEFORE, POISON, "PERFORM pg_sleep(20)");
    add_many(5);
    for (int isolate = 0; isolate < 2; isolate++) {
        batch.isolate = isolate;
        assert_int_equal(pthread_create(&thread, NULL, terminate_soon, NULL), 0);
        assert_outcome(WRITE_UNREACHABLE);
        pthread_join(thread, NULL);
        assert_string_equal(batch.sqlstate, "57P01");
        assert_false(batch.lost_in_flight);
        assert_false(pgwriter_found(writer).connected);
        assert_int_equal(rows[3].verdict, ROW_PENDING);
        assert_int_equal(rows[2].verdict, isolate ? ROW_STORED : ROW_PENDING);
        assert_int_equal(stored(), isolate ? 3 : 0);
    }
    pg_do("DROP FUNCTION public.f CASCADE");
    assert_outcome(WRITE_DONE);
    assert_int_equal(stored(), 5);
}

/* A proxy in front of the server that, once armed, hangs up instead of passing on the answer to
 * COMMIT. */
static char proxy_path[64];
static atomic_bool proxy_armed;
static int proxy_listener;

static int connect_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    return connect(fd, (struct sockaddr *)&address, sizeof address) == 0 ? fd : -1;
}

/* Passes on what has come, unless it holds the word. */
static int pass_on(int from, int to, const char *unless)
{
    char buffer[65536];
    ssize_t n = recv(from, buffer, sizeof buffer, 0);

    if (n <= 0 || (unless != NULL && memmem(buffer, (size_t)n, unless, strlen(unless)) != NULL))
        return -1;
    return send(to, buffer, (size_t)n, MSG_NOSIGNAL) == n ? 0 : -1;
}

static void *run_proxy(void *server_path)
{
    int client = accept(proxy_listener, NULL, NULL), server = connect_unix(server_path);

    for (;;) {
        struct pollfd p[] = {{.fd = client, .events = POLLIN}, {.fd = server, .events = POLLIN}};

        if (poll(p, 2, 10000) <= 0)
            break;
        if (p[0].revents != 0 && pass_on(client, server, NULL) != 0)
            break;
        if (p[1].revents != 0 && pass_on(server, client, proxy_armed ? "COMMIT" : NULL) != 0)
            break;
    }
    close(client);
    close(server);
    return NULL;
}

static void a_lost_answer_to_commit_loses_and_doubles_nothing(void **state)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char server_path[256], conninfo[1024];
    pthread_t thread;

    (void)state;
    warm_up();
    snprintf(server_path, sizeof server_path, "%s/.s.PGSQL.%s", PQhost(pg_admin), PQport(pg_admin));
    snprintf(proxy_path, sizeof proxy_path, "/tmp/cst-proxy-%d", (int)getpid());
    assert_int_equal(mkdir(proxy_path, 0700), 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s/.s.PGSQL.5432", proxy_path);
    proxy_listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(proxy_listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(proxy_listener, 4), 0);
    proxy_armed = false;
    assert_int_equal(pthread_create(&thread, NULL, run_proxy, server_path), 0);
    snprintf(conninfo, sizeof conninfo, "%s host=%s port=5432", pg_conninfo, proxy_path);
    pgwriter_free(writer);
    config.conninfo = conninfo;
    writer = pgwriter_new(&config);
    add("ann", 1, "before");
    assert_outcome(WRITE_DONE);
    clear_rows();

    proxy_armed = true;
    add_many(50);
    assert_outcome(WRITE_UNREACHABLE);
    assert_true(batch.lost_in_flight);
    assert_verdicts(ROW_PENDING); /* as far as we can know */
    assert_int_equal(stored(), 51);
    pthread_join(thread, NULL);
    close(proxy_listener);
    unlink(address.sun_path);
    rmdir(proxy_path);
    config.conninfo = pg_conninfo;
    assert_outcome(WRITE_DONE);
    assert_verdicts(ROW_DUPLICATE);
    assert_int_equal(stored(), 51);
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.embeddings"), 50);
}

/* The shell's parent is the backend itself. */
#define KILL_BACKEND "EXECUTE $k$COPY (SELECT 1) TO PROGRAM 'kill -9 $PPID'$k$; PERFORM pg_sleep(9)"

static void reconnect_admin(void)
{
    PQfinish(pg_admin);
    pg_admin = pg_connect(pg_conninfo);
}

/* As the batcher does: a server that is still recovering from the crash is tried again. */
static void write_through_recovery(enum write_outcome expected)
{
    pgwriter_write(writer, &batch);
    for (int i = 0; batch.outcome == WRITE_UNREACHABLE && i < 50; i++) {
        reconnect_admin();
        pgwriter_write(writer, &batch);
    }
    assert_int_equal(batch.outcome, expected);
}

/* Also DUPLICATE, where an earlier try had stored it. */
static void assert_stored(const struct write_row *row)
{
    assert_true(row->verdict == ROW_STORED || row->verdict == ROW_DUPLICATE);
}

static void a_row_that_kills_its_backend_is_found(void **state)
{
    struct write_row survivor;

    (void)state;
    warm_up();
    add_trigger("conversations", BEFORE, "NEW.transcript = 'deadly'", KILL_BACKEND);
    for (unsigned i = 0; i < 50; i++)
        add("bob", i, i == 20 ? "deadly" : "fine");
    assert_outcome(WRITE_UNREACHABLE);
    assert_true(batch.lost_in_flight);
    reconnect_admin();
    batch.isolate = true;
    write_through_recovery(WRITE_SUSPECT);
    assert_int_equal(rows[20].verdict, ROW_PENDING);
    for (int i = 0; i < 50; i++)
        if (i != 20)
            assert_stored(&rows[i]);
    reconnect_admin();
    survivor = rows[20]; /* the batcher sends what is left */
    rows[20] = rows[0];
    rows[0] = survivor;
    batch.count = 1;
    batch.last_attempt = true;
    write_through_recovery(WRITE_DONE);
    assert_int_equal(rows[0].verdict, ROW_DEAD);
    reconnect_admin();
    assert_int_equal(stored(), 49);
    assert_string_equal(pg_text("SELECT sqlstate || ' ' || transcript FROM"
                                " convstore.dead_letters"),
                        "57P02 deadly");
    batch.count = 50;
}

static void a_vector_that_kills_its_backend_costs_only_itself(void **state)
{
    (void)state;
    warm_up();
    add_trigger("embeddings", BEFORE, "NEW.chunk = 7", KILL_BACKEND);
    add("ann", 1, "fine");
    add_vector(0);
    add("bob", 1, "fine");
    add_vector(7);
    batch.isolate = batch.last_attempt = true;
    write_through_recovery(WRITE_DONE);
    assert_stored(&rows[0]);
    assert_stored(&rows[1]);
    reconnect_admin();
    assert_int_equal(pg_int("SELECT count(*) FROM convstore.embeddings"), 1);
    assert_string_equal(pg_text("SELECT user_id FROM convstore.embedding_backlog"), "bob");
}

#define TEST(f)                                                                                    \
    cmocka_unit_test_setup_teardown(f, setup, teardown),                                           \
    {                                                                                              \
#f "_by_copy", f, setup_copy, teardown, NULL                                               \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(poison_is_buried_and_the_rest_stored),
        TEST(what_commit_refuses_is_not_stored),
        TEST(each_sqlstate_has_its_outcome),
        TEST(a_refused_vector_costs_only_the_vector),
        TEST(a_locked_table_is_waited_for),
        TEST(lost_rights_and_tables_stop_the_writer),
        TEST(a_dead_letter_that_cannot_be_written_stops_the_writer),
        TEST(a_row_that_a_trigger_drops_is_never_called_stored),
        TEST(a_statement_that_never_fits_is_buried_at_the_last_attempt),
        TEST(a_connection_ended_while_idle_is_replaced),
        TEST(a_terminated_backend_is_unreachable),
        TEST(a_lost_answer_to_commit_loses_and_doubles_nothing),
        TEST(a_row_that_kills_its_backend_is_found),
        TEST(a_vector_that_kills_its_backend_costs_only_itself),
    };

    return cmocka_run_group_tests(tests, pg_group_setup, pg_group_teardown);
}
