/* Goal of this test: the cache does what a plain list by last use does, within both bounds, and its
 * keys tell apart whatever makes another vector. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/embedding_cache.h"
#include "daemon/embedding_cache_file.h"

static struct embedding_key key_of(uint64_t n)
{
    /* Few different low halves, so that chains get long and the high half decides. */
    return (struct embedding_key){n % 7, n};
}

static struct vector *vector_of(uint64_t n, uint32_t dimension)
{
    struct vector *v = vector_new(dimension);

    assert_non_null(v);
    v->values[0] = (float)n;
    return v;
}

static void put(struct embedding_cache *c, uint64_t n, uint32_t dimension)
{
    struct vector *v = vector_of(n, dimension);

    embedding_cache_put(c, key_of(n), v);
    vector_release(v);
}

/* The model: keys in an array, the least recently used first. */
struct model {
    uint64_t keys[64];
    size_t count;
};

static size_t model_find(const struct model *m, uint64_t key)
{
    size_t i = 0;

    while (i < m->count && m->keys[i] != key)
        i++;
    return i;
}

static int model_take(struct model *m, uint64_t key)
{
    size_t at = model_find(m, key);

    if (at == m->count)
        return 0;
    memmove(&m->keys[at], &m->keys[at + 1], (m->count - at - 1) * sizeof m->keys[0]);
    m->count--;
    return 1;
}

static void model_use(struct model *m, uint64_t key, size_t max)
{
    if (!model_take(m, key) && m->count == max)
        model_take(m, m->keys[0]);
    m->keys[m->count++] = key;
}

static void check_against_model(size_t max_entries, uint64_t max_bytes, size_t effective)
{
    struct embedding_cache *c = embedding_cache_new(max_entries, max_bytes);
    struct model m = {{0}, 0};

    assert_non_null(c);
    for (int round = 0; round < 100000; round++) {
        uint64_t n = (uint64_t)rand() % (effective * 2 + 1);
        int kind = rand() % 10;

        if (kind < 4) {
            put(c, n, 4);
            model_use(&m, n, effective);
        } else {
            struct vector *v = embedding_cache_get(c, key_of(n));

            assert_int_equal(v != NULL, model_find(&m, n) < m.count);
            if (v != NULL) {
                assert_true(v->values[0] == (float)n);
                model_use(&m, n, effective);
            }
            vector_release(v);
        }
        assert_int_equal(embedding_cache_stats(c).entries, m.count);
        assert_true(embedding_cache_stats(c).bytes <= max_bytes);
    }
    embedding_cache_free(c);
}

static void test_like_a_list_by_last_use(void **state)
{
    struct embedding_cache *c = embedding_cache_new(1, UINT64_MAX);
    uint64_t one;

    (void)state;
    assert_non_null(c);
    put(c, 1, 4);
    one = embedding_cache_stats(c).bytes;
    embedding_cache_free(c);
    assert_true(one > 4 * sizeof(float));

    srand(3);
    check_against_model(40, UINT64_MAX / 2, 40);
    check_against_model(1, UINT64_MAX / 2, 1);
    check_against_model(1000, one * 25 + one - 1, 25); /* the bytes are the tighter bound */
}

static void test_counts(void **state)
{
    struct embedding_cache *c = embedding_cache_new(2, 1 << 20);
    struct embedding_cache_stats stats;

    (void)state;
    put(c, 1, 4);
    put(c, 2, 4);
    put(c, 3, 4);
    assert_null(embedding_cache_get(c, key_of(1)));
    vector_release(embedding_cache_get(c, key_of(3)));
    stats = embedding_cache_stats(c);
    assert_int_equal(stats.hits, 1);
    assert_int_equal(stats.misses, 1);
    assert_int_equal(stats.evictions, 1);
    assert_int_equal(stats.entries, 2);
    embedding_cache_free(c);
}

static void test_a_vector_outlives_its_entry(void **state)
{
    struct embedding_cache *c = embedding_cache_new(1, 1 << 20);
    struct vector *v;

    (void)state;
    put(c, 1, 4);
    v = embedding_cache_get(c, key_of(1));
    put(c, 2, 4);
    embedding_cache_free(c);
    assert_true(v->values[0] == 1.0f);
    assert_int_equal(v->references, 1);
    vector_release(v);
}

static void test_off_and_too_big(void **state)
{
    struct embedding_cache *off = embedding_cache_new(0, 1 << 20);
    struct embedding_cache *small = embedding_cache_new(10, 1024);

    (void)state;
    put(off, 1, 4);
    assert_null(embedding_cache_get(off, key_of(1)));
    put(small, 1, 4);
    put(small, 2, 4096); /* would not fit even alone: nobody makes room for it */
    assert_null(embedding_cache_get(small, key_of(2)));
    vector_release(embedding_cache_get(small, key_of(1)));
    assert_int_equal(embedding_cache_stats(small).hits, 1);
    embedding_cache_free(off);
    embedding_cache_free(small);
}

static void test_many_entries_make_the_table_grow(void **state)
{
    struct embedding_cache *c = embedding_cache_new(20000, UINT64_MAX / 2);

    (void)state;
    for (uint64_t n = 0; n < 20000; n++) {
        struct vector *v = vector_of(n, 2);

        embedding_cache_put(c, (struct embedding_key){n * 0x9e3779b97f4a7c15u, n}, v);
        vector_release(v);
    }
    for (uint64_t n = 0; n < 20000; n++) {
        struct vector *v =
            embedding_cache_get(c, (struct embedding_key){n * 0x9e3779b97f4a7c15u, n});

        assert_non_null(v);
        assert_true(v->values[0] == (float)n);
        vector_release(v);
    }
    embedding_cache_free(c);
}

