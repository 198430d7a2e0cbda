/* A chained hash table and a queue over the same flights. Owns each flight from add to end; lives
 * on the loop thread.
 *
 * Invariants: a flight is in the table from add to end, and in the queue until it is taken; count
 * and bytes are over the table and within their limits. The table does not grow: FLIGHTS_MAX bounds
 * a chain's mean length at five. */
#include "daemon/embedding_flight.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS 4096u /* a power of two */

struct flights {
    struct flight *head, *tail; /* the queue */
    size_t queued;
    size_t count;
    size_t bytes;
    struct flight *buckets[BUCKETS];
};

struct flights *flights_new(void)
{
    return calloc(1, sizeof(struct flights));
}

void flights_free(struct flights *f)
{
    struct flight *one;

    if (f == NULL)
        return;
    while (f->head != NULL)
        if (flights_take(f, 1, 0, &one) == 1)
            flights_end(f, one);
    assert(f->count == 0 && f->bytes == 0);
    free(f);
}

struct flight *flights_find(const struct flights *f, struct embedding_key key)
{
    struct flight *at = f->buckets[key.low % BUCKETS];

    while (at != NULL && !embedding_key_equals(at->key, key))
        at = at->chain;
    return at;
}

static size_t flight_bytes(size_t text_len)
{
    return sizeof(struct flight) + text_len;
}

struct flight *flights_add(struct flights *f, struct embedding_key key, struct slice text,
                           const void *apart)
{
    size_t bytes = flight_bytes(text.len);
    struct flight **bucket = &f->buckets[key.low % BUCKETS];
    struct flight *flight;

    if (f->count == FLIGHTS_MAX || text.len > FLIGHTS_MAX_BYTES ||
        f->bytes + bytes > FLIGHTS_MAX_BYTES)
        return NULL;
    flight = malloc(bytes);
    if (flight == NULL)
        return NULL;
    *flight = (struct flight){.chain = *bucket, .key = key, .apart = apart, .text_len = text.len};
    if (text.len > 0)
        memcpy(flight->text, text.data, text.len);
    *bucket = flight;
    if (f->tail != NULL)
        f->tail->next = flight;
    else
        f->head = flight;
    f->tail = flight;
    f->queued++;
    f->count++;
    f->bytes += bytes;
    return flight;
}

size_t flights_take(struct flights *f, size_t max_count, size_t max_bytes, struct flight *ret[])
{
    size_t count = 0, bytes = 0;

    while (f->head != NULL && count < max_count) {
        struct flight *flight = f->head;

        if (flight->waiters != NULL)
            bytes += flight->text_len;
        if (count > 0 && (bytes > max_bytes || flight->apart != ret[0]->apart))
            break;
        f->head = flight->next;
        if (f->head == NULL)
            f->tail = NULL;
        flight->next = NULL;
        f->queued--;
        if (flight->waiters != NULL)
            ret[count++] = flight;
        else
            flights_end(f, flight);
    }
    return count;
}

void flights_put_back(struct flights *f, struct flight *const flights[], size_t count)
{
    for (size_t i = count; i-- > 0;) {
        flights[i]->next = f->head;
        f->head = flights[i];
        if (f->tail == NULL)
            f->tail = flights[i];
        f->queued++;
    }
}

void flights_sweep(struct flights *f)
{
    struct flight *next, **at = &f->head;

    f->tail = NULL;
    for (struct flight *flight = f->head; flight != NULL; flight = next) {
        next = flight->next;
        if (flight->waiters != NULL) {
            f->tail = *at = flight;
            at = &flight->next;
        } else {
            f->queued--;
            flights_end(f, flight);
        }
    }
    *at = NULL;
}

struct flight *flights_first(const struct flights *f)
{
    return f->head;
}

void flights_end(struct flights *f, struct flight *flight)
{
    struct flight **at = &f->buckets[flight->key.low % BUCKETS];

    while (*at != flight) {
        assert(*at != NULL);
        at = &(*at)->chain;
    }
    *at = flight->chain;
    f->count--;
    f->bytes -= flight_bytes(flight->text_len);
    free(flight);
}

size_t flights_count(const struct flights *f)
{
    return f->count;
}

size_t flights_queued(const struct flights *f)
{
    return f->queued;
}
