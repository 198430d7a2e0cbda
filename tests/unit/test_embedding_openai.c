/* Goal of this test: replies of the /v1/embeddings kind are read whatever their order and encoding,
 * and no wrong one is believed; the request is what such servers take; the key comes from a file.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <sys/stat.h>

#include "daemon/embedding.h"
#include "daemon/embedding_endpoints.h"
#include "daemon/embedding_key.h"
#include "daemon/embedding_reply.h"
#include "tests/unit/http_stub.h"

#define DIMENSION 3
#define COUNT 3

static float values[COUNT][DIMENSION];
static struct embed_input inputs[COUNT];
static struct embed_input *const pointers[COUNT] = {&inputs[0], &inputs[1], &inputs[2]};

static int read_reply(const char *body)
{
    char error[256];

    for (int i = 0; i < COUNT; i++)
        inputs[i] = (struct embed_input){.values = values[i], .error = 77};
    return embedding_reply_openai((struct slice){body, strlen(body)}, pointers, COUNT, DIMENSION,
                                  error);
}

static void check_input(int i, float a, float b, float c)
{
    assert_int_equal(inputs[i].error, 0);
    assert_true(values[i][0] == a && values[i][1] == b && values[i][2] == c);
}

static void test_floats_by_index(void **state)
{
    (void)state;
    assert_int_equal(read_reply("{\"object\":\"list\",\"data\":["
                                "{\"object\":\"embedding\",\"index\":2,\"embedding\":[7,8,9.5]},"
                                "{\"embedding\":[1,2,3],\"index\":0,\"object\":\"embedding\"},"
                                "{\"index\":1,\"embedding\":[4,5,6]}],"
                                "\"model\":\"m\",\"usage\":{\"total_tokens\":8}}"),
                     0);
    check_input(0, 1, 2, 3);
    check_input(1, 4, 5, 6);
    check_input(2, 7, 8, 9.5f);
    /* llama.cpp: data comes last; a server without an index: the place is it */
    assert_int_equal(read_reply("{\"model\":\"m\",\"data\":[{\"embedding\":[1,2,3]},"
                                "{\"embedding\":[4,5,6]},{\"embedding\":[7,8,9]}]}"),
                     0);
    check_input(2, 7, 8, 9);
}

static void test_base64(void **state)
{
    (void)state;
    /* 1, 2, 3; -1, 0.5, 0; three times the number below 2, whose slashes are escaped in part */
    assert_int_equal(read_reply("{\"data\":[{\"index\":0,\"embedding\":\"AACAPwAAAEAAAEBA\"},"
                                "{\"index\":1,\"embedding\":\"AACAvwAAAD8AAAAA\"},"
                                "{\"index\":2,\"embedding\":\"////P////z\\/\\/\\/\\/8\\/\"}]}"),
                     0);
    check_input(0, 1, 2, 3);
    check_input(1, -1, 0.5f, 0);
    check_input(2, nextafterf(2, 0), nextafterf(2, 0), nextafterf(2, 0));
    assert_int_equal(read_reply("{\"data\":[{\"index\":0,\"embedding\":\"AACAPwAAAEAAAEBA\"},"
                                "{\"index\":1,\"embedding\":\"AACAPwAAAEA=\"},"
                                "{\"index\":2,\"embedding\":\"////////////////\"}]}"),
                     0);
    assert_int_equal(inputs[1].error, -EINVAL); /* too short */
    assert_int_equal(inputs[2].error, -EINVAL); /* not a number */
}

static void test_a_bad_vector_costs_its_own_input(void **state)
{
    (void)state;
    assert_int_equal(read_reply("{\"data\":[{\"index\":0,\"embedding\":[1,null,3]},"
                                "{\"index\":1,\"embedding\":null},"
                                "{\"index\":2,\"embedding\":[7,8,9]}]}"),
                     0);
    assert_int_equal(inputs[0].error, -EINVAL);
    assert_int_equal(inputs[1].error, -EINVAL);
    check_input(2, 7, 8, 9);
    assert_int_equal(read_reply("{\"data\":[{\"index\":0,\"embedding\":[1]},"
                                "{\"index\":1,\"embedding\":[1,2]},"
                                "{\"index\":2,\"embedding\":[1,2,3,4]}]}"),
                     -EDOM);
}

