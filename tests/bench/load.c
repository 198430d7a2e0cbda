/* One run of the load generator: connections, the loop, the end. One thread; several runs may go on
 * side by side, each on its own.
 *
 * The hard thing is to measure the server and not the generator: see load_connection.c for what a
 * message costs, and schedule.h for what a latency is in an open loop. There the loop sleeps to the
 * microsecond (epoll_pwait2, timer slack 1 ns), since waking late would count as latency. For the
 * same reason the thread takes short turns on the processor, whatever it measures: it stands for
 * many clients of which none is busy, and its own wait behind a busy PostgreSQL is not the
 * server's. At a high rate it rests for 0.2 ms between its turns, which does count as latency: else
 * it would take from the server a third of a processor for wake-ups alone.
 *
 * Invariant: in_flight and due are the sums of the connections'; the run is over when nothing more
 * will begin and both are 0, or LOAD_LINGER_S after its time.
 */
#include "tests/bench/load.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/latency.h"
#include "tests/bench/clock.h"
#include "tests/bench/load_internal.h"
#include "tests/bench/procfs.h"

#define EVENTS_MAX 512
#define OUT_BYTES (64 * 1024)
#define RESTING_RATE 5000.0 /* a second */
#define TURN_NS 200000u
#define WAKE_NS (100 * NS_PER_MS) /* at least so often: progress, the end of the run */

void load_break(struct load *load, const char *format, ...)
{
    va_list args;

    if (!load->broken) {
        va_start(args, format);
        vsnprintf(load->result->text, sizeof load->result->text, format, args);
        va_end(args);
    }
    load->broken = true;
}

/* Set-up */

int load_connect(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd;

    if (strlen(path) >= sizeof address.sun_path)
        return -ENAMETOOLONG;
    strcpy(address.sun_path, path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        int error = -errno;

        close(fd);
        return error;
    }
    return fd >= 0 ? fd : -errno;
}

static int connect_loopback(unsigned port)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)port),
                                  .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int one = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) != 0) {
        int error = -errno;

        close(fd);
        return error;
    }
    return fd;
}

static void connect_all(struct load *load)
{
    const struct load_options *o = load->options;

    for (uint32_t i = 0; i < o->connections && !load->broken; i++) {
        struct connection *c = &load->connections[i];
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};

        c->fd = o->socket != NULL ? load_connect(o->socket) : connect_loopback(o->port);
        if (c->fd < 0)
            load_break(load, "connection %u of %u: %s", i + 1, o->connections, strerror(-c->fd));
        else if (epoll_ctl(load->epoll, EPOLL_CTL_ADD, c->fd, &event) != 0)
            load_break(load, "epoll_ctl: %s", strerror(errno));
    }
}

/* 10,000 connections need as many descriptors; where the system gives fewer, connect_all says so.
 */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
            return;
    }
}

static void init_connections(struct load *load)
{
    uint32_t depth = load->options->depth;

    for (uint32_t i = 0; i < load->options->connections; i++) {
        struct connection *c = &load->connections[i];

        *c = (struct connection){.fd = -1, .next_arrival = i};
        c->slots = load->slots + (size_t)i * depth;
        for (uint32_t k = 0; k < depth; k++)
            c->slots[k].next = k + 1 < depth ? k + 1 : LOAD_NONE;
    }
}

static int allocate(struct load *load)
{
    const struct load_options *o = load->options;

    load->message_len = dialect_len(o->dialect, o->payload);
    load->out_size = load->message_len > OUT_BYTES ? load->message_len : OUT_BYTES;
    load->connections = calloc(o->connections, sizeof *load->connections);
    load->slots = calloc((size_t)o->connections * o->depth, sizeof *load->slots);
    load->out = malloc(load->out_size);
    load->in = malloc(LOAD_IN_BYTES);
    load->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (load->connections == NULL || load->slots == NULL || load->out == NULL || load->in == NULL ||
        load->epoll < 0)
        return -ENOMEM;
    init_connections(load);
    return 0;
}

