/* The configuration: every source, their order, and one clear line for each mistake. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/config.h"
#include "daemon/config_keys.h"

static char file[] = "/tmp/convstore-config-XXXXXX";

static int load(const char *content, const char *const *set, struct config **ret, char *error)
{
    struct config_source source = {.file = content != NULL ? file : NULL, .set = set};

    if (content != NULL) {
        FILE *out = fopen(file, "we");

        assert_non_null(out);
        fputs(content, out);
        fclose(out);
    }
    return config_load(&source, ret, error);
}

static void expect_error(const char *content, const char *const *set, const char *what)
{
    struct config *config = NULL;
    char error[512] = "";

    assert_int_equal(load(content, set, &config, error), -1);
    assert_null(config);
    if (strstr(error, what) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", error, what);
}

static void test_defaults(void **state)
{
    struct config *config;
    char error[512];

    (void)state;
    assert_int_equal(load(NULL, NULL, &config, error), 0);
    assert_string_equal(config->listen.socket, "/run/convstore/convstore.sock");
    assert_int_equal(config->listen.max_message_bytes, 4 << 20);
    assert_int_equal(config->listen.socket_mode, 0660);
    assert_true(config->database.auto_migrate);
    config_free(config);
}

static void test_file(void **state)
{
    struct config *config;
    char error[512];

    (void)state;
    assert_int_equal(load("# a comment\n[listen]\nmax_message_bytes = 2 MiB\n"
                          "[database]\nconninfo = host=a,b\n  port=1,2\nauto_migrate = no\n",
                          NULL, &config, error),
                     0);
    assert_int_equal(config->listen.max_message_bytes, 2 << 20);
    assert_string_equal(config->database.conninfo, "host=a,b port=1,2");
    assert_false(config->database.auto_migrate);
    config_free(config);
}

static void test_precedence(void **state)
{
    static const char *const set[] = {"batch.batch_size=3", NULL};
    struct config *config;
    char error[512];

    (void)state;
    setenv("CONVSTORE_BATCH_BATCH_SIZE", "2", 1);
    setenv("CONVSTORE_BATCH_MAX_ATTEMPTS", "5", 1);
    assert_int_equal(
        load("[batch]\nbatch_size=1\nmax_attempts=4\nbatch_timeout_ms=9\n", set, &config, error),
        0);
    unsetenv("CONVSTORE_BATCH_BATCH_SIZE");
    unsetenv("CONVSTORE_BATCH_MAX_ATTEMPTS");
    assert_int_equal(config->batch.batch_size, 3);       /* command line over environment */
    assert_int_equal(config->batch.max_attempts, 5);     /* environment over file */
    assert_int_equal(config->batch.batch_timeout_ms, 9); /* file over default */
    config_free(config);
}

static void test_database_environment(void **state)
{
    struct config *config;
    char error[512];

    (void)state;
    setenv("DB_HOST", "db", 1);
    setenv("DB_PASSWORD", "it's \\ secret", 1);
    assert_int_equal(load("[database]\nconninfo = host=x dbname=chat\n", NULL, &config, error), 0);
    assert_string_equal(config->database.conninfo,
                        "host=x dbname=chat host='db' password='it\\'s \\\\ secret'");
    config_free(config);
    expect_error("[database]\nconninfo = postgres://x/chat\n", NULL, "DB_HOST");
    unsetenv("DB_HOST");
    unsetenv("DB_PASSWORD");
}

