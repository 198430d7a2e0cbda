/* A drain ends in one of three ways. Everything became a row: all modules close in order and the
 * loop runs out. The database is down: what is left stays in the journal for the next start. The
 * time is up, or a second signal comes: likewise, at once, and without waiting for a worker that
 * hangs, because nothing that it could still do would change what is on disk. In all three nothing
 * that was acknowledged is lost, so all three exit with 0. Loop thread. */
#include "daemon/drain.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/announce.h"
#include "daemon/backfill.h"
#include "daemon/journal.h"
#include "daemon/listener.h"
#include "daemon/log.h"
#include "daemon/metrics_http.h"
#include "daemon/notify.h"
#include "daemon/queries.h"
#include "daemon/server.h"
#include "daemon/store.h"

#define PROGRESS_MS 1000
#define QUIET_LOOKS_LOGGED 10 /* without progress a line comes this rarely */
#define IDLE_POLL_MS 10
#define IDLE_POLLS_MAX 200

static void on_part_closed(void *owner)
{
    struct server *server = owner;

    assert(server->closing > 0);
    server->closing--;
}

static void on_backfill_closed(void *owner)
{
    struct server *server = owner;

    embedding_stage_close(server->embedding, on_part_closed, server);
}

/* After the batcher: its last verdicts were for the journal. */
static void on_batcher_closed(void *owner)
{
    struct server *server = owner;

    journal_close(server->journal, NULL);
    if (server->backfill != NULL)
        backfill_close(server->backfill, on_backfill_closed, server);
    else
        on_backfill_closed(server);
}

/* Tells everybody who waits, and goes. What was appended but not synced was not acknowledged. */
static void leave(struct server *server, const char *reason)
{
    store_end_all(server);
    flush_end_all(&server->flushes);
    forget_end_all(server);
    sessions_flush(server->sessions);
    announce_end(server, reason);
    _exit(EXIT_SUCCESS);
}

static void on_drained(uv_timer_t *timer);

/* Closing joins threads, and the loop would stand still for what they are at: so the drain's time
 * goes on until they are idle. Questions have all of it. The backfill gives back what it holds, for
 * other daemons; but it and an embedder are not waited for long, since what is held comes free by
 * itself and vectors are made later. */
static bool is_idle(struct server *server)
{
    bool asked = queries_are_busy(server->queries) || queries_are_busy(server->reads.queries);
    bool quiet = (server->backfill == NULL || backfill_stop(server->backfill)) &&
                 embedding_stage_stop(server->embedding) && !batcher_is_writing(server->batcher);

    if (reads_stop(&server->reads) && quiet && !asked)
        return true;
    if (!asked && server->drain.idle_polls++ >= IDLE_POLLS_MAX)
        leave(server, "drained; an embedder or a connection to the database hangs");
    uv_timer_start(&server->drain.end_timer, on_drained, IDLE_POLL_MS, 0);
    return false;
}

/* Everything closes; the loop ends by itself with the last handle. */
static void on_drained(uv_timer_t *timer)
{
    struct server *server = timer->data;
    struct drain *drain = &server->drain;

    if (server->outstanding > 0)
        return; /* a promoted standby made some outstanding again */
    if (!is_idle(server))
        return;
    server->state = SERVER_CLOSING;
    announce_end(server, "drained");
    store_end_all(server);
    flush_end_all(&server->flushes);
    forget_end_all(server);
    queries_close(server->queries); /* what was asked is answered, before the sessions go */
    health_close(server);
    precedence_close(server);
    metrics_http_close(server->metrics);
    forgets_close(server); /* behind the queries, which may be its own */
    uv_close((uv_handle_t *)&drain->sigterm, NULL);
    uv_close((uv_handle_t *)&drain->sigint, NULL);
    reload_close(server);
    uv_close((uv_handle_t *)&drain->end_timer, NULL);
    uv_close((uv_handle_t *)&drain->deadline_timer, NULL);
    uv_close((uv_handle_t *)&drain->progress_timer, NULL);
    notify_close(server);
    server->closing += 3;
    reads_close(&server->reads, on_part_closed);
    sessions_close(server->sessions, on_part_closed);
    batcher_close(server->batcher, on_batcher_closed);
    json_buffer_done(&server->json);
}

