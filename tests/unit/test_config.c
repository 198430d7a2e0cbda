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
    config_release(config);
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
    config_release(config);
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
    config_release(config);
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
    config_release(config);
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

/* Goal of this test: a name that is close to a known one is answered with it, wherever it stands;
 * one that is close to none is not guessed at. */
static void test_nearest_names(void **state)
{
    static const char *const set[] = {"batch.bach_size=1", NULL};

    (void)state;
    expect_error("[listen]\nmax_conections=1\n", NULL, "did you mean listen.max_connections?");
    expect_error("[batch]\nmax_queue_size=1\n", NULL, "did you mean queue.max_queue_size?");
    expect_error("[batch]\ncolour=1\n", NULL,
                 ":2: unknown key batch.colour; see convstored.conf(5)");
    expect_error("\n[embeding]\n", NULL,
                 ":2: unknown section [embeding]; did you mean [embedding]?");
    expect_error("[colours]\n", NULL, "unknown section [colours]; see convstored.conf(5)");
    expect_error(NULL, set, "--set: unknown key batch.bach_size; did you mean batch.batch_size?");
    setenv("CONVSTORE_BATCH_BATCH_SIZ", "1", 1);
    expect_error(
        NULL, NULL,
        "CONVSTORE_BATCH_BATCH_SIZ: no such key; did you mean CONVSTORE_BATCH_BATCH_SIZE?");
    unsetenv("CONVSTORE_BATCH_BATCH_SIZ");
    setenv("CONVSTORE_BTCH_BATCH_SIZE", "1", 1);
    expect_error(NULL, NULL, "did you mean CONVSTORE_BATCH_BATCH_SIZE?");
    unsetenv("CONVSTORE_BTCH_BATCH_SIZE");
    setenv("CONVSTORE_BATCH_COLOUR", "1", 1);
    expect_error(NULL, NULL, "CONVSTORE_BATCH_COLOUR: no such key; see convstored.conf(5)");
    unsetenv("CONVSTORE_BATCH_COLOUR");
}

/* Goal of this test: variables of other programs that begin alike are left alone. */
static void test_foreign_variables(void **state)
{
    static const char *const names[] = {"CONVSTORE_SOCKET", "CONVSTORE_CONTROL_SOCKET",
                                        "CONVSTORE_SERVICE_HOST", "CONVSTORE_PORT_5432_TCP_ADDR",
                                        "CONVSTORE_KILL_POINT"};
    struct config *config;
    char error[512];

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        setenv(names[i], "1", 1);
    assert_int_equal(load(NULL, NULL, &config, error), 0);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        unsetenv(names[i]);
    config_release(config);
}

