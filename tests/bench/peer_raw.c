/* What the disk itself gives: a conversation written over a file that was filled with zeros before,
 * and fdatasync, again and again; with --rate all that are due, together, from when each was due.
 * No ack that means "on disk" can come sooner. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/bench/clock.h"
#include "tests/bench/commands.h"
#include "tests/bench/load.h"
#include "tests/bench/report.h"
#include "tests/bench/schedule.h"

#define GROUP_MAX 512 /* messages of one write */
#define FILE_BYTES (64l * 1024 * 1024)
#define FILE_NAME "convstore-bench.raw"

/* A file without name that goes with its descriptor. */
static int open_file(const char *dir)
{
    static char zeros[1 << 16];
    char path[4096];
    int fd;

    snprintf(path, sizeof path, "%s/" FILE_NAME, dir);
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    unlink(path);
    for (long at = 0; at < FILE_BYTES; at += (long)sizeof zeros) {
        if (pwrite(fd, zeros, sizeof zeros, at) != (ssize_t)sizeof zeros) {
            close(fd);
            return -EIO;
        }
    }
    if (fsync(fd) != 0) {
        close(fd);
        return -EIO;
    }
    return fd;
}

struct disk {
    int fd;
    struct payload *payload;
    uint8_t *messages; /* room for GROUP_MAX */
    off_t at;
};

/* Writes n messages over the file's next bytes and syncs. 0 or a negative errno. */
static int write_group(struct disk *disk, uint64_t n)
{
    size_t len = payload_len(disk->payload);

    for (uint64_t i = 0; i < n; i++)
        payload_put(disk->payload, disk->messages + i * len);
    if (disk->at + (off_t)(n * len) > FILE_BYTES)
        disk->at = 0;
    if (pwrite(disk->fd, disk->messages, n * len, disk->at) != (ssize_t)(n * len) ||
        fdatasync(disk->fd) != 0)
        return -EIO;
    disk->at += (off_t)(n * len);
    return 0;
}

static void sleep_until(uint64_t ns)
{
    struct timespec at = {.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};

    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
}

/* How many messages go next: one, or with a schedule those that are due. *ret_begun_ns: since when
 * the first of them waits. */
static uint64_t next_group(struct schedule *schedule, uint64_t *ret_waiting, uint64_t *ret_begun_ns)
{
    uint64_t n;

    *ret_begun_ns = clock_ns();
    if (schedule == NULL)
        return 1;
    while ((*ret_waiting += schedule_release(schedule, clock_ns())) == 0)
        sleep_until(schedule_next_ns(schedule));
    n = *ret_waiting < GROUP_MAX ? *ret_waiting : GROUP_MAX;
    *ret_begun_ns = schedule_intended_ns(schedule, schedule->released - *ret_waiting);
    *ret_waiting -= n;
    return n;
}

/* Fills ret in like a run of the generator. 0 or a negative errno. */
static int run(struct disk *disk, struct load_options *o, struct load_result *ret)
{
    uint64_t start = clock_ns(), now = start, warm = start + o->warmup_ns, end = warm + o->run_ns;
    uint64_t waiting = 0, begun;
    struct schedule schedule;
    int error = 0;

    if (o->rate > 0)
        schedule_init(&schedule, start, o->rate, UINT64_MAX);
    while (error == 0 && now < end) {
        uint64_t n = next_group(o->rate > 0 ? &schedule : NULL, &waiting, &begun);

        error = write_group(disk, n);
        now = clock_ns();
        ret->sent += n;
        ret->acked += n;
        for (uint64_t i = 0; i < n && begun >= warm; i++) {
            uint64_t since =
                o->rate > 0 ? begun + (uint64_t)((double)i * schedule.interval_ns) : begun;

            ret->measured++;
            histogram_record(&ret->latency, now - since);
        }
        progress_tick(o->progress, now, ret->acked);
    }
    ret->seconds = (double)(now - warm) / (double)NS_PER_S;
    ret->elapsed_s = (double)(now - start) / (double)NS_PER_S;
    return error;
}

int command_raw(const struct options *o, json_t *report)
{
    struct dialect none = {.name = "disk", .batch = 1};
    struct progress progress;
    struct load_options load = {.dialect = &none,
                                .payload = payload_new(o->size, o->seed),
                                .connections = 1,
                                .depth = 1,
                                .rate = o->rate,
                                .warmup_ns = options_warmup_ns(o),
                                .run_ns = options_run_ns(o),
                                .progress = &progress};
    struct load_result *result = calloc(1, sizeof *result);
    struct disk disk = {.fd = open_file(o->dir), .payload = load.payload};
    int error = disk.fd < 0 ? disk.fd : -ENOMEM;

    if (load.payload != NULL)
        disk.messages = malloc(GROUP_MAX * payload_len(load.payload));
    if (disk.fd >= 0 && result != NULL && disk.messages != NULL) {
        progress_start(&progress, o->command, o->quiet, load.warmup_ns + load.run_ns);
        error = run(&disk, &load, result);
        progress_end(&progress);
        report_load(report_add(report, o->command, none.name), &load, result);
    }
    if (error != 0)
        fprintf(stderr, "convstore-bench: %s: %s\n", o->dir, strerror(-error));
    if (disk.fd >= 0)
        close(disk.fd);
    free(disk.messages);
    payload_free(load.payload);
    free(result);
    return error == 0 ? 0 : -1;
}
