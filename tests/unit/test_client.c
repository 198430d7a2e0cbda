/* libconvstore against a server of the test's own, in a thread, that does what a daemon does on its
 * worst days: hangs up, answers late, in pieces or nonsense, or not at all. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "client/convstore.h"
#include "proto/message.h"
#include "proto/reply.h"
#include "proto/scan.h"
#include "proto/uuid.h"

#define PATH_SIZE 64
#define MAX_SEEN 4096

struct server {
    char directory[PATH_SIZE - 16];
    char path[PATH_SIZE];
    int listener;
    pthread_t thread;
    void (*serve)(struct server *s);
    /* Written by the server's thread, read by the test after stop_server(). */
    unsigned seen_count;
    uint8_t seen[MAX_SEEN][16]; /* the ids, in the order of arrival */
    char in[1 << 18];
    size_t in_len;
};

static void server_bind(struct server *s)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    strcpy(address.sun_path, s->path);
    unlink(s->path);
    s->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(s->listener >= 0);
    assert_int_equal(bind(s->listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(s->listener, 16), 0);
}

static void *server_main(void *arg)
{
    struct server *s = arg;

    s->serve(s);
    return NULL;
}

static struct server *server_prepare(void)
{
    struct server *s = calloc(1, sizeof *s);

    assert_non_null(s);
    strcpy(s->directory, "/tmp/convstore-test-XXXXXX");
    assert_non_null(mkdtemp(s->directory));
    snprintf(s->path, sizeof s->path, "%s/socket", s->directory);
    s->listener = -1;
    return s;
}

static struct server *start_server(void (*serve)(struct server *s))
{
    struct server *s = server_prepare();

    server_bind(s);
    s->serve = serve;
    assert_int_equal(pthread_create(&s->thread, NULL, server_main, s), 0);
    return s;
}

static void stop_server(struct server *s)
{
    if (s->serve != NULL)
        assert_int_equal(pthread_join(s->thread, NULL), 0);
    if (s->listener >= 0)
        close(s->listener);
    unlink(s->path);
    rmdir(s->directory);
}

static void sleep_ms(long ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

    nanosleep(&t, NULL);
}

static int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- the server's side ---- */

static int server_accept(struct server *s)
{
    s->in_len = 0;
    return accept(s->listener, NULL, NULL);
}

/* Takes the next message off s->in into copy; false when the client has hung up. */
static bool server_read(struct server *s, int fd, char *copy, struct message *ret)
{
    struct scan scan;
    struct wire_error err;

    for (;;) {
        size_t len;
        ssize_t n;

        scan_reset(&scan);
        if (s->in_len > 0 &&
            scan_value(&scan, s->in, s->in_len, sizeof s->in, 100000, &len) == SCAN_COMPLETE) {
            memcpy(copy, s->in, len);
            s->in_len -= len;
            memmove(s->in, s->in + len, s->in_len);
            return message_parse(copy, len, ret, &err) == 0;
        }
        n = recv(fd, s->in + s->in_len, sizeof s->in - s->in_len, 0);
        if (n <= 0)
            return false;
        s->in_len += (size_t)n;
    }
}

/* Reads one store and notes its id. */
static bool server_read_store(struct server *s, int fd, uint32_t *ret_msgid,
                              struct conversation_fields *fields)
{
    static _Thread_local char copy[1 << 18];
    struct json_buffer json = {NULL, 0, 0};
    struct message message;
    struct wire_error err;
    bool ok = server_read(s, fd, copy, &message) && slice_equals(message.method, "store") &&
              conversation_decode(&message.params, "conversation", &json, fields, &err) == 0;

    json_buffer_done(&json);
    if (ok && s->seen_count < MAX_SEEN)
        memcpy(s->seen[s->seen_count++], fields->id, 16);
    if (ok)
        *ret_msgid = message.msgid;
    return ok;
}

static void send_buffer(int fd, msgpack_sbuffer *out)
{
    (void)!send(fd, out->data, out->size, MSG_NOSIGNAL);
    msgpack_sbuffer_destroy(out);
}

static void pack_ack(msgpack_sbuffer *out, uint32_t msgid, const uint8_t id[16])
{
    msgpack_packer pk;

    msgpack_sbuffer_init(out);
    msgpack_packer_init(&pk, out, msgpack_sbuffer_write);
    reply_begin(&pk, msgid);
    msgpack_pack_map(&pk, 1);
    pack_str(&pk, "id");
    pack_id(&pk, id);
}

