/* The benchmark's own honesty: an open loop charges a stall to every message that it held up,
 * answers are matched to their messages, and no two conversations are alike. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "proto/message.h"
#include "tests/bench/clock.h"
#include "tests/bench/dialect.h"
#include "tests/bench/load.h"
#include "tests/bench/payload.h"
#include "tests/bench/schedule.h"

/* The schedule */

static void arrivals_are_due_at_their_index(void **state)
{
    struct schedule s;

    (void)state;
    schedule_init(&s, 5000, 1000, 10);
    assert_int_equal(schedule_next_ns(&s), 5000);
    assert_int_equal(schedule_release(&s, 4999), 0);
    assert_int_equal(schedule_release(&s, 5000), 1);
    assert_int_equal(schedule_release(&s, 5000), 0);
    assert_int_equal(schedule_next_ns(&s), 5000 + NS_PER_MS);
    assert_int_equal(schedule_release(&s, 5000 + NS_PER_MS - 1), 0);
    assert_int_equal(schedule_release(&s, 5000 + 4 * NS_PER_MS), 4);
    assert_int_equal(s.released, 5);
    /* A clock that jumps releases the rest, and no more than there are. */
    assert_int_equal(schedule_release(&s, NS_PER_S), 5);
    assert_int_equal(schedule_next_ns(&s), UINT64_MAX);
    assert_int_equal(schedule_release(&s, 2 * NS_PER_S), 0);
}

static void rounding_does_not_add_up(void **state)
{
    struct schedule s;

    (void)state;
    schedule_init(&s, 0, 3, UINT64_MAX);
    assert_int_equal(schedule_intended_ns(&s, 3000000), 1000000 * NS_PER_S);
    /* Every arrival is released at its own time and not one tick before. */
    for (uint64_t i = 0; i < 100000; i++) {
        uint64_t due = schedule_intended_ns(&s, i);

        if (i > 0)
            assert_int_equal(schedule_release(&s, due - 1), 0);
        assert_int_equal(schedule_release(&s, due), 1);
    }
}

/* Conversations */

static void check_conversation(const struct payload *p, const uint8_t *map, uint32_t size)
{
    struct json_buffer json = {0};
    struct conversation_fields fields;
    struct payload_parts parts;
    struct wire_error err;
    struct reader r;

    reader_init(&r, map, payload_len(p));
    if (conversation_decode(&r, "conversation", &json, &fields, &err) != 0)
        fail_msg("the daemon would refuse it: %s", err.text);
    payload_parts(p, map, &parts);
    assert_true(fields.has_id);
    assert_int_equal(fields.transcript.len, size);
    assert_ptr_equal(parts.transcript.data, fields.transcript.data);
    assert_ptr_equal(parts.user_id.data, fields.user_id.data);
    assert_int_equal(parts.user_id.len, fields.user_id.len);
    assert_int_equal(parts.metadata_json.len, fields.metadata.len);
    assert_memory_equal(parts.metadata_json.data, fields.metadata.data, fields.metadata.len);
    json_buffer_done(&json);
}

static int compare(const void *a, const void *b)
{
    return memcmp(a, b, PAYLOAD_ID_LEN);
}

static void conversations_are_valid_and_distinct(void **state)
{
    enum { COUNT = 5000 };
    static char ids[COUNT][PAYLOAD_ID_LEN], texts[COUNT][PAYLOAD_ID_LEN];
    const uint32_t sizes[] = {PAYLOAD_SIZE_MIN, 200, 2048, 262144};

    (void)state;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        struct payload *p = payload_new(sizes[s], 7);
        uint8_t *map = malloc(payload_len(p));
        struct payload_parts parts;

        for (int i = 0; i < COUNT; i++) {
            assert_int_equal(payload_put(p, map), i);
            payload_parts(p, map, &parts);
            memcpy(ids[i], parts.id.data, PAYLOAD_ID_LEN);
            memset(texts[i], 0, PAYLOAD_ID_LEN);
            memcpy(texts[i], parts.transcript.data, PAYLOAD_DIGITS);
            if (i % 1000 == 0)
                check_conversation(p, map, sizes[s]);
        }
        qsort(ids, COUNT, sizeof *ids, compare);
        qsort(texts, COUNT, sizeof *texts, compare);
        for (int i = 1; i < COUNT; i++) {
            assert_int_not_equal(compare(ids[i - 1], ids[i]), 0);
            assert_int_not_equal(compare(texts[i - 1], texts[i]), 0);
        }
        free(map);
        payload_free(p);
    }
}

