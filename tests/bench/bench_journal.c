/* The journal alone, with its threads and a real disk: N closed-loop clients append conversations
 * of 2 KB, each its next one when the last is acknowledged; beside it, in the same run, a raw loop
 * of overwrite + fdatasync of the same bytes.
 *
 *   bench_journal [--directory DIR] [--seconds S] [--bytes B] [--keep]
 *
 *   bench_journal --recovery RECORDS [--directory DIR] [--bytes B]
 *
 * --keep leaves the records undone (the database is down); else each is done at once and segments
 * are recycled. --recovery fills a journal, takes its files out of the page cache, and times a
 * plain read of them, a start, and the reading back of everything. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#include "daemon/conversation.h"
#include "daemon/journal.h"
#include "daemon/sysio.h"

#define CLIENTS_MAX 1024
#define SAMPLES_MAX 4000000u

static struct {
    struct journal *journal;
    unsigned clients;
    size_t bytes;
    bool keep, stopping, failed;
    uint64_t end_ns;
    uint64_t sent_ns[CLIENTS_MAX];
    uint64_t acks, groups;
    uint32_t *samples; /* latencies in ns */
    char *text;
} bench;

static void append(uint32_t client)
{
    struct conversation_fields fields = {.user_id = {"user-1", 6},
                                         .platform = {"bench", 5},
                                         .transcript = {bench.text, bench.bytes}};
    uint8_t id[16] = {0};
    struct conversation *c;

    memcpy(id, &bench.acks, sizeof bench.acks);
    c = conversation_new(&fields, id, 0);
    if (c == NULL)
        abort();
    c->call_index = client;
    bench.sent_ns[client] = uv_hrtime();
    if (journal_append(bench.journal, c) != 0) {
        conversation_free(c);
        bench.stopping = true;
    }
}

static void on_durable(void *owner, struct conversation *c)
{
    uint64_t now = uv_hrtime();

    (void)owner;
    if (bench.acks < SAMPLES_MAX)
        bench.samples[bench.acks] = (uint32_t)(now - bench.sent_ns[c->call_index]);
    bench.acks++;
    if (now >= bench.end_ns)
        bench.stopping = true;
    if (!bench.stopping)
        append(c->call_index);
}

static void on_ready(void *owner, struct conversation *c)
{
    (void)owner;
    journal_done(bench.journal, c->seq);
    conversation_free(c);
    journal_room(bench.journal, SIZE_MAX / 2, SIZE_MAX / 2);
}

static void on_lost(void *owner, struct conversation *c)
{
    (void)owner;
    (void)c;
}

static void on_failed(void *owner, int error, const char *text)
{
    (void)owner;
    (void)error;
    fprintf(stderr, "%s\n", text);
    bench.failed = bench.stopping = true;
}

static void on_uncongested(void *owner)
{
    (void)owner;
}

