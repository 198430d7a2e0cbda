/* The simulated disk.
 *
 * The one hard thing is to be harsher than a real one without being impossible: a sector is whole
 * or old, never mixed; what was synced stays; everything else may survive or not, sector by sector
 * and directory operation by directory operation. A sync that is made to fail loses a part of the
 * writes for good while reads still see them, and a second sync says yes: as Linux does. */
#include "tests/support/simdisk.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define DIRECTORY_FD 1000

enum call_kind {
    CALL_OPEN_DIRECTORY,
    CALL_MAKE_DIRECTORY,
    CALL_OPEN,
    CALL_READ,
    CALL_WRITE,
    CALL_SYNC,
    CALL_SYNC_DIRECTORY,
    CALL_TRUNCATE,
    CALL_SIZE,
    CALL_RENAME,
    CALL_UNLINK,
    CALL_LIST,
    CALL_LOCK,
    CALL_RANDOM
};

uint64_t sim_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t sim_below(uint64_t *state, uint64_t limit)
{
    return sim_random(state) % limit;
}

static struct simdisk *disk_of(const struct sysio *sys)
{
    return (struct simdisk *)(uintptr_t)sys;
}

static bool interruptible(enum call_kind kind)
{
    return kind == CALL_OPEN || kind == CALL_READ || kind == CALL_WRITE || kind == CALL_SYNC ||
           kind == CALL_SYNC_DIRECTORY || kind == CALL_TRUNCATE || kind == CALL_LOCK;
}

/* Counts the call; 1: it must fail with *ret_error (0 there: a short transfer). */
static int faulty(struct simdisk *d, enum call_kind kind, int *ret_error)
{
    d->calls++;
    if (d->calls == d->fault.at)
        d->fault_kind = (int)kind;
    else if (!(d->fault.for_good && d->fault_kind == (int)kind))
        return 0;
    if ((d->fault.error == -EINTR && !interruptible(kind)) ||
        (d->fault.error == -EMFILE && kind != CALL_OPEN) ||
        (d->fault.error == 0 && kind != CALL_READ && kind != CALL_WRITE)) {
        d->fault_kind = -1; /* such a call cannot fail like that */
        return 0;
    }
    d->faults++;
    *ret_error = d->fault.error;
    return 1;
}

static void at_boundary(struct simdisk *d)
{
    d->changes++;
    if (d->boundary != NULL && !d->quiet)
        d->boundary(d->arg, d);
}

static struct sim_name *find_name(struct sim_name *names, const char *name)
{
    for (int i = 0; i < SIM_FILES_MAX; i++)
        if (names[i].file >= 0 && strcmp(names[i].name, name) == 0)
            return &names[i];
    return NULL;
}

static void link_name(struct sim_name *names, const char *name, int file)
{
    struct sim_name *slot = find_name(names, name);

    for (int i = 0; slot == NULL && i < SIM_FILES_MAX; i++)
        if (names[i].file < 0)
            slot = &names[i];
    assert(slot != NULL);
    memmove(slot->name, name, strlen(name) + 1);
    slot->file = file;
}

static void apply_op(struct sim_name *names, const struct sim_op *op)
{
    struct sim_name *from = find_name(names, op->from);

    switch (op->kind) {
    case SIM_LINK:
        link_name(names, op->to, op->file);
        break;
    case SIM_RENAME:
        if (from != NULL && from->file == op->file) {
            from->file = -1;
            link_name(names, op->to, op->file);
        }
        break;
    case SIM_UNLINK:
        if (from != NULL && from->file == op->file)
            from->file = -1;
        break;
    }
}

static void do_op(struct simdisk *d, enum sim_op_kind kind, const char *from, const char *to,
                  int file)
{
    struct sim_op *op = &d->ops[d->op_count++];

    assert(d->op_count < sizeof d->ops / sizeof d->ops[0]);
    *op = (struct sim_op){.kind = kind, .file = file};
    strcpy(op->from, from);
    strcpy(op->to, to);
    apply_op(d->names, op);
}

static void reserve(struct sim_file *f, uint64_t size)
{
    uint64_t capacity = f->capacity != 0 ? f->capacity : 4096;

    while (capacity < size)
        capacity *= 2;
    if (capacity == f->capacity)
        return;
    f->cache = realloc(f->cache, capacity);
    f->disk = realloc(f->disk, capacity);
    assert(f->cache != NULL && f->disk != NULL);
    memset(f->cache + f->capacity, 0, capacity - f->capacity);
    memset(f->disk + f->capacity, 0, capacity - f->capacity);
    f->capacity = capacity;
}

