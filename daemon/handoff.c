/* Two stacks of jobs, submitted and done, that one side pushes to and the other takes whole.
 *
 * The one hard thing: a thread that has lost its processor, to a busy database for some
 * milliseconds, must not hold up the loop, nor the acknowledgements with it. So the loop takes no
 * lock that a thread may hold, and wakes nobody by a call that can wait: pthread_cond_signal() may,
 * for threads that were woken before and are not through yet, and where uv_async_send() was
 * interrupted the loop of libuv 1.44 spins until the sender goes on. A semaphore and an eventfd
 * have no such wait.
 *
 * Invariants: there is a token for each job that is submitted and not taken, and when the handoff
 * closes one more for each thread; in_flight is touched by the loop only. */
#include "daemon/handoff.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* The youngest job first. Anybody may push; since all are taken at once, a job that comes back to
 * the same address between two steps of a push does no harm. */
typedef _Atomic(struct handoff_job *) job_stack;

struct handoff {
    struct handoff_ops ops;
    void *owner;
    job_stack submitted, done;
    sem_t tokens;
    pthread_mutex_t lock;      /* among the threads: guards taken */
    struct handoff_job *taken; /* off submitted, the oldest first */
    int done_fd;               /* an eventfd: something is done */
    uv_poll_t poll;            /* of done_fd */
    unsigned in_flight;
    void (*on_closed)(void *owner);
    unsigned thread_count;
    struct handoff_thread {
        struct handoff *handoff;
        unsigned index;
        pthread_t id;
    } threads[];
};

static void stack_push(job_stack *stack, struct handoff_job *job)
{
    job->next = atomic_load_explicit(stack, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(stack, &job->next, job, memory_order_release,
                                                  memory_order_relaxed))
        ;
}

/* All of it, the oldest first. */
static struct handoff_job *stack_take(job_stack *stack)
{
    struct handoff_job *job = atomic_exchange_explicit(stack, NULL, memory_order_acquire);
    struct handoff_job *oldest = NULL;

    while (job != NULL) {
        struct handoff_job *older = job->next;

        job->next = oldest;
        oldest = job;
        job = older;
    }
    return oldest;
}

/* Waits for a job; NULL when the handoff closes and nothing is left to do. */
static struct handoff_job *take_job(struct handoff *h)
{
    struct handoff_job *job;

    while (sem_wait(&h->tokens) != 0)
        assert(errno == EINTR);
    pthread_mutex_lock(&h->lock);
    if (h->taken == NULL)
        h->taken = stack_take(&h->submitted);
    job = h->taken;
    if (job != NULL)
        h->taken = job->next;
    pthread_mutex_unlock(&h->lock);
    return job;
}

/* Each job wakes the loop, whether another one has or not: the thread of that one may be about to.
 */
static void give_back(struct handoff *h, struct handoff_job *job)
{
    static const uint64_t one = 1;

    stack_push(&h->done, job);
    while (write(h->done_fd, &one, sizeof one) < 0)
        assert(errno == EINTR);
}

static void *thread_main(void *arg)
{
    struct handoff_thread *thread = arg;
    struct handoff *h = thread->handoff;
    void *state = h->ops.thread_start != NULL ? h->ops.thread_start(h->owner, thread->index) : NULL;
    struct handoff_job *job;

    while ((job = take_job(h)) != NULL) {
        h->ops.run(state, job);
        give_back(h, job);
    }
    if (h->ops.thread_stop != NULL)
        h->ops.thread_stop(h->owner, state);
    return NULL;
}

static void drain_done(struct handoff *h)
{
    struct handoff_job *job = stack_take(&h->done);

    while (job != NULL) {
        struct handoff_job *next = job->next;

        job->next = NULL;
        assert(h->in_flight > 0);
        h->in_flight--;
        h->ops.done(h->owner, job); /* may submit more, may free the job */
        job = next;
    }
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct handoff *h = poll->data;
    uint64_t count;

    (void)status;
    (void)events;
    (void)!read(h->done_fd, &count, sizeof count); /* before the jobs, so that none is missed */
    drain_done(h);
}

static void on_poll_closed(uv_handle_t *handle)
{
    struct handoff *h = handle->data;

    if (h->on_closed != NULL)
        h->on_closed(h->owner);
    close(h->done_fd);
    pthread_mutex_destroy(&h->lock);
    sem_destroy(&h->tokens);
    free(h);
}

static void stop_threads(struct handoff *h)
{
    for (unsigned i = 0; i < h->thread_count; i++)
        sem_post(&h->tokens);
    for (unsigned i = 0; i < h->thread_count; i++)
        pthread_join(h->threads[i].id, NULL);
    h->thread_count = 0;
}

static int start_poll(struct handoff *h, uv_loop_t *loop)
{
    int rc;

    h->done_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (h->done_fd < 0)
        return -errno;
    rc = uv_poll_init(loop, &h->poll, h->done_fd);
    if (rc != 0) {
        close(h->done_fd);
        return rc;
    }
    h->poll.data = h;
    return 0;
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
    rc = start_poll(h, loop);
    if (rc != 0) {
        free(h);
        return rc;
    }
    sem_init(&h->tokens, 0, 0);
    pthread_mutex_init(&h->lock, NULL);
    rc = uv_poll_start(&h->poll, UV_READABLE, on_poll);
    for (unsigned i = 0; rc == 0 && i < threads; i++) {
        h->threads[i] = (struct handoff_thread){.handoff = h, .index = i};
        rc = -pthread_create(&h->threads[i].id, NULL, thread_main, &h->threads[i]);
        if (rc == 0) {
            pthread_setname_np(h->threads[i].id, name);
            h->thread_count++;
        }
    }
    if (rc != 0) {
        handoff_close(h, NULL);
        return rc;
    }
    *ret = h;
    return 0;
}

void handoff_submit(struct handoff *h, struct handoff_job *job)
{
    assert(h->thread_count > 0); /* it does not close */
    h->in_flight++;
    stack_push(&h->submitted, job);
    sem_post(&h->tokens);
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
    uv_close((uv_handle_t *)&h->poll, on_poll_closed);
}
