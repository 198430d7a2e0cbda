/* Goal of this test: whatever an Ollama server does, each input ends with a right vector or with an
 * error of its own, the class of the failure is right, and nothing waits longer than told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>

#include "daemon/embedding.h"
#include "tests/unit/http_stub.h"

#define DIMENSION 3

enum fault {
    NONE,
    REFUSE_BAD,   /* 400 while an input says "bad" */
    TOO_LONG,     /* 400 while an input says "long" */
    FAIL_ON_BAD,  /* 500 while an input says "bad" */
    CRASH_ON_BAD, /* as REFUSE_BAD, but the second half of the requests finds the server gone */
    STATUS,       /* the status and header of the scene, always */
    HANG,
    DRIP,
    CUT_BODY,
    HUGE_BODY,
    WRONG_COUNT,
    WRONG_DIMENSION,
    ONE_NULL,
    CLOSE_EACH, /* closes after each answer without having said so */
};

/* What the stub does, and what it saw. */
struct scene {
    enum fault fault;
    int status;
    const char *header;
    const char *body;
    char last_body[4096];
    char last_head[1024];
    size_t inputs_seen;
};

struct fixture {
    struct scene scene;
    struct http_stub stub;
    struct config config;
    struct embedder *embedder;
    struct embed_request request;
    struct embed_input inputs[16];
    float values[16][DIMENSION];
    struct timespec started;
};

static bool any_input_says(json_t *inputs, const char *word)
{
    size_t i;
    json_t *input;

    json_array_foreach(inputs, i, input)
    {
        if (strstr(json_string_value(input), word) != NULL)
            return true;
    }
    return false;
}

/* The vector of an input is its length, its first letter and 1. */
static void answer_vectors(int fd, json_t *inputs, enum fault fault)
{
    json_t *reply = json_object(), *vectors = json_array();
    size_t i;
    json_t *input;
    char *text;

    json_array_foreach(inputs, i, input)
    {
        const char *says = json_string_value(input);
        json_t *vector =
            json_pack("[f,i,i]", (double)strlen(says) / 8, (int)(unsigned char)says[0], 1);

        if (fault == WRONG_DIMENSION)
            json_array_append_new(vector, json_real(0.5));
        if (fault == ONE_NULL && i == 1)
            json_array_set_new(vector, 0, json_null());
        json_array_append_new(vectors, vector);
    }
    if (fault == WRONG_COUNT)
        json_array_remove(vectors, 0);
    json_object_set_new(reply, "embeddings", vectors);
    text = json_dumps(reply, JSON_COMPACT);
    stub_reply(fd, 200, "", text);
    free(text);
    json_decref(reply);
}

/* Whether the other side has closed within this time. */
static bool is_gone(int fd, int ms)
{
    struct pollfd poller = {.fd = fd, .events = POLLIN};
    char byte;

    return poll(&poller, 1, ms) > 0 && recv(fd, &byte, 1, MSG_PEEK) <= 0;
}