static void log_sector(struct sim_file *f, uint64_t sector)
{
    struct sim_write *w;

    if (f->write_count == f->write_capacity) {
        f->write_capacity = f->write_capacity != 0 ? 2 * f->write_capacity : 64;
        f->writes = realloc(f->writes, f->write_capacity * sizeof *f->writes);
        assert(f->writes != NULL);
    }
    w = &f->writes[f->write_count++];
    w->sector = sector;
    memcpy(w->data, f->cache + sector * SIM_SECTOR, SIM_SECTOR);
}

static struct sim_file *file_of(struct simdisk *d, int fd)
{
    assert(fd >= 0 && fd < SIM_FDS_MAX && d->fds[fd] >= 0);
    return &d->files[d->fds[fd]];
}

static int sim_open_directory(const struct sysio *sys, const char *path)
{
    struct simdisk *d = disk_of(sys);
    int error;

    (void)path;
    if (faulty(d, CALL_OPEN_DIRECTORY, &error))
        return error;
    return d->directory_made ? DIRECTORY_FD : -ENOENT;
}

static int sim_make_directory(const struct sysio *sys, const char *path)
{
    struct simdisk *d = disk_of(sys);
    int error;

    (void)path;
    if (faulty(d, CALL_MAKE_DIRECTORY, &error))
        return error;
    d->directory_made = true;
    return 0;
}

static int new_fd(struct simdisk *d, int file)
{
    for (int fd = 0; fd < SIM_FDS_MAX; fd++) {
        if (d->fds[fd] < 0) {
            d->fds[fd] = file;
            return fd;
        }
    }
    return -EMFILE;
}

static int sim_open(const struct sysio *sys, int dir, const char *name, int flags)
{
    struct simdisk *d = disk_of(sys);
    struct sim_name *found = find_name(d->names, name);
    int error, file = found != NULL ? found->file : -1;

    assert(dir == DIRECTORY_FD);
    if (faulty(d, CALL_OPEN, &error))
        return error;
    if (found == NULL && (flags & O_CREAT) == 0)
        return -ENOENT;
    if (found == NULL) {
        at_boundary(d);
        for (file = 0; file < SIM_FILES_MAX && d->files[file].used; file++)
            ;
        assert(file < SIM_FILES_MAX);
        d->files[file] = (struct sim_file){.used = true};
        reserve(&d->files[file], 1);
        do_op(d, SIM_LINK, "", name, file);
    }
    if ((flags & O_TRUNC) != 0) { /* harmless to take as synced: only scratch files are cut */
        struct sim_file *f = &d->files[file];

        f->size = f->disk_size = 0;
        f->write_count = 0;
        memset(f->cache, 0, f->capacity);
        memset(f->disk, 0, f->capacity);
    }
    return new_fd(d, file);
}

static int sim_close(const struct sysio *sys, int fd)
{
    struct simdisk *d = disk_of(sys);

    if (fd != DIRECTORY_FD) {
        assert(fd >= 0 && fd < SIM_FDS_MAX && d->fds[fd] >= 0);
        d->fds[fd] = -1;
    }
    return 0;
}

static ssize_t sim_pread(const struct sysio *sys, int fd, void *buf, size_t len, uint64_t offset)
{
    struct simdisk *d = disk_of(sys);
    struct sim_file *f = file_of(d, fd);
    int error;

    if (faulty(d, CALL_READ, &error)) {
        if (error != 0)
            return error;
        len = len > 1 ? len / 2 : len;
    }
    if (offset >= f->size)
        return 0;
    if (len > f->size - offset)
        len = f->size - offset;
    memcpy(buf, f->cache + offset, len);
    return (ssize_t)len;
}

static ssize_t sim_pwrite(const struct sysio *sys, int fd, const void *buf, size_t len,
                          uint64_t offset)
{
    struct simdisk *d = disk_of(sys);
    struct sim_file *f = file_of(d, fd);
    int error;

    at_boundary(d);
    if (faulty(d, CALL_WRITE, &error)) {
        if (error != 0)
            return error;
        len = len > 1 ? len / 2 : len;
    }
    if (d->full && offset + len > f->size)
        return -ENOSPC;
    reserve(f, (offset + len + SIM_SECTOR - 1) / SIM_SECTOR * SIM_SECTOR);
    memcpy(f->cache + offset, buf, len);
    if (offset + len > f->size)
        f->size = offset + len;
    for (uint64_t s = offset / SIM_SECTOR; s * SIM_SECTOR < offset + len; s++)
        log_sector(f, s);
    return (ssize_t)len;
}

