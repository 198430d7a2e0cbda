/* Owns every module. Start: sessions, embedding, batcher, then the sockets, so that nobody is
 * accepted before there is somebody to serve him. End: the sockets close, what was accepted drains
 * into the database, then everything closes in the opposite order. Loop thread. */
#include "daemon/server.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "daemon/embedding_model.h"
#include "daemon/listener.h"
#include "daemon/log.h"
#include "daemon/rpc.h"
#include "daemon/store.h"

#define ERROR_BYTES 512
#define RESERVED_DESCRIPTORS 64 /* database, embedder, epoll, logs */
#define FULL_RETRY_AFTER_MS 1000

/* From the sessions. */

static void on_message(void *owner, struct session *s, const void *data, size_t len)
{
    rpc_dispatch(owner, s, data, len);
}

static void on_session_end(void *owner)
{
    struct server *server = owner;

    if (server->state != SERVER_SERVING)
        return;
    listener_accept_waiting(server->listener);
    listener_accept_waiting(server->control_listener);
}

enum wire_code server_room(const struct server *server, size_t count, size_t bytes,
                           struct wire_error *err)
{
    const struct config *config = server->config;
    struct batcher_status status;

    if (server->state != SERVER_SERVING) {
        wire_fail(err, WIRE_SHUTTING_DOWN, "the daemon is ending; send again to the next one");
        return err->code;
    }
    status = batcher_status(server->batcher);
    if (status.queued + status.processing + count <= config->queue.max_queue_size &&
        status.bytes + bytes <= config->queue.max_queue_bytes)
        return WIRE_OK;
    wire_fail(err, WIRE_QUEUE_FULL, "%zu conversations (%zu bytes) wait already; try again later",
              status.queued + status.processing, status.bytes);
    err->retry_after_ms = FULL_RETRY_AFTER_MS;
    return err->code;
}

enum wire_code server_take(struct server *server, struct conversation *c)
{
    c->seq = ++server->last_seq;
    server->outstanding++;
    server->stats.accepted++;
    stats_record(&server->stats, OPERATION_QUEUE, uv_hrtime() - c->read_ns, true);
    store_on_durable(server, c);
    batcher_push(server->batcher, c);
    return WIRE_OK;
}

void server_update_urgency(struct server *server)
{
    batcher_set_urgent(server->batcher,
                       server->state != SERVER_SERVING || flush_any(&server->flushes));
}

/* From the batcher. */

static void on_drained(uv_timer_t *timer);

static void count_row(struct stats *stats, const struct conversation *c, enum row_verdict verdict)
{
    assert(verdict != ROW_PENDING);
    if (verdict == ROW_DEAD) {
        stats->failed++;
        return;
    }
    stats->completed++;
    if (verdict == ROW_DUPLICATE && c->replayed)
        stats->replayed++;
    else if (verdict == ROW_DUPLICATE)
        stats->duplicates++;
    if (c->read_ns != 0)
        stats_record(stats, OPERATION_END_TO_END, uv_hrtime() - c->read_ns, true);
}

static void on_row(void *owner, struct conversation *c, enum row_verdict verdict)
{
    struct server *server = owner;
    uint64_t seq = c->seq;

    count_row(&server->stats, c, verdict);
    conversation_free(c);
    assert(server->outstanding > 0);
    server->outstanding--;
    store_on_settled(server, seq, verdict);
    flush_on_settled(&server->flushes, seq);
    server_update_urgency(server);
    if (server->state == SERVER_DRAINING && server->outstanding == 0)
        uv_timer_start(&server->drain_timer, on_drained, 0, 0); /* the batch is still in use here */
}

static void on_write(void *owner, uint64_t duration_ns, enum write_outcome outcome)
{
    struct server *server = owner;

    stats_record(&server->stats, OPERATION_BATCH_INSERT, duration_ns, outcome == WRITE_DONE);
}

static void on_embedding_request(void *context, uint64_t duration_ns, size_t inputs, bool ok)
{
    struct server *server = context;

    (void)inputs;
    stats_record(&server->stats, OPERATION_EMBEDDING, duration_ns, ok);
}