/* A seed makes the same texts again, under other ids. */
static void a_seed_repeats_texts_and_not_ids(void **state)
{
    struct payload *a = payload_new(300, 9), *b = payload_new(300, 9);
    uint8_t *x = malloc(payload_len(a)), *y = malloc(payload_len(b));
    struct payload_parts p, q;

    (void)state;
    payload_put(a, x);
    payload_put(b, y);
    payload_parts(a, x, &p);
    payload_parts(b, y, &q);
    assert_memory_equal(p.transcript.data, q.transcript.data, 300);
    assert_int_not_equal(compare(p.id.data, q.id.data), 0);
    free(x);
    free(y);
    payload_free(a);
    payload_free(b);
}

/* Answers */

#define ID "01234567-89ab-7cde-8f01-23456789abcd"
#define BYTES(literal) literal, sizeof(literal) - 1

/* Reads an answer that may be cut off anywhere and be followed by the next. */
static void expect_answer(const struct dialect *d, const char *bytes, size_t len,
                          enum outcome outcome, uint32_t tag, uint32_t refused_items)
{
    char data[512];
    struct dialect_reply reply;

    memcpy(data, bytes, len);
    memset(data + len, '\x94', 8);
    for (size_t n = 0; n < len; n++) {
        uint8_t *part = malloc(n > 0 ? n : 1);

        memcpy(part, data, n);
        memset(&reply, 0, sizeof reply);
        if (d->read(part, n, &reply) != 0)
            fail_msg("%zu of %zu bytes were taken for an answer", n, len);
        free(part);
    }
    memset(&reply, 0, sizeof reply);
    assert_int_equal(d->read((uint8_t *)data, len + 8, &reply), len);
    assert_int_equal(reply.outcome, outcome);
    assert_int_equal(reply.refused_items, refused_items);
    if (d->tagged)
        assert_int_equal(reply.tag, tag);
}

static void answers_of_convstored_are_read(void **state)
{
    struct dialect d;

    (void)state;
    dialect_convstore(&d, 1, false);
    expect_answer(&d, BYTES("\x94\x01\x07\xc0\x81\xa2id\xd9\x24" ID), OUTCOME_ACKED, 7, 0);
    expect_answer(&d, BYTES("\x94\x01\xcc\x80\xc0\x81\xa2id\xd9\x24" ID), OUTCOME_ACKED, 128, 0);
    expect_answer(&d, BYTES("\x94\x01\xcd\x01\x02\xc0\x81\xa2id\xd9\x24" ID), OUTCOME_ACKED, 258,
                  0);
    expect_answer(&d, BYTES("\x94\x01\x07\x94\x03\xaaQUEUE_FULL\xa4wait\x64\xc0"), OUTCOME_REFUSED,
                  7, 0);
    expect_answer(&d, BYTES("\x94\x01\x07\x94\x09\xaeSTORAGE_FAILED\xa1x\xc0\xc0"), OUTCOME_FAILED,
                  7, 0);
    expect_answer(&d,
                  BYTES("\x94\x01\x07\xc0\x82\xa3ids\x92\xc0\xd9\x24" ID "\xa6"
                        "errors\x91\x92\x00\x94\x01\xb0INVALID_ARGUMENT\xa1x\xc0"),
                  OUTCOME_ACKED, 7, 1);
}

static void garbage_is_no_answer(void **state)
{
    struct dialect_reply reply = {0};
    struct dialect d;

    (void)state;
    dialect_convstore(&d, 1, false);
    assert_int_equal(d.read((const uint8_t *)"\xc1", 1, &reply), -EBADMSG);
    assert_int_equal(d.read((const uint8_t *)"\x93\x01\x02\x03", 4, &reply), -EBADMSG);
    assert_int_equal(d.read((const uint8_t *)"\x94\x00\x02\xc0\xc0", 5, &reply), -EBADMSG);
}

