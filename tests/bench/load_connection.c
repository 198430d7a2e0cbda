/* One connection of the load generator; runs on the load's thread.
 *
 * The hard thing is to cost little: messages are built in one buffer that all connections share and
 * that stays in the processor's cache, and leave with one write(2) for as many as may go; answers
 * are read with one read(2) into another such buffer. Only what the kernel would not take, and the
 * beginning of an answer that was cut off, is kept with the connection.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/bench/clock.h"
#include "tests/bench/load_internal.h"

#define RETRY_MS_DEFAULT 10

/* Sending */

/* Whether another message may begin on this connection. */
static bool may_begin(const struct load *load, const struct connection *c, uint64_t now)
{
    const struct load_options *o = load->options;

    if (c->in_flight == o->depth || now < c->hold_until_ns)
        return false;
    if (o->rate > 0)
        return c->due > 0;
    return now < load->end_ns && (o->count == 0 || load->messages < o->count);
}

static uint32_t take_slot(struct load *load, struct connection *c)
{
    uint32_t slot;

    if (load->options->dialect->tagged) {
        slot = c->free_head;
        c->free_head = c->slots[slot].next;
    } else {
        slot = c->next_slot;
        c->next_slot = slot + 1 < load->options->depth ? slot + 1 : 0;
    }
    assert(c->slots[slot].start_ns == 0);
    return slot;
}

static void begin(struct load *load, struct connection *c, uint64_t now, uint8_t *out)
{
    uint32_t slot = take_slot(load, c);

    c->slots[slot].start_ns = now;
    if (load->options->rate > 0) {
        c->slots[slot].start_ns = schedule_intended_ns(&load->schedule, c->next_arrival);
        c->next_arrival += load->options->connections;
        c->due--;
        load->due--;
    }
    dialect_put(load->options->dialect, load->options->payload, slot, out);
    c->in_flight++;
    load->in_flight++;
    load->messages++;
    load->result->sent += load->options->dialect->batch;
}

static void set_events(struct load *load, struct connection *c, bool want_write)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};

    if (c->want_write == want_write)
        return;
    c->want_write = want_write;
    if (want_write)
        event.events |= EPOLLOUT;
    if (epoll_ctl(load->epoll, EPOLL_CTL_MOD, c->fd, &event) != 0)
        load_break(load, "epoll_ctl: %s", strerror(errno));
}

/* How many of the bytes the kernel took. */
static size_t send_bytes(struct load *load, struct connection *c, const uint8_t *data, size_t len)
{
    ssize_t n = send(c->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);

    if (n < 0 && errno != EAGAIN && errno != EINTR)
        load_break(load, "the server closed a connection: %s", strerror(errno));
    return n > 0 ? (size_t)n : 0;
}

/* True when nothing is left over from earlier. */
static bool send_unsent(struct load *load, struct connection *c)
{
    if (c->unsent == NULL)
        return true;
    c->unsent_at += send_bytes(load, c, c->unsent + c->unsent_at, c->unsent_len - c->unsent_at);
    if (c->unsent_at < c->unsent_len)
        return false;
    free(c->unsent);
    c->unsent = NULL;
    return true;
}

static void keep_unsent(struct load *load, struct connection *c, const uint8_t *data, size_t len)
{
    c->unsent = malloc(len);
    if (c->unsent == NULL) {
        load_break(load, "out of memory");
        return;
    }
    memcpy(c->unsent, data, len);
    c->unsent_len = len;
    c->unsent_at = 0;
}

void connection_send(struct load *load, struct connection *c)
{
    bool all_sent = send_unsent(load, c);

    while (all_sent && !load->broken) {
        uint64_t now = clock_ns();
        size_t len = 0, sent;

        while (len + load->message_len <= load->out_size && may_begin(load, c, now)) {
            begin(load, c, now, load->out + len);
            len += load->message_len;
        }
        if (len == 0)
            break;
        sent = send_bytes(load, c, load->out, len);
        all_sent = sent == len;
        if (!all_sent)
            keep_unsent(load, c, load->out + sent, len - sent);
    }
    set_events(load, c, !all_sent);
}

/* Receiving */

