/* The only crossing between the loop and other threads: jobs go out by move and come back by move.
 *
 * Every thread of the daemon stands behind one. Whoever submits a job must not touch it until its
 * done callback has run on the loop; the thread must not touch it after run returns. */
#ifndef DAEMON_HANDOFF_H
#define DAEMON_HANDOFF_H

#include <uv.h>

struct handoff;

struct handoff_job {
    struct handoff_job *next; /* the handoff's own */
};

struct handoff_ops {
    /* Thread start and end, on the thread itself: what the thread owns (a PGconn, a CURL handle).
     * May be NULL. thread_start returns the state that run is given; NULL is a state like any
     * other. */
    void *(*thread_start)(void *owner, unsigned index);
    void (*thread_stop)(void *owner, void *state);
    void (*run)(void *state, struct handoff_job *job);  /* on a thread */
    void (*done)(void *owner, struct handoff_job *job); /* on the loop, in the order of finishing */
};

/* Starts `threads` threads named `name` (15 characters at most). 0 or a negative errno. Loop. */
int handoff_start(uv_loop_t *loop, const char *name, const struct handoff_ops *ops, void *owner,
                  unsigned threads, struct handoff **ret) __attribute__((warn_unused_result));

/* Queues a job; jobs start in the order of submission. Takes ownership until done. Loop. */
void handoff_submit(struct handoff *h, struct handoff_job *job);

/* Jobs that wait for a thread or run: submitted and not done. Loop. */
unsigned handoff_in_flight(const struct handoff *h);

/* Lets the threads finish what was submitted, joins them (blocks the loop), runs the last done
 * callbacks, closes its handle; on_closed (may be NULL) runs on the loop when the handle is
 * gone and h is freed. Loop. */
void handoff_close(struct handoff *h, void (*on_closed)(void *owner));

#endif
