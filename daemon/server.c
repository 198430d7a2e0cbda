/* Owns every module and connects them: sessions hand conversations to the journal, the journal to
 * the batcher, the batcher's verdicts go back to the journal and to the calls that wait. Start:
 * sessions, embedding, batcher, journal, then the sockets, so that nobody is accepted before there
 * is somebody to serve him. The end is drain.c's. Loop thread. */
#include "daemon/server.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/announce.h"
#include "daemon/backfill.h"
#include "daemon/drain.h"
#include "daemon/embedding_model.h"
#include "daemon/health.h"
#include "daemon/journal.h"
#include "daemon/latency.h"
#include "daemon/listener.h"
#include "daemon/log.h"
#include "daemon/metrics_http.h"
#include "daemon/notify.h"
#include "daemon/queries.h"
#include "daemon/rpc.h"
#include "daemon/settings.h"
#include "daemon/store.h"
#include "daemon/sysio.h"

#define ERROR_BYTES 512
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

void server_count_acks(struct server *server, uint64_t begun_ns, uint32_t count, uint64_t sent_ns)
{
    uint64_t took_ns = sent_ns - begun_ns;

    if (took_ns > PRECEDENCE_SLOW_NS)
        server->stats.slow_acks += count;
    for (uint32_t i = 0; i < count; i++)
        stats_record(&server->stats, OPERATION_QUEUE, took_ns, true);
}

static void on_sent(void *owner, uint64_t begun_ns, uint32_t count, uint64_t sent_ns)
{
    ((struct server *)owner)->stats.replies++;
    server_count_acks(owner, begun_ns, count, sent_ns);
}

static void on_flushed(void *owner)
{
    rush_rest(&((struct server *)owner)->rush);
}

/* What the journal's refusal means to a client. */
static enum wire_code refuse(const struct server *server, int rc, struct wire_error *err)
{
    switch (rc) {
    case -EDQUOT:
        wire_fail(err, WIRE_QUEUE_FULL,
                  "%zu conversations wait for the database and fill journal.max_bytes; try again "
                  "later",
                  server->outstanding);
        break;
    case -ENOSPC:
        wire_fail(err, WIRE_QUEUE_FULL, "the journal's disk is full; try again later");
        break;
    case -EMSGSIZE:
        wire_fail(err, WIRE_TOO_LARGE, "conversation: does not fit into journal.segment_bytes");
        return err->code;
    default:
        wire_fail(err, WIRE_STORAGE_FAILED, "the journal has failed; send again with the same id");
        return err->code;
    }
    err->retry_after_ms = FULL_RETRY_AFTER_MS;
    return err->code;
}

enum wire_code server_room(const struct server *server, unsigned count, uint64_t packed_bytes,
                           struct wire_error *err)
{
    int rc;

    if (server->state != SERVER_SERVING) {
        wire_fail(err, WIRE_SHUTTING_DOWN, "the daemon is ending; send again to the next one");
        return err->code;
    }
    rc = journal_admits(server->journal, count, packed_bytes);
    return rc == 0 ? WIRE_OK : refuse(server, rc, err);
}

enum wire_code server_take(struct server *server, struct conversation *c, struct wire_error *err)
{
    int rc = journal_append(server->journal, c);

    if (rc != 0)
        return refuse(server, rc, err);
    server->outstanding++;
    if (journal_congested(server->journal))
        sessions_pause(server->sessions);
    return WIRE_OK;
}

/* From the journal. */

static void on_durable(void *owner, struct conversation *c)
{
    struct server *server = owner;

    server->stats.accepted++;
    store_on_durable(server, c);
}

static void on_ready(void *owner, struct conversation *c)
{
    struct server *server = owner;

    if (forget_takes(server, c))
        return;
    pending_add(&server->pending, c);
    batcher_push(server->batcher, c);
}

static void on_lost(void *owner, struct conversation *c)
{
    (void)owner;
    store_on_lost(c);
}

/* After a failed sync the kernel counts the pages as clean: another sync would prove nothing. The
 * next start writes the last records anew. */
static void on_journal_failed(void *owner, int error, const char *text)
{
    struct server *server = owner;

    log_error("journal.failed error=\"%s\" what=\"%s\" advice=\"look at the disk; the next start "
              "recovers what was acknowledged\"",
              strerror(error < 0 ? -error : error), text);
    sessions_flush(server->sessions);
    _exit(EXIT_FAILURE);
}

static void on_uncongested(void *owner)
{
    sessions_resume(((struct server *)owner)->sessions);
}

static void on_group(void *owner, unsigned records, uint64_t bytes, uint64_t ns)
{
    struct server *server = owner;

    (void)records;
    (void)bytes;
    if (server->state != SERVER_CLOSING)  /* then they are closed, or flushed at the end */
        sessions_flush(server->sessions); /* its acks, before the loop reads on */
    server->stats.groups++;
    stats_record(&server->stats, OPERATION_JOURNAL_SYNC, ns, true);
}

