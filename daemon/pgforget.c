/* In slices, so that a user with a million conversations holds no lock for long.
 *
 * The hard thing is a vector that is just being written for a conversation that is just being
 * removed. A vector is written only where its conversation is there; so the conversations go first,
 * and the last look at the vectors waits for those who write (the lock), and whoever comes later
 * finds the conversation gone. */
#include "daemon/pgforget.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define SLICE 2000
#define STRING_(x) #x
#define STRING(x) STRING_(x)
#define FIRST_ID "00000000-0000-0000-0000-000000000000"
#define LAST_ID "ffffffff-ffff-ffff-ffff-ffffffffffff"

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
static const char lock_sql[] =
    "LOCK TABLE convstore.embedding_backlog, convstore.embeddings IN SHARE ROW EXCLUSIVE MODE";

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
    if (pgconn_query(conn, "BEGIN", 0, NULL, NULL, err) != 0 ||
        pgconn_query(conn, lock_sql, 0, NULL, NULL, err) != 0 ||
        remove_all(conn, backlog_sql, params, &vectors, err) != 0 ||
        remove_all(conn, vectors_sql, params, &vectors, err) != 0)
        return -1;
    return pgconn_query(conn, "COMMIT", 0, NULL, NULL, err);
}