static void answers_of_the_peers_are_read(void **state)
{
    struct payload *p = payload_new(200, 1);
    struct dialect d;

    (void)state;
    dialect_redis(&d, p);
    expect_answer(&d, BYTES("$15\r\n1526919030474-5\r\n"), OUTCOME_ACKED, 0, 0);
    expect_answer(&d, BYTES("-OOM command not allowed\r\n"), OUTCOME_FAILED, 0, 0);
    dialect_beanstalkd(&d, p);
    expect_answer(&d, BYTES("INSERTED 12\r\n"), OUTCOME_ACKED, 0, 0);
    expect_answer(&d, BYTES("OUT_OF_MEMORY\r\n"), OUTCOME_FAILED, 0, 0);
    payload_free(p);
}

/* A server to load: answers every message of a fixed length, stalls once, and where messages have a
 * tag answers what it has read last first. */

#define CONNECTIONS_MAX 16

struct server {
    struct sockaddr_un address;
    int listener, control[2];
    pthread_t thread;
    const struct dialect *dialect;
    size_t message_len;
    uint64_t stall_at, stall_ns; /* before the answer to this message */
    uint64_t messages;
    struct {
        uint8_t bytes[1 << 18];
        size_t len;
    } input[CONNECTIONS_MAX];
};

static void answer(struct server *s, int fd, const uint8_t *message)
{
    char ack[] = "\x94\x01\xce....\xc0\x81\xa2id\xd9\x24" ID;
    const char *text = "INSERTED 1\r\n";
    size_t len = strlen(text);

    if (s->messages++ == s->stall_at && s->stall_ns > 0)
        clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){.tv_nsec = (long)s->stall_ns}, NULL);
    if (s->dialect->tagged) {
        memcpy(ack + 3, message + s->dialect->tag_at, 4);
        text = ack;
        len = sizeof ack - 1;
    }
    if (send(fd, text, len, MSG_NOSIGNAL) != (ssize_t)len)
        abort();
}

static void serve(struct server *s, int fd, int slot)
{
    uint8_t *bytes = s->input[slot].bytes;
    ssize_t n =
        recv(fd, bytes + s->input[slot].len, sizeof s->input[slot].bytes - s->input[slot].len, 0);
    size_t whole;

    if (n <= 0)
        return;
    s->input[slot].len += (size_t)n;
    whole = s->input[slot].len / s->message_len;
    for (size_t i = 0; i < whole; i++)
        answer(s, fd, bytes + (s->dialect->tagged ? whole - 1 - i : i) * s->message_len);
    s->input[slot].len -= whole * s->message_len;
    memmove(bytes, bytes + whole * s->message_len, s->input[slot].len);
}

static void *run_server(void *argument)
{
    struct server *s = argument;
    struct pollfd fds[2 + CONNECTIONS_MAX] = {{.fd = s->control[0], .events = POLLIN},
                                              {.fd = s->listener, .events = POLLIN}};
    nfds_t count = 2;

    while (poll(fds, count, -1) > 0 && fds[0].revents == 0) {
        for (nfds_t i = 2; i < count; i++)
            if (fds[i].revents != 0)
                serve(s, fds[i].fd, (int)i - 2);
        if (fds[1].revents != 0 && count < 2 + CONNECTIONS_MAX)
            fds[count++] = (struct pollfd){.fd = accept(s->listener, NULL, NULL), .events = POLLIN};
    }
    for (nfds_t i = 2; i < count; i++)
        close(fds[i].fd);
    return NULL;
}

static struct server *start_server(const struct dialect *dialect, const struct payload *payload)
{
    struct server *s = calloc(1, sizeof *s);

    s->dialect = dialect;
    s->message_len = dialect_len(dialect, payload);
    s->address.sun_family = AF_UNIX;
    snprintf(s->address.sun_path, sizeof s->address.sun_path, "/tmp/convstore-bench-%d.sock",
             (int)getpid());
    unlink(s->address.sun_path);
    s->listener = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(s->listener, (struct sockaddr *)&s->address, sizeof s->address), 0);
    assert_int_equal(listen(s->listener, CONNECTIONS_MAX), 0);
    assert_int_equal(pipe(s->control), 0);
    return s;
}

