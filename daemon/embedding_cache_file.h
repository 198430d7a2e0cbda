/* The embedding cache in a file, so that it outlives the daemon. Loop; a thread of its own writes.
 */
#ifndef DAEMON_EMBEDDING_CACHE_FILE_H
#define DAEMON_EMBEDDING_CACHE_FILE_H

#include <stdint.h>
#include <uv.h>

#include "daemon/embedding_cache.h"

#define CACHE_FILE_SAVE_MS 300000 /* how often it is written while the cache changes */

/* Reads the file's vectors into the cache, last used last. model: of all its keys. 0 with their
 * count; -ENOENT: no file; or another negative errno with one line in error (256 bytes), and the
 * cache as it was: -EBADMSG the file is damaged or of another kind, -ESTALE it is of another model.
 * Any thread. */
int embedding_cache_load(struct embedding_cache *c, const char *path, struct embedding_key model,
                         uint32_t dimension, uint64_t *ret_count, char error[256])
    __attribute__((warn_unused_result));

/* Writes the cache to the file, in one step for whoever reads it: a new file takes the old one's
 * place. Blocks. 0 or a negative errno. */
int embedding_cache_save(const struct embedding_cache *c, const char *path,
                         struct embedding_key model, uint32_t dimension)
    __attribute__((warn_unused_result));

struct embedding_cache_file;

/* Writes the file from time to time while the cache changes. path and cache outlive it. on_saved
 * (may be NULL) hears of each try. 0 or a negative errno. */
int embedding_cache_file_start(uv_loop_t *loop, const struct embedding_cache *c, const char *path,
                               struct embedding_key model, uint32_t dimension,
                               void (*on_saved)(void *context, int error), void *context,
                               struct embedding_cache_file **ret)
    __attribute__((warn_unused_result));

/* Writes it now, as it is; where it is being written, with the next time. */
void embedding_cache_file_save_now(struct embedding_cache_file *f);

/* Writes it a last time where it changed (blocks), and ends. on_closed runs when all is freed; the
 * cache may go then. */
void embedding_cache_file_close(struct embedding_cache_file *f, void (*on_closed)(void *),
                                void *owner);

#endif
