/* What the backfill's worker does with a job: a few queries over the connection that it owns, and a
 * clock on the count, which is made more seldom where it takes long. Runs on the worker; owns
 * nothing. */
#include "daemon/backfill_job.h"

#include <uv.h>

#include "daemon/embedding_text.h"

#define LONG_MAX_CHARACTERS (256 << 20)

static void run(struct pgwriter *w, struct backfill_job *job)
{
    uint64_t started = uv_hrtime();

    if (job->settle) {
        job->result = backfill_pg_settle(w, &job->window, job->claims, &job->error);
        return;
    }
    if (job->count) {
        job->counted = backfill_pg_count(w, &job->backlog, &job->error) == 0;
        job->count_ms = (uv_hrtime() - started) / 1000000;
        /* One that takes the server too long is only made more seldom. */
        if (!job->counted && job->error.fault != PG_FAULT_PASSING)
            return;
    }
    job->result = 0;
    if (job->claim_limit > 0)
        job->result = backfill_pg_claim(w, job->claim_limit, job->lease_ms,
                                        job->whole ? LONG_MAX_CHARACTERS : EMBEDDING_TEXT_MAX_BYTES,
                                        job->load, &job->error);
}

void backfill_job_run(void *state, struct handoff_job *handoff_job)
{
    struct backfill_job *job = (struct backfill_job *)handoff_job;
    struct pgwriter *w = state;

    job->result = -1;
    job->counted = false;
    if (w == NULL) {
        pg_error_no_memory(&job->error);
        return;
    }
    run(w, job);
    job->found = pgwriter_found(w);
}
