/* The cache as a file: a header, the entries from the least to the most recently used, a checksum
 * of all of it. Owns the image of the file that is being written, a timer, and the thread that
 * writes.
 *
 * The hard thing is not to hold the loop: an image of the cache is copied on the loop, which takes
 * about a millisecond for each 4 MB, and the thread brings it to disk. The file is a convenience
 * and nothing depends on it, so it is not synced: after a power cut it may be damaged, and then it
 * is ignored. */
#include "daemon/embedding_cache_file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <xxhash.h>

#include "daemon/handoff.h"

#define MAGIC "convstore cache"

struct header { /* as on disk, little endian */
    char magic[16];
    uint32_t version;
    uint32_t dimension;
    struct embedding_key model;
    uint64_t count;
};
static_assert(sizeof(struct header) == 48, "the header is on disk");

#define VERSION 1

struct image {
    uint8_t *data;
    size_t len;
};

static size_t entry_len(uint32_t dimension)
{
    return sizeof(struct embedding_key) + dimension * sizeof(float);
}

static XXH128_canonical_t checksum(const uint8_t *data, size_t len)
{
    XXH128_canonical_t canonical;

    XXH128_canonicalFromHash(&canonical, XXH3_128bits(data, len));
    return canonical;
}

/* Writing */

struct filling {
    uint8_t *at;
    uint32_t dimension;
};

static void add_entry(void *arg, struct embedding_key key, const struct vector *v)
{
    struct filling *f = arg;

    assert(v->dimension == f->dimension);
    f->at = mempcpy(f->at, &key, sizeof key);
    f->at = mempcpy(f->at, v->values, v->dimension * sizeof v->values[0]);
}

static int make_image(const struct embedding_cache *c, struct embedding_key model,
                      uint32_t dimension, struct image *ret)
{
    struct header head = {.magic = MAGIC,
                          .version = VERSION,
                          .dimension = dimension,
                          .model = model,
                          .count = embedding_cache_stats(c).entries};
    size_t body = sizeof head + head.count * entry_len(dimension);
    uint8_t *data = malloc(body + sizeof(XXH128_canonical_t));
    struct filling filling = {.dimension = dimension};
    XXH128_canonical_t sum;

    if (data == NULL)
        return -ENOMEM;
    filling.at = mempcpy(data, &head, sizeof head);
    embedding_cache_each(c, add_entry, &filling);
    assert(filling.at == data + body);
    sum = checksum(data, body);
    memcpy(data + body, &sum, sizeof sum);
    *ret = (struct image){data, body + sizeof sum};
    return 0;
}

static int write_all(int fd, const uint8_t *data, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, data, len);

        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0) {
            data += n;
            len -= (size_t)n;
        }
    }
    return 0;
}

static int write_image(const struct image *image, const char *path)
{
    char *temporary;
    int fd, rc;

    if (asprintf(&temporary, "%s.new", path) < 0)
        return -ENOMEM;
    fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        rc = -errno;
        free(temporary);
        return rc;
    }
    rc = write_all(fd, image->data, image->len);
    if (close(fd) != 0 && rc == 0)
        rc = -errno;
    if (rc == 0 && rename(temporary, path) != 0)
        rc = -errno;
    if (rc != 0)
        unlink(temporary);
    free(temporary);
    return rc;
}

int embedding_cache_save(const struct embedding_cache *c, const char *path,
                         struct embedding_key model, uint32_t dimension)
{
    struct image image;
    int rc = make_image(c, model, dimension, &image);

    if (rc != 0)
        return rc;
    rc = write_image(&image, path);
    free(image.data);
    return rc;
}

/* Reading */

static int read_image(const char *path, struct image *ret)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat found;
    uint8_t *data = NULL;
    size_t len = 0;
    int rc = 0;

    if (fd < 0)
        return -errno;
    if (fstat(fd, &found) != 0 || !S_ISREG(found.st_mode))
        rc = -EBADMSG;
    else if ((data = malloc((size_t)found.st_size + 1)) == NULL)
        rc = -ENOMEM;
    while (rc == 0 && len < (size_t)found.st_size) {
        ssize_t n = read(fd, data + len, (size_t)found.st_size - len);

        if (n == 0 || (n < 0 && errno != EINTR))
            rc = n == 0 ? -EBADMSG : -errno;
        len += n > 0 ? (size_t)n : 0;
    }
    close(fd);
    if (rc != 0) {
        free(data);
        return rc;
    }
    *ret = (struct image){data, len};
    return 0;
}

/* Whether the image is whole and of this model; its header then. */
static int check_image(const struct image *image, struct embedding_key model, uint32_t dimension,
                       struct header *ret, char error[256])
{
    XXH128_canonical_t sum;

    if (image->len >= sizeof *ret + sizeof sum) {
        size_t body = image->len - sizeof sum;

        memcpy(ret, image->data, sizeof *ret);
        sum = checksum(image->data, body);
        if (memcmp(&sum, image->data + body, sizeof sum) == 0 &&
            memcmp(ret->magic, MAGIC, sizeof ret->magic) == 0 && ret->version == VERSION &&
            ret->count == (body - sizeof *ret) / entry_len(ret->dimension) &&
            body == sizeof *ret + ret->count * entry_len(ret->dimension)) {
            if (embedding_key_equals(ret->model, model) && ret->dimension == dimension)
                return 0;
            snprintf(error, 256, "it holds another model's vectors");
            return -ESTALE;
        }
    }
    snprintf(error, 256, "it is damaged, or no cache of this daemon");
    return -EBADMSG;
}

