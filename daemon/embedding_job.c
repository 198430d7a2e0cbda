/* The job that carries texts to an embedder and vectors back. Owned by the loop, then by a worker,
 * then by the loop again; the flights in it are the loop's all the time, and the worker reads only
 * their texts. */
#include "daemon/embedding_job.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

static struct embed_job *job_alloc(size_t count)
{
    struct embed_job *job = calloc(1, sizeof *job + count * sizeof job->inputs[0]);

    if (job == NULL)
        return NULL;
    job->flights = calloc(count, sizeof(struct flight *));
    job->vectors = calloc(count, sizeof(struct vector *));
    if (job->flights == NULL || job->vectors == NULL) {
        embed_job_free(job);
        return NULL;
    }
    return job;
}

/* Here and not on the worker: what the loop is to free it also allocates, or its free() would wait
 * for a worker that has lost its processor in the middle of a malloc(). */
static bool make_vectors(struct embed_job *job)
{
    for (size_t i = 0; i < job->request.count; i++) {
        job->vectors[i] = vector_new(job->request.dimension);
        if (job->vectors[i] == NULL)
            return false;
        job->inputs[i].values = job->vectors[i]->values;
    }
    return true;
}

int embed_job_new(struct flights *flights, size_t max_inputs, size_t max_bytes, const char *prefix,
                  uint32_t dimension, struct embed_job **ret)
{
    size_t queued = flights_queued(flights);
    size_t count = queued < max_inputs ? queued : max_inputs;
    struct embed_job *job;

    assert(count > 0);
    job = job_alloc(count);
    if (job == NULL)
        return -ENOMEM;
    job->request.inputs = job->inputs;
    job->request.prefix = prefix;
    job->request.dimension = dimension;
    job->request.count = flights_take(flights, count, max_bytes, job->flights);
    for (size_t i = 0; i < job->request.count; i++) {
        job->inputs[i].text = (struct slice){job->flights[i]->text, job->flights[i]->text_len};
        job->request.suspect |= job->flights[i]->crashed;
    }
    if (!make_vectors(job)) {
        flights_put_back(flights, job->flights, job->request.count);
        embed_job_free(job);
        return -ENOMEM;
    }
    if (job->request.count == 0) {
        embed_job_free(job);
        job = NULL;
    }
    *ret = job;
    return 0;
}

struct embed_job *embed_job_new_selftest(const char *prefix, uint32_t dimension)
{
    struct embed_job *job = job_alloc(1);

    if (job == NULL)
        return NULL;
    job->request.prefix = prefix;
    job->request.dimension = dimension;
    job->is_selftest = true;
    return job;
}

void embed_job_free(struct embed_job *job)
{
    for (size_t i = 0; i < job->request.count; i++)
        vector_release(job->vectors[i]);
    free(job->vectors);
    free(job->flights);
    config_release(job->config);
    free(job);
}

void embed_worker_run(struct embed_worker *worker, struct embed_job *job)
{
    struct embedder **embedder = &worker->embedders[job->endpoint];
    uint64_t started = uv_hrtime();

    if (worker->config != job->config) {
        embed_worker_done(worker);
        worker->config = config_hold(job->config);
    }
    if (*embedder == NULL)
        *embedder = worker->embedder_new(worker->config, worker->urls[job->endpoint]);
    if (*embedder != NULL && job->is_selftest) {
        embedding_selftest_run(*embedder, &job->request, &job->selftest);
    } else if (*embedder != NULL) {
        embedder_run(*embedder, &job->request);
    } else {
        job->request.outcome = EMBED_TRANSIENT;
        snprintf(job->request.error, sizeof job->request.error, "out of memory for an embedder");
    }
    job->duration_ns = uv_hrtime() - started;
}

void embed_worker_done(struct embed_worker *worker)
{
    for (size_t i = 0; i < EMBEDDING_URLS_MAX; i++) {
        embedder_free(worker->embedders[i]);
        worker->embedders[i] = NULL;
    }
    config_release(worker->config);
    worker->config = NULL;
}