static void send_ack(int fd, uint32_t msgid, const uint8_t id[16])
{
    msgpack_sbuffer out;

    pack_ack(&out, msgid, id);
    send_buffer(fd, &out);
}

static void send_error(int fd, uint32_t msgid, enum wire_code code, int retry_after_ms)
{
    struct wire_error err = {.code = code, .retry_after_ms = retry_after_ms, .text = "as planned"};
    msgpack_sbuffer out;
    msgpack_packer pk;

    msgpack_sbuffer_init(&out);
    msgpack_packer_init(&pk, &out, msgpack_sbuffer_write);
    reply_error(&pk, true, msgid, &err);
    send_buffer(fd, &out);
}

/* Acks every store on fd until the client hangs up. */
static void serve_acks(struct server *s, int fd)
{
    struct conversation_fields fields;
    uint32_t msgid;

    while (server_read_store(s, fd, &msgid, &fields))
        send_ack(fd, msgid, fields.id);
    close(fd);
}

static void serve_one_client(struct server *s)
{
    serve_acks(s, server_accept(s));
}

/* ---- the client's side ---- */

static struct convstore_conversation sample(void)
{
    return (struct convstore_conversation){.user_id = convstore_str("u1"),
                                           .platform = convstore_str("web"),
                                           .transcript = convstore_str("User: hello")};
}

static struct convstore *open_client(const struct server *s, unsigned timeout_ms)
{
    struct convstore *c;

    assert_int_equal(convstore_open(s->path, &c), 0);
    convstore_set_timeout(c, timeout_ms);
    return c;
}

/* Stores the sample, expects code, and gives the id that the call reported. */
static void store_sample(struct convstore *c, int want_code, char id[CONVSTORE_ID_SIZE])
{
    struct convstore_conversation conversation = sample();

    assert_int_equal(convstore_store(c, &conversation, CONVSTORE_DURABLE, id), want_code);
}

static void assert_seen(const struct server *s, unsigned at, const char *id)
{
    char text[UUID_TEXT_LEN + 1];

    assert_true(at < s->seen_count);
    uuid_format(s->seen[at], text);
    assert_string_equal(text, id);
}

/* ---- tests ---- */

static struct conversation_fields last_fields;
static char last_texts[256];

static void serve_and_keep_fields(struct server *s)
{
    int fd = server_accept(s);
    uint32_t msgid;

    if (server_read_store(s, fd, &msgid, &last_fields)) {
        snprintf(last_texts, sizeof last_texts, "%.*s|%.*s|%.*s|%.*s", (int)last_fields.user_id.len,
                 last_fields.user_id.data, (int)last_fields.platform.len, last_fields.platform.data,
                 (int)last_fields.transcript.len, last_fields.transcript.data,
                 (int)last_fields.summary.len, last_fields.summary.data);
        send_ack(fd, msgid, last_fields.id);
    }
    close(fd);
}

/* Goal of this test: every field arrives as it was given, and the caller's id is the one acked. */
static void test_store_sends_every_field(void **state)
{
    static const char metadata[] = "\x81\xa1k\x05"; /* {"k": 5} */
    struct server *s = start_server(serve_and_keep_fields);
    struct convstore *c = open_client(s, 5000);
    struct convstore_conversation conversation = sample();
    char id[CONVSTORE_ID_SIZE];

    (void)state;
    conversation.id = "0190AABB-ccdd-7eee-8fff-001122334455";
    conversation.summary = convstore_str("hello");
    conversation.metadata = (struct convstore_text){metadata, 4};
    conversation.has_created_at = true;
    conversation.created_at_us = -1500001; /* before 1970: the fraction must count forward */
    assert_int_equal(convstore_store(c, &conversation, CONVSTORE_DURABLE, id), 0);
    convstore_close(c);
    stop_server(s);
    assert_string_equal(id, "0190aabb-ccdd-7eee-8fff-001122334455");
    assert_string_equal(last_texts, "u1|web|User: hello|hello");
    assert_true(last_fields.has_created_at);
    assert_true(last_fields.created_at_us == -1500001);
    assert_true(last_fields.metadata.data != NULL);
    free(s);
}

static void serve_one_error(struct server *s)
{
    struct conversation_fields fields;
    int fd = server_accept(s);
    uint32_t msgid;

    if (server_read_store(s, fd, &msgid, &fields))
        send_error(fd, msgid, WIRE_INVALID_ARGUMENT, -1);
    serve_acks(s, fd);
}

