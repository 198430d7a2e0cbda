#include "daemon/metrics_address.h"

#include <assert.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/listener.h"

#define ERROR_BYTES 512
#define SHOWN_BYTES 128
#define HOST_BYTES 256
#define BACKLOG 64
#define SEND_BUFFER_BYTES 65536 /* the kernel's memory for a reader that does not read */

bool metrics_address_is_path(const char *address)
{
    return strchr(address, '/') != NULL;
}

/* host:port into its parts; brackets around the host are taken off. False: it is none. */
static bool split(const char *address, char host[HOST_BYTES], const char **ret_port)
{
    const char *colon = strrchr(address, ':');
    size_t len;
    char *end;

    if (colon == NULL || colon[1] < '0' || colon[1] > '9' || strtoul(colon + 1, &end, 10) > 65535 ||
        *end != '\0')
        return false;
    len = (size_t)(colon - address);
    if (len >= 2 && address[0] == '[' && colon[-1] == ']') {
        address++;
        len -= 2;
    } else if (memchr(address, ':', len) != NULL) {
        return false; /* where the port of a bare IPv6 address begins is anybody's guess */
    }
    if (len >= HOST_BYTES)
        return false;
    memcpy(host, address, len);
    host[len] = '\0';
    *ret_port = colon + 1;
    return true;
}

bool metrics_address_is_valid(const char *address)
{
    char host[HOST_BYTES];
    const char *port;

    return metrics_address_is_path(address) || split(address, host, &port);
}

static int listen_unix(const char *path, mode_t mode, int *ret_fd, char *error)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    mode_t old;
    int fd, rc;

    if (listener_claim_path(path, error) != 0)
        return -1;
    memcpy(address.sun_path, path, strlen(path) + 1);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    old = umask(0777 & ~mode); /* in force from the first moment */
    rc = fd < 0 ? -1 : bind(fd, (const struct sockaddr *)&address, sizeof address);
    umask(old);
    if (rc == 0 && listen(fd, BACKLOG) == 0) {
        *ret_fd = fd;
        return 0;
    }
    snprintf(error, ERROR_BYTES, "metrics.listen = %s: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return -1;
}

/* A listening descriptor or a negative errno. */
static int listen_at(const struct addrinfo *at)
{
    int fd = socket(at->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int yes = 1, send_buffer = SEND_BUFFER_BYTES, rc;

    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &send_buffer, sizeof send_buffer); /* accept() inherits */
    if (bind(fd, at->ai_addr, at->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    rc = -errno;
    close(fd);
    return rc;
}

static void show(int fd, char shown[SHOWN_BYTES])
{
    struct sockaddr_storage bound;
    socklen_t len = sizeof bound;
    char host[HOST_BYTES], port[16];
    int rc = getsockname(fd, (struct sockaddr *)&bound, &len);

    assert(rc == 0);
    rc = getnameinfo((struct sockaddr *)&bound, len, host, sizeof host, port, sizeof port,
                     NI_NUMERICHOST | NI_NUMERICSERV);
    assert(rc == 0);
    snprintf(shown, SHOWN_BYTES, bound.ss_family == AF_INET6 ? "[%.100s]:%s" : "%.100s:%s", host,
             port);
}

/* The first of the host's addresses that can be had. */
static int listen_tcp(const char *address, int *ret_fd, char shown[SHOWN_BYTES], char *error)
{
    const struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found;
    char host[HOST_BYTES];
    const char *port = NULL;
    bool valid = split(address, host, &port);
    int fd = -EADDRNOTAVAIL, rc;

    assert(valid);
    rc = getaddrinfo(host[0] != '\0' ? host : NULL, port, &hints, &found);
    if (rc != 0) {
        snprintf(error, ERROR_BYTES, "metrics.listen = %.300s: %s", address, gai_strerror(rc));
        return -1;
    }
    for (const struct addrinfo *at = found; at != NULL && fd < 0; at = at->ai_next)
        fd = listen_at(at);
    freeaddrinfo(found);
    if (fd < 0) {
        snprintf(error, ERROR_BYTES, "metrics.listen = %.300s: %s", address, strerror(-fd));
        return -1;
    }
    show(fd, shown);
    *ret_fd = fd;
    return 0;
}

int metrics_address_listen(const char *address, mode_t mode, int *ret_fd, char ret_shown[128],
                           char ret_error[512])
{
    if (!metrics_address_is_path(address))
        return listen_tcp(address, ret_fd, ret_shown, ret_error);
    snprintf(ret_shown, SHOWN_BYTES, "%s", address);
    return listen_unix(address, mode, ret_fd, ret_error);
}
