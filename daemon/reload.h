/* Reading the configuration again while the daemon runs: the method "reload", and SIGHUP. Loop. */
#ifndef DAEMON_RELOAD_H
#define DAEMON_RELOAD_H

#include <uv.h>

struct config_source;
struct rpc;
struct server;

struct reload {
    uv_signal_t sighup;
    const struct config_source *source;
};

/* Listens for SIGHUP. source lives until reload_close(). */
void reload_start(struct server *server, const struct config_source *source);
void reload_close(struct server *server);

void reload_handle(struct rpc *rpc);

#endif
