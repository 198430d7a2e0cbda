/* Goal of this test: a line is one line whatever its values hold, as text and as JSON; levels hold
 * from the next line on; repeats are held back, counted and said. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/log.h"

static struct {
    int stderr_copy;
    FILE *file;
    char text[65536];
} t;

static int setup(void **state)
{
    (void)state;
    unsetenv("JOURNAL_STREAM");
    t.file = tmpfile();
    t.stderr_copy = dup(STDERR_FILENO);
    log_set_level(LOG_LEVEL_INFO);
    log_set_format(LOG_FORMAT_TEXT);
    return t.file == NULL || dup2(fileno(t.file), STDERR_FILENO) < 0;
}

static int teardown(void **state)
{
    (void)state;
    dup2(t.stderr_copy, STDERR_FILENO);
    close(t.stderr_copy);
    fclose(t.file);
    return 0;
}

/* All that was logged since the last call. */
static const char *logged(void)
{
    ssize_t len = pread(fileno(t.file), t.text, sizeof t.text - 1, 0);

    assert_true(len >= 0);
    t.text[len] = '\0';
    assert_int_equal(ftruncate(fileno(t.file), 0), 0);
    lseek(fileno(t.file), 0, SEEK_SET);
    return t.text;
}

/* The one line that was logged, after its time. */
static const char *line(void)
{
    const char *text = logged();
    size_t len = strlen(text);

    assert_true(len > 25 && text[4] == '-' && text[23] == 'Z');
    assert_ptr_equal(strchr(text, '\n'), text + len - 1);
    t.text[len - 1] = '\0';
    return text + 25;
}

static void test_text(void **state)
{
    (void)state;
    log_warning("a.b n=%d s=%s q=\"%s\" end=1", 7, "plain", "two words");
    assert_string_equal(line(), "warning a.b n=7 s=plain q=\"two words\" end=1");
    log_error("x text=\"%s\" more=\"%s\"", "a \"b\" \\ c=\"d\"", "line\nfeed\x7f");
    assert_string_equal(line(),
                        "error x text=\"a \\\"b\\\" \\\\ c=\\\"d\\\"\" more=\"line?feed?\"");
    /* What the code itself marks quotes with opens and closes none. */
    log_error("x text=\"%s\" more=%d", "a\x01 forged=\x01", 1);
    assert_string_equal(line(), "error x text=\" text=?a? forged=?? more=1\"");
    log_info("x v=\"%s\" w=\"%s\"", "gr\xc3\xbc\xc3\x9f", "");
    assert_string_equal(line(), "info x v=\"gr\xc3\xbc\xc3\x9f\" w=\"\"");
    log_info("x v=%s", "\xff\xc3");
    assert_string_equal(line(), "info x v=??");
}

static void check_json(const char *level, const char *const *pairs)
{
    json_error_t error;
    json_t *object = json_loads(logged(), JSON_REJECT_DUPLICATES, &error);
    size_t count = 2;

    if (object == NULL)
        fail_msg("%s: %s", error.text, t.text);
    assert_string_equal(json_string_value(json_object_get(object, "level")), level);
    assert_int_equal(strlen(json_string_value(json_object_get(object, "time"))), 24);
    for (; *pairs != NULL; pairs += 2, count++) {
        const char *value = json_string_value(json_object_get(object, pairs[0]));

        if (value == NULL)
            fail_msg("no %s in %s", pairs[0], t.text);
        assert_string_equal(value, pairs[1]);
    }
    assert_int_equal(json_object_size(object), count);
    json_decref(object);
}

static void test_json(void **state)
{
    (void)state;
    log_set_format(LOG_FORMAT_JSON);
    log_warning("a.b n=%d q=\"%s\" s=%s end=%s", 7, "a \"b\" k=\"v\" \\", "x", "y");
    check_json("warning", (const char *[]){"event", "a.b", "n", "7", "q", "a \"b\" k=\"v\" \\", "s",
                                           "x", "end", "y", NULL});
    log_info("plain");
    check_json("info", (const char *[]){"event", "plain", NULL});
    /* A value without quotes that has blanks after all, and an empty one. */
    log_info("a path=%s next=%s last=\"\"", "/with a blank/x", "");
    check_json("info", (const char *[]){"event", "a", "path", "/with a blank/x", "next", "", "last",
                                        "", NULL});
    log_error("a v=\"%s\" w=\"%s\"", "x\x01 forged=\x01", "y");
    check_json("error", (const char *[]){"event", "a", "text", " v=?x? forged=?? w=?y?", NULL});
}

