/* What pgwriter.c, pgwriter_connect.c, pgcopy.c and pgisolate.c share. */
#ifndef DAEMON_PGWRITER_INTERNAL_H
#define DAEMON_PGWRITER_INTERNAL_H

#include "daemon/pgpipe.h"
#include "daemon/pgstatement.h"
#include "daemon/pgwriter.h"
#include "daemon/schema.h"

struct pgwriter {
    const struct pgwriter_config *config;
    PGconn *conn; /* in pipeline mode with its statements prepared; NULL: not connected */
    struct pgwriter_found found;
    int32_t incarnation; /* of the server, as the latest connection found it */
    struct schema_vectors vectors;
    int64_t look_at_ms; /* whether they can be stored as wanted now */
    int16_t model_id;
    struct pgpipe pipe;
    struct pgparams params;
    unsigned copy_refusals; /* of COPY, one after another */
    unsigned copy_rest;     /* batches that go as statements before COPY is tried again */
    bool farewell; /* the server said that it is going: what is lost now is nobody's fault */

    /* Of the batch in hand, each with room for all its rows. */
    size_t capacity;
    uint32_t *all;         /* 0, 1, 2, … */
    uint32_t *rest;        /* a list in the making */
    uint32_t *conflicts;   /* rows that were there already: which content? */
    size_t conflict_count; /* resolved by pgwriter_resolve() */
    size_t *first_vector;  /* of each row, and one behind the last */
    bool *named;           /* rows that the answer in flight has named */
    bool *killed;          /* rows that were alone with their backend when the server crashed */
    struct refusal *refusals;
    size_t refusal_count; /* buried by pgwriter_bury() */
};

/* One transaction in a pipeline. */
struct transaction {
    const uint32_t *rows; /* neighbours in the batch */
    size_t count;
    const char *no_vectors;     /* text only, with this as the backlog's error; NULL: all */
    struct pg_error error;      /* out: the first that the server gave */
    enum pgstatement failed_at; /* out: where */
    bool committed;             /* out: COMMIT's own answer */
    bool answered;              /* out: COMMIT or ROLLBACK came */
};

/* Connects where there is no live connection. 0, or -1 with *err. */
int pgwriter_connect(struct pgwriter *w, struct pg_error *err) __attribute__((warn_unused_result));

void pgwriter_disconnect(struct pgwriter *w);

/* The class 57P is how a server says good-bye; a backend that crashes says nothing. */
bool pgwriter_is_farewell(const char *sqlstate);

/* Closes the connection unless it is still of use after this error. */
void pgwriter_after_error(struct pgwriter *w, const struct pg_error *err);

/* Runs the transactions in one pipeline, each with a sync of its own, so that none fails with
 * another. Committed rows get their verdict, or go onto the list of conflicts. 0 when all were
 * answered (each tells its own error); -1 with *err when the connection was lost and is closed. */
int pgwriter_run(struct pgwriter *w, struct write_batch *batch, struct transaction *transactions,
                 size_t count, struct pg_error *err) __attribute__((warn_unused_result));

/* Looks at the conflicts: duplicates get their verdict, ids with other content are refused. 0, or
 * -1 with *err and the rows still pending. */
int pgwriter_resolve(struct pgwriter *w, struct write_batch *batch, struct pg_error *err)
    __attribute__((warn_unused_result));
/* Writes all refusals as dead letters. 0, or -1 with *err and the rows still pending. */
int pgwriter_bury(struct pgwriter *w, struct write_batch *batch, struct pg_error *err)
    __attribute__((warn_unused_result));

void pgwriter_refuse(struct pgwriter *w, uint32_t row, const char *code, const char *reason);

/* Row by row; *err tells why rows are left. */
void pgwriter_isolate(struct pgwriter *w, struct write_batch *batch, struct pg_error *err);

#endif
