/* Requests in flight over one connection: what is to be sent, what waits for its answer, when to
 * connect again and when to give up. Belongs to the thread that uses the handle.
 *
 * The one hard thing: nothing that was submitted may be forgotten or be answered twice, whatever
 * happens to the connection. Hence one rule for every loss: all that was sent and not answered goes
 * back to the front of the queue, in its old order, and leaves again on the next connection under
 * the same msgid with the same conversation id. The daemon knows the id, so that a second arrival
 * is the same conversation.
 *
 * Invariants: a request is in exactly one of queued and sent, and in its slot, until it is
 * completed. Only queued.head can be partly sent (head_offset > 0); nothing is put before it then,
 * and when it must go, the connection goes with it, because half a message cannot be taken back. */
#include "client/convstore_internal.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define SEND_PIECES 64            /* messages handed to one sendmsg(2) */
#define RECEIVE_BYTES (64 * 1024) /* asked of one recv(2) */
#define RECEIVE_ROUNDS 32         /* recv(2) calls of one turn, so that sending has its turn too */
#define KEEP_BYTES (1024 * 1024)  /* an input buffer larger than this is given back when empty */

int64_t cs_now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- the connection's life ---- */

static unsigned jittered_backoff_ms(struct convstore *c, unsigned attempts)
{
    unsigned shift = attempts > 8 ? 8 : attempts;
    unsigned limit = CS_BACKOFF_MIN_MS << shift;

    if (limit > CS_BACKOFF_MAX_MS)
        limit = CS_BACKOFF_MAX_MS;
    c->jitter ^= c->jitter << 13;
    c->jitter ^= c->jitter >> 7;
    c->jitter ^= c->jitter << 17;
    return limit / 2 + (unsigned)(c->jitter % (limit / 2 + 1));
}

static void disconnect(struct convstore *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    c->drop = false;
    c->in_len = 0;
    scan_reset(&c->scan);
    c->head_offset = 0;
    /* From the newest to the oldest, each before the queue's head: the old order again. */
    while (c->sent.tail != NULL) {
        struct cs_request *r = c->sent.tail;

        cs_list_remove(&c->sent, r);
        r->sent = false;
        if (c->queued.head != NULL)
            cs_list_insert_before(&c->queued, c->queued.head, r);
        else
            cs_list_append(&c->queued, r);
    }
    c->connect_at_ms = cs_now_ms() + jittered_backoff_ms(c, c->attempts);
    c->attempts++;
}

int cs_pipe_connect(struct convstore *c)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    assert(c->fd < 0 && strlen(c->path) < sizeof address.sun_path);
    strcpy(address.sun_path, c->path);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        const char *hint = errno == ENOENT || errno == ECONNREFUSED ? " (is convstored running?)"
                           : errno == EAGAIN ? " (too many clients are waiting to be accepted)"
                                             : "";

        c->backlog_full = errno == EAGAIN;
        cs_fail(&c->lost, CONVSTORE_CANNOT_CONNECT, "cannot connect to %.108s: %s%s", c->path,
                strerror(errno), hint);
        if (fd >= 0)
            close(fd);
        disconnect(c);
        return CONVSTORE_CANNOT_CONNECT;
    }
    if (c->was_connected)
        c->reconnects++;
    c->was_connected = true;
    c->fd = fd;
    if (c->lost.code == CONVSTORE_CANNOT_CONNECT)
        c->lost.code = 0;
    return 0;
}

/* ---- the end of a request ---- */

/* Tells r's owner and frees r. It is unlinked first: a callback that submits the next one finds the
 * room that this one leaves. */
static void complete(struct convstore *c, struct cs_request *r, const struct cs_reply *reply)
{
    cs_window_remove(c, r);
    c->completed++;
    r->on_reply(c, r, reply);
    cs_request_free(r);
}

/* When a request's time is over: what has been in its way. */
static void give_up(struct convstore *c, struct cs_request *r)
{
    struct cs_reply reply = {.has_msgid = false};

    if (r->retry_code != 0 && c->retry.code == r->retry_code)
        reply.failure = c->retry;
    else if (c->lost.code != 0)
        reply.failure = c->lost;
    else
        cs_fail(&reply.failure, CONVSTORE_TIMED_OUT, "no answer from %.108s in time", c->path);
    /* CANNOT_CONNECT promises that the daemon never saw it. */
    if (reply.failure.code == CONVSTORE_CANNOT_CONNECT && r->left)
        reply.failure.code = CONVSTORE_TIMED_OUT;
    complete(c, r, &reply);
}

/* Slots, not lists, are walked: a callback may change the lists. */
static void expire(struct convstore *c, int64_t now)
{
    int64_t next = INT64_MAX;

    if (c->pending == 0 || now < c->next_deadline_ms)
        return;
    c->next_deadline_ms = INT64_MAX; /* what callbacks submit lowers it again */
    for (unsigned i = 0; i < c->window && c->pending > 0; i++) {
        if (c->slots[i] != NULL && c->slots[i]->deadline_ms <= now)
            give_up(c, c->slots[i]);
        if (c->slots[i] != NULL && c->slots[i]->deadline_ms < next)
            next = c->slots[i]->deadline_ms;
    }
    if (next < c->next_deadline_ms)
        c->next_deadline_ms = next;
    if (c->drop)
        disconnect(c);
}

