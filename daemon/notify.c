/* The one hard thing is the watchdog: its kick comes from a timer of the loop, so that only a loop
 * that stands still has the daemon killed. A worker or a disk that hangs does not: the journal
 * keeps what was acknowledged, and a restart would mend neither. The kick goes on during the drain.
 */
#include "daemon/notify.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>

#include "daemon/figures.h"
#include "daemon/server.h"

#define STATUS_MS 1000
#define KICKS_PER_WATCHDOG 3       /* one or two that come late do no harm */
#define EXTEND_TIMEOUT_US 10000000 /* from each look that saw progress */
#define STRING_(x) #x
#define STRING(x) STRING_(x)

void notify_starting(void)
{
    sd_notify(0, "STATUS=Reading the journal");
}

static void write_status(const struct server *server, char text[NOTIFY_STATUS_MAX])
{
    size_t alerts = alerts_raised(&server->health.alerts);
    struct figures now;
    char waiting[64] = "nothing waits", raised[32] = "";

    figures_gather(server, &now);
    if (server->outstanding > 0)
        snprintf(waiting, sizeof waiting, "%zu wait, the oldest for %.1f s", server->outstanding,
                 (double)now.oldest_queued_ms / 1000);
    if (alerts > 0)
        snprintf(raised, sizeof raised, "; alerts: %zu", alerts);
    snprintf(text, NOTIFY_STATUS_MAX, "Serving: %s; database %s%s", waiting,
             database_state_name(now.batcher.database), raised);
}

/* An idle daemon wakes the service manager for nothing. */
static void on_status(uv_timer_t *timer)
{
    struct server *server = timer->data;
    char text[NOTIFY_STATUS_MAX];

    write_status(server, text);
    if (strcmp(text, server->notify.status) == 0)
        return;
    memcpy(server->notify.status, text, sizeof text);
    sd_notifyf(0, "STATUS=%s", text);
}

static void on_watchdog(uv_timer_t *timer)
{
    (void)timer;
    sd_notify(0, "WATCHDOG=1");
}

void notify_ready(struct server *server)
{
    struct notify *notify = &server->notify;
    uint64_t watchdog_us = 0;

    uv_timer_init(server->loop, &notify->status_timer);
    uv_timer_init(server->loop, &notify->watchdog_timer);
    notify->status_timer.data = notify->watchdog_timer.data = server;
    if (getenv("NOTIFY_SOCKET") == NULL)
        return;
    write_status(server, notify->status);
    sd_notifyf(0, "READY=1\nSTATUS=%s", notify->status);
    uv_timer_start(&notify->status_timer, on_status, STATUS_MS, STATUS_MS);
    if (sd_watchdog_enabled(0, &watchdog_us) > 0) {
        uint64_t kick_ms = watchdog_us / 1000 / KICKS_PER_WATCHDOG;

        uv_timer_start(&notify->watchdog_timer, on_watchdog, 0, kick_ms > 0 ? kick_ms : 1);
    }
}

void notify_stopping(struct server *server)
{
    uv_timer_stop(&server->notify.status_timer);
    sd_notifyf(0, "STOPPING=1\nSTATUS=Draining: %zu conversations left", server->outstanding);
}

/* More time is asked for only where there is progress: a drain that stands still runs into the
 * time-out of its unit. */
void notify_draining(const struct server *server, bool moved)
{
    sd_notifyf(0, "STATUS=Draining: %zu conversations left\n%s", server->outstanding,
               moved ? "EXTEND_TIMEOUT_USEC=" STRING(EXTEND_TIMEOUT_US) : "");
}

void notify_close(struct server *server)
{
    uv_close((uv_handle_t *)&server->notify.status_timer, NULL);
    uv_close((uv_handle_t *)&server->notify.watchdog_timer, NULL);
}