void server_offer_room(struct server *server)
{
    const struct config *config = server->config;
    size_t count, bytes;

    batcher_load(server->batcher, &count, &bytes);
    journal_room(server->journal,
                 count < config->queue.max_queue_size ? config->queue.max_queue_size - count : 0,
                 bytes < config->queue.max_queue_bytes ? config->queue.max_queue_bytes - bytes : 0);
}

void server_update_urgency(struct server *server)
{
    batcher_set_urgent(server->batcher, server->state != SERVER_SERVING ||
                                            flush_any(&server->flushes) || forget_any(server));
}

/* From the batcher. */

static void count_row(struct stats *stats, const struct conversation *c, enum row_verdict verdict)
{
    assert(verdict != ROW_PENDING);
    if (c->read_ns != 0)
        stats_record(stats, OPERATION_END_TO_END, uv_hrtime() - c->read_ns, verdict != ROW_DEAD);
    if (verdict == ROW_DEAD) {
        stats->failed++;
        return;
    }
    stats->completed++;
    stats->written++;
    if (verdict == ROW_DUPLICATE && c->replayed)
        stats->replayed++;
    else if (verdict == ROW_DUPLICATE)
        stats->duplicates++;
}

void server_settle(struct server *server, uint64_t seq, enum row_verdict verdict)
{
    journal_done(server->journal, seq);
    assert(server->outstanding > 0);
    server->outstanding--;
    store_on_settled(server, seq, verdict);
    flush_on_settled(&server->flushes, seq);
    failover_on_settled(server, seq);
    drain_on_settled(server);
}

static void on_row(void *owner, struct conversation *c, enum row_verdict verdict)
{
    struct server *server = owner;
    uint64_t seq = c->seq;

    count_row(&server->stats, c, verdict);
    if (verdict == ROW_DEAD)
        dead_letters_on_dead(server);
    forget_on_settled(server, c);
    pending_remove(c);
    conversation_free(c);
    server_settle(server, seq, verdict);
}

static void on_write(void *owner, size_t rows, uint64_t duration_ns, enum write_outcome outcome)
{
    struct server *server = owner;

    if (rows > 0) {
        server->stats.batches++;
        stats_record(&server->stats, OPERATION_BATCH_INSERT, duration_ns, outcome == WRITE_DONE);
    }
    drain_on_write(server, duration_ns, outcome);
}

static void on_timeline(void *owner, uint32_t timeline, bool settled)
{
    failover_on_timeline(owner, timeline, settled);
}