/* ---- sending ---- */

/* n bytes have left: moves what is wholly sent to the list that waits for answers. */
static void advance(struct convstore *c, size_t n)
{
    c->head_offset += n;
    while (c->queued.head != NULL && c->head_offset > 0) {
        struct cs_request *r = c->queued.head;

        r->left = true;
        if (c->head_offset < r->len)
            return;
        c->head_offset -= r->len;
        cs_list_remove(&c->queued, r);
        r->sent = true;
        cs_list_append(&c->sent, r);
    }
    assert(c->head_offset == 0);
}

static ssize_t send_some(struct convstore *c)
{
    struct iovec pieces[SEND_PIECES];
    struct msghdr message = {.msg_iov = pieces};
    size_t offset = c->head_offset;

    for (struct cs_request *r = c->queued.head; r != NULL && message.msg_iovlen < SEND_PIECES;
         r = r->next) {
        pieces[message.msg_iovlen++] =
            (struct iovec){.iov_base = r->data + offset, .iov_len = r->len - offset};
        offset = 0;
    }
    return sendmsg(c->fd, &message, MSG_NOSIGNAL);
}

static bool may_send(const struct convstore *c, int64_t now)
{
    return c->queued.head != NULL && (now >= c->resume_at_ms || c->head_offset > 0);
}

static void send_queued(struct convstore *c)
{
    while (!c->drop && may_send(c, cs_now_ms())) {
        ssize_t n = send_some(c);

        if (n > 0) {
            advance(c, (size_t)n);
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return;
        } else if (errno != EINTR) {
            /* The daemon may have said why before it closed: that is read first. */
            cs_fail(&c->lost, CONVSTORE_TIMED_OUT, "the connection to %.108s broke: %s", c->path,
                    strerror(errno));
            c->drop = true;
        }
    }
}

/* ---- receiving ---- */

/* The request asked for another try: back into the queue, by its age. */
static void requeue(struct convstore *c, struct cs_request *r)
{
    struct cs_request *at = c->queued.head;

    cs_list_remove(&c->sent, r);
    r->sent = false;
    if (at != NULL && c->head_offset > 0)
        at = at->next;
    while (at != NULL && at->sequence < r->sequence)
        at = at->next;
    if (at != NULL)
        cs_list_insert_before(&c->queued, at, r);
    else
        cs_list_append(&c->queued, r);
}

/* Holds back all sending as the daemon asked, longer each time that it asks in a row. */
static void pause_sending(struct convstore *c, int retry_after_ms)
{
    int64_t now = cs_now_ms();
    int64_t wait = jittered_backoff_ms(c, c->pauses);

    if (retry_after_ms > wait)
        wait = retry_after_ms < CS_RETRY_AFTER_MAX_MS ? retry_after_ms : CS_RETRY_AFTER_MAX_MS;
    if (c->resume_at_ms <= now) /* the answers to one burst count as one wish */
        c->pauses++;
    if (now + wait > c->resume_at_ms)
        c->resume_at_ms = now + wait;
}

/* An answer to r. Where it asks for another try, r goes out again until its time is over. */
static void handle_answer(struct convstore *c, struct cs_request *r, const struct cs_reply *reply)
{
    struct cs_failure failure = reply->failure;
    bool again = cs_code_wants_retry(failure.code);

    if (failure.code == 0 && r->wants_retry != NULL)
        again = r->wants_retry(reply, &failure);
    if (!again || r->deadline_ms <= cs_now_ms()) {
        if (!again)
            c->pauses = 0;
        complete(c, r, reply);
        return;
    }
    r->retry_code = failure.code;
    c->retry = failure;
    pause_sending(c, failure.retry_after_ms);
    if (r->sent)
        requeue(c, r);
    else
        c->drop = true; /* answered before it was wholly sent: only a new connection can go on */
}

static void lose_to_garbage(struct convstore *c)
{
    cs_fail(&c->lost, CONVSTORE_BAD_REPLY, "what answers at %.108s does not speak MessagePack-RPC",
            c->path);
    c->drop = true;
}

static void handle_message(struct convstore *c, const void *data, size_t len)
{
    struct cs_reply reply;
    struct cs_request *r;

    if (cs_reply_decode(data, len, &reply) != 0) {
        lose_to_garbage(c);
        return;
    }
    if (!reply.has_msgid) { /* the daemon could not read what we sent, and closes */
        cs_fail(&c->lost, CONVSTORE_BAD_REPLY, "%.108s closed the connection: %s", c->path,
                reply.failure.text);
        c->drop = true;
        return;
    }
    c->attempts = 0;
    c->lost.code = 0;
    r = cs_window_find(c, reply.msgid);
    if (r != NULL) /* else it was given up in the meantime */
        handle_answer(c, r, &reply);
}

