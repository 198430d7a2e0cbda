#include "daemon/vector.h"

#include <assert.h>
#include <stdlib.h>

struct vector *vector_new(uint32_t dimension)
{
    struct vector *v = malloc(sizeof *v + dimension * sizeof v->values[0]);

    if (v != NULL) {
        v->references = 1;
        v->dimension = dimension;
    }
    return v;
}

struct vector *vector_hold(struct vector *v)
{
    assert(v->references > 0);
    v->references++;
    return v;
}

void vector_release(struct vector *v)
{
    if (v == NULL)
        return;
    assert(v->references > 0);
    if (--v->references == 0)
        free(v);
}
