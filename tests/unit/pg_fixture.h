/* A real PostgreSQL for unit tests: CONVSTORE_TEST_PG names one (a superuser's conninfo), else the
 * test starts its own through tests/setup/pg. Each test has a database of its own. */
#ifndef TESTS_UNIT_PG_FIXTURE_H
#define TESTS_UNIT_PG_FIXTURE_H

#include <errno.h>
#include <libgen.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <setjmp.h>
#include <cmocka.h>

#include <libpq-fe.h>

static char pg_base[512];      /* the server's conninfo */
static char pg_directory[256]; /* of our own cluster; "" when it is not ours */
static char pg_conninfo[768];  /* of this test's database */
static PGconn *pg_admin;       /* a superuser in it */

static void pg_ignore_notice(void *arg, const PGresult *result)
{
    (void)arg;
    (void)result;
}

/* Waits for a server that a test has made crash. */
static PGconn *pg_connect(const char *conninfo)
{
    PGconn *conn = PQconnectdb(conninfo);

    for (int i = 0; PQstatus(conn) != CONNECTION_OK && i < 300; i++) {
        PQfinish(conn);
        usleep(100000);
        conn = PQconnectdb(conninfo);
    }
    if (PQstatus(conn) != CONNECTION_OK)
        fail_msg("no connection to the test's PostgreSQL: %s", PQerrorMessage(conn));
    PQsetNoticeReceiver(conn, pg_ignore_notice, NULL);
    return conn;
}

/* tests/setup/pg with this command for our cluster. */
static void pg_setup(const char *verb, char *output, size_t size)
{
    char command[512];
    FILE *pipe;
    size_t n;

    snprintf(command, sizeof command, "PG_OPTS='-c fsync=off' tests/setup/pg %s '%s'", verb,
             pg_directory);
    pipe = popen(command, "r");
    if (pipe == NULL)
        fail_msg("%s: cannot be run", command);
    n = fread(output, 1, size - 1, pipe);
    output[n] = '\0';
    output[strcspn(output, "\n")] = '\0';
    if (pclose(pipe) != 0)
        fail_msg("%s: failed", command);
}

static int pg_group_setup(void **state)
{
    const char *given = getenv("CONVSTORE_TEST_PG");
    char ignored[64], path[240];
    ssize_t n;

    (void)state;
    if (given != NULL) {
        snprintf(pg_base, sizeof pg_base, "%s", given);
        return 0;
    }
    /* Beside the binary, and always the same: what a crashed run has left goes first. */
    n = readlink("/proc/self/exe", path, sizeof path - 1);
    assert_true(n > 0);
    path[n] = '\0';
    snprintf(pg_directory, sizeof pg_directory, "%s/pg-%s", dirname(path),
             program_invocation_short_name);
    pg_setup("drop", ignored, sizeof ignored);
    pg_setup("start", ignored, sizeof ignored);
    pg_setup("conninfo", pg_base, sizeof pg_base);
    return 0;
}

static int pg_group_teardown(void **state)
{
    char ignored[64];

    (void)state;
    if (pg_directory[0] != '\0') {
        pg_setup("drop", ignored, sizeof ignored);
        rmdir(pg_directory);
    }
    return 0;
}

static void pg_do_on(PGconn *conn, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void pg_do_on(PGconn *conn, const char *format, ...)
{
    char sql[32768];
    va_list args;
    PGresult *result;

    va_start(args, format);
    vsnprintf(sql, sizeof sql, format, args);
    va_end(args);
    result = PQexec(conn, sql);
    if (PQresultStatus(result) != PGRES_COMMAND_OK && PQresultStatus(result) != PGRES_TUPLES_OK)
        fail_msg("%s: %s", sql, PQresultErrorMessage(result));
    PQclear(result);
}
#define pg_do(...) pg_do_on(pg_admin, __VA_ARGS__)

/* One value as text; "(null)" for NULL. Good until the next call. */
static const char *pg_text(const char *format, ...) __attribute__((format(printf, 1, 2), unused));
static const char *pg_text(const char *format, ...)
{
    static char value[8192];
    char sql[32768];
    va_list args;
    PGresult *result;

    va_start(args, format);
    vsnprintf(sql, sizeof sql, format, args);
    va_end(args);
    result = PQexec(pg_admin, sql);
    if (PQresultStatus(result) != PGRES_TUPLES_OK || PQntuples(result) != 1)
        fail_msg("%s: %d rows: %s", sql, PQntuples(result), PQresultErrorMessage(result));
    snprintf(value, sizeof value, "%s",
             PQgetisnull(result, 0, 0) ? "(null)" : PQgetvalue(result, 0, 0));
    PQclear(result);
    return value;
}
#define pg_int(...) atoi(pg_text(__VA_ARGS__))

static int pg_test_setup(void **state)
{
    static int number;
    char name[64];
    PGconn *server = pg_connect(pg_base);

    (void)state;
    snprintf(name, sizeof name, "unit_%d_%d", (int)getpid(), ++number);
    pg_do_on(server, "CREATE DATABASE %s", name);
    PQfinish(server);
    snprintf(pg_conninfo, sizeof pg_conninfo, "%s dbname=%s", pg_base, name);
    pg_admin = pg_connect(pg_conninfo);
    return 0;
}

static int pg_test_teardown(void **state)
{
    PGconn *server = pg_connect(pg_base);
    char name[64];

    (void)state;
    snprintf(name, sizeof name, "%s", PQdb(pg_admin));
    PQfinish(pg_admin);
    pg_do_on(server, "DROP DATABASE %s WITH (FORCE)", name);
    PQfinish(server);
    return 0;
}

#endif
