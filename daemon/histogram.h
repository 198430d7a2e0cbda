/* A log-bucket histogram of durations: constant memory, any quantile within 1 %. After HdrHistogram
 * (Gil Tene): each power of two is cut into 64 equal buckets, so that a bucket's middle is at most
 * 1/128 off. One thread. */
#ifndef DAEMON_HISTOGRAM_H
#define DAEMON_HISTOGRAM_H

#include <stddef.h>
#include <stdint.h>

#define HISTOGRAM_SUB_BITS 6
#define HISTOGRAM_SUB (1u << HISTOGRAM_SUB_BITS)
#define HISTOGRAM_TOP_BIT 37 /* values up to 2^37 µs (38 hours); larger ones count as that */
#define HISTOGRAM_BUCKETS ((HISTOGRAM_TOP_BIT - HISTOGRAM_SUB_BITS + 1) * HISTOGRAM_SUB)

struct histogram {
    uint64_t count;
    uint64_t sum;
    uint64_t max;
    uint64_t buckets[HISTOGRAM_BUCKETS];
};

/* A histogram of a short time, at half the memory. All zero is empty. */
struct histogram_slice {
    uint64_t sum;
    uint64_t max;
    uint32_t count;
    uint32_t buckets[HISTOGRAM_BUCKETS];
};

/* Counts one value, in whatever unit the owner keeps (the daemon: microseconds). */
void histogram_record(struct histogram *h, uint64_t value);
void histogram_slice_record(struct histogram_slice *slice, uint64_t value);

/* Adds all that the slice counted. */
void histogram_add(struct histogram *h, const struct histogram_slice *slice);

/* The value at quantile q (0 to 1): within 1 % of the exact one, never above the largest recorded.
 * 0 when empty. */
uint64_t histogram_quantile(const struct histogram *h, double q);

/* How many values are at most each of the bounds, which rise; each stands for its whole bucket. */
void histogram_counts_to(const struct histogram *h, const uint64_t *bounds, size_t count,
                         uint64_t *ret);

#endif
