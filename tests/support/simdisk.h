/* A disk in memory under struct sysio, that can lose power: what was not synced is dropped, kept,
 * reordered or torn at sectors, and directory operations that were not synced are lost one by one.
 * Deterministic: all chance comes from the seed. For tests; one thread. */
#ifndef TESTS_SIMDISK_H
#define TESTS_SIMDISK_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/sysio.h"

#define SIM_FILES_MAX 64
#define SIM_FDS_MAX 32
#define SIM_SECTOR 512u

struct sim_write {
    uint64_t sector;
    uint8_t data[SIM_SECTOR];
};

struct sim_file {
    bool used;
    uint8_t *cache; /* what a read sees */
    uint8_t *disk;  /* what a sync has put there */
    uint64_t size, disk_size, capacity;
    struct sim_write *writes; /* since the last sync, oldest first */
    size_t write_count, write_capacity;
};

struct sim_name {
    char name[64];
    int file; /* -1: a free slot */
};

enum sim_op_kind { SIM_LINK, SIM_RENAME, SIM_UNLINK };
struct sim_op {
    enum sim_op_kind kind;
    char from[64], to[64];
    int file;
};

/* Which call fails, and how. */
struct sim_fault {
    uint64_t at;   /* the number of the call; 0: none */
    int error;     /* a negative errno; 0: the transfer is short */
    bool for_good; /* and all calls of the same kind after it, else once */
};

struct simdisk {
    struct sysio sys; /* first: the calls get a pointer to it */
    struct sim_file files[SIM_FILES_MAX];
    struct sim_name names[SIM_FILES_MAX], disk_names[SIM_FILES_MAX];
    struct sim_op ops[256];
    unsigned op_count;
    int fds[SIM_FDS_MAX]; /* a file, -1 free */
    bool directory_made, disk_directory_made;
    uint64_t random; /* the state of the generator */
    int64_t now_us;
    uint64_t calls;
    struct sim_fault fault;
    int fault_kind; /* that has begun to fail for good */
    uint64_t faults;
    uint64_t changes; /* calls that changed something */
    bool full;        /* files do not grow */
    /* Called before each call that changes something. */
    void (*boundary)(void *arg, struct simdisk *disk);
    void *arg;
    bool quiet; /* no boundaries */
};

struct simdisk *simdisk_new(uint64_t seed);
void simdisk_free(struct simdisk *disk);

/* The process dies: descriptors and locks go, caches stay. */
void simdisk_kill(struct simdisk *disk);

/* The power fails: a new disk with one of the states that may be found. keep: how much of what was
 * not synced survives, in 1/256; the rest is chance. */
struct simdisk *simdisk_crash(const struct simdisk *disk, uint64_t seed, unsigned keep);

/* The bytes of a file by name, in cache and on disk alike when written; NULL: no such file. */
struct sim_file *simdisk_file(struct simdisk *disk, const char *name);
void simdisk_flip(struct simdisk *disk, const char *name, uint64_t offset, uint8_t mask);
int simdisk_each(const struct simdisk *disk, sysio_name_cb *each, void *arg);

uint64_t sim_random(uint64_t *state);
uint64_t sim_below(uint64_t *state, uint64_t limit);

#endif
