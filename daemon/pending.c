/* A hash table of fixed size with intrusive chains. A user and an id may be there more than once:
 * a client sends again what still waits. */
#include "daemon/pending.h"

#include <xxhash.h>

static size_t bucket_of(const uint8_t id[16])
{
    return XXH3_64bits(id, 16) & (PENDING_BUCKETS - 1);
}

void pending_add(struct pending *p, struct conversation *c)
{
    LIST_INSERT_HEAD(&p->buckets[bucket_of(conversation_header(c)->id)], c, pending);
}

void pending_remove(struct conversation *c)
{
    LIST_REMOVE(c, pending);
}

const struct conversation *pending_find(const struct pending *p, struct slice user_id,
                                        const uint8_t id[16])
{
    const struct conversation *c;

    LIST_FOREACH(c, &p->buckets[bucket_of(id)], pending)
    {
        struct slice user = conversation_user_id(c);

        if (memcmp(conversation_header(c)->id, id, 16) == 0 && user.len == user_id.len &&
            memcmp(user.data, user_id.data, user.len) == 0)
            return c;
    }
    return NULL;
}
