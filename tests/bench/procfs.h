/* What the kernel says of a server's process: who it is, its CPU time, its memory. */
#ifndef TESTS_BENCH_PROCFS_H
#define TESTS_BENCH_PROCFS_H

#include <stdint.h>
#include <sys/types.h>

/* The process behind a connected Unix socket; 0 where it is unknown. All below take 0 and answer 0.
 */
pid_t procfs_peer(int fd);

/* Its CPU time so far on all threads, user and system, to the clock tick (10 ms). */
uint64_t procfs_cpu_ns(pid_t pid);

/* Its resident memory. */
uint64_t procfs_rss_bytes(pid_t pid);

#endif
