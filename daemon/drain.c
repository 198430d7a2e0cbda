/* A drain ends in one of three ways. Everything became a row: all modules close in order and the
 * loop runs out. The database is down: what is left stays in the journal for the next start. The
 * time is up, or a second signal comes: likewise, at once, and without waiting for a worker that
 * hangs, because nothing that it could still do would change what is on disk. In all three nothing
 * that was acknowledged is lost, so all three exit with 0. Loop thread. */
#include "daemon/drain.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "daemon/journal.h"
#include "daemon/listener.h"
#include "daemon/log.h"
#include "daemon/server.h"
#include "daemon/store.h"

static void on_part_closed(void *owner)
{
    struct server *server = owner;

    assert(server->closing > 0);
    server->closing--;
}

/* After the batcher: its last verdicts were for the journal. */
static void on_batcher_closed(void *owner)
{
    struct server *server = owner;

    journal_close(server->journal, NULL);
    embedding_stage_close(server->embedding, on_part_closed, server);
}

static void log_end(const struct server *server, const char *reason)
{
    const struct stats *stats = &server->stats;

    log_info("server.end reason=\"%s\" left_in_journal=%zu accepted=%ju completed=%ju "
             "duplicates=%ju replayed=%ju failed=%ju rejected=%ju",
             reason, server->outstanding, (uintmax_t)stats->accepted, (uintmax_t)stats->completed,
             (uintmax_t)stats->duplicates, (uintmax_t)stats->replayed, (uintmax_t)stats->failed,
             (uintmax_t)stats->rejected);
}

/* Everything closes; the loop ends by itself with the last handle. */
static void on_drained(uv_timer_t *timer)
{
    struct server *server = timer->data;

    server->state = SERVER_CLOSING;
    log_end(server, "drained");
    store_end_all(server);
    flush_end_all(&server->flushes);
    uv_close((uv_handle_t *)&server->sigterm, NULL);
    uv_close((uv_handle_t *)&server->sigint, NULL);
    uv_close((uv_handle_t *)&server->drain_timer, NULL);
    server->closing += 2;
    sessions_close(server->sessions, on_part_closed);
    batcher_close(server->batcher, on_batcher_closed);
    json_buffer_done(&server->json);
}

/* Tells everybody who waits, and goes. What was appended but not synced was not acknowledged. */
static void leave(struct server *server, const char *reason)
{
    store_end_all(server);
    flush_end_all(&server->flushes);
    sessions_flush(server->sessions);
    log_end(server, reason);
    _exit(EXIT_SUCCESS);
}

static void on_database_down(uv_timer_t *timer)
{
    struct server *server = timer->data;

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
        uv_timer_start(&server->drain_timer, on_drained, 0, 0); /* its batch is still in use here */
}

void drain_on_write(struct server *server, enum write_outcome outcome)
{
    if (server->state == SERVER_DRAINING &&
        (outcome == WRITE_UNREACHABLE || outcome == WRITE_STOPPED))
        uv_timer_start(&server->drain_timer, on_database_down, 0, 0);
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
    enum database_state database = batcher_status(server->batcher).database;

    if (server->state != SERVER_SERVING)
        leave(server, "second signal");
    log_info("server.draining signal=%s outstanding=%zu", strsignal(signum), server->outstanding);
    sd_notify(0, "STOPPING=1");
    server->state = SERVER_DRAINING;
    close_listeners(server);
    sessions_resume(server->sessions); /* so that each store hears SHUTTING_DOWN */
    if (server->outstanding == 0)
        uv_timer_start(&server->drain_timer, on_drained, 0, 0);
    else if (database == DATABASE_DOWN || database == DATABASE_STOPPED)
        uv_timer_start(&server->drain_timer, on_database_down, 0, 0);
    else
        uv_timer_start(&server->drain_timer, on_drain_timeout,
                       server->config->batch.drain_timeout_ms, 0);
    server_update_urgency(server);
}

void drain_start(struct server *server)
{
    int rc = uv_signal_init(server->loop, &server->sigterm);

    rc |= uv_signal_init(server->loop, &server->sigint);
    rc |= uv_timer_init(server->loop, &server->drain_timer);
    server->sigterm.data = server->sigint.data = server->drain_timer.data = server;
    rc |= uv_signal_start(&server->sigterm, on_end_signal, SIGTERM);
    rc |= uv_signal_start(&server->sigint, on_end_signal, SIGINT);
    assert(rc == 0);
}