static void test_error_reply_is_final_and_the_handle_goes_on(void **state)
{
    struct server *s = start_server(serve_one_error);
    struct convstore *c = open_client(s, 5000);

    (void)state;
    store_sample(c, CONVSTORE_INVALID_ARGUMENT, NULL);
    assert_string_equal(convstore_error_text(c), "as planned");
    store_sample(c, 0, NULL);
    assert_string_equal(convstore_error_text(c), "");
    convstore_close(c);
    stop_server(s);
    assert_int_equal(s->seen_count, 2); /* the refused one was not sent twice */
    free(s);
}

/* Reads one store, hangs up without an answer; acks on the second connection. */
static void serve_after_a_loss(struct server *s)
{
    struct conversation_fields fields;
    int fd = server_accept(s);
    uint32_t msgid;

    server_read_store(s, fd, &msgid, &fields);
    close(fd);
    serve_one_client(s);
}

static void test_lost_connection_resends_the_same_id(void **state)
{
    struct server *s = start_server(serve_after_a_loss);
    struct convstore *c = open_client(s, 5000);
    char id[CONVSTORE_ID_SIZE];

    (void)state;
    store_sample(c, 0, id);
    assert_int_equal(convstore_reconnects(c), 1);
    convstore_close(c);
    stop_server(s);
    assert_int_equal(s->seen_count, 2);
    assert_seen(s, 0, id);
    assert_seen(s, 1, id);
    free(s);
}

/* Three kinds of "again", then an ack. */
static void serve_again_and_again(struct server *s)
{
    static const enum wire_code codes[] = {WIRE_QUEUE_FULL, WIRE_STORAGE_FAILED,
                                           WIRE_SHUTTING_DOWN};
    struct conversation_fields fields;
    int fd = server_accept(s);
    uint32_t msgid;

    for (unsigned i = 0; i < 3; i++) {
        if (server_read_store(s, fd, &msgid, &fields))
            send_error(fd, msgid, codes[i], i == 0 ? 150 : -1);
    }
    serve_acks(s, fd);
}

static void test_busy_daemon_is_asked_again_after_its_wish(void **state)
{
    struct server *s = start_server(serve_again_and_again);
    struct convstore *c = open_client(s, 5000);
    int64_t start = now_ms();
    char id[CONVSTORE_ID_SIZE];

    (void)state;
    store_sample(c, 0, id);
    assert_true(now_ms() - start >= 150);
    convstore_close(c);
    stop_server(s);
    assert_int_equal(s->seen_count, 4);
    for (unsigned i = 0; i < 4; i++)
        assert_seen(s, i, id);
    free(s);
}

static void serve_always_full(struct server *s)
{
    struct conversation_fields fields;
    int fd = server_accept(s);
    uint32_t msgid;

    while (server_read_store(s, fd, &msgid, &fields))
        send_error(fd, msgid, WIRE_QUEUE_FULL, 20);
    close(fd);
}

static void test_full_queue_ends_at_the_timeout_with_its_code(void **state)
{
    struct server *s = start_server(serve_always_full);
    struct convstore *c = open_client(s, 300);
    int64_t start = now_ms();

    (void)state;
    store_sample(c, CONVSTORE_QUEUE_FULL, NULL);
    assert_in_range(now_ms() - start, 250, 2000);
    assert_int_equal(convstore_retry_after_ms(c), 20);
    convstore_close(c);
    stop_server(s);
    assert_in_range(s->seen_count, 2, 40); /* tried again, and did not hammer */
    free(s);
}

static void serve_silence(struct server *s)
{
    struct conversation_fields fields;
    int fd = server_accept(s);
    uint32_t msgid;

    while (server_read_store(s, fd, &msgid, &fields)) {
    }
    close(fd);
}

static void test_silent_daemon_times_out(void **state)
{
    struct server *s = start_server(serve_silence);
    struct convstore *c = open_client(s, 200);
    int64_t start = now_ms();
    char id[CONVSTORE_ID_SIZE] = "";

    (void)state;
    store_sample(c, CONVSTORE_TIMED_OUT, id);
    assert_in_range(now_ms() - start, 190, 1500);
    assert_int_equal(strlen(id), 36); /* known, for another try */
    assert_int_equal(convstore_pending(c), 0);
    convstore_close(c);
    stop_server(s);
    assert_int_equal(s->seen_count, 1);
    free(s);
}

