/* An embedding, shared between the cache and the batches that use it. The count of references
 * belongs to the loop thread; a worker only reads the values, while a batch on the loop holds a
 * reference for it. */
#ifndef DAEMON_VECTOR_H
#define DAEMON_VECTOR_H

#include <stdint.h>

struct vector {
    uint32_t references;
    uint32_t dimension;
    float values[];
};

struct vector *
vector_new(uint32_t dimension); /* one reference; values are not set; NULL: no memory */
struct vector *vector_hold(struct vector *v); /* returns v */
void vector_release(struct vector *v);        /* takes NULL; frees with the last reference */

#endif
