/* Simulated power loss: the journal works on a disk in memory, from a seed; before every call that
 * changes the disk, states are made that a loss of power could leave there, and recovery is run on
 * each. An episode is a chain of such lives: between them the process dies, the power fails, or the
 * disk begins to fail. Everything is decided by the seed, with any compiler. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/power.h"
#include "tests/support/world.h"

#define GENERATIONS 6
#define ACTIONS 70

static struct {
    uint64_t states, in_recovery, episodes, kills, failures, restarts, acked, moved, damaged;
} total;

struct episode {
    struct world world;
    struct world probe; /* the oracle's copy that looks at one crashed state */
    uint64_t random;
    unsigned sampling; /* one boundary in so many */
};

struct snapshot {
    uint64_t wanted, passed, seed;
    unsigned keep;
    struct simdisk *taken;
};

static void on_recovery_boundary(void *arg, struct simdisk *disk)
{
    struct snapshot *snapshot = arg;

    if (snapshot->passed++ == snapshot->wanted)
        snapshot->taken = simdisk_crash(disk, snapshot->seed, snapshot->keep);
}

/* Recovers from one state of the disk, reads all back, compares. Takes the disk. Now and then the
 * power fails again during that recovery, and again during the next. */
static void check_state(struct episode *e, struct simdisk *disk, bool again)
{
    struct world *p = &e->probe;
    struct snapshot snapshot = {0};
    int rc;

    memcpy(p->fates, e->world.fates, sizeof p->fates);
    memcpy(p->seqs, e->world.seqs, sizeof p->seqs);
    memset(p->in_memory, 0, sizeof p->in_memory);
    p->count = e->world.count;
    p->seed = e->world.seed;
    p->config = e->world.config;
    p->disk = disk;
    p->reading_only = true;
    if (again) {
        snapshot.wanted = sim_below(&e->random, 60);
        snapshot.seed = sim_random(&e->random);
        snapshot.keep = (unsigned)sim_below(&e->random, 257);
        disk->boundary = on_recovery_boundary;
        disk->arg = &snapshot;
    }
    rc = world_open(p);
    if (rc != 0)
        world_fail(p, "recovery does not start: %s", p->text);
    world_room(p, 100000);
    world_settle(p);
    world_check_recovered(p);
    total.states++;
    total.damaged += p->journal->damages.count > 0;
    world_abandon(p);
    simdisk_free(disk);
    p->disk = NULL;
    if (snapshot.taken != NULL) {
        total.in_recovery++;
        check_state(e, snapshot.taken, sim_below(&e->random, 2) == 0);
    }
}

static unsigned random_keep(struct episode *e)
{
    static const unsigned keeps[] = {0, 16, 64, 128, 192, 240, 256};

    return keeps[sim_below(&e->random, sizeof keeps / sizeof keeps[0])];
}

/* One of the states that a loss of power could leave now. */
static struct simdisk *random_crash(struct episode *e, const struct simdisk *disk)
{
    unsigned keep = random_keep(e); /* in order: a seed must mean the same with every compiler */

    return simdisk_crash(disk, sim_random(&e->random), keep);
}

static void on_boundary(void *arg, struct simdisk *disk)
{
    struct episode *e = arg;
    struct simdisk *crashed;

    if (sim_below(&e->random, e->sampling) != 0)
        return;
    crashed = random_crash(e, disk);
    check_state(e, crashed, sim_below(&e->random, 6) == 0);
}

static void commit_some(struct episode *e)
{
    struct world *w = &e->world;
    uint64_t part = 1 + sim_below(&e->random, 4);

    for (uint32_t n = 1; n <= w->count; n++)
        if (w->in_memory[n] != 0 && n % 41 != 0 && sim_below(&e->random, part) == 0)
            world_commit(w, n);
}

static void append_some(struct episode *e)
{
    struct world *w = &e->world;

    for (uint64_t i = sim_below(&e->random, 6); i > 0; i--) {
        uint64_t limit = sim_below(&e->random, 12) == 0 ? 5000 : 500;
        size_t len = 1 + (size_t)sim_below(&e->random, limit);

        if (w->count + 2 < WORLD_MAX && !journal_congested(w->journal))
            (void)!world_append(w, len);
    }
}

static void act(struct episode *e)
{
    struct world *w = &e->world;
    enum work_kind kind = (enum work_kind)sim_below(&e->random, WORK_KINDS);

    switch (sim_below(&e->random, 11)) {
    case 0:
    case 1:
        append_some(e);
        break;
    case 2:
        commit_some(e);
        break;
    case 3:
        world_room(w, sim_below(&e->random, 3) == 0 ? 0 : sim_below(&e->random, 60));
        break;
    case 4:
        w->disk->now_us += (int64_t)sim_below(&e->random, 3000000);
        break;
    case 5:
        world_run_work(w, kind);
        break;
    case 6:
        world_finish_work(w, kind);
        break;
    case 7:
        world_run_group(w);
        break;
    case 8:
        world_finish_group(w);
        break;
    case 9:
        world_settle(w);
        break;
    case 10: /* rare: a disk that is full for a while, a server that lost its last commits */
        if (sim_below(&e->random, 6) == 0)
            w->disk->full = !w->disk->full;
        if (sim_below(&e->random, 20) == 0)
            world_replay(w);
        break;
    }
    if (!w->failed)
        world_pump(w);
}

