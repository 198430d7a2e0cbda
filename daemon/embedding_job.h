/* One request to the embedder on its way from the loop to a worker and back, by move. */
#ifndef DAEMON_EMBEDDING_JOB_H
#define DAEMON_EMBEDDING_JOB_H

#include <stdint.h>

#include "daemon/embedding.h"
#include "daemon/embedding_flight.h"
#include "daemon/embedding_selftest.h"
#include "daemon/handoff.h"
#include "daemon/vector.h"

struct embed_job {
    struct handoff_job job; /* first: a job is cast to this */
    struct embed_request request;
    const struct config *config; /* held */
    unsigned endpoint;           /* which of the URLs is asked */
    uint64_t begun_ms;           /* loop time */
    uint64_t duration_ns;
    bool is_selftest; /* no flights: this instead */
    struct embedding_selftest selftest;
    struct flight **flights; /* request.count of them, and as many vectors */
    struct vector **vectors; /* each counts where its input's error is 0 */
    struct embed_input inputs[];
};

/* Takes at most max_inputs flights with max_bytes of text off the queue. *ret is NULL where nobody
 * waits for any of what was queued. -ENOMEM: they are still queued. prefix outlives the job. Loop.
 */
int embed_job_new(struct flights *flights, size_t max_inputs, size_t max_bytes, const char *prefix,
                  uint32_t dimension, struct embed_job **ret) __attribute__((warn_unused_result));

/* A self-test instead of texts; NULL where memory is short. Loop. */
struct embed_job *embed_job_new_selftest(const char *prefix, uint32_t dimension);

/* Its flights have been settled. Loop. */
void embed_job_free(struct embed_job *job);

/* What one worker thread owns. Each embedder is made in the first run at its URL, again while
 * memory is short, and again when a job brings another configuration. */
struct embed_worker {
    const struct config *config; /* of the embedders; held; NULL: there are none yet */
    struct embedder *(*embedder_new)(const struct config *config, const char *url);
    const char *const *urls;
    struct embedder *embedders[EMBEDDING_URLS_MAX];
};

void embed_worker_run(struct embed_worker *worker, struct embed_job *job); /* worker */
void embed_worker_done(struct embed_worker *worker);                       /* worker */

#endif
