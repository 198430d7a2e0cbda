/* In slices, so that a user with a million conversations holds no lock for long.
 *
 * The hard thing is a vector that is just being written for a conversation that is just being
 * removed. A vector is written only where its conversation is there; so the conversations go first,
 * and the last look at the vectors waits for those who write, and whoever comes later finds the
 * conversation gone. Who writes is seen in pg_locks, as CREATE INDEX CONCURRENTLY does it: a lock
 * of our own would hold up all writers behind it, and would wait for any VACUUM and any index that
 * is being built. */
#include "daemon/pgforget.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define SLICE 2000
#define STRING_(x) #x
#define STRING(x) STRING_(x)
#define FIRST_ID "00000000-0000-0000-0000-000000000000"
#define LAST_ID "ffffffff-ffff-ffff-ffff-ffffffffffff"
#define WRITERS_WAIT_MS 5000
#define WRITERS_POLL_MS 10

#define WHOSE(id) " WHERE user_id = $1::text AND " id " BETWEEN $2::uuid AND $3::uuid"
#define REMOVE(table, id, which)                                                                   \
    "DELETE FROM convstore." table WHOSE(id) which " AND " id " IN (SELECT " id                    \
                                                   " FROM convstore." table                        \
                                                   WHOSE(id) which " LIMIT " STRING(SLICE) ")"
#define BY(time) " AND " time " <= timestamptz 'epoch' + $4::int8 * interval '1 microsecond'"
/* The use of $4 gives it a type. */
#define ORPHANS(table)                                                                             \
    " AND $4::int8 > 0 AND NOT EXISTS (SELECT FROM convstore.conversations c"                      \
    " WHERE c.user_id = $1::text AND c.id = " table ".conversation_id)"

static const char now_sql[] = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8";
static const char conversations_sql[] = REMOVE("conversations", "id", BY("stored_at"));
static const char dead_letters_sql[] = REMOVE("dead_letters", "conversation_id", BY("dead_at"));
static const char backlog_sql[] =
    REMOVE("embedding_backlog", "conversation_id", ORPHANS("embedding_backlog"));
static const char vectors_sql[] = REMOVE("embeddings", "conversation_id", ORPHANS("embeddings"));
/* Transactions that have written, or are about to: the lock is taken before the snapshot. One that
 * is prepared has no pid. */
#define WRITERS                                                                                    \
    " FROM pg_locks WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' AND granted"         \
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"             \
    " AND relation IN ('convstore.embeddings'::regclass, 'convstore.embedding_backlog'::regclass)" \
    " AND pid IS DISTINCT FROM pg_backend_pid()"
static const char writers_sql[] = "SELECT coalesce(array_agg(virtualtransaction), '{}')" WRITERS;
static const char still_there_sql[] =
    "SELECT 1" WRITERS " AND virtualtransaction = ANY ($1::text[]) LIMIT 1";

/* Until nothing is left. params: user, first id, last id, until when. */
static int remove_all(PGconn *conn, const char *sql, const char *const params[4], uint64_t *removed,
                      struct pg_error *err)
{
    uint64_t n;

    do {
        PGresult *result;

        if (pgconn_query(conn, sql, 4, params, &result, err) != 0)
            return -1;
        n = strtoull(PQcmdTuples(result), NULL, 10);
        *removed += n;
        PQclear(result);
    } while (n > 0);
    return 0;
}

static int ask_now(PGconn *conn, int64_t *ret_us, struct pg_error *err)
{
    PGresult *result;

    if (pgconn_query(conn, now_sql, 0, NULL, &result, err) != 0)
        return -1;
    *ret_us = strtoll(PQgetvalue(result, 0, 0), NULL, 10);
    PQclear(result);
    return 0;
}

/* Those of this moment. 0, or -1 with *err. */
static int wait_for_writers(PGconn *conn, struct pg_error *err)
{
    int64_t until_ms = pgconn_now_ms() + WRITERS_WAIT_MS;
    PGresult *writers, *left;
    int ret;

    if (pgconn_query(conn, writers_sql, 0, NULL, &writers, err) != 0)
        return -1;
    for (;;) {
        bool gone;

        ret = pgconn_query(conn, still_there_sql, 1,
                           &(const char *const){PQgetvalue(writers, 0, 0)}, &left, err);
        if (ret != 0)
            break;
        gone = PQntuples(left) == 0;
        PQclear(left);
        if (gone)
            break;
        if (pgconn_now_ms() >= until_ms) {
            pg_error_set(err, PG_FAULT_PASSING,
                         "a transaction that writes to convstore.embeddings does not end");
            ret = -1;
            break;
        }
        nanosleep(&(struct timespec){.tv_nsec = WRITERS_POLL_MS * 1000000L}, NULL);
    }
    PQclear(writers);
    return ret;
}

int pgforget(PGconn *conn, const char *user_id, const char *id, int64_t *until_us,
             uint64_t *removed, struct pg_error *err)
{
    char until[24];
    const char *const params[4] = {user_id, id != NULL ? id : FIRST_ID, id != NULL ? id : LAST_ID,
                                   until};
    uint64_t vectors = 0;

    if (*until_us == 0 && ask_now(conn, until_us, err) != 0)
        return -1;
    snprintf(until, sizeof until, "%" PRId64, *until_us);
    if (remove_all(conn, conversations_sql, params, removed, err) != 0 ||
        remove_all(conn, dead_letters_sql, params, removed, err) != 0 ||
        remove_all(conn, backlog_sql, params, &vectors, err) != 0 ||
        remove_all(conn, vectors_sql, params, &vectors, err) != 0)
        return -1;
    if (wait_for_writers(conn, err) != 0 ||
        remove_all(conn, backlog_sql, params, &vectors, err) != 0)
        return -1;
    return remove_all(conn, vectors_sql, params, &vectors, err);
}