/* Reads whole messages out of the buffer and moves the rest to its front. */
static void handle_input(struct convstore *c)
{
    size_t at = 0;

    for (;;) {
        size_t len = 0;
        enum scan_result result = scan_value(&c->scan, c->in + at, c->in_len - at,
                                             CS_REPLY_MAX_BYTES, CS_REPLY_MAX_ELEMENTS, &len);

        if (result == SCAN_PARTIAL)
            break;
        if (result != SCAN_COMPLETE) {
            lose_to_garbage(c);
            return;
        }
        handle_message(c, c->in + at, len);
        at += len;
        if (c->drop && c->lost.code == CONVSTORE_BAD_REPLY)
            return; /* nothing behind garbage can be trusted */
    }
    c->in_len -= at;
    memmove(c->in, c->in + at, c->in_len);
    if (c->in_len == 0 && c->in_capacity > KEEP_BYTES) {
        free(c->in);
        c->in = NULL;
        c->in_capacity = 0;
    }
}

static int reserve_input(struct convstore *c)
{
    size_t capacity = c->in_capacity == 0 ? 2 * RECEIVE_BYTES : c->in_capacity * 2;
    char *in;

    if (c->in_capacity - c->in_len >= RECEIVE_BYTES)
        return 0;
    in = realloc(c->in, capacity); /* CS_REPLY_MAX_BYTES bounds what stays in it */
    if (in == NULL)
        return -ENOMEM;
    c->in = in;
    c->in_capacity = capacity;
    return 0;
}

static void lose_to_peer(struct convstore *c, const char *why)
{
    if (c->lost.code == 0)
        cs_fail(&c->lost, CONVSTORE_TIMED_OUT, "lost the connection to %.108s: %s", c->path, why);
    c->drop = true;
}

static void receive(struct convstore *c)
{
    for (int round = 0; round < RECEIVE_ROUNDS; round++) {
        ssize_t n;

        if (reserve_input(c) != 0) {
            lose_to_peer(c, "no memory for its answer");
            return;
        }
        n = recv(c->fd, c->in + c->in_len, c->in_capacity - c->in_len, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        if (n <= 0) {
            lose_to_peer(c, n == 0 ? "the daemon closed it" : strerror(errno));
            return;
        }
        c->in_len += (size_t)n;
        handle_input(c);
        if (c->drop && c->lost.code == CONVSTORE_BAD_REPLY)
            return;
    }
}

/* ---- one turn ---- */

short cs_pipe_events(const struct convstore *c, int64_t now)
{
    return (short)(POLLIN | (may_send(c, now) ? POLLOUT : 0));
}

int cs_pipe_timeout_ms(const struct convstore *c, int64_t now)
{
    int64_t at = c->next_deadline_ms;

    if (c->pending == 0)
        return -1;
    if (c->fd < 0 && c->connect_at_ms < at)
        at = c->connect_at_ms;
    if (c->fd >= 0 && c->queued.head != NULL && now < c->resume_at_ms && c->resume_at_ms < at)
        at = c->resume_at_ms;
    if (at <= now)
        return 0;
    return at - now > INT_MAX ? INT_MAX : (int)(at - now);
}

void cs_pipe_turn(struct convstore *c, int wait_ms)
{
    int64_t now = cs_now_ms();
    struct pollfd fd;
    int timeout_ms;

    expire(c, now);
    if (c->pending == 0)
        return;
    if (c->fd < 0 && now >= c->connect_at_ms && cs_pipe_connect(c) != 0)
        now = cs_now_ms(); /* its failure has set the next try's time */
    if (c->fd >= 0 && may_send(c, now))
        send_queued(c);
    timeout_ms = cs_pipe_timeout_ms(c, now);
    if (timeout_ms < 0 || (wait_ms >= 0 && wait_ms < timeout_ms))
        timeout_ms = wait_ms;
    if (c->drop)
        timeout_ms = 0;
    fd = (struct pollfd){.fd = c->fd, .events = cs_pipe_events(c, now)};
    if (poll(&fd, 1, timeout_ms) > 0 && c->fd >= 0) {
        if ((fd.revents & ~POLLOUT) != 0)
            receive(c);
        if (!c->drop && (fd.revents & POLLOUT) != 0)
            send_queued(c);
    }
    if (c->drop)
        disconnect(c);
}

void cs_pipe_done(struct convstore *c)
{
    struct cs_reply reply = {.has_msgid = false};

    cs_fail(&reply.failure, CONVSTORE_CANCELLED, "the handle was closed before the answer came");
    for (unsigned i = 0; i < c->window; i++) {
        if (c->slots[i] != NULL)
            complete(c, c->slots[i], &reply);
    }
    assert(c->pending == 0);
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    free(c->in);
    free(c->slots);
    free(c->free_slots);
}
