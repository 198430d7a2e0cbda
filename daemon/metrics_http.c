/* libmicrohttpd without a thread of its own: it has an epoll descriptor, which the loop watches;
 * when something is there, or the time that it asked for is up, MHD_run() does what can be done
 * without waiting. On the loop's thread.
 *
 * The one hard thing is a peer that is slow on purpose or by accident: one that sends nothing, or a
 * byte now and then, or never reads. None of them is waited for, since all of this is non-blocking;
 * but each holds a connection, and a time-out that starts anew with every byte never ends that. So
 * a connection serves one request and has CONNECTION_MS from accept to close, whatever it does. */
#include "daemon/metrics_http.h"

#include <assert.h>
#include <errno.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "daemon/figures.h"
#include "daemon/log.h"
#include "daemon/metrics.h"
#include "daemon/metrics_address.h"
#include "daemon/server.h"

#define ERROR_BYTES 512
#define CONNECTIONS_MAX 16 /* more wait in the kernel's queue */
#define CONNECTION_MS 10000
#define REQUEST_MAX_BYTES 8192 /* of head and reply's head, for each connection */
#define LINE_BYTES 1024
#define HELP "/metrics: figures for Prometheus; /health: 200, or 503 when critical\n"

struct slot {
    int fd; /* -1: free */
    uint64_t due_ms;
    bool ended; /* its peer sends no more, and MHD has been told */
};

struct metrics_http {
    struct server *server;
    struct MHD_Daemon *mhd;
    uv_poll_t poll;
    uv_timer_t timer;
    struct slot slots[CONNECTIONS_MAX];
    bool freed; /* a slot, in the latest run */
};

/* Requests. */

static struct MHD_Response *text_response(const char *text)
{
    return MHD_create_response_from_buffer(strlen(text), (void *)text, MHD_RESPMEM_MUST_COPY);
}

static struct MHD_Response *metrics_response(struct server *server)
{
    struct MHD_Response *response;
    char *text;
    size_t len;

    if (metrics_text(server, &text, &len) != 0)
        return NULL;
    response = MHD_create_response_from_buffer(len, text, MHD_RESPMEM_MUST_FREE);
    if (response == NULL)
        free(text);
    return response;
}

/* "warning: queue_depth database_slow", for instance. */
static void health_line(const struct server *server, FILE *out)
{
    const struct alerts *alerts = &server->health.alerts;
    char before = ':';

    if (server->state != SERVER_SERVING) {
        fputs("draining: no new conversations are taken", out);
        return;
    }
    fputs(alert_health_name(alerts_worst(alerts)), out);
    for (int id = 0; id < ALERT_COUNT; id++) {
        const struct alert *alert = alerts_get(alerts, (enum alert_id)id);

        if (alert->severity == ALERT_NONE)
            continue;
        fprintf(out, "%c %s", before, alert->name);
        before = ',';
    }
}

static struct MHD_Response *health_response(struct server *server, unsigned *ret_status)
{
    struct figures figures;
    char line[LINE_BYTES];
    FILE *out = fmemopen(line, sizeof line, "w");

    if (out == NULL)
        return NULL;
    figures_gather(server, &figures);
    health_look(server, &figures);
    if (server->state != SERVER_SERVING || alerts_worst(&server->health.alerts) == ALERT_CRITICAL)
        *ret_status = MHD_HTTP_SERVICE_UNAVAILABLE;
    health_line(server, out);
    putc('\n', out);
    fclose(out);
    return text_response(line);
}

static struct MHD_Response *respond(struct server *server, const char *url, const char *method,
                                    unsigned *ret_status)
{
    struct MHD_Response *response;

    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0) {
        *ret_status = MHD_HTTP_METHOD_NOT_ALLOWED;
        response = text_response("GET or HEAD only\n");
        if (response != NULL)
            MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
        return response;
    }
    *ret_status = MHD_HTTP_OK;
    if (strcmp(url, "/metrics") == 0)
        return metrics_response(server);
    if (strcmp(url, "/health") == 0)
        return health_response(server, ret_status);
    *ret_status = strcmp(url, "/") == 0 ? MHD_HTTP_OK : MHD_HTTP_NOT_FOUND;
    return text_response(HELP);
}

/* Answers as soon as the head is there: nobody's body is read. MHD_NO closes the connection. */
static enum MHD_Result on_request(void *cls, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_size, void **request)
{
    struct metrics_http *h = cls;
    unsigned status;
    struct MHD_Response *response = respond(h->server, url, method, &status);
    const char *type = strcmp(url, "/metrics") == 0 ? METRICS_CONTENT_TYPE : "text/plain";
    enum MHD_Result rc;

    (void)version;
    (void)upload;
    (void)upload_size;
    (void)request;
    if (response == NULL)
        return MHD_NO;
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
    rc = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return rc;
}

/* Connections and their time. */

static void on_connection(void *cls, struct MHD_Connection *connection, void **slot_of,
                          enum MHD_ConnectionNotificationCode what)
{
    struct metrics_http *h = cls;
    struct slot *slot = h->slots;

