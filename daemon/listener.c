/* At the limit of connections nothing is accepted: libuv then stops polling the socket, and clients
 * wait in the kernel's queue until a session ends. Nobody is turned away. Where systemd holds the
 * sockets they wait there while no daemon runs, too; a socket is recognised by its path. */
#include "daemon/listener.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "daemon/log.h"
#include "daemon/session.h"

#define LISTEN_BACKLOG 4096 /* the kernel cuts it to net.core.somaxconn */
#define ERROR_BYTES 512

struct listener {
    uv_pipe_t pipe;
    struct sessions *sessions;
    struct listener_config config;
    bool waiting; /* a connection is there that could not be accepted yet */
    void *owner;
    void (*on_closed)(void *owner);
};

static void accept_one(struct listener *l)
{
    int rc;

    if (sessions_count(l->sessions) >= l->config.max_connections) {
        if (!l->waiting)
            log_warning("listener.full connections=%zu advice=\"raise listen.max_connections\"",
                        l->config.max_connections);
        l->waiting = true;
        return;
    }
    l->waiting = false;
    rc = session_accept(l->sessions, (uv_stream_t *)&l->pipe, l->config.control);
    if (rc != 0)
        log_warning("listener.accept_failed error=\"%s\"", uv_strerror(rc));
}

static void on_connection(uv_stream_t *stream, int status)
{
    if (status != 0)
        log_warning("listener.accept_failed error=\"%s\"", uv_strerror(status));
    else
        accept_one(stream->data);
}

void listener_accept_waiting(struct listener *l)
{
    if (l->waiting)
        accept_one(l);
}

void listener_reconfigure(struct listener *l, size_t max_connections)
{
    l->config.max_connections = max_connections;
    listener_accept_waiting(l);
}

/* libuv says "permission denied" where the directory is missing, so that is looked at first. */
static int check_directory(const char *path, char *error)
{
    const char *slash = strrchr(path, '/');
    char *directory;
    struct stat st;
    int rc;

    if (slash == NULL || slash == path)
        return 0;
    directory = strndup(path, (size_t)(slash - path));
    rc = directory == NULL || stat(directory, &st) != 0 ? errno : S_ISDIR(st.st_mode) ? 0 : ENOTDIR;
    if (rc != 0)
        snprintf(error, ERROR_BYTES, "%s: cannot listen: its directory: %s", path, strerror(rc));
    free(directory);
    return rc == 0 ? 0 : -1;
}

/* Is a socket file left from a daemon that is gone? 0: the path is free now. */
static int clear_path(const char *path, char *error)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat st;
    int fd, rc;

    if (lstat(path, &st) != 0)
        return 0; /* nothing there; bind() tells of any other trouble */
    if (!S_ISSOCK(st.st_mode)) {
        snprintf(error, ERROR_BYTES,
                 "%s: exists and is no socket; remove it or choose another path", path);
        return -1;
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        snprintf(error, ERROR_BYTES, "socket: %s", strerror(errno));
        return -1;
    }
    memcpy(address.sun_path, path, strlen(path) + 1);
    rc = connect(fd, (struct sockaddr *)&address, sizeof address);
    close(fd);
    if (rc == 0) {
        snprintf(error, ERROR_BYTES, "%s: another daemon listens there; stop it first", path);
        return -1;
    }
    if (unlink(path) != 0) {
        snprintf(error, ERROR_BYTES, "%s: cannot remove the old socket: %s", path, strerror(errno));
        return -1;
    }
    return 0;
}

int listener_claim_path(const char *path, char ret_error[512])
{
    if (strlen(path) >= sizeof((struct sockaddr_un *)0)->sun_path) {
        snprintf(ret_error, ERROR_BYTES,
                 "%.200s: longer than a Unix socket's path may be (107 bytes)", path);
        return -1;
    }
    return check_directory(path, ret_error) != 0 ? -1 : clear_path(path, ret_error);
}

/* The mode is in force from the first moment: the umask takes away everything else. */
static int bind_with_mode(uv_pipe_t *pipe, const char *path, mode_t mode)
{
    mode_t old = umask(0777 & ~mode);
    int rc = uv_pipe_bind(pipe, path);

    umask(old);
    return rc;
}

/* The descriptor that systemd hands over for this path; -1: none. */
static int inherited(const char *path)
{
    int count = sd_listen_fds(0);

    for (int fd = SD_LISTEN_FDS_START; fd < SD_LISTEN_FDS_START + count; fd++)
        if (sd_is_socket_unix(fd, SOCK_STREAM, 1, path, 0) > 0)
            return fd;
    return -1;
}

int listener_check_inherited(const char *socket, const char *control_socket, char ret_error[512])
{
    int count = sd_listen_fds(0);

    for (int fd = SD_LISTEN_FDS_START; fd < SD_LISTEN_FDS_START + count; fd++) {
        struct sockaddr_un address = {.sun_family = AF_UNSPEC};
        socklen_t len = sizeof address - 1;

        if (sd_is_socket_unix(fd, SOCK_STREAM, 1, socket, 0) > 0 ||
            sd_is_socket_unix(fd, SOCK_STREAM, 1, control_socket, 0) > 0)
            continue;
        getsockname(fd, (struct sockaddr *)&address, &len);
        snprintf(ret_error, ERROR_BYTES,
                 "systemd hands over the socket %.108s, which is neither listen.socket nor "
                 "listen.control_socket: make convstored.socket and the configuration agree",
                 address.sun_family == AF_UNIX ? address.sun_path : "(not a Unix socket)");
        return -1;
    }
    return 0;
}

static void on_pipe_closed(uv_handle_t *handle)
{
    struct listener *l = handle->data;

    if (l->on_closed != NULL)
        l->on_closed(l->owner);
    free(l);
}

int listener_open(uv_loop_t *loop, const struct listener_config *config, struct sessions *sessions,
                  struct listener **ret, char ret_error[512])
{
    struct listener *l;
    int fd, rc;

    fd = inherited(config->path);
    if (fd < 0 && listener_claim_path(config->path, ret_error) != 0)
        return -1;
    l = calloc(1, sizeof *l);
    if (l == NULL) {
        snprintf(ret_error, ERROR_BYTES, "out of memory");
        return -1;
    }
    l->sessions = sessions;
    l->config = *config;
    uv_pipe_init(loop, &l->pipe, 0);
    l->pipe.data = l;
    rc =
        fd >= 0 ? uv_pipe_open(&l->pipe, fd) : bind_with_mode(&l->pipe, config->path, config->mode);
    if (rc == 0)
        rc = uv_listen((uv_stream_t *)&l->pipe, LISTEN_BACKLOG, on_connection);
    if (rc != 0) {
        snprintf(ret_error, ERROR_BYTES, "%s: cannot listen: %s", config->path, uv_strerror(rc));
        uv_close((uv_handle_t *)&l->pipe, on_pipe_closed);
        return -1;
    }
    *ret = l;
    return 0;
}

void listener_close(struct listener *l, void *owner, void (*on_closed)(void *owner))
{
    l->owner = owner;
    l->on_closed = on_closed;
    uv_close((uv_handle_t *)&l->pipe, on_pipe_closed);
}
