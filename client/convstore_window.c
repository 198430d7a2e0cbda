/* The window: which requests are in flight, under which msgid, and in which list they stand.
 * Belongs to the thread that uses the handle.
 *
 * The one hard thing: an answer may come after its request was given up, when the slot has its next
 * tenant. The msgid therefore holds the slot in its low half, for finding, and a count in its high
 * half that changes from tenant to tenant, for telling them apart.
 *
 * Invariant: free_slots holds window - pending entries, and slots[s] is NULL for just these. */
#include "client/convstore_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <sys/random.h>

#define SLOT_BITS 16

static_assert(CONVSTORE_WINDOW_MAX <= 1 << SLOT_BITS, "a slot must fit its bits of the msgid");

void cs_list_append(struct cs_list *list, struct cs_request *r)
{
    r->next = NULL;
    r->prev = list->tail;
    if (list->tail != NULL)
        list->tail->next = r;
    else
        list->head = r;
    list->tail = r;
}

void cs_list_insert_before(struct cs_list *list, struct cs_request *at, struct cs_request *r)
{
    r->next = at;
    r->prev = at->prev;
    if (at->prev != NULL)
        at->prev->next = r;
    else
        list->head = r;
    at->prev = r;
}

void cs_list_remove(struct cs_list *list, struct cs_request *r)
{
    if (r->prev != NULL)
        r->prev->next = r->next;
    else
        list->head = r->next;
    if (r->next != NULL)
        r->next->prev = r->prev;
    else
        list->tail = r->prev;
    r->next = r->prev = NULL;
}

struct cs_request *cs_window_find(const struct convstore *c, uint32_t msgid)
{
    uint32_t slot = msgid & ((1U << SLOT_BITS) - 1);
    struct cs_request *r = slot < c->window ? c->slots[slot] : NULL;

    return r != NULL && r->msgid == msgid ? r : NULL;
}

int cs_window_init(struct convstore *c, unsigned window, size_t bytes)
{
    struct cs_request **slots = calloc(window, sizeof(struct cs_request *));
    uint32_t *free_slots = malloc(window * sizeof *free_slots);

    assert(c->pending == 0 && window > 0 && window <= CONVSTORE_WINDOW_MAX);
    if (slots == NULL || free_slots == NULL) {
        free(slots);
        free(free_slots);
        return cs_fail(&c->failure, CONVSTORE_NO_MEMORY, "no memory for a window of %u", window);
    }
    for (unsigned i = 0; i < window; i++)
        free_slots[i] = window - 1 - i;
    free(c->slots);
    free(c->free_slots);
    c->slots = slots;
    c->free_slots = free_slots;
    c->window = window;
    c->window_bytes = bytes;
    if (getrandom(&c->jitter, sizeof c->jitter, GRND_NONBLOCK) != sizeof c->jitter)
        c->jitter = (uint64_t)cs_now_ms();
    c->jitter |= 1; /* xorshift must not start at 0 */
    return 0;
}

int cs_window_room(const struct convstore *c, size_t len)
{
    if (len > c->window_bytes)
        return CONVSTORE_TOO_LARGE;
    if (c->pending == c->window || len > c->window_bytes - c->pending_bytes)
        return CONVSTORE_WINDOW_FULL;
    return 0;
}

static void write_msgid(struct cs_request *r)
{
    unsigned char *at = (unsigned char *)r->data + CS_MSGID_OFFSET;

    for (int i = 0; i < 4; i++)
        at[i] = (unsigned char)(r->msgid >> (24 - 8 * i));
}

void cs_window_add(struct convstore *c, struct cs_request *r, int64_t deadline_ms)
{
    uint32_t slot;

    assert(c->pending < c->window && r->len > CS_MSGID_OFFSET + 4);
    slot = c->free_slots[c->window - c->pending - 1];
    assert(c->slots[slot] == NULL);
    r->sequence = ++c->sequence;
    /* The high half changes from use to use of a slot, so that an answer that comes after its
     * request was given up is not taken for its successor's. */
    r->msgid = (uint32_t)(r->sequence & 0xffff) << SLOT_BITS | slot;
    write_msgid(r);
    r->deadline_ms = deadline_ms;
    c->slots[slot] = r;
    if (c->pending == 0 || deadline_ms < c->next_deadline_ms)
        c->next_deadline_ms = deadline_ms;
    c->pending++;
    c->pending_bytes += r->len;
    cs_list_append(&c->queued, r);
}

void cs_window_remove(struct convstore *c, struct cs_request *r)
{
    uint32_t slot = r->msgid & ((1U << SLOT_BITS) - 1);

    if (!r->sent && r == c->queued.head && c->head_offset > 0)
        c->drop = true; /* half of it is on the wire; c->head_offset falls with the connection */
    cs_list_remove(r->sent ? &c->sent : &c->queued, r);
    c->slots[slot] = NULL;
    c->pending--;
    c->pending_bytes -= r->len;
    c->free_slots[c->window - c->pending - 1] = slot;
}