static void on_room(void *owner)
{
    struct server *server = owner;

    server_update_urgency(server);
    server_offer_room(server);
    if (server->backfill != NULL)
        backfill_nudge(server->backfill, batcher_without_vector(server->batcher));
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

static void on_selftest(void *context, const char *url_in_use,
                        const struct embedding_selftest *found)
{
    char url[128];

    (void)context;
    endpoint_shown_url(url_in_use, url);
    if (found->state == SELFTEST_PASSED)
        log_info("embedder.self_test url=%s result=passed text=\"%s\"", url, found->text);
    else
        log_warning("embedder.self_test url=%s result=%s text=\"%s\"", url,
                    found->state == SELFTEST_DUE ? "failed" : "warning", found->text);
}

static void on_cache_file(void *context, const char *what, int error, const char *text)
{
    const struct server *server = context;

    if (error == 0)
        log_debug("embedding_cache.%s file=%s text=\"%s\"", what, server->config->cache.file, text);
    else
        log_warning("embedding_cache.%s file=%s error=\"%s\" advice=\"the daemon goes on without; "
                    "look at cache.file\"",
                    what, server->config->cache.file, text);
}

/* The start. */

static int start_listeners(struct server *server, char *error)
{
    const struct config *config = server->config;
    struct listener_config services = {
        .path = config->listen.socket,
        .mode = (mode_t)config->listen.socket_mode,
        .max_connections = settings_max_connections(config),
    };
    struct listener_config control = {
        .path = config->listen.control_socket,
        .mode = (mode_t)config->listen.control_socket_mode,
        .control = true,
        .max_connections = services.max_connections + SETTINGS_CONTROL_CONNECTIONS,
    };

    if (listener_check_inherited(services.path, control.path, error) != 0)
        return -1;
    if (listener_open(server->loop, &services, server->sessions, &server->listener, error) != 0 ||
        listener_open(server->loop, &control, server->sessions, &server->control_listener, error) !=
            0)
        return -1;
    if (config->metrics.listen[0] != '\0')
        return metrics_http_start(server, &server->metrics, error);
    return 0;
}

static int start_sessions(struct server *server)
{
    static const struct sessions_callbacks callbacks = {.on_message = on_message,
                                                        .on_session_end = on_session_end,
                                                        .on_sent = on_sent,
                                                        .on_flushed = on_flushed};
    struct sessions_config limits = settings_sessions(server->config);

    return sessions_new(server->loop, &limits, &callbacks, server, &server->sessions);
}

static int start_embedding(struct server *server, char *error)
{
    struct embedding_stage_hooks hooks = {
        .context = server,
        .on_request_done = on_embedding_request,
        .on_state = on_embedding_state,
        .on_selftest = on_selftest,
        .on_cache_file = on_cache_file,
    };
    int rc;

    if (embedding_model_resolve(server->config, &server->model, error) != 0)
        return -1;
    rc = embedding_stage_start(server->loop, server->config, &server->model, &hooks,
                               &server->embedding);
    if (rc != 0)
        snprintf(error, ERROR_BYTES, "embed workers: %s", uv_strerror(rc));
    return rc;
}

static struct pgwriter_config writer_config(const struct server *server)
{
    return (struct pgwriter_config){.conninfo = server->config->database.conninfo,
                                    .auto_migrate = server->config->database.auto_migrate,
                                    .copy_rows = PGWRITER_COPY_ROWS,
                                    .model = server->model};
}

/* What the queries, the reads and the backfill leave of database.max_connections. */
static uint64_t write_connections(const struct server *server)
{
    return server->config->database.max_connections - QUERIES_CONNECTIONS -
           reads_connections(server->config) - (server->model.dimension > 0);
}

static int start_backfill(struct server *server)
{
    struct pgwriter_config writer = writer_config(server);

    if (server->model.dimension == 0)
        return 0;
    return backfill_start(server->loop, server->config, &writer, server->embedding,
                          &server->backfill);
}

static int start_batcher(struct server *server)
{
    static const struct batcher_callbacks callbacks = {
        .on_row = on_row, .on_write = on_write, .on_timeline = on_timeline, .on_room = on_room};
    const struct config *config = server->config;
    uint64_t most = write_connections(server);
    uint64_t threads =
        config->batch.max_concurrent_batches < most ? config->batch.max_concurrent_batches : most;
    struct batcher_config batches = settings_batcher(config);

    batches.write_threads = (unsigned)threads;
    batches.rows_first =
        server->model.dimension > 0 && strcmp(server->model.provider, "builtin") != 0;
    /* One is embedded while the others are written. More are of use only where somebody else's
     * processors embed. */
    if (!batches.rows_first)
        batches.max_concurrent_batches = batches.max_concurrent_batches > batches.write_threads
                                             ? batches.write_threads + 1
                                             : batches.max_concurrent_batches;
    batches.writer = writer_config(server);
    return batcher_start(server->loop, &batches, &callbacks, server, server->embedding,
                         &server->batcher);
}

static int start_queries(struct server *server)
{
    struct pgwriter_config connection = writer_config(server);
    struct queries_options options = {.name = "query", .connections = QUERIES_CONNECTIONS};
    int rc = queries_start(server->loop, &connection, &options, &server->queries);

    return rc == 0 ? reads_start(&server->reads, server, &connection) : rc;
}

static int open_journal(struct server *server, char *error)
{
    static const struct journal_callbacks callbacks = {.on_durable = on_durable,
                                                       .on_ready = on_ready,
                                                       .on_lost = on_lost,
                                                       .on_failed = on_journal_failed,
                                                       .on_uncongested = on_uncongested,
                                                       .on_group = on_group};
    struct journal_config journal = settings_journal(server->config);
    struct journal_stats found;

    if (journal_open(&journal, server->loop, sysio_real(), &callbacks, server, &server->journal,
                     error) != 0)
        return -1;
    journal_stats(server->journal, &found);
    server->outstanding = found.waiting;
    failover_start(server);
    return 0;
}

int server_start(struct server *server, uv_loop_t *loop, const struct config_source *source,
                 const struct config *config, char ret_error[512])
{
    int rc;

    memset(server, 0, sizeof *server);
    server->loop = loop;
    server->config = config_hold(config);
    server->started_ns = uv_hrtime();
    LIST_INIT(&server->flushes);
    stats_turn(&server->stats, uv_hrtime() / 1000000000u);
    rc = stats_init(&server->stats);
    if (rc == 0)
        rc = start_sessions(server);
    if (rc != 0) {
        snprintf(ret_error, ERROR_BYTES, "sessions: %s", uv_strerror(rc));
        return -1;
    }
    if (start_embedding(server, ret_error) != 0)
        return -1;
    rc = start_batcher(server);
    if (rc == 0)
        rc = start_queries(server);
    if (rc == 0)
        rc = start_backfill(server);
    if (rc != 0) {
        snprintf(ret_error, ERROR_BYTES, "write workers: %s", uv_strerror(rc));
        return -1;
    }
    notify_starting();
    if (open_journal(server, ret_error) != 0 || forgets_start(server, ret_error) != 0)
        return -1;
    drain_start(server);
    reload_start(server, source);
    if (health_start(server) != 0 || precedence_start(server) != 0) {
        snprintf(ret_error, ERROR_BYTES, "timer: out of memory");
        return -1;
    }
    if (start_listeners(server, ret_error) != 0)
        return -1;
    latency_take_short_turns(); /* after the workers' start: theirs are long */
    server_offer_room(server);  /* what recovery found comes first */
    announce_start(server);
    notify_ready(server);
    return 0;
}