/* Answers the first one only after it was given up, then the second. */
static void serve_late(struct server *s)
{
    struct conversation_fields first, second;
    int fd = server_accept(s);
    uint32_t first_msgid, second_msgid;

    if (server_read_store(s, fd, &first_msgid, &first)) {
        uint8_t id[16];

        memcpy(id, first.id, 16);
        if (server_read_store(s, fd, &second_msgid, &second)) {
            send_ack(fd, first_msgid, id);
            send_ack(fd, second_msgid, second.id);
        }
    }
    close(fd);
}

static void test_late_answer_is_not_taken_for_the_next_one(void **state)
{
    struct server *s = start_server(serve_late);
    struct convstore *c = open_client(s, 100);

    (void)state;
    assert_int_equal(convstore_set_window(c, 1, 100000), 0); /* both stand in the same slot */
    store_sample(c, CONVSTORE_TIMED_OUT, NULL);
    convstore_set_timeout(c, 5000);
    store_sample(c, 0, NULL);
    assert_int_equal(convstore_reconnects(c), 0);
    convstore_close(c);
    stop_server(s);
    free(s);
}

static void serve_garbage_once(struct server *s)
{
    static const char *const nonsense[] = {"\xc1\xc1\xc1", "HTTP/1.1 400 Bad Request\r\n",
                                           "\x94\x02\x01\xc0\xc0", "\x94\x01\x05\x05\xc0"};

    for (unsigned i = 0; i < 4; i++) {
        struct conversation_fields fields;
        int fd = server_accept(s);
        uint32_t msgid;

        server_read_store(s, fd, &msgid, &fields);
        (void)!send(fd, nonsense[i], strlen(nonsense[i]), MSG_NOSIGNAL);
        while (recv(fd, s->in, sizeof s->in, 0) > 0) { /* until the client gives it up */
        }
        close(fd);
    }
    serve_one_client(s);
}

static void test_garbage_costs_the_connection_only(void **state)
{
    struct server *s = start_server(serve_garbage_once);
    struct convstore *c = open_client(s, 5000);
    char id[CONVSTORE_ID_SIZE];

    (void)state;
    store_sample(c, 0, id);
    assert_int_equal(convstore_reconnects(c), 4);
    convstore_close(c);
    stop_server(s);
    assert_int_equal(s->seen_count, 5);
    assert_seen(s, 4, id);
    free(s);
}

static void serve_one_byte_at_a_time(struct server *s)
{
    struct conversation_fields fields;
    int fd = server_accept(s);
    uint32_t msgid;

    while (server_read_store(s, fd, &msgid, &fields)) {
        msgpack_sbuffer out;

        pack_ack(&out, msgid, fields.id);
        for (size_t i = 0; i < out.size; i++) {
            (void)!send(fd, out.data + i, 1, MSG_NOSIGNAL);
            if (i % 8 == 0)
                sleep_ms(1);
        }
        msgpack_sbuffer_destroy(&out);
    }
    close(fd);
}

static void test_answer_in_pieces(void **state)
{
    struct server *s = start_server(serve_one_byte_at_a_time);
    struct convstore *c = open_client(s, 5000);

    (void)state;
    store_sample(c, 0, NULL);
    store_sample(c, 0, NULL);
    assert_int_equal(convstore_reconnects(c), 0);
    convstore_close(c);
    stop_server(s);
    free(s);
}

static void serve_a_wrong_id(struct server *s)
{
    static const uint8_t other[16] = {1};
    struct conversation_fields fields;
    int fd = server_accept(s);
    uint32_t msgid;

    if (server_read_store(s, fd, &msgid, &fields))
        send_ack(fd, msgid, other);
    close(fd);
}

static void test_ack_for_another_id_is_no_ack(void **state)
{
    struct server *s = start_server(serve_a_wrong_id);
    struct convstore *c = open_client(s, 5000);

    (void)state;
    store_sample(c, CONVSTORE_BAD_REPLY, NULL);
    convstore_close(c);
    stop_server(s);
    free(s);
}

static void test_no_daemon(void **state)
{
    struct server *s = server_prepare();
    struct convstore *c = open_client(s, 1000);
    int64_t start = now_ms();

    (void)state;
    assert_int_equal(convstore_connect(c), CONVSTORE_CANNOT_CONNECT);
    assert_true(now_ms() - start < 900);
    store_sample(c, CONVSTORE_CANNOT_CONNECT, NULL);
    assert_non_null(strstr(convstore_error_text(c), s->path));
    assert_in_range(now_ms() - start, 990, 5000);
    convstore_close(c);
    stop_server(s);
    free(s);
}

