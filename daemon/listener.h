/* A listening Unix socket that hands each connection to the sessions. Loop. */
#ifndef DAEMON_LISTENER_H
#define DAEMON_LISTENER_H

#include <stdbool.h>
#include <sys/stat.h>
#include <uv.h>

struct listener;
struct sessions;

struct listener_config {
    const char *path;
    mode_t mode;
    bool control;           /* the operators' socket */
    size_t max_connections; /* of all sessions; beyond it connections wait to be accepted */
};

/* Do the sockets that systemd hands over (LISTEN_FDS), if any, belong to one of these paths? 0; or
 * -1 with one clear line in ret_error: clients would wait for ever on one that nobody serves. */
int listener_check_inherited(const char *socket, const char *control_socket, char ret_error[512])
    __attribute__((warn_unused_result));

/* Listens on the socket that systemd holds for this path; without one binds. A socket file that
 * nobody listens on any more is replaced. 0; or -1 with one clear line in ret_error. */
int listener_open(uv_loop_t *loop, const struct listener_config *config, struct sessions *sessions,
                  struct listener **ret, char ret_error[512]) __attribute__((warn_unused_result));

/* Makes the path free for bind(): a socket file that nobody listens on any more is removed. 0; or
 * -1 with one clear line in ret_error: too long, no directory, no socket, or in use. */
int listener_claim_path(const char *path, char ret_error[512]) __attribute__((warn_unused_result));

/* There may be room for connections that had to wait. */
void listener_accept_waiting(struct listener *l);

/* Another max_connections from now on; connections that are open stay. */
void listener_reconfigure(struct listener *l, size_t max_connections);

/* Stops listening; connections live on. Removes the socket file unless it is systemd's: there
 * clients wait for the next daemon. on_closed runs when the handle is gone. */
void listener_close(struct listener *l, void *owner, void (*on_closed)(void *owner));

#endif