static void persist(struct sim_file *f, const struct sim_write *w)
{
    memcpy(f->disk + w->sector * SIM_SECTOR, w->data, SIM_SECTOR);
}

static int sim_fdatasync(const struct sysio *sys, int fd)
{
    struct simdisk *d = disk_of(sys);
    struct sim_file *f = file_of(d, fd);
    int error, fails;

    at_boundary(d);
    fails = faulty(d, CALL_SYNC, &error);
    if (fails && error == -EINTR)
        return error;
    for (size_t i = 0; i < f->write_count; i++)
        if (!fails || sim_below(&d->random, 2) == 0)
            persist(f, &f->writes[i]);
    f->write_count = 0; /* clean, says the kernel, even after a failure */
    f->disk_size = f->size;
    return fails ? error : 0;
}

/* Files without a name and without a descriptor are gone. */
static void sweep(struct simdisk *d)
{
    for (int i = 0; i < SIM_FILES_MAX; i++) {
        bool named = false;

        for (int k = 0; k < SIM_FILES_MAX; k++)
            named |= d->names[k].file == i || d->disk_names[k].file == i;
        for (int k = 0; k < SIM_FDS_MAX; k++)
            named |= d->fds[k] == i;
        for (unsigned k = 0; k < d->op_count; k++)
            named |= d->ops[k].file == i;
        if (d->files[i].used && !named) {
            free(d->files[i].cache);
            free(d->files[i].disk);
            free(d->files[i].writes);
            d->files[i] = (struct sim_file){0};
        }
    }
}

static int sim_fsync(const struct sysio *sys, int fd)
{
    struct simdisk *d = disk_of(sys);
    int error;

    assert(fd == DIRECTORY_FD);
    at_boundary(d);
    if (faulty(d, CALL_SYNC_DIRECTORY, &error))
        return error;
    memcpy(d->disk_names, d->names, sizeof d->names);
    d->op_count = 0;
    d->disk_directory_made = d->directory_made;
    sweep(d);
    return 0;
}

static int sim_truncate(const struct sysio *sys, int fd, uint64_t size)
{
    struct simdisk *d = disk_of(sys);
    struct sim_file *f = file_of(d, fd);
    int error;

    at_boundary(d);
    if (faulty(d, CALL_TRUNCATE, &error))
        return error;
    assert(size == 0); /* all that the journal does */
    f->size = f->disk_size = 0;
    f->write_count = 0;
    return 0;
}

static int64_t sim_size(const struct sysio *sys, int fd)
{
    struct simdisk *d = disk_of(sys);
    int error;

    if (faulty(d, CALL_SIZE, &error))
        return error;
    return (int64_t)file_of(d, fd)->size;
}

static int sim_rename(const struct sysio *sys, int dir, const char *from, const char *to)
{
    struct simdisk *d = disk_of(sys);
    struct sim_name *name = find_name(d->names, from);
    int error;

    (void)dir;
    at_boundary(d);
    if (faulty(d, CALL_RENAME, &error))
        return error;
    if (name == NULL)
        return -ENOENT;
    do_op(d, SIM_RENAME, from, to, name->file);
    return 0;
}

static int sim_unlink(const struct sysio *sys, int dir, const char *from)
{
    struct simdisk *d = disk_of(sys);
    struct sim_name *name = find_name(d->names, from);
    int error;

    (void)dir;
    at_boundary(d);
    if (faulty(d, CALL_UNLINK, &error))
        return error;
    if (name == NULL)
        return -ENOENT;
    do_op(d, SIM_UNLINK, from, "", name->file);
    return 0;
}

int simdisk_each(const struct simdisk *d, sysio_name_cb *each, void *arg)
{
    int rc = 0;

    for (int i = 0; i < SIM_FILES_MAX && rc == 0; i++)
        if (d->names[i].file >= 0)
            rc = each(arg, d->names[i].name);
    return rc;
}

static int sim_list(const struct sysio *sys, int dir, sysio_name_cb *each, void *arg)
{
    struct simdisk *d = disk_of(sys);
    int error;

    (void)dir;
    if (faulty(d, CALL_LIST, &error))
        return error;
    return simdisk_each(d, each, arg);
}

static int sim_lock(const struct sysio *sys, int fd)
{
    struct simdisk *d = disk_of(sys);
    int error;

    (void)fd;
    if (faulty(d, CALL_LOCK, &error))
        return error;
    return 0;
}