/* Goal of this test: of two limits that contradict each other both are named, with their values. */
static void test_contradictions(void **state)
{
    static const char *const off[] = {"alerts.queue_depth_critical=0", NULL};
    struct config *config;
    char error[512];
    static const char *const cases[][2] = {
        {"[listen]\nmax_message_bytes=40MiB\n",
         "listen.max_message_bytes (41943040) is larger than queue.max_queue_bytes (33554432)"},
        {"[listen]\nmax_message_bytes=16MiB\n",
         "listen.max_message_bytes (16777216) is larger than journal.segment_bytes (16777216) less "
         "65536"},
        {"[listen]\nmax_partial_bytes=2MiB\n",
         "listen.max_message_bytes (4194304) is larger than listen.max_partial_bytes (2097152)"},
        {"[queue]\nmax_queue_size=400\n",
         "batch.batch_size (500) is larger than queue.max_queue_size (400)"},
        {"[journal]\nmax_bytes=20MiB\n",
         "journal.max_bytes (20971520) is less than two segments of journal.segment_bytes "
         "(16777216)"},
        {"[journal]\nsegment_bytes=5000000\n", "journal.segment_bytes (5000000) is no multiple"},
        {"[alerts]\nqueue_depth_warning=9\nqueue_depth_critical=8\n",
         "alerts.queue_depth_warning (9) is larger than alerts.queue_depth_critical (8)"},
        {"[alerts]\ndisk_space_warning_bytes=1KiB\n",
         "alerts.disk_space_critical_bytes (268435456) is larger than "
         "alerts.disk_space_warning_bytes (1024)"},
        {"[embedding]\nprovider=ollama\nmodel=own\n", "set embedding.dimensions"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        expect_error(cases[i][0], NULL, cases[i][1]);
    assert_int_equal(load(NULL, off, &config, error), 0);
    config_release(config);
}

static bool names(const struct config_key *const *keys, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(keys[i]->name, name) == 0)
            return true;
    return false;
}

static int reload(const char *content, const struct config *now, struct config **ret,
                  struct config_changes *changes, char *error)
{
    static const char *const set[] = {"batch.max_attempts=7", NULL};
    struct config_source source = {.file = file, .set = set};
    FILE *out = fopen(file, "we");

    assert_non_null(out);
    fputs(content, out);
    fclose(out);
    return config_reload(&source, now, ret, changes, error);
}

/* Goal of this test: a reload takes what can change, keeps and names what needs a restart, again
 * and again; the command line still wins; a mistake changes nothing. */
static void test_reload(void **state)
{
    struct config *first, *second, *third = NULL;
    struct config_changes changes;
    char error[512];

    (void)state;
    assert_int_equal(load("[batch]\nbatch_size=10\n", NULL, &first, error), 0);
    assert_int_equal(reload("[batch]\nbatch_size=20\nmax_attempts=3\n[listen]\nsocket=/tmp/x\n"
                            "[database]\nauto_migrate=no\nmax_connections=9\n[log]\nlevel=debug\n",
                            first, &second, &changes, error),
                     0);
    assert_int_equal(changes.changed_count, 3);
    assert_true(names(changes.changed, 3, "batch_size"));
    assert_true(names(changes.changed, 3, "max_attempts"));
    assert_true(names(changes.changed, 3, "level"));
    assert_int_equal(changes.restart_count, 3);
    assert_true(names(changes.restart, 3, "socket"));
    assert_true(names(changes.restart, 3, "auto_migrate"));
    assert_true(names(changes.restart, 3, "max_connections"));
    assert_int_equal(second->batch.batch_size, 20);
    assert_int_equal(second->batch.max_attempts, 7);
    assert_string_equal(second->log.level, "debug");
    assert_string_equal(second->listen.socket, first->listen.socket);
    assert_int_equal(second->database.max_connections, first->database.max_connections);
    assert_true(second->database.auto_migrate);
    config_release(first);

    assert_int_equal(reload("[batch]\nbatch_size=none\n", second, &third, &changes, error), -1);
    assert_non_null(strstr(error, ":2: batch.batch_size = none"));
    assert_null(third);
    /* Good together, but not with the segments as they are until a restart. */
    assert_int_equal(reload("[listen]\nmax_message_bytes=30MiB\n[journal]\nsegment_bytes=64MiB\n",
                            second, &third, &changes, error),
                     -1);
    assert_non_null(strstr(error, "needs a restart: until then listen.max_message_bytes"));
    assert_null(third);
    config_release(second);
}

/* Goal of this test: a snapshot lives as long as somebody holds it; one on the stack is nobody's to
 * free. */
static void test_references(void **state)
{
    struct config *config, own = {0};
    char error[512];

    (void)state;
    assert_int_equal(load(NULL, NULL, &config, error), 0);
    assert_ptr_equal(config_hold(config), config);
    config_release(config);
    assert_string_equal(config->log.level, "info");
    config_release(config);
    config_release(config_hold(&own));
    config_release(NULL);
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
    config_release(sample);
    config_release(defaults);
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
    config_release(config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_file),
        cmocka_unit_test(test_precedence),
        cmocka_unit_test(test_database_environment),
        cmocka_unit_test(test_mistakes),
        cmocka_unit_test(test_missing_file),
        cmocka_unit_test(test_nearest_names),
        cmocka_unit_test(test_foreign_variables),
        cmocka_unit_test(test_contradictions),
        cmocka_unit_test(test_reload),
        cmocka_unit_test(test_references),
        cmocka_unit_test(test_sample_is_complete),
        cmocka_unit_test(test_print_hides_passwords),
    };
    int failed, fd = mkstemp(file);

    if (fd < 0)
        return 1;
    close(fd);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(file);
    return failed;
}