static void test_no_such_reply(void **state)
{
    static const char *const bodies[] = {
        "",
        "null",
        "{}",
        "[]",
        "{\"data\":[]}",
        "{\"data\":null}",
        "{\"data\":[{\"index\":0,\"embedding\":[1,2,3]}]}",
        /* twice the same, beyond the end, half, negative, none */
        "{\"data\":[{\"index\":0,\"embedding\":[1,2,3]},{\"index\":0,\"embedding\":[1,2,3]},"
        "{\"index\":1,\"embedding\":[1,2,3]}]}",
        "{\"data\":[{\"index\":0,\"embedding\":[1,2,3]},{\"index\":1,\"embedding\":[1,2,3]},"
        "{\"index\":3,\"embedding\":[1,2,3]}]}",
        "{\"data\":[{\"index\":0,\"embedding\":[1,2,3]},{\"index\":1.5,\"embedding\":[1,2,3]},"
        "{\"index\":2,\"embedding\":[1,2,3]}]}",
        "{\"data\":[{\"index\":0,\"embedding\":[1,2,3]},{\"index\":-1,\"embedding\":[1,2,3]},"
        "{\"index\":2,\"embedding\":[1,2,3]}]}",
        "{\"data\":[{\"index\":null,\"embedding\":[1,2,3]},{\"index\":1,\"embedding\":[1,2,3]},"
        "{\"index\":2,\"embedding\":[1,2,3]}]}",
        /* no vector, no base64, a cut body, something behind it */
        "{\"data\":[{\"index\":0},{\"index\":1,\"embedding\":[1,2,3]},"
        "{\"index\":2,\"embedding\":[1,2,3]}]}",
        "{\"data\":[{\"index\":0,\"embedding\":\"A*CA\"},{\"index\":1,\"embedding\":[1,2,3]},"
        "{\"index\":2,\"embedding\":[1,2,3]}]}",
        "{\"data\":[{\"index\":0,\"embedding\":\"AACA\"},{\"index\":1,\"embedding\":[1,2,3]},"
        "{\"index\":2,\"embedding\":[1,2,3]}]}",
        "{\"data\":[{\"index\":0,\"embedding\":[1,2,3]},{\"index\":1,\"embedding\":[1,2,3]},"
        "{\"index\":2,\"embedding\":[1,2,3]}]",
        "{\"data\":[{\"index\":0,\"embedding\":[1,2,3]},{\"index\":1,\"embedding\":[1,2,3]},"
        "{\"index\":2,\"embedding\":[1,2,3]}]}}",
    };

    (void)state;
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++)
        if (read_reply(bodies[i]) != -EBADMSG)
            fail_msg("%s", bodies[i]);
}

static void test_cut_and_changed_at_random(void **state)
{
    static const char whole[] = "{\"data\":[{\"index\":0,\"embedding\":\"AACAPwAAAEAAAEBA\"},"
                                "{\"embedding\":[4,5,6.25e-1],\"index\":1},"
                                "{\"index\":2,\"embedding\":[7,8,9]}],\"x\":{\"y\":[null]}}";

    (void)state;
    srand(11);
    for (int round = 0; round < 20000; round++) {
        size_t len = (size_t)rand() % sizeof whole;
        char *body = malloc(len + 1); /* exact, for ASan to see one byte too many */

        memcpy(body, whole, len);
        body[len] = '\0';
        for (int i = rand() % 4; i > 0 && len > 0; i--)
            body[(size_t)rand() % len] = whole[(size_t)rand() % (sizeof whole - 1)];
        if (read_reply(body) == 0)
            for (int i = 0; i < COUNT; i++)
                assert_true(inputs[i].error == 0 || inputs[i].error == -EINVAL);
        free(body);
    }
}

/* The request, and the key */

struct scene {
    char path[64];
    char authorization[128];
    char encoding[32];
    int dimensions;
};

static bool on_request(struct http_stub *stub, int fd, const char *head, const char *body)
{
    struct scene *scene = stub->context;
    const char *authorization = strcasestr(head, "\r\nauthorization: ");
    json_t *root = json_loads(body, 0, NULL);
    const char *encoding = json_string_value(json_object_get(root, "encoding_format"));

    sscanf(head, "POST %63s", scene->path);
    scene->authorization[0] = '\0';
    if (authorization != NULL)
        sscanf(authorization + 17, "%127[^\r]", scene->authorization);
    snprintf(scene->encoding, sizeof scene->encoding, "%s", encoding != NULL ? encoding : "");
    scene->dimensions = (int)json_integer_value(json_object_get(root, "dimensions"));
    json_decref(root);
    stub_reply(fd, 200, "", "{\"data\":[{\"index\":0,\"embedding\":[1,2,3]}]}");
    return true;
}

