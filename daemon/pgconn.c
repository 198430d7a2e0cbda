/* A connection to PostgreSQL: making it, its session settings, waiting with a deadline, classes of
 * error. No state of its own; each connection belongs to the thread that opened it.
 *
 * The hard thing is a host that hangs. PQconnectPoll() knows no time-out and would wait for the
 * first host of a list for ever, PQconnectdb() does not give the SQLSTATE of a refusal; so the list
 * is walked here, one host at a time, each with its own deadline. After that, no wait is without
 * end: a server that is silent for PG_SILENCE_MS has lost its connection.
 */
#include "daemon/pgconn.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/secret.h"

#define PG_CONNECT_TIMEOUT_S 10
#define PG_STATEMENT_TIMEOUT_MS 30000
#define PG_LOCK_TIMEOUT_MS 5000
/* Longer than any one statement may take, so that the server's own time-out speaks first. */
#define PG_SILENCE_MS 45000
#define PG_HOSTS_MAX 16
#define PG_PASSWORD_MAX 1024
#define PASSWORD_CREDENTIAL "database_password"

#define STRING_(x) #x
#define STRING(x) STRING_(x)

int64_t pgconn_now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Errors */

/* Copies one line, without control characters, never cutting a UTF-8 character in two. */
static void copy_text(char *to, size_t size, const char *from)
{
    size_t len = strcspn(from, "\n");

    if (len >= size) {
        len = size - 1;
        while (len > 0 && ((unsigned char)from[len] & 0xC0) == 0x80)
            len--;
    }
    for (size_t i = 0; i < len; i++)
        to[i] = (unsigned char)from[i] < 0x20 ? ' ' : from[i];
    to[len] = '\0';
}

void pg_error_set(struct pg_error *err, enum pg_fault fault, const char *format, ...)
{
    va_list args;
    char text[512];

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    *err = (struct pg_error){.fault = fault};
    copy_text(err->text, sizeof err->text, text);
}

void pg_error_no_memory(struct pg_error *err)
{
    pg_error_set(err, PG_FAULT_PASSING, "out of memory");
    strcpy(err->sqlstate, PG_NO_MEMORY);
}

struct fault_class {
    const char *prefix;
    enum pg_fault fault;
};

/* The first prefix that fits decides. */
static const struct fault_class fault_classes[] = {
    {"57014", PG_FAULT_PASSING}, /* query_canceled: statement_timeout too */
    {"57P05", PG_FAULT_STALE},   /* idle_session_timeout */
    {"25P03", PG_FAULT_STALE},   /* idle_in_transaction_session_timeout */
    {"25006", PG_FAULT_STALE},   /* read-only: a failover left us on a standby */
    {"26", PG_FAULT_STALE},      /* prepared statement gone: a pooler changed the server */
    {"25", PG_FAULT_STALE},      /* transaction state that is not what we think */
    {"08", PG_FAULT_UNREACHABLE}, {"57", PG_FAULT_UNREACHABLE}, {"58", PG_FAULT_UNREACHABLE},
    {"40", PG_FAULT_PASSING},     {"53", PG_FAULT_PASSING},     {"55", PG_FAULT_PASSING},
    {"42", PG_FAULT_STOPPED},     {"28", PG_FAULT_STOPPED},     {"3D", PG_FAULT_STOPPED},
    {"0A", PG_FAULT_STOPPED}, /* a table was changed under a prepared plan, or is of no use to us */
    {"3F", PG_FAULT_STOPPED},
};

enum pg_fault pg_fault_of(const char *sqlstate)
{
    for (size_t i = 0; i < sizeof fault_classes / sizeof *fault_classes; i++)
        if (strncmp(sqlstate, fault_classes[i].prefix, strlen(fault_classes[i].prefix)) == 0)
            return fault_classes[i].fault;
    return PG_FAULT_DATA;
}

void pg_error_from_result(struct pg_error *err, const PGresult *result)
{
    const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
    const char *primary = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
    const char *severity = PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED);

    /* Without a SQLSTATE it is libpq that speaks: the connection is gone. */
    if (sqlstate == NULL) {
        pg_error_set(err, PG_FAULT_UNREACHABLE, "%s", PQresultErrorMessage(result));
        return;
    }
    snprintf(err->sqlstate, sizeof err->sqlstate, "%s", sqlstate);
    err->fault = pg_fault_of(sqlstate);
    err->refused = severity != NULL && strcmp(severity, "ERROR") == 0;
    copy_text(err->text, sizeof err->text, primary != NULL ? primary : "(no message)");
}

/* A server says 08P01 only to a client that breaks the protocol. */
bool pg_result_tells_loss(const PGresult *result)
{
    const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);

    return sqlstate != NULL && strcmp(sqlstate, "08P01") == 0;
}