static int sim_getrandom(const struct sysio *sys, void *buf, size_t len)
{
    struct simdisk *d = disk_of(sys);
    int error;

    if (faulty(d, CALL_RANDOM, &error))
        return error;
    for (size_t i = 0; i < len; i++)
        ((uint8_t *)buf)[i] = (uint8_t)sim_random(&d->random);
    return 0;
}

static int64_t sim_now_us(const struct sysio *sys)
{
    return disk_of(sys)->now_us;
}

static uint64_t sim_clock_ns(const struct sysio *sys)
{
    return (uint64_t)disk_of(sys)->now_us * 1000;
}

static const struct sysio sim_calls = {
    .open_directory = sim_open_directory,
    .make_directory = sim_make_directory,
    .open = sim_open,
    .close = sim_close,
    .pread = sim_pread,
    .pwrite = sim_pwrite,
    .fdatasync = sim_fdatasync,
    .fsync = sim_fsync,
    .truncate = sim_truncate,
    .size = sim_size,
    .rename = sim_rename,
    .unlink = sim_unlink,
    .list = sim_list,
    .lock = sim_lock,
    .random = sim_getrandom,
    .now_us = sim_now_us,
    .clock_ns = sim_clock_ns,
};

struct simdisk *simdisk_new(uint64_t seed)
{
    struct simdisk *d = calloc(1, sizeof *d);

    assert(d != NULL);
    d->sys = sim_calls;
    d->random = seed;
    d->now_us = 1700000000000000;
    d->directory_made = d->disk_directory_made = true;
    d->fault_kind = -1;
    for (int i = 0; i < SIM_FILES_MAX; i++)
        d->names[i].file = d->disk_names[i].file = -1;
    for (int i = 0; i < SIM_FDS_MAX; i++)
        d->fds[i] = -1;
    return d;
}

void simdisk_free(struct simdisk *d)
{
    if (d == NULL)
        return;
    for (int i = 0; i < SIM_FILES_MAX; i++) {
        free(d->files[i].cache);
        free(d->files[i].disk);
        free(d->files[i].writes);
    }
    free(d);
}

void simdisk_kill(struct simdisk *d)
{
    for (int i = 0; i < SIM_FDS_MAX; i++)
        d->fds[i] = -1;
    d->fault = (struct sim_fault){0};
    d->fault_kind = -1;
    sweep(d);
}

static void crash_file(struct sim_file *to, const struct sim_file *from, uint64_t *random,
                       unsigned keep)
{
    *to = (struct sim_file){.used = true};
    reserve(to, from->capacity);
    memcpy(to->disk, from->disk, from->capacity);
    for (size_t i = 0; i < from->write_count; i++)
        if (keep >= 256 || sim_below(random, 256) < keep)
            persist(to, &from->writes[i]);
    to->size = from->size != from->disk_size && sim_below(random, 256) >= keep ? from->disk_size
                                                                               : from->size;
    if (to->size < from->capacity)
        memset(to->disk + to->size, 0, from->capacity - to->size);
    memcpy(to->cache, to->disk, from->capacity);
    to->disk_size = to->size;
}

struct simdisk *simdisk_crash(const struct simdisk *d, uint64_t seed, unsigned keep)
{
    struct simdisk *to = simdisk_new(seed);
    uint64_t random = seed ^ 0x5bf03635;
    bool prefix = sim_below(&random, 2) == 0;
    uint64_t last = sim_below(&random, d->op_count + 1u);

    to->now_us = d->now_us;
    memcpy(to->names, d->disk_names, sizeof to->names);
    for (unsigned i = 0; i < d->op_count; i++)
        if (prefix ? i < last : sim_below(&random, 256) < keep)
            apply_op(to->names, &d->ops[i]);
    memcpy(to->disk_names, to->names, sizeof to->names);
    for (int i = 0; i < SIM_FILES_MAX; i++)
        if (to->names[i].file >= 0)
            crash_file(&to->files[to->names[i].file], &d->files[to->names[i].file], &random, keep);
    return to;
}

struct sim_file *simdisk_file(struct simdisk *d, const char *name)
{
    struct sim_name *found = find_name(d->names, name);

    return found != NULL ? &d->files[found->file] : NULL;
}

void simdisk_flip(struct simdisk *d, const char *name, uint64_t offset, uint8_t mask)
{
    struct sim_file *f = simdisk_file(d, name);

    assert(f != NULL && offset < f->size);
    f->cache[offset] ^= mask;
    f->disk[offset] ^= mask;
}
