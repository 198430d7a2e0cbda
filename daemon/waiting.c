/* A hash table of fixed size with intrusive chains. A user and an id may be there more than once:
 * a client sends again what still waits. */
#include "daemon/waiting.h"

#include <xxhash.h>

static size_t bucket_of(const uint8_t id[16])
{
    return XXH3_64bits(id, 16) & (WAITING_BUCKETS - 1);
}

void waiting_add(struct waiting *w, struct conversation *c)
{
    LIST_INSERT_HEAD(&w->buckets[bucket_of(conversation_header(c)->id)], c, waiting);
}

void waiting_remove(struct conversation *c)
{
    LIST_REMOVE(c, waiting);
}

const struct conversation *waiting_find(const struct waiting *w, struct slice user_id,
                                        const uint8_t id[16])
{
    const struct conversation *c;

    LIST_FOREACH(c, &w->buckets[bucket_of(id)], waiting)
    {
        struct slice user = conversation_user_id(c);

        if (memcmp(conversation_header(c)->id, id, 16) == 0 && user.len == user_id.len &&
            memcmp(user.data, user_id.data, user.len) == 0)
            return c;
    }
    return NULL;
}