/* Whatever a value holds, and however long it is, the line is a JSON object. */
static void test_json_of_anything(void **state)
{
    static char value[3000];

    (void)state;
    log_set_format(LOG_FORMAT_JSON);
    srandom(1);
    for (unsigned i = 0; i < 2000; i++) {
        size_t len = (size_t)random() % (i % 10 == 0 ? sizeof value - 1 : 60);
        json_t *object;

        for (size_t n = 0; n < len; n++)
            value[n] = "\"\\=\x01\n a\xc3\xa4\xff%"[random() % 11];
        value[len] = '\0';
        log_set_level(LOG_LEVEL_DEBUG);
        log_debug("e.v a=\"%s\" b=%s c=\"x\"", value, value);
        object = json_loads(logged(), 0, NULL);
        if (object == NULL)
            fail_msg("no JSON: %s", t.text);
        assert_string_equal(json_string_value(json_object_get(object, "event")), "e.v");
        json_decref(object);
    }
}

static void test_levels(void **state)
{
    (void)state;
    log_debug("no");
    log_set_level(LOG_LEVEL_ERROR);
    log_warning("no");
    log_set_level(log_level_of("debug"));
    log_debug("yes");
    assert_string_equal(line(), "debug yes");
    assert_int_equal(log_level_of("error"), LOG_LEVEL_ERROR);
    assert_int_equal(log_level_of("warning"), LOG_LEVEL_WARNING);
    assert_int_equal(log_level_of("info"), LOG_LEVEL_INFO);
    assert_int_equal(log_format_of("json"), LOG_FORMAT_JSON);
    assert_int_equal(log_format_of("text"), LOG_FORMAT_TEXT);
}

/* systemd's journal takes the level from a prefix, and only where it is the one that reads. */
static void test_prefixes(void **state)
{
    struct stat file;
    char stream[64];

    (void)state;
    assert_int_equal(fstat(fileno(t.file), &file), 0);
    snprintf(stream, sizeof stream, "%lu:%lu", (unsigned long)file.st_dev,
             (unsigned long)file.st_ino);
    setenv("JOURNAL_STREAM", stream, 1);
    log_warning("a n=1");
    assert_string_equal(logged(), "<4>a n=1\n");
    log_set_format(LOG_FORMAT_JSON);
    log_error("a n=1");
    assert_memory_equal(logged(), "<3>{\"time\":", 11);
    log_set_format(LOG_FORMAT_TEXT);
    setenv("JOURNAL_STREAM", "1:1", 1);
    log_info("a n=1");
    assert_string_equal(line(), "info a n=1");
}

static unsigned count(const char *text, const char *what)
{
    unsigned n = 0;

    for (const char *at = text; (at = strstr(at, what)) != NULL; at++)
        n++;
    return n;
}

static void test_repeats(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 1000; i++) {
        log_warning("often.seen n=%u", i);
        if (i % 100 == 0)
            log_warning("seldom.seen n=%u", i);
    }
    log_held_back(false); /* the period is not over */
    assert_int_equal(count(logged(), "often.seen"), LOG_BURST);
    assert_int_equal(count(t.text, "seldom.seen"), 10);
    log_held_back(true);
    assert_string_equal(line(), "warning log.held_back event=often.seen lines=980 seconds=10");
    log_held_back(true);
    assert_string_equal(logged(), "");
    log_set_level(LOG_LEVEL_DEBUG);
    for (unsigned i = 0; i < 100; i++)
        log_debug("debugging");
    assert_int_equal(count(logged(), "debugging"), 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_text, setup, teardown),
        cmocka_unit_test_setup_teardown(test_json, setup, teardown),
        cmocka_unit_test_setup_teardown(test_json_of_anything, setup, teardown),
        cmocka_unit_test_setup_teardown(test_levels, setup, teardown),
        cmocka_unit_test_setup_teardown(test_prefixes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_repeats, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