static void on_embedding_state(void *context, enum embedding_state state, const char *error)
{
    (void)context;
    if (state == EMBEDDING_FAILING)
        log_warning("embedder.failing error=\"%s\" advice=\"texts are stored without vectors\"",
                    error);
    else
        log_info("embedder.ok");
}

/* The end. */

static void on_part_closed(void *owner)
{
    struct server *server = owner;

    assert(server->closing > 0);
    server->closing--;
}

static void on_batcher_closed(void *owner)
{
    struct server *server = owner;

    embedding_stage_close(server->embedding, on_part_closed, server);
}

static void close_listeners(struct server *server)
{
    if (server->listener != NULL)
        listener_close(server->listener, server, on_part_closed);
    if (server->control_listener != NULL)
        listener_close(server->control_listener, server, on_part_closed);
    server->listener = server->control_listener = NULL;
}

/* Everything closes; the loop ends by itself with the last handle. */
static void server_finish(struct server *server)
{
    server->state = SERVER_CLOSING;
    server->drained = server->outstanding == 0;
    if (!server->drained)
        log_error("server.end lost=%zu reason=\"not stored within batch.drain_timeout_ms\"",
                  server->outstanding);
    else
        log_info("server.end accepted=%ju completed=%ju duplicates=%ju replayed=%ju failed=%ju",
                 (uintmax_t)server->stats.accepted, (uintmax_t)server->stats.completed,
                 (uintmax_t)server->stats.duplicates, (uintmax_t)server->stats.replayed,
                 (uintmax_t)server->stats.failed);
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

static void on_drained(uv_timer_t *timer)
{
    server_finish(timer->data);
}

/* A worker may hang in a call to a server that is gone: nothing that it could still do would change
 * what is on disk, so it is not waited for. */
static void on_drain_timeout(uv_timer_t *timer)
{
    struct server *server = timer->data;

    log_error("server.end lost=%zu reason=\"not stored within batch.drain_timeout_ms\"",
              server->outstanding);
    _exit(EXIT_FAILURE);
}

static void on_end_signal(uv_signal_t *handle, int signum)
{
    struct server *server = handle->data;

    if (server->state != SERVER_SERVING) {
        log_error("server.end reason=\"second signal\" outstanding=%zu", server->outstanding);
        _exit(EXIT_FAILURE);
    }
    log_info("server.draining signal=%s outstanding=%zu", strsignal(signum), server->outstanding);
    sd_notify(0, "STOPPING=1");
    server->state = SERVER_DRAINING;
    server->closing += 2;
    close_listeners(server);
    if (server->outstanding == 0) {
        server_finish(server);
        return;
    }
    uv_timer_start(&server->drain_timer, on_drain_timeout, server->config->batch.drain_timeout_ms,
                   0);
    server_update_urgency(server);
}

/* The start. */

/* Descriptors for max_connections, or a word that there are fewer. */
static size_t raise_descriptor_limit(size_t max_connections)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return max_connections;
    if (limit.rlim_cur < max_connections + RESERVED_DESCRIPTORS &&
        limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max < max_connections + RESERVED_DESCRIPTORS
                             ? limit.rlim_max
                             : max_connections + RESERVED_DESCRIPTORS;
        setrlimit(RLIMIT_NOFILE, &limit);
        getrlimit(RLIMIT_NOFILE, &limit);
    }
    if (limit.rlim_cur >= max_connections + RESERVED_DESCRIPTORS)
        return max_connections;
    log_warning("server.limits max_connections=%zu reason=\"RLIMIT_NOFILE is %ju\"",
                (size_t)limit.rlim_cur - RESERVED_DESCRIPTORS, (uintmax_t)limit.rlim_cur);
    return (size_t)limit.rlim_cur - RESERVED_DESCRIPTORS;
}