static void release(struct load *load)
{
    for (uint32_t i = 0; load->connections != NULL && i < load->options->connections; i++) {
        struct connection *c = &load->connections[i];

        if (c->fd >= 0)
            close(c->fd);
        free(c->unsent);
        free(c->partial);
    }
    if (load->epoll >= 0)
        close(load->epoll);
    free(load->connections);
    free(load->slots);
    free(load->out);
    free(load->in);
}

/* The loop */

/* Arrivals go to the connections in turn. */
static void release_arrivals(struct load *load, uint64_t now)
{
    uint64_t first = load->schedule.released;
    uint64_t n = schedule_release(&load->schedule, now);
    uint32_t connections = load->options->connections;

    load->due += n;
    for (uint64_t i = first; i < first + n; i++)
        load->connections[i % connections].due++;
    /* After a long stall each connection has several: one pass over them all is enough. */
    for (uint64_t i = first; i < first + (n < connections ? n : connections); i++)
        connection_send(load, &load->connections[i % connections]);
}

static void end_pauses(struct load *load, uint64_t now)
{
    uint64_t next = 0;

    if (load->holding_ns == 0 || now < load->holding_ns)
        return;
    load->holding_ns = 0;
    for (uint32_t i = 0; i < load->options->connections; i++) {
        struct connection *c = &load->connections[i];

        if (c->hold_until_ns == 0)
            continue;
        if (c->hold_until_ns <= now) {
            c->hold_until_ns = 0;
            connection_send(load, c);
        } else if (next == 0 || c->hold_until_ns < next) {
            next = c->hold_until_ns;
        }
    }
    load->holding_ns = next;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* At a high rate the generator's turns keep a distance, or each message would cost it a wake-up, on
 * processors that the server needs. It counts as latency. */
static void rest(const struct load *load, uint64_t now)
{
    uint64_t end = load->woke_ns + TURN_NS;
    struct timespec until = {.tv_sec = (time_t)(end / NS_PER_S), .tv_nsec = (long)(end % NS_PER_S)};

    if (load->options->rate >= RESTING_RATE && now < end)
        (void)clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
}

static void wait_for_events(struct load *load, uint64_t now)
{
    struct epoll_event events[EVENTS_MAX];
    uint64_t wake = now + WAKE_NS;
    struct timespec timeout;
    int n;

    if (load->options->rate > 0)
        wake = least(wake, schedule_next_ns(&load->schedule));
    if (load->holding_ns > 0)
        wake = least(wake, load->holding_ns);
    wake = wake > now ? wake - now : 0;
    timeout = (struct timespec){.tv_sec = 0, .tv_nsec = (long)wake};
    n = epoll_pwait2(load->epoll, events, EVENTS_MAX, &timeout, NULL);
    load->woke_ns = clock_ns();
    if (n < 0 && errno != EINTR)
        load_break(load, "epoll_pwait2: %s", strerror(errno));
    for (int i = 0; i < n && !load->broken; i++) {
        struct connection *c = events[i].data.ptr;

        if (events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP))
            connection_receive(load, c);
        else
            connection_send(load, c);
    }
}

static bool is_over(const struct load *load, uint64_t now)
{
    const struct load_options *o = load->options;

    if (load->broken || now > load->end_ns + LOAD_LINGER_S * NS_PER_S)
        return true;
    if (load->in_flight > 0 || load->due > 0)
        return false;
    if (o->rate > 0)
        return load->schedule.released == load->schedule.total;
    return now >= load->end_ns || (o->count > 0 && load->messages >= o->count);
}

/* What was used until the measured time began, and then until it ended. */
struct usage {
    uint64_t client_ns, server_ns;
    bool begun, ended;
};

