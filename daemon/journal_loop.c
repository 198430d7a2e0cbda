/* The journal's threads: one hand-off for groups, one for all other disk work, and the two handles
 * that drive the journal from the loop.
 *
 * A check handle pumps once an iteration, right after the sockets were read, so that all records
 * that came in together go out in one group; a timer pumps once a second for what only time brings
 * (retries on a full disk, retention, moves). Invariant: the handles are closed before the journal
 * is freed; `handles` counts the open ones. */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/handoff.h"
#include "daemon/latency.h"
#include "daemon/journal_private.h"
#include "daemon/log.h"

#define TICK_MS 1000u

struct journal_loop {
    struct journal *journal; /* NULL once it is deleted */
    struct handoff *groups, *work;
    uv_check_t check;
    uv_timer_t timer;
    unsigned handles;
    atomic_bool first;      /* the loop's wish for the sync thread */
    struct latency latency; /* the sync thread's */
    void *owner;
    void (*on_closed)(void *owner);
};

/* All services wait for this thread. */
static void *start_sync_thread(void *owner, unsigned index)
{
    (void)index;
    latency_take_short_turns();
    return owner;
}

static void run_group(void *state, struct handoff_job *job)
{
    struct journal_loop *l = state;

    latency_set_first(&l->latency, atomic_load_explicit(&l->first, memory_order_relaxed));
    disk_group_run((struct group_job *)(void *)job);
}

static void run_work(void *state, struct handoff_job *job)
{
    (void)state;
    disk_work_run((struct work_job *)(void *)job);
}

static void group_done(void *owner, struct handoff_job *job)
{
    struct journal_loop *l = owner;

    (void)job;
    journal_group_finished(l->journal);
}

static void work_done(void *owner, struct handoff_job *job)
{
    struct journal_loop *l = owner;

    journal_work_finished(l->journal, (struct work_job *)(void *)job);
}

static void submit_group(void *context, struct group_job *job)
{
    handoff_submit(((struct journal_loop *)context)->groups, &job->base);
}

static void submit_work(void *context, struct work_job *job)
{
    handoff_submit(((struct journal_loop *)context)->work, &job->base);
}

static void on_check(uv_check_t *check)
{
    journal_pump(((struct journal_loop *)check->data)->journal);
}

static void on_timer(uv_timer_t *timer)
{
    journal_pump(((struct journal_loop *)timer->data)->journal);
}

static void handle_gone(void *owner)
{
    struct journal_loop *l = owner;

    assert(l->handles > 0);
    if (--l->handles > 0)
        return;
    if (l->on_closed != NULL)
        l->on_closed(l->owner);
    free(l);
}

static void on_handle_closed(uv_handle_t *handle)
{
    handle_gone(handle->data);
}

static int start_threads(struct journal_loop *l, uv_loop_t *loop)
{
    static const struct handoff_ops group_ops = {
        .thread_start = start_sync_thread, .run = run_group, .done = group_done};
    static const struct handoff_ops work_ops = {.run = run_work, .done = work_done};
    int rc = handoff_start(loop, "journal-sync", &group_ops, l, 1, &l->groups);

    if (rc == 0)
        rc = handoff_start(loop, "journal-work", &work_ops, l, 1, &l->work);
    return rc;
}

static void start_handles(struct journal_loop *l, uv_loop_t *loop)
{
    uv_check_init(loop, &l->check);
    l->check.data = l;
    uv_check_start(&l->check, on_check);
    uv_unref((uv_handle_t *)&l->check);
    uv_timer_init(loop, &l->timer);
    l->timer.data = l;
    uv_timer_start(&l->timer, on_timer, TICK_MS, TICK_MS);
    uv_unref((uv_handle_t *)&l->timer);
    l->handles += 2;
}

/* No job may leave any more; those that are out come back. */
static void stop_threads(struct journal_loop *l)
{
    struct handoff *const handoffs[] = {l->groups, l->work};

    for (size_t i = 0; i < 2; i++) {
        if (handoffs[i] != NULL) {
            l->handles++;
            handoff_close(handoffs[i], handle_gone);
        }
    }
    l->groups = l->work = NULL;
}

/* What the start found, for whoever reads the log; stats keep it too. */
static void log_start(const struct journal *j)
{
    for (unsigned i = 0; i < j->damages.kept; i++) {
        const struct journal_damage *d = &j->damages.list[i];

        log_line(d->kind == JOURNAL_DAMAGE_TAIL ? LOG_LEVEL_INFO : LOG_LEVEL_WARNING,
                 "journal damage=%s segment=%016" PRIx64 " offset=%" PRIu64 " bytes=%" PRIu64
                 " set_aside=%s",
                 damage_kind_name(d->kind), d->segment, d->offset, d->bytes,
                 d->file[0] != '\0' ? d->file : "no");
    }
    log_info("journal directory=%s segments=%zu waiting=%" PRIu64 " next_seq=%" PRIu64
             " damages=%" PRIu64 " sync_p50_us=%" PRIu64 " sync_p99_us=%" PRIu64,
             j->config.directory, j->ledger.count, j->ledger.live, j->next_seq, j->damages.count,
             j->probe_p50_ns / 1000, j->probe_p99_ns / 1000);
}

int journal_open(const struct journal_config *config, uv_loop_t *loop, const struct sysio *sys,
                 const struct journal_callbacks *callbacks, void *owner, struct journal **ret,
                 char ret_error[512])
{
    struct journal_loop *l = calloc(1, sizeof *l);
    struct journal_executor executor = {submit_group, submit_work, l};
    struct journal *j;
    int rc;

    if (l == NULL) {
        snprintf(ret_error, 512, "cannot start the journal: out of memory");
        return -ENOMEM;
    }
    l->owner = owner;
    rc = journal_new(config, sys, callbacks, owner, &executor, &j, ret_error);
    if (rc != 0) {
        free(l);
        return rc;
    }
    l->journal = j;
    j->loop = l;
    rc = start_threads(l, loop);
    if (rc != 0) {
        snprintf(ret_error, 512, "cannot start the journal's threads: %s", strerror(-rc));
        journal_delete(j);
        stop_threads(l);
        if (l->handles == 0)
            free(l);
        return rc;
    }
    start_handles(l, loop);
    log_start(j);
    *ret = j;
    return 0;
}

void journal_come_first(struct journal *j, bool first)
{
    struct journal_loop *l = j->loop;

    atomic_store_explicit(&l->first, first, memory_order_relaxed);
}

static void run_group_here(void *context, struct group_job *job)
{
    (void)context;
    disk_group_run(job);
}

static void run_work_here(void *context, struct work_job *job)
{
    (void)context;
    disk_work_run(job);
}

/* What still waits is written by the closing thread itself; acks go out as ever. */
static void write_rest(struct journal *j)
{
    j->executor = (struct journal_executor){run_group_here, run_work_here, NULL};
    j->phase = JOURNAL_GROUPS_ONLY;
    journal_pump(j);
    while (j->group_out)
        journal_group_finished(j);
}

void journal_close(struct journal *j, void (*on_closed)(void *owner))
{
    struct journal_loop *l = j->loop;

    l->on_closed = on_closed;
    uv_close((uv_handle_t *)&l->check, on_handle_closed);
    uv_close((uv_handle_t *)&l->timer, on_handle_closed);
    j->phase = JOURNAL_STOPPING;
    stop_threads(l);
    write_rest(j);
    journal_delete(j);
    l->journal = NULL;
}