static int start_listeners(struct server *server, char *error)
{
    const struct config *config = server->config;
    struct listener_config services = {
        .path = config->listen.socket,
        .mode = (mode_t)config->listen.socket_mode,
        .max_connections = raise_descriptor_limit(config->listen.max_connections),
    };
    struct listener_config control = {
        .path = config->listen.control_socket,
        .mode = (mode_t)config->listen.control_socket_mode,
        .control = true,
        .max_connections = services.max_connections + RESERVED_DESCRIPTORS / 2,
    };

    if (listener_open(server->loop, &services, server->sessions, &server->listener, error) != 0 ||
        listener_open(server->loop, &control, server->sessions, &server->control_listener, error) !=
            0)
        return -1;
    return 0;
}

static int start_sessions(struct server *server)
{
    static const struct sessions_callbacks callbacks = {.on_message = on_message,
                                                        .on_session_end = on_session_end};
    const struct config *config = server->config;
    struct sessions_config limits = {
        .max_message_bytes = config->listen.max_message_bytes,
        .max_partial_bytes = config->listen.max_partial_bytes,
        .max_reply_bytes = config->listen.max_reply_bytes,
        .max_in_flight = (unsigned)config->listen.max_in_flight,
    };

    return sessions_new(server->loop, &limits, &callbacks, server, &server->sessions);
}

static int start_embedding(struct server *server, char *error)
{
    struct embedding_stage_hooks hooks = {
        .context = server, .on_request_done = on_embedding_request, .on_state = on_embedding_state};
    int rc;

    if (embedding_model_resolve(server->config, &server->model, error) != 0)
        return -1;
    rc = embedding_stage_start(server->loop, server->config, &server->model, &hooks,
                               &server->embedding);
    if (rc != 0)
        snprintf(error, ERROR_BYTES, "embed workers: %s", uv_strerror(rc));
    return rc;
}

static int start_batcher(struct server *server)
{
    static const struct batcher_callbacks callbacks = {.on_row = on_row, .on_write = on_write};
    const struct config *config = server->config;
    uint64_t threads = config->batch.max_concurrent_batches < config->database.max_connections
                           ? config->batch.max_concurrent_batches
                           : config->database.max_connections;
    struct batcher_config batches = {
        .batch_size = config->batch.batch_size,
        .flush_interval_ms = config->batch.flush_interval_ms,
        .batch_timeout_ms = config->batch.batch_timeout_ms,
        .max_concurrent_batches = (unsigned)config->batch.max_concurrent_batches,
        .write_threads = (unsigned)threads,
        .max_attempts = (unsigned)config->batch.max_attempts,
        .writer = {.conninfo = config->database.conninfo,
                   .auto_migrate = config->database.auto_migrate,
                   .model = server->model},
    };

    return batcher_start(server->loop, &batches, &callbacks, server, server->embedding,
                         &server->batcher);
}

static void start_signals(struct server *server)
{
    uv_signal_init(server->loop, &server->sigterm);
    uv_signal_init(server->loop, &server->sigint);
    uv_timer_init(server->loop, &server->drain_timer);
    server->sigterm.data = server->sigint.data = server->drain_timer.data = server;
    uv_signal_start(&server->sigterm, on_end_signal, SIGTERM);
    uv_signal_start(&server->sigint, on_end_signal, SIGINT);
}

int server_start(struct server *server, uv_loop_t *loop, const struct config *config,
                 char ret_error[512])
{
    int rc;

    memset(server, 0, sizeof *server);
    server->loop = loop;
    server->config = config;
    server->started_ns = uv_hrtime();
    LIST_INIT(&server->flushes);
    rc = start_sessions(server);
    if (rc != 0) {
        snprintf(ret_error, ERROR_BYTES, "sessions: %s", uv_strerror(rc));
        return -1;
    }
    if (start_embedding(server, ret_error) != 0)
        return -1;
    rc = start_batcher(server);
    if (rc != 0) {
        snprintf(ret_error, ERROR_BYTES, "write workers: %s", uv_strerror(rc));
        return -1;
    }
    start_signals(server);
    if (start_listeners(server, ret_error) != 0)
        return -1;
    log_info("server.start version=%s socket=%s control_socket=%s provider=%s durability=memory",
             CONVSTORE_VERSION, config->listen.socket, config->listen.control_socket,
             config->embedding.provider);
    sd_notify(0, "READY=1");
    return 0;
}
