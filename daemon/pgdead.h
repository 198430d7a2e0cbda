/* convstore.dead_letters in SQL. On the thread that owns the connection, outside any transaction.
 * All return 0; or -1 with *err, and then a transaction may be open. */
#ifndef DAEMON_PGDEAD_H
#define DAEMON_PGDEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/pgconn.h"
#include "daemon/pgwriter.h"

/* The columns of a list, in text form; those from PGDEAD_TRANSCRIPT on are of one whole letter
 * only.
 */
enum pgdead_column {
    PGDEAD_ID,
    PGDEAD_USER_ID,
    PGDEAD_CONVERSATION_ID,
    PGDEAD_PLATFORM,
    PGDEAD_SQLSTATE,
    PGDEAD_REASON,
    PGDEAD_DEAD_AT,    /* RFC 3339 */
    PGDEAD_CREATED_AT, /* microseconds since 1970 */
    PGDEAD_BYTES,      /* of the transcript */
    PGDEAD_TRANSCRIPT,
    PGDEAD_SUMMARY,
    PGDEAD_METADATA, /* JSON text */
};

int pgdead_count(PGconn *conn, uint64_t *ret, struct pg_error *err)
    __attribute__((warn_unused_result));

/* Up to limit letters with ids above `after`, oldest first. PQclear(*ret) is the caller's. */
int pgdead_list(PGconn *conn, int64_t after, unsigned limit, PGresult **ret, struct pg_error *err)
    __attribute__((warn_unused_result));

/* One whole letter; no row where there is none. */
int pgdead_show(PGconn *conn, int64_t id, PGresult **ret, struct pg_error *err)
    __attribute__((warn_unused_result));

#define PGDEAD_SLICE 100       /* letters that one call of the functions below works on */
#define PGDEAD_REFUSED_MAX 100 /* refusals that are told one by one */

struct pgdead_refusal {
    int64_t id;
    char code[16]; /* SQLSTATE, ID_REUSED, NOT_STORED */
    char reason[256];
};

/* A walk over letters with ids in (after, until], or over one. Set to zero it is a walk over all
 * that are there when it begins. */
struct pgdead_walk {
    int64_t after, until;
    bool begun;                                         /* until is known */
    bool over;                                          /* out */
    uint64_t done;                                      /* out: stored and removed, or dropped */
    uint64_t refused;                                   /* out: tried and refused again */
    struct pgdead_refusal refusals[PGDEAD_REFUSED_MAX]; /* out: the first of them */
};

/* A walk over one letter only. */
void pgdead_walk_one(struct pgdead_walk *walk, int64_t id);

/* Makes the next letters rows and removes them, each in a transaction of its own: never both, never
 * neither. One that is refused again stays, with its new reason. Vectors are left to the backlog.
 */
int pgdead_retry(PGconn *conn, const struct embedding_model *model, struct pgdead_walk *walk,
                 struct pg_error *err) __attribute__((warn_unused_result));

/* Removes the next letters for good. */
int pgdead_drop(PGconn *conn, struct pgdead_walk *walk, struct pg_error *err)
    __attribute__((warn_unused_result));

#endif