static void run_load(struct server *s, struct load_options *options, struct load_result *ret)
{
    assert_int_equal(pthread_create(&s->thread, NULL, run_server, s), 0);
    options->socket = s->address.sun_path;
    options->dialect = s->dialect;
    if (load_run(options, ret) != 0)
        fail_msg("the load broke off: %s", ret->text);
    assert_int_equal(write(s->control[1], "x", 1), 1);
    assert_int_equal(pthread_join(s->thread, NULL), 0);
    assert_int_equal(s->messages, ret->sent);
    close(s->control[0]);
    close(s->control[1]);
    close(s->listener);
    unlink(s->address.sun_path);
    free(s);
}

/* 2,000 messages a second for a second; the server sleeps for 300 ms. The 400 that were due in the
 * first 200 ms of that waited 100 ms or longer, whoever was to blame for when they left. */
static void an_open_loop_charges_a_stall_to_all(void **state)
{
    struct payload *payload = payload_new(200, 1);
    struct load_result *result = calloc(1, sizeof *result);
    struct dialect dialect;
    struct server *s;

    (void)state;
    dialect_beanstalkd(&dialect, payload);
    s = start_server(&dialect, payload);
    s->stall_at = 600;
    s->stall_ns = 300 * NS_PER_MS;
    run_load(s,
             &(struct load_options){.payload = payload,
                                    .connections = 4,
                                    .depth = 2, /* most of them wait unsent */
                                    .rate = 2000,
                                    .run_ns = NS_PER_S},
             result);
    assert_int_equal(result->sent, 2000);
    assert_int_equal(result->acked, 2000);
    assert_int_equal(result->latency.count, 2000);
    assert_in_range(histogram_quantile(&result->latency, 0.805), 98 * NS_PER_MS, NS_PER_S);
    assert_in_range(histogram_quantile(&result->latency, 1), 295 * NS_PER_MS, NS_PER_S);
    payload_free(payload);
    free(result);
}

/* The same stall meets one message of each connection of a closed loop, and nobody else. */
static void a_closed_loop_hides_it(void **state)
{
    struct payload *payload = payload_new(200, 1);
    struct load_result *result = calloc(1, sizeof *result);
    struct dialect dialect;
    struct server *s;

    (void)state;
    dialect_beanstalkd(&dialect, payload);
    s = start_server(&dialect, payload);
    s->stall_at = 600;
    s->stall_ns = 300 * NS_PER_MS;
    run_load(s,
             &(struct load_options){.payload = payload,
                                    .connections = 4,
                                    .depth = 1,
                                    .count = 2000,
                                    .run_ns = 60 * NS_PER_S},
             result);
    assert_int_equal(result->acked, 2000);
    assert_in_range(result->latency.max, 295 * NS_PER_MS, 60 * NS_PER_S);
    assert_in_range(histogram_quantile(&result->latency, 0.99), 0, 98 * NS_PER_MS);
    payload_free(payload);
    free(result);
}

/* Answers in another order than their messages', many in flight, messages longer than the socket's
 * buffer takes at once. */
static void answers_find_their_messages_in_any_order(void **state)
{
    struct payload *payload = payload_new(2048, 1);
    struct load_result *result = calloc(1, sizeof *result);
    struct dialect dialect;

    (void)state;
    dialect_convstore(&dialect, 1, false);
    run_load(start_server(&dialect, payload),
             &(struct load_options){.payload = payload,
                                    .connections = 3,
                                    .depth = 100,
                                    .count = 20000,
                                    .run_ns = 60 * NS_PER_S},
             result);
    assert_int_equal(result->sent, 20000);
    assert_int_equal(result->acked, 20000);
    assert_int_equal(result->measured, 20000);
    assert_int_equal(result->failed + result->refused + result->unanswered, 0);
    assert_int_equal(result->latency.count, 20000);
    payload_free(payload);
    free(result);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arrivals_are_due_at_their_index),
        cmocka_unit_test(rounding_does_not_add_up),
        cmocka_unit_test(conversations_are_valid_and_distinct),
        cmocka_unit_test(a_seed_repeats_texts_and_not_ids),
        cmocka_unit_test(answers_of_convstored_are_read),
        cmocka_unit_test(garbage_is_no_answer),
        cmocka_unit_test(answers_of_the_peers_are_read),
        cmocka_unit_test(an_open_loop_charges_a_stall_to_all),
        cmocka_unit_test(a_closed_loop_hides_it),
        cmocka_unit_test(answers_find_their_messages_in_any_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