/* After the batch's outcome is taken: the trouble of one row is none of the database's. */
static void on_database_down(uv_timer_t *timer)
{
    struct server *server = timer->data;
    enum database_state database = batcher_status(server->batcher).database;

    if (database == DATABASE_UP || database == DATABASE_UNTRIED)
        return;
    server->state = SERVER_CLOSING;
    journal_close(server->journal, NULL); /* the last group is synced and acknowledged here */
    leave(server, "database down");
}

static void on_drain_timeout(uv_timer_t *timer)
{
    leave(timer->data, "batch.drain_timeout_ms");
}

void drain_on_settled(struct server *server)
{
    if (server->state == SERVER_DRAINING && server->outstanding == 0)
        uv_timer_start(&server->drain.end_timer, on_drained, 0, 0); /* its batch is in use here */
}

/* Connections may be cut while the server lives; a try that began after that tells. */
void drain_on_write(struct server *server, uint64_t duration_ns, enum write_outcome outcome)
{
    struct drain *drain = &server->drain;
    uint64_t now = uv_hrtime();
    bool down =
        outcome == WRITE_UNREACHABLE && drain->lost_ns != 0 && now - duration_ns >= drain->lost_ns;

    if (outcome != WRITE_UNREACHABLE)
        drain->lost_ns = 0;
    else if (drain->lost_ns == 0)
        drain->lost_ns = now;
    if (server->state == SERVER_DRAINING && (down || outcome == WRITE_STOPPED))
        uv_timer_start(&drain->end_timer, on_database_down, 0, 0);
}

/* Says how far it is. */
static void on_progress(uv_timer_t *timer)
{
    struct server *server = timer->data;
    struct drain *drain = &server->drain;
    bool moved = server->outstanding < drain->seen;

    notify_draining(server, moved);
    drain->quiet_looks = moved ? 0 : drain->quiet_looks + 1;
    if (moved || drain->quiet_looks % QUIET_LOOKS_LOGGED == 1)
        log_info("server.draining left=%zu progress=%s", server->outstanding, moved ? "yes" : "no");
    drain->seen = server->outstanding;
}

static void close_listeners(struct server *server)
{
    listener_close(server->listener, server, on_part_closed);
    listener_close(server->control_listener, server, on_part_closed);
    server->listener = server->control_listener = NULL;
    server->closing += 2;
}

static void on_end_signal(uv_signal_t *handle, int signum)
{
    struct server *server = handle->data;
    struct drain *drain = &server->drain;
    enum database_state database = batcher_status(server->batcher).database;

    if (server->state != SERVER_SERVING)
        leave(server, "second signal");
    log_info("server.draining signal=%s outstanding=%zu", strsignal(signum), server->outstanding);
    notify_stopping(server);
    server->state = SERVER_DRAINING;
    if (server->backfill != NULL)
        backfill_stop(server->backfill);
    close_listeners(server);
    sessions_resume(server->sessions); /* so that each store hears SHUTTING_DOWN */
    if (server->outstanding == 0)
        uv_timer_start(&drain->end_timer, on_drained, 0, 0);
    else if (database == DATABASE_DOWN || database == DATABASE_STOPPED)
        uv_timer_start(&drain->end_timer, on_database_down, 0, 0);
    drain->seen = server->outstanding;
    uv_timer_start(&drain->deadline_timer, on_drain_timeout, server->config->batch.drain_timeout_ms,
                   0);
    uv_timer_start(&drain->progress_timer, on_progress, PROGRESS_MS, PROGRESS_MS);
    server_update_urgency(server);
}

void drain_start(struct server *server)
{
    struct drain *drain = &server->drain;
    int rc = uv_signal_init(server->loop, &drain->sigterm);

    rc |= uv_signal_init(server->loop, &drain->sigint);
    rc |= uv_timer_init(server->loop, &drain->end_timer);
    rc |= uv_timer_init(server->loop, &drain->deadline_timer);
    rc |= uv_timer_init(server->loop, &drain->progress_timer);
    drain->sigterm.data = drain->sigint.data = server;
    drain->end_timer.data = drain->deadline_timer.data = drain->progress_timer.data = server;
    rc |= uv_signal_start(&drain->sigterm, on_end_signal, SIGTERM);
    rc |= uv_signal_start(&drain->sigint, on_end_signal, SIGINT);
    assert(rc == 0);
}