static void ask(const struct config *config, struct embed_request *request)
{
    struct embedder *embedder = embedder_new(config, config->embedding.url);

    inputs[0] = (struct embed_input){.text = {"hello", 5}, .values = values[0]};
    *request =
        (struct embed_request){.inputs = inputs, .count = 1, .prefix = "", .dimension = DIMENSION};
    embedder_run(embedder, request);
    embedder_free(embedder);
}

static void write_key(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");

    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void test_request_and_key(void **state)
{
    char provider[] = "openai", model[] = "m", none[] = "", plain[] = "default",
         base64[] = "base64";
    char directory[] = "/tmp/convstore-key-XXXXXX", path[64], url[200];
    struct config config = {.embedding = {.provider = provider,
                                          .model = model,
                                          .api_key_file = none,
                                          .encoding_format = plain,
                                          .timeout_ms = 5000}};
    struct scene scene = {.path = ""};
    struct http_stub stub = {.answer = on_request, .context = &scene};
    struct embed_request request;

    (void)state;
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/key", directory);
    stub_start(&stub, NULL);
    config.embedding.url = stub.url;
    ask(&config, &request);
    assert_int_equal(request.outcome, EMBED_DONE);
    assert_string_equal(scene.path, "/v1/embeddings");
    assert_string_equal(scene.authorization, "");
    assert_string_equal(scene.encoding, "");
    assert_int_equal(scene.dimensions, 0);

    snprintf(url, sizeof url, "%s/v1/", stub.url);
    config.embedding.url = url;
    config.embedding.encoding_format = base64;
    config.embedding.dimensions = DIMENSION;
    config.embedding.api_key_file = path;
    ask(&config, &request); /* no such file yet */
    assert_int_equal(request.outcome, EMBED_CONFIG);
    assert_non_null(strstr(request.error, path));
    write_key(path, "sk-secret key\n");
    ask(&config, &request);
    assert_int_equal(request.outcome, EMBED_CONFIG);
    assert_null(strstr(request.error, "secret"));
    write_key(path, "sk-secret\nsecond line\n");
    ask(&config, &request);
    assert_int_equal(request.outcome, EMBED_DONE);
    assert_string_equal(scene.path, "/v1/embeddings");
    assert_string_equal(scene.authorization, "Bearer sk-secret");
    assert_string_equal(scene.encoding, "base64");
    assert_int_equal(scene.dimensions, DIMENSION);

    config.embedding.api_key_file = none;
    setenv("CREDENTIALS_DIRECTORY", directory, 1);
    ask(&config, &request);
    assert_string_equal(scene.authorization, "");
    unlink(path);
    snprintf(path, sizeof path, "%s/embedding_api_key", directory);
    write_key(path, "sk-from-systemd");
    ask(&config, &request);
    assert_string_equal(scene.authorization, "Bearer sk-from-systemd");
    unsetenv("CREDENTIALS_DIRECTORY");
    unlink(path);
    rmdir(directory);
    stub_stop(&stub);
}

static void test_urls(void **state)
{
    struct endpoints e;
    char shown[128];

    (void)state;
    assert_int_equal(endpoints_init(&e, " http://a , ,http://b,"), 0);
    assert_int_equal(e.count, 2);
    assert_string_equal(e.urls[0], "http://a");
    assert_string_equal(e.urls[1], "http://b");
    endpoints_done(&e);
    assert_int_equal(endpoints_init(&e, ""), 0);
    assert_int_equal(e.count, 1);
    endpoints_done(&e);
    assert_int_equal(endpoints_init(&e, "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17"), -E2BIG);
    endpoints_done(&e);
    endpoint_shown_url("https://ann:secret@host:1/v1?key=secret", shown);
    assert_string_equal(shown, "https://host:1/v1");
    endpoint_shown_url("https://a@b:p@host/x@y", shown);
    assert_string_equal(shown, "https://host/x@y");
    endpoint_shown_url("unix:///run/o.sock", shown);
    assert_string_equal(shown, "unix:///run/o.sock");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_floats_by_index),
        cmocka_unit_test(test_base64),
        cmocka_unit_test(test_a_bad_vector_costs_its_own_input),
        cmocka_unit_test(test_no_such_reply),
        cmocka_unit_test(test_cut_and_changed_at_random),
        cmocka_unit_test(test_request_and_key),
        cmocka_unit_test(test_urls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
