/* One pipeline: statements go out without waiting for answers, and each answer finds its way back
 * to what it belongs to. Lives on the thread that owns the connection, which is in pipeline mode.
 */
#ifndef DAEMON_PGPIPE_H
#define DAEMON_PGPIPE_H

#include <stddef.h>

#include "daemon/pgconn.h"
#include "daemon/pgencode.h"

/* What one expected answer belongs to; kind and the rest mean what the sender wants. */
struct pgstep {
    int kind; /* PGSTEP_SYNC is taken */
    size_t first, count;
};
#define PGSTEP_SYNC (-1)

struct pgpipe {
    PGconn *conn;
    struct pgstep *steps;
    size_t count, capacity;
    struct pg_error error; /* of sending, sticky until the next collect */
};

/* Takes each answer in order, refusals included (a step behind a refusal comes as
 * PGRES_PIPELINE_ABORTED). Not called for syncs. */
typedef void (*pgpipe_on_result)(void *arg, const struct pgstep *step, const PGresult *result);

void pgpipe_done(struct pgpipe *p);

/* Statements are queued and written out at once; what goes wrong is told by pgpipe_collect(). */
void pgpipe_send(struct pgpipe *p, struct pgstep step, const char *statement,
                 const struct pgparams *params);
void pgpipe_prepare(struct pgpipe *p, struct pgstep step, const char *statement, const char *sql,
                    int type_count, const Oid *types);
void pgpipe_sync(struct pgpipe *p);

/* Hands out the answers to all that was sent. 0; or -1 with *err when sending failed, the
 * connection was lost or the server was silent too long: answers that came before were handed out,
 * and the connection must be closed. Errors that came as answers are on_result's. */
int pgpipe_collect(struct pgpipe *p, pgpipe_on_result on_result, void *arg, struct pg_error *err)
    __attribute__((warn_unused_result));

#endif