    if (what == MHD_CONNECTION_NOTIFY_CLOSED) {
        ((struct slot *)*slot_of)->fd = -1;
        h->freed = true;
        return;
    }
    while (slot->fd >= 0)
        slot++;
    assert(slot < h->slots + CONNECTIONS_MAX);
    slot->fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    slot->due_ms = uv_now(h->server->loop) + CONNECTION_MS;
    slot->ended = false;
    *slot_of = slot;
}

/* After a read that fills less than its buffer MHD waits for the next event. There is none where
 * the peer's end came together with its last bytes; shutting down the reading side makes one. */
static void tell_ends(struct metrics_http *h)
{
    char byte;

    for (struct slot *slot = h->slots; slot < h->slots + CONNECTIONS_MAX; slot++) {
        if (slot->fd < 0 || slot->ended || recv(slot->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) != 0)
            continue;
        slot->ended = true;
        shutdown(slot->fd, SHUT_RD);
    }
}

/* Shuts down those whose time is up, which MHD then sees and closes; returns when the next is due.
 */
static uint64_t end_overdue(struct metrics_http *h, uint64_t now_ms)
{
    uint64_t next_ms = UINT64_MAX;

    for (struct slot *slot = h->slots; slot < h->slots + CONNECTIONS_MAX; slot++) {
        if (slot->fd < 0)
            continue;
        if (slot->due_ms <= now_ms) {
            shutdown(slot->fd, SHUT_RDWR);
            slot->due_ms = UINT64_MAX;
        }
        if (slot->due_ms < next_ms)
            next_ms = slot->due_ms;
    }
    return next_ms;
}

static void on_timer(uv_timer_t *timer);

static void run(struct metrics_http *h)
{
    uint64_t now_ms = uv_now(h->server->loop), next_ms;
    MHD_UNSIGNED_LONG_LONG wait_ms;

    h->freed = false;
    MHD_run(h->mhd);
    tell_ends(h);
    next_ms = end_overdue(h, now_ms);
    if (h->freed)
        next_ms = now_ms; /* MHD that was full takes connections again from its next run on only */
    if (MHD_get_timeout(h->mhd, &wait_ms) == MHD_YES && now_ms + wait_ms < next_ms)
        next_ms = now_ms + wait_ms;
    if (next_ms == UINT64_MAX)
        uv_timer_stop(&h->timer);
    else
        uv_timer_start(&h->timer, on_timer, next_ms - now_ms, 0);
}

static void on_timer(uv_timer_t *timer)
{
    run(timer->data);
}

static void on_ready(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    run(poll->data);
}

/* Start and end. */

static struct MHD_Daemon *start_mhd(struct metrics_http *h, int fd)
{
    return MHD_start_daemon(MHD_USE_EPOLL, 0, NULL, NULL, on_request, h, MHD_OPTION_LISTEN_SOCKET,
                            fd, MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS_MAX,
                            MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)REQUEST_MAX_BYTES,
                            MHD_OPTION_NOTIFY_CONNECTION, on_connection, h,
                            MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, MHD_OPTION_END);
}

static int watch(struct metrics_http *h)
{
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(h->mhd, MHD_DAEMON_INFO_EPOLL_FD);
    int rc;

    if (info == NULL)
        return UV_ENOTSUP;
    rc = uv_poll_init(h->server->loop, &h->poll, info->epoll_fd);
    if (rc == 0)
        rc = uv_timer_init(h->server->loop, &h->timer);
    h->poll.data = h->timer.data = h;
    return rc == 0 ? uv_poll_start(&h->poll, UV_READABLE, on_ready) : rc;
}

/* After any failure the process ends, which frees what is held here. */
int metrics_http_start(struct server *server, struct metrics_http **ret, char ret_error[512])
{
    const struct config *config = server->config;
    struct metrics_http *h = calloc(1, sizeof *h);
    char shown[128];
    int fd, rc;

    if (h == NULL) {
        snprintf(ret_error, ERROR_BYTES, "out of memory");
        return -1;
    }
    h->server = server;
    for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
        h->slots[i].fd = -1;
    if (metrics_address_listen(config->metrics.listen, (mode_t)config->listen.socket_mode, &fd,
                               shown, ret_error) != 0) {
        free(h);
        return -1;
    }
    h->mhd = start_mhd(h, fd);
    rc = h->mhd == NULL ? UV_ENOMEM : watch(h);
    if (rc != 0) {
        snprintf(ret_error, ERROR_BYTES, "metrics.listen = %.300s: %s", config->metrics.listen,
                 uv_strerror(rc));
        return -1;
    }
    log_info("metrics.listen address=%s", shown);
    *ret = h;
    return 0;
}

static void on_timer_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void on_poll_closed(uv_handle_t *handle)
{
    struct metrics_http *h = handle->data;

    uv_close((uv_handle_t *)&h->timer, on_timer_closed);
}

void metrics_http_close(struct metrics_http *h)
{
    const char *address;

    if (h == NULL)
        return;
    address = h->server->config->metrics.listen;
    uv_close((uv_handle_t *)&h->poll, on_poll_closed); /* before its descriptor is closed */
    MHD_stop_daemon(h->mhd);
    if (metrics_address_is_path(address))
        unlink(address);
}
