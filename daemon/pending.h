/* Which conversations are in memory and no rows yet, to be found by user and id. Holds no memory of
 * its own for them: the links are in the conversations, and stay the loop's while a worker has the
 * rest. Loop. */
#ifndef DAEMON_PENDING_H
#define DAEMON_PENDING_H

#include <sys/queue.h>

#include "daemon/conversation.h"

#define PENDING_BUCKETS 16384 /* six in a chain where queue.max_queue_size wait */

struct pending {
    LIST_HEAD(, conversation) buckets[PENDING_BUCKETS];
};

/* Set to zero it is empty. Between add and remove the conversation must not be freed. */
void pending_add(struct pending *p, struct conversation *c);
void pending_remove(struct conversation *c);

/* NULL where there is none; any of those that are the same. */
const struct conversation *pending_find(const struct pending *p, struct slice user_id,
                                        const uint8_t id[16]);

#endif
