/* Looks at the daemon's figures once a second. Loop. */
#ifndef DAEMON_HEALTH_H
#define DAEMON_HEALTH_H

#include <uv.h>

struct server;

struct health {
    uv_timer_t timer;
};

/* 0 or a negative errno. */
int health_start(struct server *server) __attribute__((warn_unused_result));
void health_close(struct server *server);

#endif
