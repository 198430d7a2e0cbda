/* Two queues under one mutex: submitted jobs, which threads take, and done jobs, which the loop
 * takes.
 *
 * The one hard thing: uv_async_send() coalesces, so that one callback may stand for many finished
 * jobs. The callback therefore takes the whole done queue each time. Invariant: in_flight is
 * touched by the loop only. */
#include "daemon/handoff.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

struct queue {
    struct handoff_job *head, *tail;
};

struct handoff {
    struct handoff_ops ops;
    void *owner;
    uv_async_t async;
    pthread_mutex_t lock; /* guards submitted, done, stopping */
    pthread_cond_t wake;
    struct queue submitted;
    struct queue done;
    bool stopping;
    unsigned in_flight;
    void (*on_closed)(void *owner);
    unsigned thread_count;
    struct handoff_thread {
        struct handoff *handoff;
        unsigned index;
        pthread_t id;
    } threads[];
};

static void queue_push(struct queue *q, struct handoff_job *job)
{
    job->next = NULL;
    if (q->tail != NULL)
        q->tail->next = job;
    else
        q->head = job;
    q->tail = job;
}

static struct handoff_job *queue_pop(struct queue *q)
{
    struct handoff_job *job = q->head;

    if (job != NULL) {
        q->head = job->next;
        if (q->head == NULL)
            q->tail = NULL;
        job->next = NULL;
    }
    return job;
}

/* Waits for a job; NULL when the handoff closes and nothing is left to do. */
static struct handoff_job *take_job(struct handoff *h)
{
    struct handoff_job *job;

    pthread_mutex_lock(&h->lock);
    while ((job = queue_pop(&h->submitted)) == NULL && !h->stopping)
        pthread_cond_wait(&h->wake, &h->lock);
    pthread_mutex_unlock(&h->lock);
    return job;
}

static void *thread_main(void *arg)
{
    struct handoff_thread *thread = arg;
    struct handoff *h = thread->handoff;
    void *state = h->ops.thread_start != NULL ? h->ops.thread_start(h->owner, thread->index) : NULL;
    struct handoff_job *job;

    while ((job = take_job(h)) != NULL) {
        bool was_empty;

        h->ops.run(state, job);
        pthread_mutex_lock(&h->lock);
        was_empty = h->done.head == NULL;
        queue_push(&h->done, job);
        pthread_mutex_unlock(&h->lock);
        if (was_empty) /* else a send is on its way that the callback has not served yet */
            uv_async_send(&h->async);
    }
    if (h->ops.thread_stop != NULL)
        h->ops.thread_stop(h->owner, state);
    return NULL;
}

static void drain_done(struct handoff *h)
{
    struct handoff_job *job;

    pthread_mutex_lock(&h->lock);
    job = h->done.head;
    h->done = (struct queue){NULL, NULL};
    pthread_mutex_unlock(&h->lock);
    while (job != NULL) {
        struct handoff_job *next = job->next;

        job->next = NULL;
        assert(h->in_flight > 0);
        h->in_flight--;
        h->ops.done(h->owner, job); /* may submit more, may free the job */
        job = next;
    }
}

static void on_async(uv_async_t *async)
{
    drain_done(async->data);
}

static void on_async_closed(uv_handle_t *handle)
{
    struct handoff *h = handle->data;

    if (h->on_closed != NULL)
        h->on_closed(h->owner);
    pthread_cond_destroy(&h->wake);
    pthread_mutex_destroy(&h->lock);
    free(h);
}

static void stop_threads(struct handoff *h)
{
    pthread_mutex_lock(&h->lock);
    h->stopping = true;
    pthread_cond_broadcast(&h->wake);
    pthread_mutex_unlock(&h->lock);
    for (unsigned i = 0; i < h->thread_count; i++)
        pthread_join(h->threads[i].id, NULL);
    h->thread_count = 0;
}

int handoff_start(uv_loop_t *loop, const char *name, const struct handoff_ops *ops, void *owner,
                  unsigned threads, struct handoff **ret)
{
    struct handoff *h = calloc(1, sizeof *h + threads * sizeof h->threads[0]);
    int rc;

    assert(threads > 0);
    if (h == NULL)
        return -ENOMEM;
    h->ops = *ops;
    h->owner = owner;
    rc = uv_async_init(loop, &h->async, on_async);
    if (rc != 0) {
        free(h);
        return rc;
    }
    h->async.data = h;
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->wake, NULL);
    for (unsigned i = 0; i < threads; i++) {
        h->threads[i] = (struct handoff_thread){.handoff = h, .index = i};
        rc = -pthread_create(&h->threads[i].id, NULL, thread_main, &h->threads[i]);
        if (rc != 0) {
            handoff_close(h, NULL);
            return rc;
        }
        pthread_setname_np(h->threads[i].id, name);
        h->thread_count++;
    }
    *ret = h;
    return 0;
}

void handoff_submit(struct handoff *h, struct handoff_job *job)
{
    assert(!h->stopping);
    h->in_flight++;
    pthread_mutex_lock(&h->lock);
    queue_push(&h->submitted, job);
    pthread_mutex_unlock(&h->lock);
    pthread_cond_signal(&h->wake); /* outside: the thread that wakes finds the lock free */
}

unsigned handoff_in_flight(const struct handoff *h)
{
    return h->in_flight;
}

void handoff_close(struct handoff *h, void (*on_closed)(void *owner))
{
    h->on_closed = on_closed;
    stop_threads(h);
    drain_done(h);
    uv_close((uv_handle_t *)&h->async, on_async_closed);
}