/* libpq's text of a refused connection holds the SQLSTATE only in words ("FATAL:  28P01: …", with
 * verbose errors), the severity in the server's language. Fills in sqlstate; returns what follows
 * it, or NULL. */
static const char *find_sqlstate(const char *text, char sqlstate[6])
{
    for (const char *at = text; (at = strstr(at, ":  ")) != NULL; at += 3) {
        const char *code = at + 3;

        if (strspn(code, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == 5 && code[5] == ':' &&
            code[6] == ' ') {
            memcpy(sqlstate, code, 5);
            sqlstate[5] = '\0';
            return code + 7;
        }
    }
    return NULL;
}

void pg_error_from_conn(struct pg_error *err, PGconn *conn)
{
    const char *text = conn != NULL ? PQerrorMessage(conn) : "out of memory";
    char sqlstate[6] = "";
    const char *primary = find_sqlstate(text, sqlstate);

    pg_error_set(err, PG_FAULT_UNREACHABLE, "%s", primary != NULL ? primary : text);
    if (primary == NULL)
        return;
    memcpy(err->sqlstate, sqlstate, sizeof sqlstate);
    /* Only what a person must mend is told apart; any other refusal is a server that is not there
     * for us now (starting up, too many connections, shutting down). */
    if (pg_fault_of(sqlstate) == PG_FAULT_STOPPED)
        err->fault = PG_FAULT_STOPPED;
}

/* Waiting */

/* Waits for the socket. 0, or -1 with *err at the deadline. */
static int wait_for(PGconn *conn, short events, int64_t deadline_ms, struct pg_error *err,
                    short *ret_events)
{
    for (;;) {
        struct pollfd p = {.fd = PQsocket(conn), .events = events};
        int64_t left = deadline_ms - pgconn_now_ms();
        int n;

        if (left <= 0)
            break;
        n = poll(&p, 1, left > INT_MAX ? INT_MAX : (int)left);
        if (n > 0) {
            *ret_events = p.revents;
            return 0;
        }
        if (n < 0 && errno != EINTR) {
            pg_error_set(err, PG_FAULT_UNREACHABLE, "poll: %s", strerror(errno));
            return -1;
        }
    }
    pg_error_set(err, PG_FAULT_UNREACHABLE, "the server did not answer in time");
    return -1;
}

int pgconn_flush(PGconn *conn, struct pg_error *err)
{
    int more;

    while ((more = PQflush(conn)) > 0) {
        short events = 0;

        if (wait_for(conn, POLLIN | POLLOUT, pgconn_now_ms() + PG_SILENCE_MS, err, &events) != 0)
            return -1;
        if ((events & ~POLLOUT) != 0 && !PQconsumeInput(conn))
            break;
    }
    if (more == 0)
        return 0;
    pg_error_from_conn(err, conn);
    return -1;
}

int pgconn_next(PGconn *conn, PGresult **ret, struct pg_error *err)
{
    while (PQstatus(conn) == CONNECTION_OK && PQisBusy(conn)) {
        short events = 0;

        if (wait_for(conn, POLLIN, pgconn_now_ms() + PG_SILENCE_MS, err, &events) != 0)
            return -1;
        /* A failure here leaves the connection bad; PQgetResult() below still hands out what had
         * arrived before, the server's reason among it. */
        if (!PQconsumeInput(conn))
            break;
    }
    *ret = PQgetResult(conn);
    return 0;
}

bool pgconn_alive(PGconn *conn)
{
    struct pollfd p = {.fd = PQsocket(conn), .events = POLLIN};

    if (conn == NULL || PQstatus(conn) != CONNECTION_OK)
        return false;
    /* An idle server says nothing but good-bye (or a notice, or a changed parameter). Parsing hands
     * its last words to the notice receiver. */
    while (poll(&p, 1, 0) > 0) {
        if (!PQconsumeInput(conn) || PQstatus(conn) != CONNECTION_OK)
            return false;
        PQisBusy(conn);
    }
    return true;
}

/* Connecting */

/* What conninfo and libpq's own environment do not name. */
static const struct {
    const char *keyword, *environment, *value;
} defaults[] = {
    {"target_session_attrs", "PGTARGETSESSIONATTRS", "read-write"},
    {"connect_timeout", "PGCONNECT_TIMEOUT", STRING(PG_CONNECT_TIMEOUT_S)},
    {"keepalives_idle", NULL, "30"},
    {"keepalives_interval", NULL, "10"},
    {"keepalives_count", NULL, "3"},
    {"tcp_user_timeout", NULL, "30000"},
    {"fallback_application_name", NULL, "convstored"},
    {"client_encoding", "PGCLIENTENCODING", "UTF8"},
};
#define DEFAULT_COUNT (sizeof defaults / sizeof *defaults)

/* One host of the list, as values that override those of conninfo; NULL: as it stands there. */
struct host {
    char *host, *hostaddr, *port;
};

static const char *option_value(const PQconninfoOption *options, const char *keyword)
{
    for (; options != NULL && options->keyword != NULL; options++)
        if (strcmp(options->keyword, keyword) == 0)
            return options->val;
    return NULL;
}

/* The i-th of a comma-separated list (the only one counts for all); NULL when it is empty. */
static char *list_item(const char *list, size_t i, size_t *ret_count)
{
    size_t n = 1;
    const char *at = list, *end;

    *ret_count = 0;
    if (list == NULL || *list == '\0')
        return NULL;
    for (const char *c = list; *c != '\0'; c++)
        n += *c == ',';
    *ret_count = n;
    for (size_t k = 0; n > 1 && k < i && (end = strchr(at, ',')) != NULL; k++)
        at = end + 1;
    return strcspn(at, ",") > 0 ? strndup(at, strcspn(at, ",")) : NULL;
}

static void host_done(struct host *h)
{
    free(h->host);
    free(h->hostaddr);
    free(h->port);
}

/* Splits conninfo's hosts. Returns how many there are: 1 with nothing to override where there is no
 * list. */
static size_t split_hosts(const char *conninfo, struct host hosts[PG_HOSTS_MAX], int *ret_timeout_s)
{
    PQconninfoOption *options = PQconninfoParse(conninfo, NULL);
    const char *host = option_value(options, "host"), *addr = option_value(options, "hostaddr");
    const char *port = option_value(options, "port");
    const char *timeout = option_value(options, "connect_timeout");
    size_t count = 1, host_count = 0, addr_count = 0, ignored;

    memset(hosts, 0, PG_HOSTS_MAX * sizeof *hosts);
    if (timeout == NULL)
        timeout = getenv("PGCONNECT_TIMEOUT");
    *ret_timeout_s = timeout != NULL ? atoi(timeout) : PG_CONNECT_TIMEOUT_S;
    if (*ret_timeout_s < 2) /* libpq's own floor; 0 would wait for ever */
        *ret_timeout_s = *ret_timeout_s <= 0 ? PG_CONNECT_TIMEOUT_S : 2;
    free(list_item(host, 0, &host_count));
    free(list_item(addr, 0, &addr_count));
    if (host_count > 1 || addr_count > 1)
        count = host_count > addr_count ? host_count : addr_count;
    if (count > PG_HOSTS_MAX)
        count = PG_HOSTS_MAX;
    for (size_t i = 0; count > 1 && i < count; i++)
        hosts[i] = (struct host){
            .host = list_item(host, i, &ignored),
            .hostaddr = list_item(addr, i, &ignored),
            .port = list_item(port, i, &ignored),
        };
    PQconninfoFree(options);
    return count;
}

/* Later entries win over earlier ones: our defaults, the password's credential (an empty value
 * counts as none), conninfo, the one host. */
static PGconn *connect_start(const char *conninfo, const struct host *h, const char *password)
{
    const char *keywords[DEFAULT_COUNT + 6], *values[DEFAULT_COUNT + 6];
    size_t n = 0;

    for (size_t i = 0; i < DEFAULT_COUNT; i++) {
        if (defaults[i].environment != NULL && getenv(defaults[i].environment) != NULL)
            continue;
        keywords[n] = defaults[i].keyword;
        values[n++] = defaults[i].value;
    }
    keywords[n] = "password";
    values[n++] = password;
    keywords[n] = "dbname";
    values[n++] = conninfo;
    keywords[n] = "host";
    values[n++] = h->host;
    keywords[n] = "hostaddr";
    values[n++] = h->hostaddr;
    keywords[n] = "port";
    values[n++] = h->port;
    keywords[n] = NULL;
    values[n] = NULL;
    return PQconnectStartParams(keywords, values, 1);
}

static void ignore_notice(void *arg, const PGresult *result)
{
    (void)arg;
    (void)result;
}

static int connect_host(const char *conninfo, const struct host *h, int timeout_s,
                        const char *password, PGconn **ret, struct pg_error *err)
{
    PGconn *conn = connect_start(conninfo, h, password);
    int64_t deadline_ms = pgconn_now_ms() + (int64_t)timeout_s * 1000;
    PostgresPollingStatusType state = PGRES_POLLING_WRITING;
    short ignored;

    if (conn == NULL || PQstatus(conn) == CONNECTION_BAD)
        goto failed;
    PQsetErrorVerbosity(conn, PQERRORS_VERBOSE); /* for the SQLSTATE of a refusal */
    PQsetNoticeReceiver(conn, ignore_notice, NULL);
    while (state == PGRES_POLLING_READING || state == PGRES_POLLING_WRITING) {
        if (wait_for(conn, state == PGRES_POLLING_READING ? POLLIN : POLLOUT, deadline_ms, err,
                     &ignored) != 0) {
            pg_error_set(err, PG_FAULT_UNREACHABLE, "no connection within %d s", timeout_s);
            PQfinish(conn);
            return -1;
        }
        state = PQconnectPoll(conn);
    }
    if (state == PGRES_POLLING_OK && PQsetnonblocking(conn, 1) == 0) {
        PQsetErrorVerbosity(conn, PQERRORS_DEFAULT);
        *ret = conn;
        return 0;
    }
failed:
    pg_error_from_conn(err, conn);
    PQfinish(conn);
    return -1;
}

/* The incarnation: a crash of any backend restarts the server's own processes, which belong to no
 * database and no user, and whose ids every role may see.
 *
 * The session. search_path holds nothing that another user can write to. Plans: an array of
 * unknown length joined with a table of unknown size must go through the primary key, whatever the
 * statistics of a new or growing table say, and the plan is made once. jit would be started by the
 * high cost figures of the plans that are turned off. What a backend has written it lets the system
 * bring to the disk every 256 kB, where the server has no other word on that: left to a checkpoint,
 * hundreds of megabytes at a time held up each sync of a journal on the same disk (p99 of an ack at
 * 12,000 a second: 230 ms instead of 13). */
/* clang-format off */
static const char session_sql[] =
    "SELECT current_setting('fsync') = 'off',"
    " CASE WHEN pg_is_in_recovery() THEN '0'"
    "  ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END,"
    " (SELECT pg_catalog.hashtext(pg_catalog.string_agg(pid::text, ' ' ORDER BY pid))"
    "  FROM pg_catalog.pg_stat_activity WHERE datid IS NULL AND usesysid IS NULL),"
    " set_config('synchronous_commit', CASE current_setting('synchronous_commit')"
    "  WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false),"
    " (SELECT set_config(name, '32', false) FROM pg_catalog.pg_settings"
    "  WHERE name = 'backend_flush_after' AND source = 'default' AND max_val::int >= 32),"
    " set_config('client_encoding', 'UTF8', false),"
    " set_config('search_path', 'pg_catalog', false),"
    " set_config('default_transaction_isolation', 'read committed', false),"
    " set_config('statement_timeout', '" STRING(PG_STATEMENT_TIMEOUT_MS) "', false),"
    " set_config('lock_timeout', '" STRING(PG_LOCK_TIMEOUT_MS) "', false),"
    " set_config('idle_in_transaction_session_timeout', '60000', false),"
    " set_config('plan_cache_mode', 'force_generic_plan', false),"
    " set_config('enable_seqscan', 'off', false), set_config('enable_hashjoin', 'off', false),"
    " set_config('enable_mergejoin', 'off', false), set_config('jit', 'off', false)";
/* clang-format on */

static int session_set_up(PGconn *conn, struct pgconn_settings *ret, struct pg_error *err)
{
    PGresult *result;

    if (pgconn_query(conn, session_sql, 0, NULL, &result, err) != 0)
        return -1;
    ret->fsync_off = PQgetvalue(result, 0, 0)[0] == 't';
    ret->timeline = (uint32_t)strtoul(PQgetvalue(result, 0, 1), NULL, 16);
    ret->incarnation = (int32_t)strtol(PQgetvalue(result, 0, 2), NULL, 10);
    PQclear(result);
    return 0;
}

/* Read anew for each connection, so that a changed file is seen without a restart. */
static int read_password(char ret[PG_PASSWORD_MAX], struct pg_error *err)
{
    char path[SECRET_PATH_MAX];
    int rc;

    ret[0] = '\0';
    if (!secret_credential(PASSWORD_CREDENTIAL, path))
        return 0;
    rc = secret_read(path, ret, PG_PASSWORD_MAX);
    if (rc != 0)
        pg_error_set(err, PG_FAULT_STOPPED, "the database's password: %s: %s", path, strerror(-rc));
    return rc;
}

int pgconn_open(const char *conninfo, PGconn **ret, struct pgconn_settings *ret_settings,
                struct pg_error *err)
{
    struct host hosts[PG_HOSTS_MAX];
    char password[PG_PASSWORD_MAX];
    int timeout_s, result = -1;
    size_t count;
    PGconn *conn = NULL;

    if (read_password(password, err) != 0)
        return -1;
    count = split_hosts(conninfo, hosts, &timeout_s);
    for (size_t i = 0; i < count; i++) {
        if (result != 0)
            result = connect_host(conninfo, &hosts[i], timeout_s, password, &conn, err);
        host_done(&hosts[i]);
    }
    explicit_bzero(password, sizeof password);
    if (result == 0 && session_set_up(conn, ret_settings, err) != 0) {
        PQfinish(conn);
        return -1;
    }
    if (result == 0)
        *ret = conn;
    return result;
}
