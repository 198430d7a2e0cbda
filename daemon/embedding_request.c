/* Requests to the embedding servers: which texts go to whom, and what their answers mean for those
 * who wait. Part of the embedding stage (embedding_stage.c has its invariants); loop thread, but
 * for the three functions of the workers.
 *
 * A request goes out as soon as a worker is free, with all that is queued by then: one batch's
 * misses go together, and behind a slow embedder requests fill up by themselves. When it fails, its
 * flights go back to the queue's head, for another URL or a later time; who need not hope, as the
 * breakers stand, is told at once and does not wait for his deadline.
 *
 * The hard thing is a request that hangs. Is it the server, too many texts, or one of them? The
 * next requests are smaller, which helps in the second case; a text that hangs alone, or with those
 * that it was put apart with, is not asked for again, and is blamed where the server was
 * seen to answer lately: in a quiet hour nothing else would ever tell the two apart. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/embedding_stage_internal.h"

#define LATELY_MS 600000

static void settle_flight(struct embedding_stage *s, struct flight *flight, struct vector *vector,
                          int error)
{
    if (vector != NULL) {
        embedding_cache_put(s->cache, flight->key, vector);
        s->stats.late += flight->waiters == NULL;
    }
    while (flight->waiters != NULL) {
        struct embedding_item *item = flight->waiters;

        embedding_stage_unlink_item(item);
        item->vector = vector != NULL ? vector_hold(vector) : NULL;
        item->error = error;
        if (--item->order->waiting == 0)
            embedding_stage_set_order_state(s, item->order, ORDER_READY);
    }
    flights_end(s->flights, flight);
}

/* Settles the items that wait in the queue for a server that is down. */
static void give_up_hopeless(struct embedding_stage *s)
{
    uint64_t chance = embedding_stage_next_chance_ms(s);
    bool all_open = endpoints_all_open(&s->endpoints);

    if (chance <= uv_now(s->timer.loop))
        return;
    for (struct flight *f = flights_first(s->flights); f != NULL; f = f->next) {
        struct embedding_item *next;

        for (struct embedding_item *item = f->waiters; item != NULL; item = next) {
            next = item->next_waiter;
            if (item->order->due_ms >= chance && (!all_open || item->order->patient))
                continue;
            embedding_stage_unlink_item(item);
            item->error = -EAGAIN;
            if (--item->order->waiting == 0)
                embedding_stage_set_order_state(s, item->order, ORDER_READY);
        }
    }
    flights_sweep(s->flights);
}

/* One request to an endpoint that allows it. */
static void send_request(struct embedding_stage *s, struct endpoint *endpoint)
{
    struct embed_job *job;
    struct flight *flight;
    size_t inputs_max =
        endpoint->inputs_max > 0 ? endpoint->inputs_max : s->config->embedding.request_inputs;
    int rc = embed_job_new(s->flights, inputs_max, s->config->embedding.request_bytes,
                           s->model.prefix, s->model.dimension, &job);

    if (rc == 0 && job != NULL) {
        job->endpoint = (unsigned)(endpoint - s->endpoints.list);
        job->begun_ms = uv_now(s->timer.loop);
        job->config = config_hold(s->config);
        handoff_submit(s->pool, &job->job);
        return;
    }
    endpoint_take_back(endpoint);
    if (rc != 0 && flights_take(s->flights, 1, 0, &flight) == 1)
        settle_flight(s, flight, NULL, -EAGAIN); /* no memory: each round ends with one less */
}

/* A server's first request, before it has any text of ours; made again until it answers, while its
 * vectors are doubtful, and after a reload. */
static void send_selftest(struct embedding_stage *s)
{
    struct endpoint *endpoint;
    struct embed_job *job;

    if (!s->selftests || s->stopping || s->closing || handoff_in_flight(s->pool) >= s->worker_count)
        return;
    endpoint = endpoints_begin_selftest(&s->endpoints, uv_now(s->timer.loop));
    if (endpoint == NULL)
        return;
    job = embed_job_new_selftest(s->model.prefix, s->model.dimension);
    if (job == NULL) {
        endpoint->selftest_under_way = false;
        endpoint_take_back(endpoint);
        return;
    }
    job->endpoint = (unsigned)(endpoint - s->endpoints.list);
    job->begun_ms = uv_now(s->timer.loop);
    job->config = config_hold(s->config);
    handoff_submit(s->pool, &job->job);
}

void embedding_stage_dispatch(struct embedding_stage *s)
{
    send_selftest(s);
    while (!s->stopping && !s->closing && flights_queued(s->flights) > 0 &&
           handoff_in_flight(s->pool) < s->worker_count) {
        struct endpoint *endpoint = endpoints_begin(&s->endpoints, uv_now(s->timer.loop));

        if (endpoint == NULL)
            break;
        send_request(s, endpoint);
    }
    give_up_hopeless(s);
}

static void update_state(struct embedding_stage *s, const char *error)
{
    enum embedding_state state =
        endpoints_all_failing(&s->endpoints) ? EMBEDDING_FAILING : EMBEDDING_OK;

    if (error[0] != '\0')
        snprintf(s->stats.last_error, sizeof s->stats.last_error, "%s", error);
    if (s->stats.state == state)
        return;
    s->stats.state = state;
    if (s->hooks.on_state != NULL)
        s->hooks.on_state(s->hooks.context, state,
                          state == EMBEDDING_OK ? "" : s->stats.last_error);
}

