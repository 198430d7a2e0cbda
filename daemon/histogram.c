/* Values below 64 have a bucket each. Above, the bucket is the exponent and the six bits that
 * follow the leading one: index = exponent * 64 + those bits. No bucket above the maximum's is ever
 * looked at: an operation of milliseconds costs a third of the array. */
#include "daemon/histogram.h"

#include <assert.h>
#include <math.h>

static unsigned bucket_of(uint64_t value)
{
    const uint64_t top = (1ull << HISTOGRAM_TOP_BIT) - 1;
    unsigned exponent;

    if (value > top)
        value = top;
    if (value < HISTOGRAM_SUB)
        return (unsigned)value;
    exponent = 63u - (unsigned)__builtin_clzll(value) - HISTOGRAM_SUB_BITS;
    return (exponent + 1) * HISTOGRAM_SUB + (unsigned)((value >> exponent) - HISTOGRAM_SUB);
}

/* The middle of a bucket. */
static uint64_t value_of(unsigned bucket)
{
    unsigned exponent = bucket / HISTOGRAM_SUB;
    uint64_t low, width;

    if (exponent == 0)
        return bucket;
    width = 1ull << (exponent - 1);
    low = (HISTOGRAM_SUB + bucket % HISTOGRAM_SUB) * width;
    return low + width / 2;
}

void histogram_record(struct histogram *h, uint64_t value)
{
    unsigned bucket = bucket_of(value);

    assert(bucket < HISTOGRAM_BUCKETS);
    h->count++;
    h->sum += value;
    if (value > h->max)
        h->max = value;
    h->buckets[bucket]++;
}

void histogram_slice_record(struct histogram_slice *slice, uint64_t value)
{
    unsigned bucket = bucket_of(value);

    assert(bucket < HISTOGRAM_BUCKETS);
    slice->count++;
    slice->sum += value;
    if (value > slice->max)
        slice->max = value;
    slice->buckets[bucket]++;
}

void histogram_add(struct histogram *h, const struct histogram_slice *slice)
{
    unsigned last = bucket_of(slice->max);

    if (slice->count == 0)
        return;
    h->count += slice->count;
    h->sum += slice->sum;
    if (slice->max > h->max)
        h->max = slice->max;
    for (unsigned i = 0; i <= last; i++)
        h->buckets[i] += slice->buckets[i];
}

uint64_t histogram_quantile(const struct histogram *h, double q)
{
    uint64_t rank, seen = 0;
    unsigned last = bucket_of(h->max);

    assert(q >= 0 && q <= 1);
    if (h->count == 0)
        return 0;
    rank = (uint64_t)ceil(q * (double)h->count);
    if (rank == 0)
        rank = 1;
    for (unsigned i = 0; i <= last; i++) {
        seen += h->buckets[i];
        if (seen >= rank) {
            uint64_t value = value_of(i);

            return value < h->max ? value : h->max;
        }
    }
    return h->max;
}

void histogram_counts_to(const struct histogram *h, const uint64_t *bounds, size_t count,
                         uint64_t *ret)
{
    unsigned next = 0;
    uint64_t seen = 0;

    for (size_t i = 0; i < count; i++) {
        unsigned last = bucket_of(bounds[i] < h->max ? bounds[i] : h->max);

        while (next <= last)
            seen += h->buckets[next++];
        ret[i] = seen;
    }
}
