/* A conversation may leave memory between its ack and its row, so that it cannot carry its call
 * along. Sequence numbers follow one another: their low bits are the hash. */
#include "daemon/waiters.h"

#include <errno.h>
#include <stdlib.h>

struct waiter {
    uint64_t seq;
    struct call *call;
    uint32_t index;
    LIST_ENTRY(waiter) link;
};

int waiters_add(struct waiters *w, uint64_t seq, struct call *call, uint32_t index)
{
    struct waiter *waiter = malloc(sizeof *waiter);

    if (waiter == NULL)
        return -ENOMEM;
    *waiter = (struct waiter){.seq = seq, .call = call, .index = index};
    LIST_INSERT_HEAD(&w->buckets[seq & (WAITER_BUCKETS - 1)], waiter, link);
    return 0;
}

static struct waiter *find(struct waiters *w, uint64_t seq)
{
    struct waiter *waiter;

    LIST_FOREACH(waiter, &w->buckets[seq & (WAITER_BUCKETS - 1)], link)
    if (waiter->seq == seq)
        return waiter;
    return NULL;
}

static struct waiter *find_any(struct waiters *w)
{
    for (unsigned i = 0; i < WAITER_BUCKETS; i++)
        if (!LIST_EMPTY(&w->buckets[i]))
            return LIST_FIRST(&w->buckets[i]);
    return NULL;
}

struct call *waiters_take(struct waiters *w, uint64_t seq, uint32_t *ret_index)
{
    struct waiter *waiter = seq != 0 ? find(w, seq) : find_any(w);
    struct call *call;

    if (waiter == NULL)
        return NULL;
    LIST_REMOVE(waiter, link);
    call = waiter->call;
    *ret_index = waiter->index;
    free(waiter);
    return call;
}
