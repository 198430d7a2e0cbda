/* What systemd is told: readiness, a line of state for `systemctl status`, the watchdog's kick, and
 * during the drain whether there is progress. Silent where no service manager listens. Loop. */
#ifndef DAEMON_NOTIFY_H
#define DAEMON_NOTIFY_H

#include <stdbool.h>
#include <uv.h>

#define NOTIFY_STATUS_MAX 160

struct server;

struct notify {
    uv_timer_t status_timer;
    uv_timer_t watchdog_timer;
    char status[NOTIFY_STATUS_MAX]; /* as it was told last */
};

/* Before the journal is replayed, which may take a while. */
void notify_starting(void);

/* The daemon listens. From now on the status follows, and the watchdog is kicked. */
void notify_ready(struct server *server);

/* The drain begins; each look at it, and whether it has moved since the last. */
void notify_stopping(struct server *server);
void notify_draining(const struct server *server, bool moved);

/* Closes the handles; the last of what the loop does. */
void notify_close(struct server *server);

#endif