/* The message that an answer is for becomes free. Returns when it began, 0 where there is none. */
static uint64_t give_slot_back(struct load *load, struct connection *c, uint32_t tag)
{
    bool tagged = load->options->dialect->tagged;
    uint32_t slot = tagged ? tag : c->oldest;
    uint64_t start;

    if (slot >= load->options->depth || c->slots[slot].start_ns == 0)
        return 0;
    start = c->slots[slot].start_ns;
    c->slots[slot].start_ns = 0;
    if (tagged) {
        c->slots[slot].next = c->free_head;
        c->free_head = slot;
    } else {
        c->oldest = slot + 1 < load->options->depth ? slot + 1 : 0;
    }
    c->in_flight--;
    load->in_flight--;
    return start;
}

/* The server is full: this connection pauses, as a well-behaved client would. */
static void hold(struct load *load, struct connection *c, uint32_t retry_after_ms, uint64_t now)
{
    uint64_t ms = retry_after_ms > 0 ? retry_after_ms : RETRY_MS_DEFAULT;

    c->hold_until_ns = now + ms * NS_PER_MS;
    if (load->holding_ns == 0 || c->hold_until_ns < load->holding_ns)
        load->holding_ns = c->hold_until_ns;
}

static void count(struct load *load, struct connection *c, const struct dialect_reply *reply,
                  uint64_t start, uint64_t now)
{
    struct load_result *result = load->result;
    uint64_t batch = load->options->dialect->batch, acked = 0;

    load->last_ack_ns = now;
    if (reply->outcome == OUTCOME_ACKED) {
        acked = batch - reply->refused_items;
        result->failed += reply->refused_items;
        if (start >= load->warm_ns)
            histogram_record(&result->latency, now - start);
    } else if (reply->outcome == OUTCOME_REFUSED) {
        result->refused += batch;
        hold(load, c, reply->retry_after_ms, now);
    } else {
        result->failed += batch;
    }
    if (result->text[0] == '\0' && reply->text[0] != '\0')
        snprintf(result->text, sizeof result->text, "%s", reply->text);
    result->acked += acked;
    if (now >= load->warm_ns && now < load->end_ns)
        result->measured += acked;
}

/* Counts the whole answers in data. Returns how many bytes they are. A single answer was there when
 * the generator woke, whatever it did for other connections since then; of several under way some
 * may have come later. */
static size_t read_answers(struct load *load, struct connection *c, const uint8_t *data, size_t len)
{
    uint64_t now = load->options->depth == 1 ? load->woke_ns : clock_ns();
    size_t at = 0;

    while (at < len) {
        struct dialect_reply reply;
        uint64_t start;
        ssize_t n;

        reply.outcome = OUTCOME_ACKED;
        reply.tag = reply.refused_items = reply.retry_after_ms = 0;
        reply.text[0] = '\0';
        n = load->options->dialect->read(data + at, len - at, &reply);
        if (n == 0)
            break;
        start = n < 0 ? 0 : give_slot_back(load, c, reply.tag);
        if (start == 0) {
            load_break(load, "an answer that fits no message%s%s", reply.text[0] ? ": " : "",
                       reply.text);
            break;
        }
        at += (size_t)n;
        count(load, c, &reply, start, now);
    }
    return at;
}

static void keep_partial(struct load *load, struct connection *c, const uint8_t *data, size_t len)
{
    free(c->partial);
    c->partial = NULL;
    c->partial_len = len;
    if (len == 0)
        return;
    c->partial = len <= DIALECT_REPLY_MAX ? malloc(len) : NULL;
    if (c->partial == NULL)
        load_break(load, "an answer of over %d bytes", DIALECT_REPLY_MAX);
    else
        memcpy(c->partial, data, len);
}

void connection_receive(struct load *load, struct connection *c)
{
    size_t len = c->partial_len, used;
    ssize_t n;

    if (len > 0)
        memcpy(load->in, c->partial, len);
    n = recv(c->fd, load->in + len, LOAD_IN_BYTES - len, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        load_break(load, "the server closed a connection%s%s", n < 0 ? ": " : "",
                   n < 0 ? strerror(errno) : "");
        return;
    }
    len += (size_t)n;
    used = read_answers(load, c, load->in, len);
    if (used < len || c->partial != NULL)
        keep_partial(load, c, load->in + used, len - used);
    if (!load->broken)
        connection_send(load, c);
}
