/* What the disk itself gives: a conversation written over a file that was filled with zeros before,
 * and fdatasync, again and again. No ack that means "on disk" can come sooner. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/bench/clock.h"
#include "tests/bench/commands.h"
#include "tests/bench/load.h"
#include "tests/bench/report.h"

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

/* Fills load in like a run of the generator. 0 or a negative errno. */
static int run(int fd, struct load_options *o, struct load_result *ret)
{
    size_t len = payload_len(o->payload);
    uint8_t *message = malloc(len);
    uint64_t start = clock_ns(), now = start, warm = start + o->warmup_ns, end = warm + o->run_ns;
    off_t at = 0;
    int error = message == NULL ? -ENOMEM : 0;

    while (error == 0 && now < end) {
        uint64_t before = clock_ns();

        payload_put(o->payload, message);
        if (pwrite(fd, message, len, at) != (ssize_t)len || fdatasync(fd) != 0)
            error = -EIO;
        now = clock_ns();
        ret->sent++;
        ret->acked++;
        if (before >= warm) {
            ret->measured++;
            histogram_record(&ret->latency, now - before);
        }
        at += (off_t)len;
        if (at + (off_t)len > FILE_BYTES)
            at = 0;
        progress_tick(o->progress, now, ret->acked);
    }
    ret->seconds = (double)(now - warm) / (double)NS_PER_S;
    ret->elapsed_s = (double)(now - start) / (double)NS_PER_S;
    free(message);
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
                                .warmup_ns = options_warmup_ns(o),
                                .run_ns = options_run_ns(o),
                                .progress = &progress};
    struct load_result *result = calloc(1, sizeof *result);
    int fd = open_file(o->dir), error = fd < 0 ? fd : -ENOMEM;

    if (fd >= 0 && result != NULL && load.payload != NULL) {
        progress_start(&progress, o->command, o->quiet, load.warmup_ns + load.run_ns);
        error = run(fd, &load, result);
        progress_end(&progress);
        report_load(report_add(report, o->command, none.name), &load, result);
    }
    if (error != 0)
        fprintf(stderr, "convstore-bench: %s: %s\n", o->dir, strerror(-error));
    if (fd >= 0)
        close(fd);
    payload_free(load.payload);
    free(result);
    return error == 0 ? 0 : -1;
}