static bool answer_badly(const struct scene *scene, int fd)
{
    static char filler[65536];

    switch (scene->fault) {
    case STATUS:
        stub_reply(fd, scene->status, scene->header, scene->body);
        return true;
    case CUT_BODY:
        stub_write(fd, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{\"embed", 48);
        return false;
    case HUGE_BODY:
        stub_write(fd, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", 38);
        for (int i = 0; i < 16384; i++) /* 1 GiB, were it read */
            stub_write(fd, filler, sizeof filler);
        return false;
    case DRIP:
        stub_write(fd, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", 41);
        for (int i = 0; i < 500 && !is_gone(fd, 20); i++)
            stub_write(fd, " ", 1);
        return false;
    default: /* HANG */
        is_gone(fd, 10000);
        return false;
    }
}

static bool on_request(struct http_stub *stub, int fd, const char *head, const char *body)
{
    struct scene *scene = stub->context;
    json_t *root = json_loads(body, 0, NULL);
    json_t *inputs = json_object_get(root, "input");
    bool more = true;

    assert(json_is_array(inputs));
    snprintf(scene->last_body, sizeof scene->last_body, "%s", body);
    snprintf(scene->last_head, sizeof scene->last_head, "%s", head);
    scene->inputs_seen += json_array_size(inputs);
    switch (scene->fault) {
    case FAIL_ON_BAD:
        if (any_input_says(inputs, "bad"))
            stub_reply(fd, 500, "", "{\"error\":\"boom\"}");
        else
            answer_vectors(fd, inputs, NONE);
        break;
    case TOO_LONG:
    case REFUSE_BAD:
    case CRASH_ON_BAD:
        if (scene->fault == CRASH_ON_BAD && stub->requests > 3)
            stub_reply(fd, 503, "", "");
        else if (any_input_says(inputs, scene->fault == TOO_LONG ? "long" : "bad"))
            stub_reply(fd, 400, "",
                       scene->fault == TOO_LONG
                           ? "{\"error\":\"the input length exceeds the context length\"}"
                           : "{\"error\":\"embedding contains NaN or Inf values\"}");
        else
            answer_vectors(fd, inputs, NONE);
        break;
    case NONE:
    case WRONG_COUNT:
    case WRONG_DIMENSION:
    case ONE_NULL:
    case CLOSE_EACH:
        answer_vectors(fd, inputs, scene->fault);
        more = scene->fault != CLOSE_EACH;
        break;
    default:
        more = answer_badly(scene, fd);
    }
    json_decref(root);
    return more;
}

static void start_at(struct fixture *f, enum fault fault, const char *path)
{
    static char provider[] = "ollama";
    static char model[] = "the \"model\"";
    static char empty[] = "", encoding[] = "default";

    memset(f, 0, sizeof *f);
    f->scene.fault = fault;
    f->stub.answer = on_request;
    f->stub.context = &f->scene;
    stub_start(&f->stub, path);
    f->config.embedding.provider = provider;
    f->config.embedding.model = model;
    f->config.embedding.url = f->stub.url;
    f->config.embedding.api_key_file = empty;
    f->config.embedding.encoding_format = encoding;
    f->config.embedding.timeout_ms = 5000;
    f->embedder = embedder_new(&f->config, f->config.embedding.url);
    assert_non_null(f->embedder);
    f->request.inputs = f->inputs;
    f->request.prefix = "p: ";
    f->request.dimension = DIMENSION;
}

static void start(struct fixture *f, enum fault fault)
{
    start_at(f, fault, NULL);
}

static void stop(struct fixture *f)
{
    embedder_free(f->embedder);
    stub_stop(&f->stub);
}

static void ask(struct fixture *f, const char *const texts[])
{
    f->request.count = 0;
    for (; texts[f->request.count] != NULL; f->request.count++) {
        size_t i = f->request.count;

        f->inputs[i] = (struct embed_input){{texts[i], strlen(texts[i])}, f->values[i], 99};
    }
    clock_gettime(CLOCK_MONOTONIC, &f->started);
    embedder_run(f->embedder, &f->request);
}

static double elapsed_ms(const struct fixture *f)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - f->started.tv_sec) * 1e3 +
           (double)(now.tv_nsec - f->started.tv_nsec) / 1e6;
}

/* The input has the vector that answer_vectors() makes of "p: " and its text. */
static void assert_right(const struct fixture *f, size_t i)
{
    assert_int_equal(f->inputs[i].error, 0);
    assert_true(f->values[i][0] == (float)(f->inputs[i].text.len + 3) / 8);
    assert_true(f->values[i][1] == 'p' && f->values[i][2] == 1);
}

static void test_one_request_for_all(void **state)
{
    static const char *const texts[] = {"one", "quote \" back \\ line\n tab\t \x01 end",
                                        "Grüße 你好", NULL};
    struct fixture f;
    json_t *body;

    (void)state;
    start(&f, NONE);
    ask(&f, texts);
    assert_int_equal(f.request.outcome, EMBED_DONE);
    for (size_t i = 0; i < 3; i++)
        assert_right(&f, i);
    ask(&f, texts);
    assert_int_equal(f.request.outcome, EMBED_DONE);
    stop(&f);
    assert_int_equal(f.stub.requests, 2);
    assert_int_equal(f.stub.connections, 1); /* kept */
    assert_non_null(strstr(f.scene.last_head, "POST /api/embed HTTP/1.1"));
    assert_null(strcasestr(f.scene.last_head, "Expect:"));
    body = json_loads(f.scene.last_body, 0, NULL);
    assert_string_equal(json_string_value(json_object_get(body, "model")), "the \"model\"");
    assert_true(json_is_false(json_object_get(body, "truncate")));
    assert_non_null(json_object_get(body, "keep_alive"));
    assert_null(json_object_get(body, "dimensions"));
    assert_string_equal(json_string_value(json_array_get(json_object_get(body, "input"), 1)),
                        "p: quote \" back \\ line\n tab\t \x01 end");
    json_decref(body);
}

static void test_configured_dimensions_are_sent(void **state)
{
    static const char *const texts[] = {"one", NULL};
    struct fixture f;

    (void)state;
    start(&f, NONE);
    f.config.embedding.dimensions = DIMENSION;
    ask(&f, texts);
    stop(&f);
    assert_int_equal(f.request.outcome, EMBED_DONE);
    assert_non_null(strstr(f.scene.last_body, "\"dimensions\":3"));
}

static void test_unix_socket(void **state)
{
    static const char *const texts[] = {"one", NULL};
    char directory[] = "/tmp/convstore-test-XXXXXX";
    char path[64];
    struct fixture f;

    (void)state;
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/socket", directory);
    start_at(&f, NONE, path);
    ask(&f, texts);
    assert_int_equal(f.request.outcome, EMBED_DONE);
    assert_right(&f, 0);
    stop(&f);
    unlink(path);
    rmdir(directory);
}

static void test_blank_inputs_are_never_sent(void **state)
{
    static const char *const texts[] = {" \n", "one", "", NULL};
    static const char *const blank[] = {" ", NULL};
    struct fixture f;

    (void)state;
    start(&f, NONE);
    ask(&f, texts);
    assert_int_equal(f.request.outcome, EMBED_DONE);
    assert_int_equal(f.inputs[0].error, -EINVAL);
    assert_right(&f, 1);
    assert_int_equal(f.inputs[2].error, -EINVAL);
    ask(&f, blank);
    assert_int_equal(f.request.outcome, EMBED_DONE);
    assert_int_equal(f.inputs[0].error, -EINVAL);
    stop(&f);
    assert_int_equal(f.scene.inputs_seen, 1);
}

static void check_halving(enum fault fault, int error)
{
    static const char *const texts[] = {"a", "b", "bad long", "d", "e", "f", "g", "bad long", NULL};
    struct fixture f;

    start(&f, fault);
    ask(&f, texts);
    assert_int_equal(f.request.outcome, EMBED_DONE);
    for (size_t i = 0; i < 8; i++)
        if (i == 2 || i == 7)
            assert_int_equal(f.inputs[i].error, error);
        else
            assert_right(&f, i);
    stop(&f);
    assert_true(f.stub.requests <= 2 * 8);
}

static void test_a_bad_input_costs_its_own_vector(void **state)
{
    (void)state;
    check_halving(REFUSE_BAD, -EINVAL);
    check_halving(TOO_LONG, -E2BIG);
}

static void test_failure_while_halving_keeps_what_was_answered(void **state)
{
    static const char *const texts[] = {"a", "b", "bad", "d", "e", "f", "g", "h", NULL};
    struct fixture f;

    (void)state;
    start(&f, CRASH_ON_BAD); /* 8 refused, 4 refused, 2 answered, then gone */
    ask(&f, texts);
    assert_int_equal(f.request.outcome, EMBED_DONE);
    assert_right(&f, 0);
    assert_right(&f, 1);
    for (size_t i = 2; i < 8; i++)
        assert_int_equal(f.inputs[i].error, -EAGAIN);
    stop(&f);
}

/* Goal of this test: a status of 500 may be an input's fault, once it comes again; one is found by
 * halving, and blamed only beside others that are answered. Where all fail, that is soon seen. */
static void test_a_failure_that_comes_again(void **state)
{
    static const char *const first[] = {"bad", "b", "c", "d", "e", "f", "g", "h", NULL};
    static const char *const last[] = {"a", "b", "c", "d", "e", "f", "g", "bad", NULL};
    static const char *const alone[] = {"bad", NULL};
    static const char *const all[] = {"bad", "bad", "bad", "bad", "bad", "bad", "bad", "bad", NULL};
    static const char *const half[] = {"a", "b", "c", "d", "bad", "bad", "bad", "bad", NULL};
    const char *const *const cases[] = {first, last, alone, all, half};
    static const struct {
        enum embed_outcome outcome;
        int bad, requests;
    } expected[] = {{EMBED_DONE, -EINVAL, 7},
                    {EMBED_DONE, -EINVAL, 7},
                    {EMBED_TRANSIENT, -EAGAIN, 1},
                    {EMBED_TRANSIENT, -EAGAIN, 5},
                    {EMBED_DONE, -EAGAIN, 6}};
    struct fixture f;

    (void)state;
    for (size_t n = 0; n < sizeof cases / sizeof *cases; n++) {
        start(&f, FAIL_ON_BAD);
        ask(&f, cases[n]);
        assert_int_equal(f.request.outcome, EMBED_TRANSIENT);
        assert_true(f.request.crashed);
        f.request.suspect = true;
        ask(&f, cases[n]);
        assert_int_equal(f.request.outcome, expected[n].outcome);
        for (size_t i = 0; i < f.request.count; i++)
            if (strcmp(cases[n][i], "bad") != 0)
                assert_right(&f, i);
            else
                assert_int_equal(f.inputs[i].error, expected[n].bad);
        stop(&f);
        assert_int_equal(f.stub.requests - 1, expected[n].requests);
    }
}

static void check_status(int status, const char *header, const char *body,
                         enum embed_outcome outcome, int at_least_ms, int at_most_ms)
{
    static const char *const texts[] = {"one", "two", NULL};
    struct fixture f;
    char number[16];

    start(&f, STATUS);
    f.scene.status = status;
    f.scene.header = header;
    f.scene.body = body;
    ask(&f, texts);
    assert_int_equal(f.request.outcome, outcome);
    assert_in_range(f.request.retry_after_ms + 1, at_least_ms + 1, at_most_ms + 1);
    snprintf(number, sizeof number, "%d", status);
    assert_non_null(strstr(f.request.error, number));
    stop(&f);
    assert_int_equal(f.stub.requests, 1);
}

static void test_statuses(void **state)
{
    char date[64], header[96];
    time_t soon = time(NULL) + 60;
    struct tm tm;

    (void)state;
    check_status(503, "", "{\"error\":\"server busy\"}", EMBED_TRANSIENT, -1, -1);
    check_status(500, "", "", EMBED_TRANSIENT, -1, -1);
    check_status(400, "", "{\"error\":\"do embedding request: EOF\"}", EMBED_TRANSIENT, -1, -1);
    check_status(404, "", "{\"error\":\"model not found\"}", EMBED_CONFIG, -1, -1);
    check_status(401, "", "", EMBED_CONFIG, -1, -1);
    check_status(429, "Retry-After: 7\r\n", "", EMBED_LIMITED, 7000, 7000);
    check_status(429, "retry-after:2.5\r\n", "", EMBED_LIMITED, 2500, 2500);
    check_status(429, "Retry-After: 7\r\nRetry-After-Ms: 1500\r\n", "", EMBED_LIMITED, 1500, 1500);
    check_status(429, "Retry-After-Ms: 1500\r\nRetry-After: 7\r\n", "", EMBED_LIMITED, 1500, 1500);
    check_status(429, "Retry-After-Ms: 0\r\n", "", EMBED_LIMITED, 0, 0);
    check_status(429, "Retry-After-Ms: -1\r\n", "", EMBED_LIMITED, 0, 0);
    check_status(429, "Retry-After-Ms: soon\r\n", "", EMBED_LIMITED, -1, -1);
    check_status(429, "Retry-After-Ms: 1e12\r\n", "", EMBED_LIMITED, 3600000, 3600000);
    check_status(429, "Retry-After: -5\r\n", "", EMBED_LIMITED, 0, 0);
    check_status(429, "Retry-After: 99999999999\r\n", "", EMBED_LIMITED, 3600000, 3600000);
    check_status(429, "Retry-After: soon\r\n", "", EMBED_LIMITED, -1, -1);
    gmtime_r(&soon, &tm);
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", &tm);
    snprintf(header, sizeof header, "Retry-After: %s\r\n", date);
    check_status(429, header, "", EMBED_LIMITED, 55000, 60000);
    check_status(429, "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n", "", EMBED_LIMITED, 0, 0);
}

static void check_transient(enum fault fault, uint64_t timeout_ms, double at_most_ms)
{
    static const char *const texts[] = {"one", "two", NULL};
    struct fixture f;

    start(&f, fault);
    f.config.embedding.timeout_ms = timeout_ms;
    ask(&f, texts);
    assert_true(elapsed_ms(&f) < at_most_ms);
    assert_int_equal(f.request.outcome, EMBED_TRANSIENT);
    assert_true(f.request.error[0] != '\0');
    assert_int_equal(f.inputs[0].error, -EAGAIN);
    f.scene.fault = NONE; /* the next one is served, on a fresh connection where it must */
    f.config.embedding.timeout_ms = 5000;
    ask(&f, texts);
    assert_int_equal(f.request.outcome, EMBED_DONE);
    assert_right(&f, 1);
    stop(&f);
}

static void test_trouble_on_the_way(void **state)
{
    (void)state;
    check_transient(HANG, 100, 2000);
    check_transient(DRIP, 100, 2000);
    check_transient(CUT_BODY, 3000, 2000);
    check_transient(HUGE_BODY, 3000, 2000);
    check_transient(WRONG_COUNT, 3000, 2000);
}

static void test_nobody_listens(void **state)
{
    static const char *const texts[] = {"one", NULL};
    char url[] = "gopher://example.invalid";
    struct fixture f;

    (void)state;
    start(&f, NONE);
    stop(&f);
    f.embedder = embedder_new(&f.config, f.config.embedding.url);
    ask(&f, texts);
    assert_int_equal(f.request.outcome, EMBED_TRANSIENT);
    assert_true(elapsed_ms(&f) < 2000);
    embedder_free(f.embedder);

    f.config.embedding.url = url;
    f.embedder = embedder_new(&f.config, f.config.embedding.url);
    ask(&f, texts);
    assert_int_equal(f.request.outcome, EMBED_CONFIG);
    embedder_free(f.embedder);
}

static void test_wrong_vectors(void **state)
{
    static const char *const texts[] = {"one", "two", "three", NULL};
    struct fixture f;

    (void)state;
    start(&f, WRONG_DIMENSION);
    ask(&f, texts);
    assert_int_equal(f.request.outcome, EMBED_CONFIG);
    assert_non_null(strstr(f.request.error, "embedding.dimensions"));
    stop(&f);

    start(&f, ONE_NULL);
    ask(&f, texts);
    assert_int_equal(f.request.outcome, EMBED_DONE);
    assert_right(&f, 0);
    assert_int_equal(f.inputs[1].error, -EINVAL);
    assert_right(&f, 2);
    stop(&f);
}

static void test_a_closed_kept_connection_is_no_failure(void **state)
{
    static const char *const texts[] = {"one", NULL};
    struct fixture f;

    (void)state;
    start(&f, CLOSE_EACH);
    for (int i = 0; i < 5; i++) {
        ask(&f, texts);
        assert_int_equal(f.request.outcome, EMBED_DONE);
        assert_right(&f, 0);
    }
    stop(&f);
    assert_int_equal(f.stub.requests, 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_request_for_all),
        cmocka_unit_test(test_configured_dimensions_are_sent),
        cmocka_unit_test(test_unix_socket),
        cmocka_unit_test(test_blank_inputs_are_never_sent),
        cmocka_unit_test(test_a_bad_input_costs_its_own_vector),
        cmocka_unit_test(test_failure_while_halving_keeps_what_was_answered),
        cmocka_unit_test(test_a_failure_that_comes_again),
        cmocka_unit_test(test_statuses),
        cmocka_unit_test(test_trouble_on_the_way),
        cmocka_unit_test(test_nobody_listens),
        cmocka_unit_test(test_wrong_vectors),
        cmocka_unit_test(test_a_closed_kept_connection_is_no_failure),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
