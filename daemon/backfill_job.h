/* One visit of the backfill to the database. The loop fills it in and reads what came of it; in
 * between it is the worker's, with its load. */
#ifndef DAEMON_BACKFILL_JOB_H
#define DAEMON_BACKFILL_JOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/backfill_pg.h"
#include "daemon/handoff.h"

struct backfill_job {
    struct handoff_job job; /* first: a job is cast to this */

    /* In: settle a window, or count and claim. */
    struct backfill_load *load;
    struct write_batch window; /* of load: for settling */
    struct backfill_claim *claims;
    bool settle;
    bool count;         /* the backlog, besides */
    bool whole;         /* whole transcripts are needed */
    size_t claim_limit; /* 0: none */
    uint64_t lease_ms;

    /* Out: 0, or -1 with error. */
    int result;
    struct pg_error error;
    bool counted;
    uint64_t backlog;
    uint64_t count_ms;
    struct pgwriter_found found;
};

/* On the worker. state: its struct pgwriter, or NULL where memory was short. */
void backfill_job_run(void *state, struct handoff_job *handoff_job);

#endif
