/* Vectors of texts that were embedded lately, least recently used out first. Loop thread only. */
#ifndef DAEMON_EMBEDDING_CACHE_H
#define DAEMON_EMBEDDING_CACHE_H

#include <stddef.h>
#include <stdint.h>

#include "daemon/pgwriter.h"
#include "daemon/vector.h"
#include "proto/slice.h"

/* XXH3-128 over provider, model, dimension, prefix and text: the same key, the same vector. */
struct embedding_key {
    uint64_t low, high;
};

/* The part of the key that a model gives; made once. */
struct embedding_key embedding_key_of_model(const struct embedding_model *model);
struct embedding_key embedding_key_of_text(struct embedding_key model, struct slice text);

static inline int embedding_key_equals(struct embedding_key a, struct embedding_key b)
{
    return a.low == b.low && a.high == b.high;
}

struct embedding_cache;

/* Holds at most max_entries vectors and max_bytes (vectors and their book-keeping); 0 of either:
 * keeps nothing. NULL when memory is short. */
struct embedding_cache *embedding_cache_new(uint64_t max_entries, uint64_t max_bytes);
void embedding_cache_free(struct embedding_cache *c); /* takes NULL; releases its vectors */

/* Other bounds; puts out what is beyond them. */
void embedding_cache_resize(struct embedding_cache *c, uint64_t max_entries, uint64_t max_bytes);

/* A reference that the caller releases, or NULL. Allocates nothing. Counts a hit or a miss. */
struct vector *embedding_cache_get(struct embedding_cache *c, struct embedding_key key);

/* Takes a reference of its own. Replaces the key's earlier vector; puts others out to make room.
 * Where memory is short it keeps nothing. */
void embedding_cache_put(struct embedding_cache *c, struct embedding_key key, struct vector *v);

/* Forgets all. */
void embedding_cache_clear(struct embedding_cache *c);

/* Calls it for each vector, the least recently used first. */
void embedding_cache_each(const struct embedding_cache *c,
                          void (*call)(void *arg, struct embedding_key key, const struct vector *v),
                          void *arg);

struct embedding_cache_stats {
    uint64_t hits, misses, evictions, puts;
    uint64_t entries, bytes;
};
struct embedding_cache_stats embedding_cache_stats(const struct embedding_cache *c);

#endif