static void *bind_later(void *arg)
{
    struct server *s = arg;

    sleep_ms(200);
    server_bind(s);
    serve_one_client(s);
    return NULL;
}

static void test_daemon_that_comes_later_is_found(void **state)
{
    struct server *s = server_prepare();
    struct convstore *c = open_client(s, 5000);

    (void)state;
    s->serve = serve_one_client;
    assert_int_equal(pthread_create(&s->thread, NULL, bind_later, s), 0);
    store_sample(c, 0, NULL);
    convstore_close(c);
    stop_server(s);
    free(s);
}

/* ---- many in flight ---- */

struct tally {
    unsigned acked, failed;
    int last_code;
};

static void on_ack(void *context, const struct convstore_result *result)
{
    struct tally *tally = context;

    tally->last_code = result->code;
    if (result->code == 0)
        tally->acked++;
    else
        tally->failed++;
}

/* Each connection acks 30 (the even ones in a burst before the odd ones), then hangs up with others
 * unanswered; the last one acks all. */
static void serve_with_hangups(struct server *s)
{
    for (unsigned round = 0; round < 3; round++) {
        int fd = server_accept(s);
        uint32_t msgids[40];
        uint8_t ids[40][16];

        for (unsigned i = 0; i < 40; i++) {
            struct conversation_fields fields;

            if (!server_read_store(s, fd, &msgids[i], &fields))
                break;
            memcpy(ids[i], fields.id, 16);
        }
        for (unsigned i = 0; i < 30; i += 2)
            send_ack(fd, msgids[i], ids[i]);
        for (unsigned i = 1; i < 30; i += 2)
            send_ack(fd, msgids[i], ids[i]);
        close(fd);
    }
    serve_one_client(s);
}

static unsigned count_distinct(const struct server *s)
{
    unsigned distinct = 0;

    for (unsigned i = 0; i < s->seen_count; i++) {
        unsigned j = 0;

        while (j < i && memcmp(s->seen[i], s->seen[j], 16) != 0)
            j++;
        distinct += j == i;
    }
    return distinct;
}

static void test_pipeline_survives_lost_connections(void **state)
{
    struct server *s = start_server(serve_with_hangups);
    struct convstore *c = open_client(s, 10000);
    struct convstore_conversation conversation = sample();
    struct tally tally = {0, 0, 0};
    char first[CONVSTORE_ID_SIZE];

    (void)state;
    assert_int_equal(convstore_submit(c, &conversation, CONVSTORE_DURABLE, on_ack, &tally, first),
                     0);
    for (unsigned i = 1; i < 500; i++)
        assert_int_equal(
            convstore_submit(c, &conversation, CONVSTORE_DURABLE, on_ack, &tally, NULL), 0);
    assert_int_equal(tally.acked, 0); /* submit only queues */
    convstore_wait(c);
    assert_int_equal(tally.acked, 500);
    assert_int_equal(tally.failed, 0);
    assert_int_equal(convstore_reconnects(c), 3);
    convstore_close(c);
    stop_server(s);
    assert_seen(s, 0, first);
    assert_int_equal(count_distinct(s), 500);
    assert_true(s->seen_count > 500); /* some did come twice, under their ids */
    free(s);
}

static void test_full_window_says_so(void **state)
{
    struct server *s = start_server(serve_one_client);
    struct convstore *c = open_client(s, 5000);
    struct convstore_conversation conversation = sample();
    struct tally tally = {0, 0, 0};
    unsigned taken = 0;

    (void)state;
    assert_int_equal(convstore_set_window(c, 4, 100000), 0);
    while (convstore_submit(c, &conversation, CONVSTORE_DURABLE, on_ack, &tally, NULL) == 0)
        taken++;
    assert_int_equal(taken, 4);
    assert_int_equal(convstore_submit(c, &conversation, CONVSTORE_DURABLE, on_ack, &tally, NULL),
                     CONVSTORE_WINDOW_FULL);
    assert_int_equal(convstore_set_window(c, 8, 100000), CONVSTORE_WINDOW_FULL);
    assert_true(convstore_process(c, 5000) > 0);
    convstore_wait(c);
    assert_int_equal(tally.acked, 4);
    assert_int_equal(convstore_set_window(c, 4, 200), 0);
    conversation.transcript = convstore_str(
        "a text that is longer than the whole window of two hundred bytes, and so can never leave: "
        "it must be refused at once and not wait for room that will not come, whatever happens.");
    assert_int_equal(convstore_submit(c, &conversation, CONVSTORE_DURABLE, on_ack, &tally, NULL),
                     CONVSTORE_TOO_LARGE);
    convstore_close(c);
    stop_server(s);
    free(s);
}

