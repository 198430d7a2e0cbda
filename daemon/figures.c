#include "daemon/figures.h"

#include <sys/statvfs.h>
#include <time.h>

#include "daemon/server.h"

static uint64_t age_ms(int64_t arrived_us)
{
    struct timespec now;
    int64_t age_us;

    if (arrived_us == 0)
        return 0;
    clock_gettime(CLOCK_REALTIME, &now);
    age_us = (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000 - arrived_us;
    return age_us > 0 ? (uint64_t)age_us / 1000 : 0;
}

/* Arrival of the oldest conversation that is not a row, in memory or on disk; 0: none. */
static int64_t oldest_us(const struct figures *f)
{
    int64_t memory = f->batcher.oldest_arrived_us, disk = f->journal.oldest_on_disk_us;

    if (memory == 0 || disk == 0)
        return memory > disk ? memory : disk;
    return memory < disk ? memory : disk;
}

/* The journal is written by threads of its own, but its file system is asked here: on a disk of
 * this machine that costs a microsecond. */
static uint64_t disk_free(const char *directory)
{
    struct statvfs disk;

    if (statvfs(directory, &disk) != 0)
        return 0; /* the directory is gone, which is no better */
    return (uint64_t)disk.f_bavail * disk.f_frsize;
}

void figures_gather(const struct server *server, struct figures *ret)
{
    ret->batcher = batcher_status(server->batcher);
    journal_stats(server->journal, &ret->journal);
    embedding_stage_stats(server->embedding, &ret->embedding);
    ret->backfill = (struct backfill_status){.backlog = 0};
    if (server->backfill != NULL)
        ret->backfill = backfill_status(server->backfill);
    ret->queued = 0;
    if (ret->journal.waiting > ret->batcher.processing)
        ret->queued = ret->journal.waiting - ret->batcher.processing;
    ret->oldest_queued_ms = age_ms(oldest_us(ret));
    ret->dead_letters = server->dead_letters.counted + server->dead_letters.since;
    ret->disk_free_bytes = disk_free(server->config->journal.directory);
}
