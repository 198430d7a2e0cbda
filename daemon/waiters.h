/* Which calls wait for which rows: seq -> call, for conversations that were stored with wait:
 * "stored". Loop. */
#ifndef DAEMON_WAITERS_H
#define DAEMON_WAITERS_H

#include <stdint.h>
#include <sys/queue.h>

struct call;
struct waiter;

#define WAITER_BUCKETS 16384 /* a power of two */

struct waiters {
    LIST_HEAD(, waiter) buckets[WAITER_BUCKETS];
};

/* 0 or -ENOMEM. */
int waiters_add(struct waiters *w, uint64_t seq, struct call *call, uint32_t index)
    __attribute__((warn_unused_result));

/* The call that waits for seq, taken out; NULL: none. seq 0: any one, until none is left. */
struct call *waiters_take(struct waiters *w, uint64_t seq, uint32_t *ret_index);

#endif
