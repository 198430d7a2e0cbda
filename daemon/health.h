/* Looks at all figures once a second and at each stats: moves the windows on, raises and clears
 * alerts, and logs them. Loop. */
#ifndef DAEMON_HEALTH_H
#define DAEMON_HEALTH_H

#include <stdint.h>
#include <uv.h>

#include "daemon/alerts.h"

#define HEALTH_SECONDS 60u /* of the cache's counters that are kept */

struct figures;
struct server;

struct health {
    uv_timer_t timer;
    struct alerts alerts;
    struct {
        uint64_t hits, misses;
    } cache[HEALTH_SECONDS]; /* as they were, by the second */
    unsigned cache_at;       /* the oldest */
};

/* Last of the modules: it looks at all others. 0 or a negative errno. */
int health_start(struct server *server) __attribute__((warn_unused_result));

/* Takes a look now: server->health.alerts is as new as the figures. */
void health_look(struct server *server, const struct figures *figures);

void health_close(struct server *server);

#endif