struct chain {
    struct convstore *c;
    unsigned left, acked;
    int nested_code;
};

static void on_chain_ack(void *context, const struct convstore_result *result)
{
    struct chain *chain = context;
    struct convstore_conversation conversation = sample();

    chain->acked += result->code == 0;
    chain->nested_code = convstore_ping(chain->c, NULL);
    if (chain->left-- > 0)
        assert_int_equal(
            convstore_submit(chain->c, &conversation, CONVSTORE_DURABLE, on_chain_ack, chain, NULL),
            0);
}

static void test_callback_may_submit_and_nothing_else(void **state)
{
    struct server *s = start_server(serve_one_client);
    struct chain chain = {.c = open_client(s, 5000), .left = 10};
    struct convstore_conversation conversation = sample();

    (void)state;
    assert_int_equal(convstore_set_window(chain.c, 1, 100000), 0);
    assert_int_equal(
        convstore_submit(chain.c, &conversation, CONVSTORE_DURABLE, on_chain_ack, &chain, NULL), 0);
    convstore_wait(chain.c);
    assert_int_equal(chain.acked, 11);
    assert_int_equal(chain.nested_code, CONVSTORE_INVALID_ARGUMENT);
    convstore_close(chain.c);
    stop_server(s);
    free(s);
}

static void test_close_cancels(void **state)
{
    struct server *s = server_prepare();
    struct convstore *c = open_client(s, 5000);
    struct convstore_conversation conversation = sample();
    struct tally tally = {0, 0, 0};

    (void)state;
    assert_int_equal(convstore_submit(c, &conversation, CONVSTORE_DURABLE, on_ack, &tally, NULL),
                     0);
    convstore_close(c);
    assert_int_equal(tally.failed, 1);
    assert_int_equal(tally.last_code, CONVSTORE_CANCELLED);
    stop_server(s);
    free(s);
}

/* A message larger than the socket's buffers is half sent when its time is over: the half cannot be
 * taken back, and the next one must still arrive whole. */
static void serve_after_a_long_pause(struct server *s)
{
    int fd = server_accept(s);

    sleep_ms(400);
    while (recv(fd, s->in, sizeof s->in, 0) > 0) {
    }
    close(fd);
    serve_one_client(s);
}

static void test_half_sent_message_ends_with_its_connection(void **state)
{
    struct server *s = start_server(serve_after_a_long_pause);
    struct convstore *c = open_client(s, 150);
    struct convstore_conversation conversation = sample();
    size_t len = 8 * 1024 * 1024;
    char *big = malloc(len);

    (void)state;
    assert_non_null(big);
    memset(big, 'x', len);
    conversation.transcript = (struct convstore_text){big, len};
    assert_int_equal(convstore_store(c, &conversation, CONVSTORE_DURABLE, NULL),
                     CONVSTORE_TIMED_OUT);
    convstore_set_timeout(c, 5000);
    store_sample(c, 0, NULL);
    convstore_close(c);
    stop_server(s);
    assert_int_equal(s->seen_count, 1);
    free(big);
    free(s);
}

/* ---- the other calls ---- */

static void pack_many_result(msgpack_packer *pk, const uint8_t (*ids)[16], uint32_t count,
                             uint32_t refused, enum wire_code code)
{
    struct wire_error err = {.code = code, .retry_after_ms = -1, .text = "this one"};

    msgpack_pack_map(pk, 2);
    pack_str(pk, "ids");
    msgpack_pack_array(pk, count);
    for (uint32_t i = 0; i < count; i++) {
        if (i == refused)
            msgpack_pack_nil(pk);
        else
            pack_id(pk, ids[i]);
    }
    pack_str(pk, "errors");
    msgpack_pack_array(pk, refused < count ? 1 : 0);
    if (refused < count) {
        msgpack_pack_array(pk, 2);
        msgpack_pack_uint32(pk, refused);
        pack_error(pk, &err);
    }
}

