/* A small HTTP/1.1 server inside a test: one thread, one connection at a time, and a function of
 * the test that decides what goes back. */
#ifndef TESTS_HTTP_STUB_H
#define TESTS_HTTP_STUB_H

#include <arpa/inet.h>
#include <assert.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct http_stub {
    /* Answers one request (head and body NUL-terminated) by writing to fd; false: close. On the
     * stub's thread. */
    bool (*answer)(struct http_stub *stub, int fd, const char *head, const char *body);
    void *context;
    int listener;
    char url[160];
    pthread_t thread;
    int connections; /* read by the test when the stub has stopped or is known to be idle */
    int requests;
};

static inline void stub_write(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = send(fd, data, len, MSG_NOSIGNAL);

        if (n <= 0)
            return;
        data += n;
        len -= (size_t)n;
    }
}

/* A whole answer; extra: header lines, each with its line end. */
static inline void stub_reply(int fd, int status, const char *extra, const char *body)
{
    char head[512];
    int len = snprintf(head, sizeof head, "HTTP/1.1 %d X\r\nContent-Length: %zu\r\n%s\r\n", status,
                       strlen(body), extra);

    stub_write(fd, head, (size_t)len);
    stub_write(fd, body, strlen(body));
}

/* One request off the connection; false at its end. */
static inline bool stub_read(int fd, char *buffer, size_t size, char **ret_body)
{
    size_t len = 0, need = 0;
    char *body = NULL;

    while (body == NULL || len < need) {
        ssize_t n = recv(fd, buffer + len, size - 1 - len, 0);

        if (n <= 0)
            return false;
        len += (size_t)n;
        buffer[len] = '\0';
        if (body == NULL && (body = strstr(buffer, "\r\n\r\n")) != NULL) {
            char *length = strcasestr(buffer, "content-length:");

            *body = '\0';
            body += 4;
            need = (size_t)(body - buffer) + (length != NULL ? strtoul(length + 15, NULL, 10) : 0);
            assert(need < size);
        }
    }
    *ret_body = body;
    return true;
}

static inline void *stub_main(void *arg)
{
    enum { SIZE = 4 << 20 };
    struct http_stub *stub = arg;
    char *buffer = malloc(SIZE);
    char *body;
    int fd;

    while ((fd = accept(stub->listener, NULL, NULL)) >= 0) {
        stub->connections++;
        while (stub_read(fd, buffer, SIZE, &body)) {
            stub->requests++;
            if (!stub->answer(stub, fd, buffer, body))
                break;
        }
        close(fd);
    }
    free(buffer);
    return NULL;
}

/* Listens on a free port of the loopback, or on a Unix socket where path is given. */
static inline void stub_start(struct http_stub *stub, const char *path)
{
    union {
        struct sockaddr any;
        struct sockaddr_in in;
        struct sockaddr_un un;
    } address = {.in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof address.in;
    int rc;

    if (path != NULL) {
        address.un = (struct sockaddr_un){.sun_family = AF_UNIX};
        snprintf(address.un.sun_path, sizeof address.un.sun_path, "%s", path);
        len = sizeof address.un;
    }
    stub->listener = socket(address.any.sa_family, SOCK_STREAM, 0);
    rc = bind(stub->listener, &address.any, len);
    assert(rc == 0);
    rc = listen(stub->listener, 16);
    assert(rc == 0);
    rc = getsockname(stub->listener, &address.any, &len);
    assert(rc == 0);
    if (path != NULL)
        snprintf(stub->url, sizeof stub->url, "unix://%s", path);
    else
        snprintf(stub->url, sizeof stub->url, "http://127.0.0.1:%d", ntohs(address.in.sin_port));
    rc = pthread_create(&stub->thread, NULL, stub_main, stub);
    assert(rc == 0);
}

/* No connection may be open any more on the client's side. */
static inline void stub_stop(struct http_stub *stub)
{
    shutdown(stub->listener, SHUT_RDWR);
    pthread_join(stub->thread, NULL);
    close(stub->listener);
}

#endif
