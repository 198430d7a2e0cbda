/* Connections: which host, which settings, and what an error means. */
#include "pg_fixture.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/socket.h>
#include <time.h>

#include "daemon/pgconn.h"
#include "daemon/pgencode.h"

static PGconn *conn;
static struct pgconn_settings settings;
static struct pg_error err;

static int teardown(void **state)
{
    PQfinish(conn);
    conn = NULL;
    return pg_test_teardown(state);
}

static void open_conn(const char *conninfo)
{
    if (pgconn_open(conninfo, &conn, &settings, &err) != 0)
        fail_msg("%s %s", err.sqlstate, err.text);
}

static const char *setting(const char *name)
{
    static char value[256];
    PGresult *result;

    assert_int_equal(pgconn_query(conn, "SELECT current_setting($1)", 1, &name, &result, &err), 0);
    snprintf(value, sizeof value, "%s", PQgetvalue(result, 0, 0));
    PQclear(result);
    return value;
}

static void sets_the_session_up(void **state)
{
    (void)state;
    pg_do("ALTER DATABASE %s SET synchronous_commit = off", PQdb(pg_admin));
    pg_do("ALTER DATABASE %s SET client_encoding = 'LATIN1'", PQdb(pg_admin));
    open_conn(pg_conninfo);
    assert_string_equal(setting("synchronous_commit"), "on");
    assert_int_equal(settings.timeline, 1);
    assert_string_equal(setting("client_encoding"), "UTF8");
    assert_string_equal(setting("application_name"), "convstored");
    assert_string_equal(setting("search_path"), "pg_catalog");
    assert_string_equal(setting("lock_timeout"), "5s");
    assert_string_equal(setting("statement_timeout"), "30s");
    assert_string_equal(setting("backend_flush_after"), "256kB");
    assert_int_equal(settings.fsync_off, strcmp(setting("fsync"), "off") == 0);
}

static void a_stronger_synchronous_commit_stands(void **state)
{
    static const char *const weaker[] = {"local", "remote_write"};

    (void)state;
    pg_do("ALTER DATABASE %s SET synchronous_commit = remote_apply", PQdb(pg_admin));
    open_conn(pg_conninfo);
    assert_string_equal(setting("synchronous_commit"), "remote_apply");
    for (int i = 0; i < 2; i++) {
        PQfinish(conn);
        pg_do("ALTER DATABASE %s SET synchronous_commit = %s", PQdb(pg_admin), weaker[i]);
        open_conn(pg_conninfo);
        assert_string_equal(setting("synchronous_commit"), "on");
    }
}

/* Goal: whoever has said how a backend writes back is left alone, with none at all too. */
static void the_servers_own_backend_flush_after_stands(void **state)
{
    static const char *const values[] = {"1MB", "0"};

    (void)state;
    for (int i = 0; i < 2; i++) {
        pg_do("ALTER DATABASE %s SET backend_flush_after = '%s'", PQdb(pg_admin), values[i]);
        open_conn(pg_conninfo);
        assert_string_equal(setting("backend_flush_after"), values[i]);
        PQfinish(conn);
    }
    conn = NULL;
}

static void conninfo_wins_over_the_defaults(void **state)
{
    char conninfo[1024];

    (void)state;
    snprintf(conninfo, sizeof conninfo, "%s application_name=other", pg_conninfo);
    open_conn(conninfo);
    assert_string_equal(setting("application_name"), "other");
}

static const char *parameter(const PQconninfoOption *options, const char *keyword)
{
    while (strcmp(options->keyword, keyword) != 0)
        assert_non_null((++options)->keyword);
    return options->val;
}

/* Goal: a connection without a word on them in conninfo has the daemon's own parameters. */
static void a_connection_has_our_parameters(void **state)
{
    static const char *const expected[][2] = {
        {"target_session_attrs", "read-write"},
        {"connect_timeout", "10"},
        {"keepalives_idle", "30"},
        {"keepalives_interval", "10"},
        {"keepalives_count", "3"},
        {"tcp_user_timeout", "30000"},
    };
    PQconninfoOption *options;

    (void)state;
    open_conn(pg_conninfo);
    options = PQconninfo(conn);
    assert_non_null(options);
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        assert_string_equal(parameter(options, expected[i][0]), expected[i][1]);
    PQconninfoFree(options);
}

/* A server that hangs up at once, after a look at the other end of its connection, which is in this
 * process, too. */
struct tcp_peer {
    int listener;
    in_port_t port; /* in network order */
    int keepalive, idle_s, interval_s, count, user_timeout_ms;
};