static struct embedding_key full_key(const struct embedding_model *model, const char *text)
{
    return embedding_key_of_text(embedding_key_of_model(model), (struct slice){text, strlen(text)});
}

static void test_keys_tell_models_and_texts_apart(void **state)
{
    const struct embedding_model base = {"ollama", "m", 768, "p: ", "summary", "vector"};
    struct embedding_model other[] = {base, base, base, base, base};
    struct embedding_key key = full_key(&base, "text");

    (void)state;
    other[0].provider = "openai";
    other[1].model = "n";
    other[2].dimension = 512;
    other[3].prefix = "";
    other[4].model = "mp"; /* the same bytes in a row, cut otherwise */
    other[4].prefix = ": ";
    for (size_t i = 0; i < sizeof other / sizeof other[0]; i++)
        assert_false(embedding_key_equals(key, full_key(&other[i], "text")));
    assert_false(embedding_key_equals(key, full_key(&base, "texts")));
    assert_true(embedding_key_equals(key, full_key(&base, "text")));
}

/* The file */

static const struct embedding_key file_model = {3, 4};

static int load(struct embedding_cache *c, const char *path, uint64_t *ret_count)
{
    char error[256];

    return embedding_cache_load(c, path, file_model, 2, ret_count, error);
}

static struct embedding_cache *cache_of(uint64_t entries)
{
    struct embedding_cache *c = embedding_cache_new(100, 1 << 20);

    for (uint64_t n = 0; n < entries; n++) {
        struct vector *v = vector_of(n, 2);

        v->values[1] = (float)n / 3;
        embedding_cache_put(c, key_of(n), v);
        vector_release(v);
    }
    return c;
}

/* A file of these bytes leaves the cache as it is. */
static void check_refused(const char *path, const uint8_t *data, size_t len, int expected)
{
    struct embedding_cache *c = cache_of(3);
    uint64_t count = 77;
    FILE *file = fopen(path, "w");

    assert_int_equal(fwrite(data, 1, len, file), len);
    fclose(file);
    assert_int_equal(load(c, path, &count), expected);
    assert_int_equal(count, 77);
    assert_int_equal(embedding_cache_stats(c).entries, 3);
    embedding_cache_free(c);
}

static void test_file(void **state)
{
    char directory[] = "/tmp/convstore-cache-XXXXXX", path[64], longer[80];
    struct embedding_cache *c = cache_of(50);
    static uint8_t data[8192];
    struct stat found;
    uint64_t count = 0;
    size_t len;
    FILE *file;

    (void)state;
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/cache", directory);
    assert_int_equal(load(c, path, &count), -ENOENT);
    vector_release(embedding_cache_get(c, key_of(0))); /* used last, though put first */
    assert_int_equal(embedding_cache_save(c, path, file_model, 2), 0);
    assert_int_equal(embedding_cache_save(c, path, file_model, 2), 0); /* over the old one */
    embedding_cache_free(c);
    assert_int_equal(stat(path, &found), 0);
    assert_int_equal(found.st_mode & 0777, 0600);
    snprintf(longer, sizeof longer, "%s.new", path);
    assert_int_equal(access(longer, F_OK), -1);

    c = embedding_cache_new(10, 1 << 20); /* room for the ten that were used last */
    assert_int_equal(load(c, path, &count), 0);
    assert_int_equal(count, 50);
    for (uint64_t n = 0; n < 50; n++) {
        struct vector *v = embedding_cache_get(c, key_of(n));

        assert_int_equal(v != NULL, n == 0 || n >= 41);
        if (v != NULL)
            assert_true(v->values[0] == (float)n && v->values[1] == (float)n / 3);
        vector_release(v);
    }
    embedding_cache_free(c);

    file = fopen(path, "r");
    len = fread(data, 1, sizeof data, file);
    fclose(file);
    assert_in_range(len, 100, sizeof data - 1);
    for (size_t cut = 0; cut < len; cut++)
        check_refused(path, data, cut, -EBADMSG);
    check_refused(path, data, len + 1, -EBADMSG);
    for (size_t at = 0; at < len; at++) {
        data[at] ^= 1;
        check_refused(path, data, len, -EBADMSG);
        data[at] ^= 1;
    }
    c = embedding_cache_new(10, 1 << 20);
    assert_int_equal(embedding_cache_save(c, path, (struct embedding_key){3, 5}, 2), 0);
    assert_int_equal(load(c, path, &count), -ESTALE);
    assert_int_equal(embedding_cache_save(c, path, file_model, 3), 0);
    assert_int_equal(load(c, path, &count), -ESTALE);
    assert_int_equal(embedding_cache_save(c, directory, file_model, 2), -EISDIR);
    embedding_cache_free(c);
    unlink(path);
    rmdir(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_like_a_list_by_last_use),
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_a_vector_outlives_its_entry),
        cmocka_unit_test(test_off_and_too_big),
        cmocka_unit_test(test_many_entries_make_the_table_grow),
        cmocka_unit_test(test_keys_tell_models_and_texts_apart),
        cmocka_unit_test(test_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