/* Opens what is on the disk and takes it as the truth. */
static void reopen(struct episode *e)
{
    struct world *w = &e->world;
    int rc = world_open(w);

    if (rc != 0)
        world_fail(w, "recovery does not start: %s", w->text);
    world_room(w, 100000);
    world_settle(w);
    if (w->failed)
        world_fail(w, "the journal failed after recovery: %s", w->text);
    world_adopt(w);
    total.moved += w->journal->moved;
}

static void end_generation(struct episode *e)
{
    struct world *w = &e->world;
    struct simdisk *crashed;
    bool for_good = sim_below(&e->random, 2) == 0;

    switch (sim_below(&e->random, 3)) {
    case 0: /* the process dies; the caches stay */
        world_abandon(w);
        total.kills++;
        break;
    case 1: /* the power fails */
        crashed = random_crash(e, w->disk);
        world_abandon(w);
        simdisk_free(w->disk);
        w->disk = crashed;
        total.kills++;
        break;
    case 2: /* a write or a sync fails: no ack any more, the daemon goes, its caches lie */
        w->disk->fault = (struct sim_fault){.at = w->disk->calls + 1 + sim_below(&e->random, 30),
                                            .error = -5,
                                            .for_good = for_good};
        for (int i = 0; i < 40 && !w->failed; i++)
            act(e);
        total.failures += w->failed;
        world_abandon(w);
        break;
    }
    w->disk->boundary = on_boundary;
    w->disk->arg = e;
    reopen(e);
    total.restarts++;
}

/* However full it became: once the rows are committed, the journal is empty and takes records. */
static void drain(struct episode *e)
{
    struct world *w = &e->world;

    w->disk->quiet = true;
    w->disk->full = false;
    for (int i = 0; i < 3; i++) { /* the last of a replay, retention, recycling */
        world_room(w, 100000);
        world_settle(w);
        for (uint32_t n = 1; n <= w->count; n++)
            if (w->in_memory[n] != 0)
                world_commit(w, n);
        world_settle(w);
        w->disk->now_us += 10000000;
    }
    if (w->failed || w->journal->ledger.live != 0 || w->journal->ledger.count > 1)
        world_fail(w, "the journal does not drain: %llu left in %zu segments %s",
                   (unsigned long long)w->journal->ledger.live, w->journal->ledger.count, w->text);
    if (world_append(w, 400) != 0)
        world_fail(w, "a drained journal refuses a record");
    world_settle(w);
    if (w->fates[w->count] != FATE_ACKED)
        world_fail(w, "a drained journal does not acknowledge");
}

static void run_episode(struct episode *e, uint64_t seed)
{
    struct journal_config config = {.sync = true};
    struct world *w = &e->world;

    e->random = seed * 0x9e3779b97f4a7c15u + 1;
    e->sampling = 1 + (unsigned)sim_below(&e->random, 3);
    config.segment_bytes = (4 + 4 * sim_below(&e->random, 2)) * SEGMENT_PAGE;
    config.max_bytes = (2 + sim_below(&e->random, 4)) * config.segment_bytes;
    config.max_unsynced_bytes = 500 + sim_below(&e->random, 20000);
    config.retain_ms = sim_below(&e->random, 3) == 0 ? 2000 : 0;
    world_init(w, seed, &config);
    w->disk->boundary = on_boundary;
    w->disk->arg = e;
    reopen(e);
    for (int g = 0; g < GENERATIONS; g++) {
        for (int i = 0; i < ACTIONS && !w->failed; i++)
            act(e);
        end_generation(e);
    }
    drain(e);
    for (uint32_t n = 1; n <= w->count; n++)
        total.acked += w->fates[n] >= FATE_ACKED;
    total.episodes++;
    world_done(w);
}

void power_run(uint64_t states, uint64_t seed, FILE *out)
{
    static struct episode e;

    memset(&total, 0, sizeof total);
    while (total.states < states)
        run_episode(&e, seed++);
    fprintf(
        out,
        "# power: %llu crash states (%llu during a recovery, %llu with damage to report) in %llu "
        "episodes, %llu kills, %llu failed disks, %llu restarts, %llu acknowledged, %llu moved: "
        "0 lost, 0 never written, 0 twice\n",
        (unsigned long long)total.states, (unsigned long long)total.in_recovery,
        (unsigned long long)total.damaged, (unsigned long long)total.episodes,
        (unsigned long long)total.kills, (unsigned long long)total.failures,
        (unsigned long long)total.restarts, (unsigned long long)total.acked,
        (unsigned long long)total.moved);
}