/* The first message has its third conversation refused; the second one fails to be made durable
 * once in one place, and is taken whole the next time. */
static void serve_store_many(struct server *s)
{
    static char copy[1 << 18];
    int fd = server_accept(s);
    struct message message;
    unsigned round = 0;

    while (server_read(s, fd, copy, &message)) {
        struct json_buffer json = {NULL, 0, 0};
        static uint8_t ids[STORE_MANY_MAX][16];
        msgpack_sbuffer out;
        msgpack_packer pk;
        struct value list;
        uint32_t refused = round == 0 ? 2 : round == 1 ? 0 : UINT32_MAX;

        if (reader_next(&message.params, &list) != 0)
            break;
        for (uint32_t i = 0; i < list.count && i < STORE_MANY_MAX; i++) {
            struct conversation_fields fields;
            struct wire_error err;

            if (conversation_decode(&message.params, "c", &json, &fields, &err) != 0)
                break;
            memcpy(ids[i], fields.id, 16);
            if (s->seen_count < MAX_SEEN)
                memcpy(s->seen[s->seen_count++], fields.id, 16);
        }
        json_buffer_done(&json);
        msgpack_sbuffer_init(&out);
        msgpack_packer_init(&pk, &out, msgpack_sbuffer_write);
        reply_begin(&pk, message.msgid);
        pack_many_result(&pk, (const uint8_t(*)[16])ids, list.count, refused,
                         round == 0 ? WIRE_INVALID_ARGUMENT : WIRE_STORAGE_FAILED);
        send_buffer(fd, &out);
        round++;
    }
    close(fd);
}

#define MANY 1100 /* more than one message may hold */

static void test_store_many(void **state)
{
    static struct convstore_conversation items[MANY];
    static struct convstore_result results[MANY];
    struct server *s = start_server(serve_store_many);
    struct convstore *c = open_client(s, 5000);

    (void)state;
    for (unsigned i = 0; i < MANY; i++)
        items[i] = sample();
    items[5].id = "no id at all";
    memset(results, 0xff, sizeof results);
    /* The server's buffer is small: messages of 1,000 samples must fit it. */
    assert_int_equal(convstore_store_many(c, items, MANY, CONVSTORE_DURABLE, results),
                     CONVSTORE_INVALID_ARGUMENT);
    assert_int_equal(results[2].code, CONVSTORE_INVALID_ARGUMENT);
    assert_string_equal(results[2].text, "this one");
    assert_int_equal(results[5].code, CONVSTORE_INVALID_ARGUMENT);
    assert_string_equal(results[5].id, "");
    for (unsigned i = 0; i < MANY; i++) {
        if (i != 2 && i != 5)
            assert_int_equal(results[i].code, 0);
    }
    convstore_close(c);
    stop_server(s);
    assert_int_equal(s->seen_count, 1000 + 99 + 99); /* the second message twice */
    assert_int_equal(count_distinct(s), MANY - 1);
    free(s);
}

/* Any method: a result with everything in it that MessagePack has. */
static void serve_calls(struct server *s)
{
    static char copy[1 << 18];
    static const char result[] = "\x8c"
                                 "\xa6server\xaa"
                                 "convstored"
                                 "\xa7version\xa5"
                                 "1.2.3"
                                 "\xa8protocol\x01"
                                 "\xaa"
                                 "durability\xa5"
                                 "fsync"
                                 "\xa6queued\xcd\x01\x00"
                                 "\xa6health\xa7"
                                 "healthy"
                                 "\x07\x94\xc0\xc2\xc3\xd0\x80"
                                 "\xa4text\xa8q\"\\\n\xc3\xa9\xff\x01"
                                 "\xa3"
                                 "bin\xc4\x04\x00\x01\x02\xff"
                                 "\xa4real\xcb\x3f\xb9\x99\x99\x99\x99\x99\x9a"
                                 "\xa3nan\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00"
                                 "\xa2"
                                 "at\xd6\xff\x00\x00\x00\x01";
    int fd = server_accept(s);
    struct message message;

    while (server_read(s, fd, copy, &message)) {
        msgpack_sbuffer out;
        msgpack_packer pk;

        if (slice_equals(message.method, "unknown")) {
            send_error(fd, message.msgid, WIRE_UNKNOWN_METHOD, -1);
            continue;
        }
        msgpack_sbuffer_init(&out);
        msgpack_packer_init(&pk, &out, msgpack_sbuffer_write);
        reply_begin(&pk, message.msgid);
        msgpack_sbuffer_write(&out, result, sizeof result - 1);
        send_buffer(fd, &out);
    }
    close(fd);
}