/* Whether it fails for the first time, or has answered lately. */
static bool is_well(const struct endpoint *endpoint, uint64_t now_ms)
{
    return endpoint->breaker.failures == 0 ||
           (endpoint->answered_ms != 0 && now_ms - endpoint->answered_ms < LATELY_MS);
}

/* Whether a text that hung or failed need not be asked for again: whose fault it is will not be
 * known better. */
static bool is_at_its_end(const struct embed_job *job)
{
    const struct embed_request *request = &job->request;
    bool apart = request->count > 0 && job->flights[0]->apart != NULL;

    return (request->timed_out && (request->count == 1 || apart)) ||
           (request->crashed && request->suspect && apart);
}

/* Settles the flights that have their answer; the others go back to the queue, whose last waiter
 * decides when to give up. How many were not answered. */
static size_t settle_job(struct embedding_stage *s, struct embed_job *job)
{
    const struct embed_request *request = &job->request;
    bool server_is_well = is_well(&s->endpoints.list[job->endpoint], uv_now(s->timer.loop));
    bool at_its_end = is_at_its_end(job);
    size_t unanswered = 0, left = 0;

    for (size_t i = 0; i < request->count; i++) {
        struct flight *flight = job->flights[i];
        int error = request->outcome == EMBED_DONE ? request->inputs[i].error : -EAGAIN;

        unanswered += error == -EAGAIN;
        if (error == -EAGAIN && at_its_end) {
            settle_flight(s, flight, NULL,
                          server_is_well && request->timed_out ? -ETIMEDOUT : -EAGAIN);
            continue;
        }
        if (error == -EAGAIN) {
            flight->crashed |= request->crashed;
            job->flights[left++] = flight;
            continue;
        }
        s->stats.refused += error != 0;
        settle_flight(s, flight, error == 0 ? job->vectors[i] : NULL, error);
    }
    flights_put_back(s->flights, job->flights, left);
    return unanswered;
}

static enum breaker_event event_of(const struct embed_request *request, size_t unanswered)
{
    switch (request->outcome) {
    case EMBED_DONE:
        return unanswered == 0 ? BREAKER_ANSWERED : BREAKER_FAILED;
    case EMBED_TRANSIENT:
        return BREAKER_FAILED;
    case EMBED_LIMITED:
        return BREAKER_LIMITED;
    case EMBED_CONFIG:
        return BREAKER_REFUSED;
    }
    abort();
}

static void on_selftest_done(struct embedding_stage *s, const struct embed_job *job)
{
    struct endpoint *endpoint = &s->endpoints.list[job->endpoint];

    endpoint_settle_selftest(endpoint, &job->selftest, uv_now(s->timer.loop));
    if (s->hooks.on_selftest != NULL)
        s->hooks.on_selftest(s->hooks.context, endpoint->url, &job->selftest);
}

/* A request came back. */
static void on_job_done(void *owner, struct handoff_job *handoff_job)
{
    struct embedding_stage *s = owner;
    struct embed_job *job = (struct embed_job *)handoff_job;
    struct embed_request *request = &job->request;
    struct endpoint *endpoint = &s->endpoints.list[job->endpoint];
    enum breaker_event event = event_of(request, settle_job(s, job));

    s->stats.requests++;
    s->stats.failures += event != BREAKER_ANSWERED;
    s->stats.inputs += request->count;
    endpoint_settle(endpoint, event, request->retry_after_ms,
                    event != BREAKER_ANSWERED ? request->error : "", job->begun_ms,
                    uv_now(s->timer.loop));
    if (request->timed_out || event == BREAKER_ANSWERED)
        endpoint_fit_inputs(endpoint, request->count, request->timed_out,
                            s->config->embedding.request_inputs);
    update_state(s, event != BREAKER_ANSWERED ? request->error : "");
    if (job->is_selftest)
        on_selftest_done(s, job);
    else if (s->hooks.on_request_done != NULL)
        s->hooks.on_request_done(s->hooks.context, job->duration_ns, request->count,
                                 event == BREAKER_ANSWERED);
    embed_job_free(job);
    if (s->closing)
        return;
    embedding_stage_dispatch(s);
    embedding_stage_deliver(s);
}

/* The worker's side */

static void *worker_start(void *owner, unsigned index)
{
    struct embedding_stage *s = owner;

    return &s->workers[index];
}

static void worker_stop(void *owner, void *state)
{
    (void)owner;
    embed_worker_done(state);
}

static void worker_run(void *state, struct handoff_job *job)
{
    embed_worker_run(state, (struct embed_job *)job);
}

/* The builtin embedder leaves the loop half of the processors. */
static unsigned builtin_threads(void)
{
    unsigned processors = uv_available_parallelism();

    return processors > 2 ? processors / 2 : 1;
}

int embedding_stage_start_pool(struct embedding_stage *s)
{
    static const struct handoff_ops ops = {worker_start, worker_stop, worker_run, on_job_done};
    unsigned count = (unsigned)s->config->embedding.max_in_flight;

    if (strcmp(s->model.provider, "builtin") == 0 && count > builtin_threads())
        count = builtin_threads();
    s->workers = calloc(count, sizeof s->workers[0]);
    if (s->workers == NULL)
        return -ENOMEM;
    for (unsigned i = 0; i < count; i++)
        s->workers[i] =
            (struct embed_worker){.embedder_new = s->hooks.embedder_new, .urls = s->endpoints.urls};
    s->worker_count = count;
    return handoff_start(s->timer.loop, "embed", &ops, s, count, &s->pool);
}
