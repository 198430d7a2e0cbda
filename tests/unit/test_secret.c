/* Secrets in files: their first line, their limits, and which credentials there are. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/secret.h"

static char directory[] = "/tmp/convstore-secret-XXXXXX";
static char file[64];

static void expect(const char *content, size_t size, int rc, const char *secret)
{
    char found[16] = "untouched";
    FILE *out = fopen(file, "we");

    assert_non_null(out);
    fputs(content, out);
    fclose(out);
    assert_int_equal(secret_read(file, found, size), rc);
    if (rc == 0)
        assert_string_equal(found, secret);
}

static void the_first_line_is_the_secret(void **state)
{
    (void)state;
    expect("four words\n", 16, 0, "four words");
    expect("no end", 16, 0, "no end");
    expect("dos\r\n", 16, 0, "dos");
    expect("one\ntwo\n", 16, 0, "one");
    expect("", 16, 0, "");
}

static void a_long_one_is_refused_and_wiped(void **state)
{
    char found[8];

    (void)state;
    expect("1234567", 8, 0, "1234567");
    expect("12345678", 8, -EFBIG, NULL);
    assert_int_equal(secret_read(file, found, sizeof found), -EFBIG);
    for (size_t i = 0; i < sizeof found; i++)
        assert_int_equal(found[i], 0);
}

static void what_cannot_be_read_says_why(void **state)
{
    char found[8];

    (void)state;
    assert_int_equal(secret_read("/nowhere/secret", found, sizeof found), -ENOENT);
    assert_int_equal(secret_read(directory, found, sizeof found), -EISDIR);
}

static void a_credential_is_there_or_not(void **state)
{
    char path[SECRET_PATH_MAX];

    (void)state;
    unsetenv("CREDENTIALS_DIRECTORY");
    assert_false(secret_credential("secret", path));
    setenv("CREDENTIALS_DIRECTORY", directory, 1);
    assert_true(secret_credential("secret", path));
    assert_string_equal(path, file);
    assert_false(secret_credential("other", path));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_line_is_the_secret),
        cmocka_unit_test(a_long_one_is_refused_and_wiped),
        cmocka_unit_test(what_cannot_be_read_says_why),
        cmocka_unit_test(a_credential_is_there_or_not),
    };
    int failed;

    if (mkdtemp(directory) == NULL)
        return EXIT_FAILURE;
    snprintf(file, sizeof file, "%s/secret", directory);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(file);
    rmdir(directory);
    return failed;
}
