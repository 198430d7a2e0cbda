/* A chained hash table whose entries stand in one list by last use. Owns the entries and one
 * reference to each vector; lives on the loop thread, so nothing locks.
 *
 * The one hard thing: the table grows by doubling, because embedding_cache_size may be millions and
 * is mostly far from full. It grows only in put, so that a lookup never allocates. Keys are hashes
 * already: their low bits choose the bucket.
 *
 * Invariants: an entry is in exactly one chain and in the list; bytes is the sum of entry_bytes()
 * over the list; entries and bytes are within their bounds whenever a function returns. */
#include "daemon/embedding_cache.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define XXH_STATIC_LINKING_ONLY /* the state on the stack */
#include <xxhash.h>

#define FIRST_BUCKETS 256

struct entry {
    struct entry *chain;         /* the next one in its bucket */
    struct entry *newer, *older; /* by last use */
    struct embedding_key key;
    struct vector *vector;
};

struct embedding_cache {
    uint64_t max_entries, max_bytes;
    struct entry **buckets;
    size_t bucket_count; /* a power of two */
    struct entry *newest, *oldest;
    struct embedding_cache_stats stats;
};

static void hash_string(XXH3_state_t *state, const char *text)
{
    uint64_t len = strlen(text);

    XXH3_128bits_update(state, &len, sizeof len);
    XXH3_128bits_update(state, text, len);
}

static struct embedding_key digest(const XXH3_state_t *state)
{
    XXH128_hash_t hash = XXH3_128bits_digest(state);

    return (struct embedding_key){hash.low64, hash.high64};
}

struct embedding_key embedding_key_of_model(const struct embedding_model *model)
{
    XXH3_state_t state;

    XXH3_INITSTATE(&state);
    XXH3_128bits_reset(&state);
    hash_string(&state, model->provider);
    hash_string(&state, model->model);
    XXH3_128bits_update(&state, &model->dimension, sizeof model->dimension);
    hash_string(&state, model->prefix);
    return digest(&state);
}

struct embedding_key embedding_key_of_text(struct embedding_key model, struct slice text)
{
    XXH3_state_t state;

    XXH3_INITSTATE(&state);
    XXH3_128bits_reset(&state);
    XXH3_128bits_update(&state, &model,
                        sizeof model); /* of fixed size, so the text needs no length */
    if (text.len > 0)
        XXH3_128bits_update(&state, text.data, text.len);
    return digest(&state);
}

struct embedding_cache *embedding_cache_new(uint64_t max_entries, uint64_t max_bytes)
{
    struct embedding_cache *c = calloc(1, sizeof *c);

    if (c == NULL)
        return NULL;
    c->max_entries = max_entries;
    c->max_bytes = max_bytes;
    c->bucket_count = FIRST_BUCKETS;
    c->buckets = calloc(c->bucket_count, sizeof c->buckets[0]);
    if (c->buckets == NULL) {
        free(c);
        return NULL;
    }
    return c;
}

static uint64_t entry_bytes(const struct vector *v)
{
    return sizeof(struct entry) + sizeof *v + v->dimension * sizeof v->values[0];
}

/* Where the pointer to key's entry stands, or would stand: the end of its chain. */
static struct entry **find(const struct embedding_cache *c, struct embedding_key key)
{
    struct entry **at = &c->buckets[key.low & (c->bucket_count - 1)];

    while (*at != NULL && !embedding_key_equals((*at)->key, key))
        at = &(*at)->chain;
    return at;
}

static void list_remove(struct embedding_cache *c, struct entry *e)
{
    if (e->newer != NULL)
        e->newer->older = e->older;
    else
        c->newest = e->older;
    if (e->older != NULL)
        e->older->newer = e->newer;
    else
        c->oldest = e->newer;
}

static void list_push_newest(struct embedding_cache *c, struct entry *e)
{
    e->newer = NULL;
    e->older = c->newest;
    if (c->newest != NULL)
        c->newest->newer = e;
    else
        c->oldest = e;
    c->newest = e;
}

/* Removes the entry that *at points to. */
static void drop(struct embedding_cache *c, struct entry **at)
{
    struct entry *e = *at;

    *at = e->chain;
    list_remove(c, e);
    c->stats.entries--;
    c->stats.bytes -= entry_bytes(e->vector);
    vector_release(e->vector);
    free(e);
}

void embedding_cache_free(struct embedding_cache *c)
{
    if (c == NULL)
        return;
    embedding_cache_clear(c);
    assert(c->stats.entries == 0 && c->stats.bytes == 0);
    free(c->buckets);
    free(c);
}

struct vector *embedding_cache_get(struct embedding_cache *c, struct embedding_key key)
{
    struct entry *e = *find(c, key);

    if (e == NULL) {
        c->stats.misses++;
        return NULL;
    }
    c->stats.hits++;
    list_remove(c, e);
    list_push_newest(c, e);
    return vector_hold(e->vector);
}

/* Doubles the table; where memory is short the chains just grow longer. */
static void grow(struct embedding_cache *c)
{
    struct entry **old = c->buckets;
    size_t old_count = c->bucket_count;
    struct entry **buckets = calloc(old_count * 2, sizeof buckets[0]);

    if (buckets == NULL)
        return;
    c->buckets = buckets;
    c->bucket_count = old_count * 2;
    for (size_t i = 0; i < old_count; i++) {
        struct entry *next;

        for (struct entry *e = old[i]; e != NULL; e = next) {
            struct entry **at = &buckets[e->key.low & (c->bucket_count - 1)];

            next = e->chain;
            e->chain = *at;
            *at = e;
        }
    }
    free(old);
}

static void drop_oldest(struct embedding_cache *c)
{
    drop(c, find(c, c->oldest->key));
    c->stats.evictions++;
}

void embedding_cache_resize(struct embedding_cache *c, uint64_t max_entries, uint64_t max_bytes)
{
    c->max_entries = max_entries;
    c->max_bytes = max_bytes;
    while (c->stats.entries > max_entries || c->stats.bytes > max_bytes)
        drop_oldest(c);
}

void embedding_cache_put(struct embedding_cache *c, struct embedding_key key, struct vector *v)
{
    uint64_t bytes = entry_bytes(v);
    struct entry **at = find(c, key);
    struct entry *e;

    if (*at != NULL)
        drop(c, at);
    if (c->max_entries == 0 || bytes > c->max_bytes)
        return;
    e = malloc(sizeof *e);
    if (e == NULL)
        return;
    while (c->stats.entries >= c->max_entries || c->stats.bytes + bytes > c->max_bytes)
        drop_oldest(c);
    if (c->stats.entries >= c->bucket_count)
        grow(c);
    at = find(c, key);
    *e = (struct entry){.key = key, .vector = vector_hold(v)};
    *at = e;
    list_push_newest(c, e);
    c->stats.puts++;
    c->stats.entries++;
    c->stats.bytes += bytes;
}

void embedding_cache_clear(struct embedding_cache *c)
{
    while (c->oldest != NULL)
        drop(c, find(c, c->oldest->key));
}

void embedding_cache_each(const struct embedding_cache *c,
                          void (*call)(void *arg, struct embedding_key key, const struct vector *v),
                          void *arg)
{
    for (const struct entry *e = c->oldest; e != NULL; e = e->newer)
        call(arg, e->key, e->vector);
}

struct embedding_cache_stats embedding_cache_stats(const struct embedding_cache *c)
{
    return c->stats;
}
