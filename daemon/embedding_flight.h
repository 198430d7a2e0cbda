/* Texts that are asked for and not answered: each stands here once, however many want it (single
 * flight), first in a queue and then in a request. Loop thread only. */
#ifndef DAEMON_EMBEDDING_FLIGHT_H
#define DAEMON_EMBEDDING_FLIGHT_H

#include <stdbool.h>
#include <stddef.h>

#include "daemon/embedding_cache.h"
#include "proto/slice.h"

/* Over either of these a text is not taken: its conversation is stored without a vector, for the
 * embedding backlog to fill in. */
#define FLIGHTS_MAX 20000
#define FLIGHTS_MAX_BYTES (64u << 20)

struct embedding_item;

struct flight {
    struct flight *chain; /* the table's own */
    struct flight *next;  /* the queue's own */
    struct embedding_key key;
    struct embedding_item *waiters; /* the stage's */
    bool crashed;                   /* a server crashed with a request that this was in */
    const void *apart;              /* goes with those of the same mark only; NULL: with any other
                                       that has none */
    size_t text_len;
    char text[]; /* a copy: whoever asked may be gone by the time the answer comes */
};

struct flights;

struct flights *flights_new(void);    /* NULL: no memory */
void flights_free(struct flights *f); /* takes NULL; frees what is queued, which must be all */

/* The flight of that key, queued or in a request, or NULL. */
struct flight *flights_find(const struct flights *f, struct embedding_key key);

/* A new flight at the queue's end; key is not there yet. apart is its mark. NULL at a limit or
 * where memory is short.
 */
struct flight *flights_add(struct flights *f, struct embedding_key key, struct slice text,
                           const void *apart);

/* Takes flights off the queue's head for one request: at most max_count with at most max_bytes of
 * text together (the first one goes whatever its size), all with the same mark. Their number; they
 * stay in the table. Those that nobody waits for any more are ended instead, so it may be 0. */
size_t flights_take(struct flights *f, size_t max_count, size_t max_bytes, struct flight *ret[]);

/* Puts flights that were taken back to the queue's head, in this order. */
void flights_put_back(struct flights *f, struct flight *const flights[], size_t count);

/* Ends those in the queue that nobody waits for any more. */
void flights_sweep(struct flights *f);

/* The queue's first; the others follow by next. NULL where it is empty. */
struct flight *flights_first(const struct flights *f);

/* Ends a flight that was taken: out of the table and freed. */
void flights_end(struct flights *f, struct flight *flight);

size_t flights_count(const struct flights *f);  /* all */
size_t flights_queued(const struct flights *f); /* those in no request yet */

#endif