static void on_group(void *owner, unsigned records, uint64_t bytes, uint64_t ns)
{
    (void)owner;
    (void)records;
    (void)bytes;
    (void)ns;
    bench.groups++;
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

static double cpu_seconds(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void print_line(const char *what, uint64_t count, double seconds, double cpu)
{
    uint64_t n = count < SAMPLES_MAX ? count : SAMPLES_MAX;

    qsort(bench.samples, n, sizeof *bench.samples, compare);
    printf("%-28s %9.0f/s  p50 %7.3f ms  p99 %7.3f ms", what, (double)count / seconds,
           n > 0 ? bench.samples[n / 2] / 1e6 : 0, n > 0 ? bench.samples[n * 99 / 100] / 1e6 : 0);
    if (cpu > 0)
        printf("  cpu %5.1f us each", cpu / (double)count * 1e6);
}

static int run_clients(const char *directory, unsigned clients, double seconds)
{
    static const struct journal_callbacks callbacks = {on_durable, on_ready,       on_lost,
                                                       on_failed,  on_uncongested, on_group};
    struct journal_config config = {.directory = directory,
                                    .sync = true,
                                    .max_bytes = 16ull << 30,
                                    .segment_bytes = 64u << 20,
                                    .max_unsynced_bytes = 64u << 20};
    uv_loop_t loop;
    char error[512], name[64];
    uint64_t start;
    double cpu;

    uv_loop_init(&loop);
    if (journal_open(&config, &loop, sysio_real(), &callbacks, NULL, &bench.journal, error) != 0) {
        fprintf(stderr, "%s\n", error);
        return 1;
    }
    journal_room(bench.journal, bench.keep ? 0 : SIZE_MAX / 2, SIZE_MAX / 2);
    bench.acks = bench.groups = 0;
    bench.stopping = false;
    bench.clients = clients;
    start = uv_hrtime();
    bench.end_ns = start + (uint64_t)(seconds * 1e9);
    cpu = cpu_seconds();
    for (uint32_t i = 0; i < clients; i++)
        append(i);
    while (!bench.stopping)
        uv_run(&loop, UV_RUN_ONCE);
    cpu = cpu_seconds() - cpu;
    seconds = (double)(uv_hrtime() - start) / 1e9;
    journal_close(bench.journal, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    uv_loop_close(&loop);
    snprintf(name, sizeof name, "journal, %u clients", clients);
    print_line(name, bench.acks, seconds, cpu);
    printf("  %.1f records a sync\n", (double)bench.acks / (double)(bench.groups + !bench.groups));
    return bench.failed;
}

/* The bytes of one record, overwritten in place and synced, as fast as one thread can. */
static int run_raw(const char *directory, double seconds)
{
    size_t step = (bench.bytes + 150 + 4095) / 4096 * 4096, size = 64u << 20;
    char path[512], *page = calloc(1, size);
    uint64_t start, count = 0, at = 0;
    int fd;

    snprintf(path, sizeof path, "%s/raw", directory);
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || page == NULL || write(fd, page, size) != (ssize_t)size || fsync(fd) != 0) {
        fprintf(stderr, "cannot write %s: %s\n", path, strerror(errno));
        return 1;
    }
    memset(page, 'x', step);
    start = uv_hrtime();
    while (uv_hrtime() - start < (uint64_t)(seconds * 1e9)) {
        uint64_t before = uv_hrtime();

        if (pwrite(fd, page, step, (off_t)at) != (ssize_t)step || fdatasync(fd) != 0)
            return 1;
        at = (at + step) % size;
        bench.samples[count++ % SAMPLES_MAX] = (uint32_t)(uv_hrtime() - before);
    }
    print_line("raw overwrite + fdatasync", count, (double)(uv_hrtime() - start) / 1e9, 0);
    printf("\n");
    close(fd);
    unlink(path);
    free(page);
    return 0;
}

static void add_file(const char *directory, const char *name, bool drop, uint64_t *bytes)
{
    static char buf[1 << 20];
    char path[512];
    ssize_t n;
    int fd;

    snprintf(path, sizeof path, "%s/%s", directory, name);
    fd = open(path, O_RDONLY);
    if (fd < 0)
        return;
    fsync(fd);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    while (!drop && (n = read(fd, buf, sizeof buf)) > 0)
        *bytes += (uint64_t)n;
    close(fd);
}

/* Reads all segments, cold, or only takes them out of the cache. */
static uint64_t read_plain(const char *directory, bool drop)
{
    DIR *dir = opendir(directory);
    struct dirent *entry;
    uint64_t bytes = 0;

    while (dir != NULL && (entry = readdir(dir)) != NULL)
        if (strstr(entry->d_name, ".segment") != NULL)
            add_file(directory, entry->d_name, drop, &bytes);
    if (dir != NULL)
        closedir(dir);
    return bytes;
}

static int run_loop_until(uv_loop_t *loop, uint64_t acks)
{
    while (bench.acks < acks && !bench.failed)
        uv_run(loop, UV_RUN_ONCE);
    return bench.failed;
}

static void on_ready_counted(void *owner, struct conversation *c)
{
    (void)owner;
    bench.acks++;
    journal_done(bench.journal, c->seq);
    conversation_free(c);
    journal_room(bench.journal, 10000, 64u << 20);
}

static int run_recovery(const char *directory, uint64_t records)
{
    static const struct journal_callbacks callbacks = {on_durable, on_ready_counted, on_lost,
                                                       on_failed,  on_uncongested,   on_group};
    struct journal_config config = {.directory = directory,
                                    .sync = true,
                                    .max_bytes = 64ull << 30,
                                    .segment_bytes = 64u << 20,
                                    .max_unsynced_bytes = 64u << 20};
    struct journal_stats stats;
    struct rusage usage;
    uint64_t start, bytes;
    double plain, opened, all;
    uv_loop_t loop;
    char error[512];

    uv_loop_init(&loop);
    if (journal_open(&config, &loop, sysio_real(), &callbacks, NULL, &bench.journal, error) != 0) {
        fprintf(stderr, "%s\n", error);
        return 1;
    }
    bench.end_ns = UINT64_MAX;
    for (uint32_t i = 0; i < 100; i++)
        append(i);
    if (run_loop_until(&loop, records) != 0)
        return 1;
    bench.stopping = true;
    journal_close(bench.journal, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    read_plain(directory, true);
    start = uv_hrtime();
    bytes = read_plain(directory, false);
    plain = (double)(uv_hrtime() - start) / 1e9;
    read_plain(directory, true);
    start = uv_hrtime();
    if (journal_open(&config, &loop, sysio_real(), &callbacks, NULL, &bench.journal, error) != 0)
        return 1;
    opened = (double)(uv_hrtime() - start) / 1e9;
    journal_stats(bench.journal, &stats);
    getrusage(RUSAGE_SELF, &usage);
    printf(
        "%llu records in %.2f GB: plain cold read %.0f MB/s, recovery %.2f s = %.0f MB/s, %ld MiB "
        "at most\n",
        (unsigned long long)stats.waiting, (double)bytes / 1e9, (double)bytes / plain / 1e6, opened,
        (double)bytes / opened / 1e6, usage.ru_maxrss / 1024);
    bench.acks = 0;
    journal_room(bench.journal, 10000, 64u << 20);
    start = uv_hrtime();
    if (run_loop_until(&loop, stats.waiting) != 0)
        return 1;
    all = (double)(uv_hrtime() - start) / 1e9;
    getrusage(RUSAGE_SELF, &usage);
    printf("read back and done: %.0f/s, %ld MiB at most\n", (double)stats.waiting / all,
           usage.ru_maxrss / 1024);
    journal_close(bench.journal, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    uv_loop_close(&loop);
    return 0;
}

int main(int argc, char **argv)
{
    static const unsigned clients[] = {1, 10, 100};
    const char *directory = "build/bench-journal";
    double seconds = 5;
    uint64_t recovery = 0;
    int rc;

    bench.bytes = 2048;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--keep") == 0)
            bench.keep = true;
        else if (i + 1 < argc && strcmp(argv[i], "--directory") == 0)
            directory = argv[++i];
        else if (i + 1 < argc && strcmp(argv[i], "--seconds") == 0)
            seconds = atof(argv[++i]);
        else if (i + 1 < argc && strcmp(argv[i], "--recovery") == 0)
            recovery = strtoull(argv[++i], NULL, 10);
        else if (i + 1 < argc && strcmp(argv[i], "--bytes") == 0)
            bench.bytes = (size_t)atol(argv[++i]);
    }
    bench.samples = calloc(SAMPLES_MAX, sizeof *bench.samples);
    bench.text = malloc(bench.bytes);
    if (bench.samples == NULL || bench.text == NULL)
        return 1;
    for (size_t i = 0; i < bench.bytes; i++)
        bench.text[i] = (char)('a' + i % 26);
    mkdir(directory, 0700);
    if (recovery > 0)
        return run_recovery(directory, recovery);
    rc = run_raw(directory, seconds);
    for (size_t i = 0; i < sizeof clients / sizeof clients[0] && rc == 0; i++)
        rc = run_clients(directory, clients[i], seconds);
    return rc;
}
