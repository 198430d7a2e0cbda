/* A thread for each connection. The vectors' text is made once; a reply is their first n, so that a
 * server that answers at once really does. */
#include "tests/bench/stand_in.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "tests/bench/clock.h"

#define FLOAT_CHARACTERS 24
#define BASE64_MAX(bytes) (((bytes) + 2) / 3 * 4)
#define REQUEST_MAX (64u << 20)

struct replies {
    struct stand_in how;
    char **bodies; /* by count; made when they are first asked for */
    size_t *lengths;
    pthread_mutex_t lock;
};

/* Components as a model gives them, in the digits that a server prints. */
static float component(uint64_t *random)
{
    *random = *random * UINT64_C(6364136223846793005) + 1;
    return (float)((double)(*random >> 33) / 4294967296.0 - 0.25) / 8;
}

static char *put_base64(char *at, const uint8_t *data, size_t len)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    for (size_t i = 0; i < len; i += 3) {
        uint32_t bits = (uint32_t)data[i] << 16 | (i + 1 < len ? (uint32_t)data[i + 1] << 8 : 0) |
                        (i + 2 < len ? data[i + 2] : 0);

        *at++ = digits[bits >> 18];
        *at++ = digits[bits >> 12 & 63];
        *at++ = i + 1 < len ? digits[bits >> 6 & 63] : '=';
        *at++ = i + 2 < len ? digits[bits & 63] : '=';
    }
    return at;
}

static char *put_vector(char *at, const struct stand_in *s, uint64_t *random)
{
    float values[s->dimension];

    for (unsigned i = 0; i < s->dimension; i++)
        values[i] = component(random);
    if (s->dialect == STAND_IN_OPENAI_BASE64) {
        *at++ = '"';
        at = put_base64(at, (const uint8_t *)values, sizeof values);
        *at++ = '"';
        return at;
    }
    for (unsigned i = 0; i < s->dimension; i++)
        at += sprintf(at, "%c%.8g", i == 0 ? '[' : ',', (double)values[i]);
    *at++ = ']';
    return at;
}

size_t stand_in_body(const struct stand_in *s, unsigned count, char **ret)
{
    size_t vector_max = (size_t)s->dimension * FLOAT_CHARACTERS + 128;
    char *body = malloc(256 + count * vector_max), *at = body;
    uint64_t random = 1;

    assert(body != NULL);
    at += sprintf(at, s->dialect == STAND_IN_OLLAMA ? "{\"model\":\"m\",\"embeddings\":["
                                                    : "{\"object\":\"list\",\"data\":[");
    for (unsigned i = 0; i < count; i++) {
        at += sprintf(at, "%s", i > 0 ? "," : "");
        if (s->dialect != STAND_IN_OLLAMA)
            at += sprintf(at, "{\"object\":\"embedding\",\"index\":%u,\"embedding\":", i);
        at = put_vector(at, s, &random);
        at += sprintf(at, "%s", s->dialect != STAND_IN_OLLAMA ? "}" : "");
    }
    at += sprintf(at, s->dialect == STAND_IN_OLLAMA ? "],\"total_duration\":14143917}"
                                                    : "],\"model\":\"m\"}");
    *ret = body;
    return (size_t)(at - body);
}

static void write_all(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = send(fd, data, len, MSG_NOSIGNAL);

        if (n <= 0)
            pthread_exit(NULL);
        data += n;
        len -= (size_t)n;
    }
}

/* The body of the next request, in buffer, which ends with a NUL; NULL: the connection is over. */
static char *read_request(int fd, char *buffer, size_t *ret_len)
{
    size_t have = 0, want = 0;
    char *body = NULL;

    do {
        ssize_t n = recv(fd, buffer + have, REQUEST_MAX - have, 0);

        if (n <= 0)
            return NULL;
        have += (size_t)n;
        buffer[have] = '\0';
        if (body == NULL && (body = strstr(buffer, "\r\n\r\n")) != NULL) {
            const char *length = strcasestr(buffer, "content-length:");

            assert(length != NULL);
            body += 4;
            want = (size_t)(body - buffer) + strtoul(length + 15, NULL, 10);
        }
    } while (body == NULL || have < want);
    assert(have == want); /* the client waits for its answer */
    *ret_len = have - (size_t)(body - buffer);
    return body;
}

/* The bench's texts hold no quotes: two for each input, behind "input":[ */
static unsigned count_inputs(const char *body)
{
    const char *at = strstr(body, "\"input\":[");
    unsigned quotes = 0;

    assert(at != NULL);
    for (at = strchr(at + 9, '"'); at != NULL; at = strchr(at + 1, '"'))
        quotes++;
    return quotes / 2;
}

static void answer(struct replies *r, int fd, unsigned count)
{
    char head[128];
    const char *body;
    size_t len;

    assert(count > 0 && count <= r->how.inputs_max);
    pthread_mutex_lock(&r->lock);
    if (r->bodies[count] == NULL)
        r->lengths[count] = stand_in_body(&r->how, count, &r->bodies[count]);
    body = r->bodies[count];
    len = r->lengths[count];
    pthread_mutex_unlock(&r->lock);
    write_all(fd, head,
              (size_t)snprintf(head, sizeof head,
                               "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                               "Content-Length: %zu\r\n\r\n",
                               len));
    write_all(fd, body, len);
}

struct connection {
    struct replies *replies;
    int fd;
};

/* The delay counts from the request's arrival, as a server's own work would. */
static void *serve(void *arg)
{
    struct connection c = *(struct connection *)arg;
    char *buffer = malloc(REQUEST_MAX + 1), *body;
    size_t len;

    free(arg);
    assert(buffer != NULL);
    while ((body = read_request(c.fd, buffer, &len)) != NULL) {
        uint64_t due = clock_ns() + c.replies->how.delay_ms * NS_PER_MS;
        struct timespec until = {.tv_sec = (time_t)(due / NS_PER_S),
                                 .tv_nsec = (long)(due % NS_PER_S)};
        unsigned count = count_inputs(body);

        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
        answer(c.replies, c.fd, count);
    }
    free(buffer);
    close(c.fd);
    return NULL;
}

static void run(struct replies *r, int listener)
{
    for (;;) {
        struct connection *c = malloc(sizeof *c);
        pthread_t thread;

        assert(c != NULL);
        *c = (struct connection){r, accept(listener, NULL, NULL)};
        if (c->fd < 0 || pthread_create(&thread, NULL, serve, c) != 0)
            abort();
        pthread_detach(thread);
    }
}

pid_t stand_in_start(const struct stand_in *s, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct replies r = {.how = *s, .lock = PTHREAD_MUTEX_INITIALIZER};
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    pid_t pid;

    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    unlink(path);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(listener, SOMAXCONN) != 0) {
        perror(path);
        exit(1);
    }
    pid = fork();
    if (pid != 0) {
        close(listener);
        return pid;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    r.bodies = calloc(s->inputs_max + 1, sizeof r.bodies[0]);
    r.lengths = calloc(s->inputs_max + 1, sizeof r.lengths[0]);
    assert(r.bodies != NULL && r.lengths != NULL);
    run(&r, listener);
    return 0;
}