static void mark_usage(struct load *load, struct usage *usage, pid_t server, uint64_t now)
{
    struct load_result *result = load->result;

    if (!usage->begun && now >= load->warm_ns) {
        usage->begun = true;
        usage->client_ns = clock_cpu_ns();
        usage->server_ns = procfs_cpu_ns(server);
    }
    if (usage->begun && !usage->ended && now >= load->end_ns) {
        usage->ended = true;
        result->client_cpu_ns = clock_cpu_ns() - usage->client_ns;
        result->server_cpu_ns = procfs_cpu_ns(server) - usage->server_ns;
    }
}

static void start(struct load *load)
{
    const struct load_options *o = load->options;

    load->start_ns = load->last_ack_ns = clock_ns();
    load->warm_ns = load->start_ns + o->warmup_ns;
    load->end_ns = load->warm_ns + o->run_ns;
    if (o->rate > 0) {
        double seconds = (double)(o->warmup_ns + o->run_ns) / (double)NS_PER_S;

        schedule_init(&load->schedule, load->start_ns, o->rate, (uint64_t)(seconds * o->rate));
        return;
    }
    for (uint32_t i = 0; i < o->connections && !load->broken; i++)
        connection_send(load, &load->connections[i]);
}

static void loop(struct load *load)
{
    pid_t server = procfs_peer(load->connections[0].fd);
    struct usage usage = {0};
    uint64_t now;

    start(load);
    while (now = clock_ns(), mark_usage(load, &usage, server, now), !is_over(load, now)) {
        if (load->options->rate > 0)
            release_arrivals(load, now);
        end_pauses(load, now);
        if (!load->broken) {
            rest(load, now);
            wait_for_events(load, clock_ns());
        }
        progress_tick(load->options->progress, now, load->result->acked);
    }
    /* A closed loop of a fixed count ends before its time. */
    now = clock_ns();
    load->end_ns = least(load->end_ns, now);
    mark_usage(load, &usage, server, now);
    load->result->server_rss_bytes = procfs_rss_bytes(server);
}

int load_run(const struct load_options *options, struct load_result *ret)
{
    struct load load = {.options = options, .result = ret, .epoll = -1};

    assert(options->connections >= 1 && options->connections <= LOAD_CONNECTIONS_MAX);
    assert(options->depth >= 1 && options->depth <= LOAD_DEPTH_MAX);
    memset(ret, 0, sizeof *ret);
    raise_descriptor_limit();
    prctl(PR_SET_TIMERSLACK, 1);
    latency_take_short_turns();
    if (allocate(&load) != 0)
        load_break(&load, "out of memory");
    else
        connect_all(&load);
    if (!load.broken)
        loop(&load);
    ret->unanswered = (load.in_flight + load.due) * options->dialect->batch;
    ret->seconds =
        load.end_ns > load.warm_ns ? (double)(load.end_ns - load.warm_ns) / (double)NS_PER_S : 0;
    ret->elapsed_s = (double)(load.last_ack_ns - load.start_ns) / (double)NS_PER_S;
    release(&load);
    return load.broken ? -1 : 0;
}

void load_result_add(struct load_result *to, const struct load_result *from)
{
    to->sent += from->sent;
    to->acked += from->acked;
    to->refused += from->refused;
    to->failed += from->failed;
    to->unanswered += from->unanswered;
    to->measured += from->measured;
    to->seconds += from->seconds;
    to->elapsed_s += from->elapsed_s;
    to->client_cpu_ns += from->client_cpu_ns;
    to->server_cpu_ns += from->server_cpu_ns;
    to->server_rss_bytes = from->server_rss_bytes;
    to->latency.count += from->latency.count;
    to->latency.sum += from->latency.sum;
    if (from->latency.max > to->latency.max)
        to->latency.max = from->latency.max;
    for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++)
        to->latency.buckets[i] += from->latency.buckets[i];
    if (to->text[0] == '\0')
        memcpy(to->text, from->text, sizeof to->text);
}