static int socket_option(int fd, int level, int name)
{
    int value = -1;
    socklen_t len = sizeof value;

    assert_int_equal(getsockopt(fd, level, name, &value, &len), 0);
    return value;
}

static void *look_and_hang_up(void *arg)
{
    struct tcp_peer *peer = arg;
    int accepted = accept(peer->listener, NULL, NULL);

    for (int fd = 0; fd < 256; fd++) {
        struct sockaddr_in to = {0};
        socklen_t len = sizeof to;

        if (getpeername(fd, (struct sockaddr *)&to, &len) != 0 || to.sin_family != AF_INET ||
            to.sin_port != peer->port)
            continue;
        peer->keepalive = socket_option(fd, SOL_SOCKET, SO_KEEPALIVE);
        peer->idle_s = socket_option(fd, IPPROTO_TCP, TCP_KEEPIDLE);
        peer->interval_s = socket_option(fd, IPPROTO_TCP, TCP_KEEPINTVL);
        peer->count = socket_option(fd, IPPROTO_TCP, TCP_KEEPCNT);
        peer->user_timeout_ms = socket_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT);
    }
    close(accepted);
    return NULL;
}

static struct tcp_peer connect_to_tcp_peer(const char *more)
{
    struct tcp_peer peer = {.listener = socket(AF_INET, SOCK_STREAM, 0)};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    char conninfo[256];
    pthread_t thread;

    assert_int_equal(bind(peer.listener, (struct sockaddr *)&address, len), 0);
    assert_int_equal(listen(peer.listener, 1), 0);
    assert_int_equal(getsockname(peer.listener, (struct sockaddr *)&address, &len), 0);
    peer.port = address.sin_port;
    assert_int_equal(pthread_create(&thread, NULL, look_and_hang_up, &peer), 0);
    snprintf(conninfo, sizeof conninfo,
             "host=127.0.0.1 port=%u user=u dbname=d sslmode=disable gssencmode=disable %s",
             ntohs(peer.port), more);
    assert_int_equal(pgconn_open(conninfo, &conn, &settings, &err), -1);
    assert_int_equal(err.fault, PG_FAULT_UNREACHABLE);
    pthread_join(thread, NULL);
    close(peer.listener);
    return peer;
}

/* Goal: a peer that is gone without a word is noticed: the times for that are set on the socket,
 * and conninfo has the last word on them. */
static void a_tcp_socket_has_its_times(void **state)
{
    struct tcp_peer peer = connect_to_tcp_peer("");

    (void)state;
    assert_int_equal(peer.keepalive, 1);
    assert_int_equal(peer.idle_s, 30);
    assert_int_equal(peer.interval_s, 10);
    assert_int_equal(peer.count, 3);
    assert_int_equal(peer.user_timeout_ms, 30000);
    peer = connect_to_tcp_peer("keepalives_idle=7 tcp_user_timeout=4000");
    assert_int_equal(peer.idle_s, 7);
    assert_int_equal(peer.interval_s, 10);
    assert_int_equal(peer.user_timeout_ms, 4000);
}

static void refusals_are_told_apart(void **state)
{
    char conninfo[1024];

    (void)state;
    snprintf(conninfo, sizeof conninfo, "%s dbname=no_such_database", pg_base);
    assert_int_equal(pgconn_open(conninfo, &conn, &settings, &err), -1);
    assert_int_equal(err.fault, PG_FAULT_STOPPED);
    assert_string_equal(err.sqlstate, "3D000");
    assert_string_equal(err.text, "database \"no_such_database\" does not exist");
    snprintf(conninfo, sizeof conninfo, "%s user=no_such_role", pg_base);
    assert_int_equal(pgconn_open(conninfo, &conn, &settings, &err), -1);
    assert_int_equal(err.fault, PG_FAULT_STOPPED);
    assert_string_equal(err.sqlstate, "28000");
    snprintf(conninfo, sizeof conninfo, "%s host=/nowhere", pg_base);
    assert_int_equal(pgconn_open(conninfo, &conn, &settings, &err), -1);
    assert_int_equal(err.fault, PG_FAULT_UNREACHABLE);
    assert_string_equal(err.sqlstate, "");
    assert_non_null(strstr(err.text, "/nowhere"));
    snprintf(conninfo, sizeof conninfo, "%s no_such_option=1", pg_base);
    assert_int_equal(pgconn_open(conninfo, &conn, &settings, &err), -1);
    assert_non_null(strstr(err.text, "no_such_option"));
}

static void refuses_a_server_that_is_read_only(void **state)
{
    (void)state;
    pg_do("ALTER DATABASE %s SET default_transaction_read_only = on", PQdb(pg_admin));
    assert_int_equal(pgconn_open(pg_conninfo, &conn, &settings, &err), -1);
    assert_int_equal(err.fault, PG_FAULT_UNREACHABLE);
    assert_non_null(strstr(err.text, "read-only"));
}

