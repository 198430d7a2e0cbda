/* Which conversations are in memory and no rows yet, to be found by user and id. Holds no memory of
 * its own for them: the links are in the conversations, and stay the loop's while a worker has the
 * rest. Loop. */
#ifndef DAEMON_WAITING_H
#define DAEMON_WAITING_H

#include <sys/queue.h>

#include "daemon/conversation.h"

#define WAITING_BUCKETS 16384 /* six in a chain where queue.max_queue_size wait */

struct waiting {
    LIST_HEAD(, conversation) buckets[WAITING_BUCKETS];
};

/* Set to zero it is empty. Between add and remove the conversation must not be freed. */
void waiting_add(struct waiting *w, struct conversation *c);
void waiting_remove(struct conversation *c);

/* NULL where there is none; any of those that are the same. */
const struct conversation *waiting_find(const struct waiting *w, struct slice user_id,
                                        const uint8_t id[16]);

#endif