static void test_mistakes(void **state)
{
    static const char *const no_value[] = {"batch.batch_size", NULL};
    static const char *const bad_value[] = {"batch.batch_size=many", NULL};
    char where[128], line[400] = "[database]\nconninfo = ";

    (void)state;
    snprintf(where, sizeof where, "%s:3: unknown key listen.sokket", file);
    expect_error("[listen]\nsocket=/a\nsokket=/b\n", NULL, where);
    snprintf(where, sizeof where, "%s:1: unknown section [listn]", file);
    expect_error("[listn]\nsocket=/a\n", NULL, "unknown section [listn]");
    snprintf(where, sizeof where, "%s:2: batch.batch_size = 0: must be 1 to 10000", file);
    expect_error("[batch]\nbatch_size = 0\n", NULL, where);
    expect_error("[batch]\nbatch_size = 12x\n", NULL,
                 ":2: batch.batch_size = 12x: must be a whole");
    expect_error("[batch]\nbatch_size = -1\n", NULL, "must be a whole number");
    expect_error("[batch]\nbatch_size = 99999999999999999999\n", NULL, "must be 1 to 10000");
    expect_error("[listen]\nmax_message_bytes = 4 mb\n", NULL, "a size such as 4MiB");
    expect_error("[listen]\nsocket_mode = 0999\n", NULL, "octal");
    expect_error("[embedding]\nprovider = magic\n", NULL, "must be one of: builtin ollama");
    expect_error("[database]\nauto_migrate = maybe\n", NULL, "must be true or false");
    expect_error("[batch]\nnonsense\n", NULL, ":2: neither [section] nor key = value");
    expect_error(NULL, no_value, "--set batch.batch_size: must be section.key=value");
    expect_error(NULL, bad_value, "--set: batch.batch_size = many");
    memset(line + strlen(line), 'x', 300);
    expect_error(line, NULL, ":2: the line is longer than"); /* the last one, without an end */
    strcat(line, "\n[batch]\n");
    expect_error(line, NULL, ":2: the line is longer than");
    expect_error("[listen]\nsocket=/a\ncontrol_socket=/a\n", NULL, "are the same path");
    expect_error("[queue]\nmax_queue_bytes=1MiB\n", NULL, "could never be taken");
    unlink(file);
    expect_error(NULL, (const char *const[]){"queue.max_queue_bytes=1MiB", NULL}, "larger than");
}

static void test_missing_file(void **state)
{
    struct config_source source = {.file = "/nonexistent/convstored.conf"};
    struct config *config = NULL;
    char error[512];

    (void)state;
    assert_int_equal(config_load(&source, &config, error), -1);
    assert_string_equal(error, "/nonexistent/convstored.conf: No such file or directory");
}

/* The shipped sample names every key, with its default. */
static void test_sample_is_complete(void **state)
{
    struct config_source source = {.file = "config/convstored.conf"};
    struct config *sample, *defaults;
    char error[512] = "", *text[2] = {NULL, NULL};
    size_t size[2];
    FILE *out;

    (void)state;
    if (config_load(&source, &sample, error) != 0)
        fail_msg("%s", error);
    assert_int_equal(load(NULL, NULL, &defaults, error), 0);
    for (int i = 0; i < 2; i++) {
        out = open_memstream(&text[i], &size[i]);
        config_print(i == 0 ? sample : defaults, out);
        fclose(out);
    }
    assert_string_equal(text[0], text[1]);
    out = fopen("config/convstored.conf", "re");
    assert_non_null(out);
    free(text[0]);
    text[0] = calloc(1, 65536);
    assert_true(fread(text[0], 1, 65535, out) > 0);
    fclose(out);
    for (size_t i = 0; i < config_key_count; i++) {
        char line[128];

        snprintf(line, sizeof line, "\n%s =", config_keys[i].name);
        if (strstr(text[0], line) == NULL)
            fail_msg("config/convstored.conf lacks %s.%s", config_keys[i].section,
                     config_keys[i].name);
    }
    free(text[0]);
    free(text[1]);
    config_free(sample);
    config_free(defaults);
}

static void test_print_hides_passwords(void **state)
{
    static const char *const set[] = {"database.conninfo=host=a password=secret", NULL};
    struct config *config;
    char error[512], *text = NULL;
    size_t size;
    FILE *out;

    (void)state;
    assert_int_equal(load(NULL, set, &config, error), 0);
    out = open_memstream(&text, &size);
    config_print(config, out);
    fclose(out);
    assert_null(strstr(text, "secret"));
    free(text);
    config_free(config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),           cmocka_unit_test(test_file),
        cmocka_unit_test(test_precedence),         cmocka_unit_test(test_database_environment),
        cmocka_unit_test(test_mistakes),           cmocka_unit_test(test_missing_file),
        cmocka_unit_test(test_sample_is_complete), cmocka_unit_test(test_print_hides_passwords),
    };
    int failed, fd = mkstemp(file);

    if (fd < 0)
        return 1;
    close(fd);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(file);
    return failed;
}