/* A host that takes no part in the conversation must not keep us from the next. */
static void a_dead_and_a_silent_host_are_passed_over(void **state)
{
    char conninfo[1024];
    int64_t started = time(NULL);

    (void)state;
    /* 192.0.2.1 is kept for documentation: nobody answers, or the network says so at once. */
    snprintf(conninfo, sizeof conninfo,
             "%s host=/nowhere,192.0.2.1,%s port=5432,5432,%s"
             " connect_timeout=2",
             pg_conninfo, PQhost(pg_admin), PQport(pg_admin));
    open_conn(conninfo);
    assert_string_equal(PQhost(conn), PQhost(pg_admin));
    assert_true(time(NULL) - started <= 6);
}

static void a_failed_query_tells_why(void **state)
{
    PGresult *result;

    (void)state;
    open_conn(pg_conninfo);
    assert_true(pgconn_alive(conn));
    assert_int_equal(pgconn_query(conn, "SELECT 1; SELECT 1/0", 0, NULL, &result, &err), -1);
    assert_string_equal(err.sqlstate, "22012");
    assert_string_equal(err.text, "division by zero");
    assert_int_equal(err.fault, PG_FAULT_DATA);
    assert_int_equal(pgconn_query(conn, "SELECT 1; SELECT 2", 0, NULL, &result, &err), 0);
    assert_string_equal(PQgetvalue(result, 0, 0), "2");
    PQclear(result);
    pg_do("SELECT pg_terminate_backend(%d, 5000)", PQbackendPID(conn));
    assert_int_equal(pgconn_query(conn, "SELECT 1", 0, NULL, &result, &err), -1);
    assert_int_equal(err.fault, PG_FAULT_UNREACHABLE);
}

static void long_errors_are_cut_between_characters(void **state)
{
    (void)state;
    for (int shift = 0; shift < 4; shift++) {
        char text[600] = "";

        memset(text, 'a', (size_t)shift);
        for (size_t i = (size_t)shift; i + 4 < sizeof text; i += 4)
            memcpy(text + i, "\xf0\x9f\x98\x80", 5);
        pg_error_set(&err, PG_FAULT_DATA, "%s", text);
        assert_true(strlen(err.text) < sizeof err.text);
        assert_int_equal((strlen(err.text) - (size_t)shift) % 4, 0);
        assert_true(strlen(err.text) > sizeof err.text - 6);
    }
    pg_error_set(&err, PG_FAULT_DATA, "one\tline\nand another");
    assert_string_equal(err.text, "one line");
}

static void arrays_are_encoded_as_postgresql_reads_them(void **state)
{
    static const uint8_t expected[] = {0, 0, 0, 1, 0, 0, 0, 1, 0, 0,   0,   25,  0,   0,   0,
                                       2, 0, 0, 0, 1, 0, 0, 0, 2, 'h', 'i', 255, 255, 255, 255};
    struct pgparams p = {0};

    (void)state;
    for (int round = 0; round < 2; round++) {
        pgparams_reset(&p);
        pgparams_array(&p, PG_TEXT, 2);
        pgparams_add_text(&p, (struct slice){"hi", 2});
        pgparams_add_text(&p, (struct slice){NULL, 0});
        assert_int_equal(p.len, sizeof expected);
        assert_memory_equal(p.data, expected, sizeof expected);
        pgparams_int2(&p, 258);
        assert_int_equal(p.start[1], sizeof expected);
        assert_memory_equal(p.data + p.start[1], "\1\2", 2);
    }
    pgparams_add(&p, "", (size_t)INT32_MAX); /* more than one message can hold */
    assert_true(p.failed);
    assert_int_not_equal(pgparams_send(&p, NULL, "none"), 0);
    pgparams_done(&p);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, pg_test_setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(sets_the_session_up),
        TEST(a_stronger_synchronous_commit_stands),
        TEST(the_servers_own_backend_flush_after_stands),
        TEST(conninfo_wins_over_the_defaults),
        TEST(a_connection_has_our_parameters),
        TEST(a_tcp_socket_has_its_times),
        TEST(refusals_are_told_apart),
        TEST(refuses_a_server_that_is_read_only),
        TEST(a_dead_and_a_silent_host_are_passed_over),
        TEST(a_failed_query_tells_why),
        TEST(long_errors_are_cut_between_characters),
        TEST(arrays_are_encoded_as_postgresql_reads_them),
    };

    return cmocka_run_group_tests(tests, pg_group_setup, pg_group_teardown);
}