static void test_ping_stats_and_call(void **state)
{
    struct server *s = start_server(serve_calls);
    struct convstore *c = open_client(s, 5000);
    struct convstore_server server;
    struct convstore_stats stats;
    const char *json;

    (void)state;
    assert_int_equal(convstore_ping(c, &server), 0);
    assert_string_equal(server.server, "convstored");
    assert_string_equal(server.version, "1.2.3");
    assert_string_equal(server.durability, "fsync");
    assert_int_equal(server.protocol, 1);
    assert_int_equal(convstore_stats(c, &stats, &json), 0);
    assert_true(stats.queued == 256 && stats.completed == -1);
    assert_string_equal(stats.health, "healthy");
    assert_string_equal(
        json, "{\"server\":\"convstored\",\"version\":\"1.2.3\",\"protocol\":1,"
              "\"durability\":\"fsync\",\"queued\":256,\"health\":\"healthy\","
              "\"7\":[null,false,true,-128],\"text\":\"q\\\"\\\\\\n\xc3\xa9\\ufffd\\u0001\","
              "\"bin\":\"AAEC/w==\",\"real\":0.1,\"nan\":null,"
              "\"at\":\"1970-01-01T00:00:01.000000Z\"}");
    assert_int_equal(convstore_call(c, "unknown", NULL, 0, &json), CONVSTORE_UNKNOWN_METHOD);
    assert_int_equal(convstore_call(c, "ping", "\x91", 1, &json), CONVSTORE_INVALID_ARGUMENT);
    assert_int_equal(convstore_call(c, "ping", "\x90", 1, &json), 0);
    convstore_close(c);
    stop_server(s);
    free(s);
}

static void test_what_would_break_a_message_is_refused(void **state)
{
    struct server *s = server_prepare();
    struct convstore *c = open_client(s, 1000);
    struct convstore_conversation conversation = sample();
    static const struct convstore_text bad[] = {
        {"\x81\xa1k", 3}, {"\x80\x80", 2}, {"\x05", 1}, {"", 0}, {"\xc1", 1}};
    char path[200];

    (void)state;
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        conversation.metadata = bad[i];
        assert_int_equal(convstore_store(c, &conversation, CONVSTORE_DURABLE, NULL),
                         CONVSTORE_INVALID_ARGUMENT);
        assert_non_null(strstr(convstore_error_text(c), "metadata"));
    }
    convstore_close(c);
    memset(path, 'p', sizeof path);
    path[sizeof path - 1] = '\0';
    assert_int_equal(convstore_open(path, &c), CONVSTORE_INVALID_ARGUMENT);
    assert_string_equal(convstore_code_name(CONVSTORE_QUEUE_FULL), "QUEUE_FULL");
    assert_string_equal(convstore_code_name(77), "UNKNOWN");
    stop_server(s);
    free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_store_sends_every_field),
        cmocka_unit_test(test_error_reply_is_final_and_the_handle_goes_on),
        cmocka_unit_test(test_lost_connection_resends_the_same_id),
        cmocka_unit_test(test_busy_daemon_is_asked_again_after_its_wish),
        cmocka_unit_test(test_full_queue_ends_at_the_timeout_with_its_code),
        cmocka_unit_test(test_silent_daemon_times_out),
        cmocka_unit_test(test_late_answer_is_not_taken_for_the_next_one),
        cmocka_unit_test(test_garbage_costs_the_connection_only),
        cmocka_unit_test(test_answer_in_pieces),
        cmocka_unit_test(test_ack_for_another_id_is_no_ack),
        cmocka_unit_test(test_no_daemon),
        cmocka_unit_test(test_daemon_that_comes_later_is_found),
        cmocka_unit_test(test_pipeline_survives_lost_connections),
        cmocka_unit_test(test_full_window_says_so),
        cmocka_unit_test(test_callback_may_submit_and_nothing_else),
        cmocka_unit_test(test_close_cancels),
        cmocka_unit_test(test_half_sent_message_ends_with_its_connection),
        cmocka_unit_test(test_store_many),
        cmocka_unit_test(test_ping_stats_and_call),
        cmocka_unit_test(test_what_would_break_a_message_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