int embedding_cache_load(struct embedding_cache *c, const char *path, struct embedding_key model,
                         uint32_t dimension, uint64_t *ret_count, char error[256])
{
    struct header head;
    struct image image = {NULL, 0};
    int rc = read_image(path, &image);

    if (rc != 0) {
        snprintf(error, 256, "%s", strerror(-rc));
        return rc;
    }
    rc = check_image(&image, model, dimension, &head, error);
    for (uint64_t i = 0; rc == 0 && i < head.count; i++) {
        const uint8_t *at = image.data + sizeof head + i * entry_len(dimension);
        struct vector *v = vector_new(dimension);
        struct embedding_key key;

        if (v == NULL)
            break; /* as much as there is room for */
        memcpy(&key, at, sizeof key);
        memcpy(v->values, at + sizeof key, dimension * sizeof v->values[0]);
        embedding_cache_put(c, key, v);
        vector_release(v);
    }
    free(image.data);
    if (rc == 0)
        *ret_count = head.count;
    return rc;
}

/* From time to time */

struct embedding_cache_file {
    uv_timer_t timer;
    struct handoff *writer;
    const struct embedding_cache *cache;
    const char *path;
    struct embedding_key model;
    uint32_t dimension;
    uint64_t saved_puts; /* embedding_cache_stats().puts of what is in the file */
    void (*on_saved)(void *context, int error);
    void *context;
    unsigned open_handles;
    void (*on_closed)(void *);
    void *owner;
};

struct save_job {
    struct handoff_job job; /* first: a job is cast to this */
    struct image image;
    const char *path;
    int result;
};

/* On the writer's thread. */
static void run_save(void *state, struct handoff_job *handoff_job)
{
    struct save_job *job = (struct save_job *)handoff_job;

    (void)state;
    job->result = write_image(&job->image, job->path);
}

static void on_save_done(void *owner, struct handoff_job *handoff_job)
{
    struct embedding_cache_file *f = owner;
    struct save_job *job = (struct save_job *)handoff_job;

    if (f->on_saved != NULL)
        f->on_saved(f->context, job->result);
    free(job->image.data);
    free(job);
}

static bool has_changed(struct embedding_cache_file *f)
{
    uint64_t puts = embedding_cache_stats(f->cache).puts;
    bool changed = puts != f->saved_puts;

    f->saved_puts = puts;
    return changed;
}

static void on_timer(uv_timer_t *timer)
{
    struct embedding_cache_file *f = timer->data;
    struct save_job *job;

    if (handoff_in_flight(f->writer) > 0 || !has_changed(f))
        return;
    job = calloc(1, sizeof *job);
    if (job == NULL || make_image(f->cache, f->model, f->dimension, &job->image) != 0) {
        free(job);
        if (f->on_saved != NULL)
            f->on_saved(f->context, -ENOMEM);
        return;
    }
    job->path = f->path;
    handoff_submit(f->writer, &job->job);
}

int embedding_cache_file_start(uv_loop_t *loop, const struct embedding_cache *c, const char *path,
                               struct embedding_key model, uint32_t dimension,
                               void (*on_saved)(void *context, int error), void *context,
                               struct embedding_cache_file **ret)
{
    static const struct handoff_ops ops = {.run = run_save, .done = on_save_done};
    struct embedding_cache_file *f = calloc(1, sizeof *f);
    int rc;

    if (f == NULL)
        return -ENOMEM;
    rc = handoff_start(loop, "cache-file", &ops, f, 1, &f->writer);
    if (rc != 0) {
        free(f);
        return rc;
    }
    f->cache = c;
    f->path = path;
    f->model = model;
    f->dimension = dimension;
    f->saved_puts = embedding_cache_stats(c).puts;
    f->on_saved = on_saved;
    f->context = context;
    f->open_handles = 2;
    rc = uv_timer_init(loop, &f->timer);
    assert(rc == 0);
    f->timer.data = f;
    uv_timer_start(&f->timer, on_timer, CACHE_FILE_SAVE_MS, CACHE_FILE_SAVE_MS);
    *ret = f;
    return 0;
}

void embedding_cache_file_save_now(struct embedding_cache_file *f)
{
    f->saved_puts = UINT64_MAX; /* nothing is put to change a cache that was cleared */
    on_timer(&f->timer);
}

static void on_handle_closed(void *arg)
{
    struct embedding_cache_file *f = arg;

    if (--f->open_handles > 0)
        return;
    f->on_closed(f->owner);
    free(f);
}

static void on_timer_closed(uv_handle_t *handle)
{
    on_handle_closed(handle->data);
}

void embedding_cache_file_close(struct embedding_cache_file *f, void (*on_closed)(void *),
                                void *owner)
{
    f->on_closed = on_closed;
    f->owner = owner;
    uv_close((uv_handle_t *)&f->timer, on_timer_closed);
    handoff_close(f->writer, on_handle_closed); /* an image under way comes first */
    if (has_changed(f)) {
        int rc = embedding_cache_save(f->cache, f->path, f->model, f->dimension);

        if (f->on_saved != NULL)
            f->on_saved(f->context, rc);
    }
}
