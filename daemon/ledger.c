/* The ledger: every record that is on disk is in exactly one place.
 *
 * Owned by the journal, on the loop. A segment's own records have consecutive numbers, so a number
 * finds its segment by bisection and its two bits by subtraction; the few that were moved are in a
 * hash table that is asked first. Invariants: a segment's live and unread are the sums over its
 * home records, the ledger's the sums over its segments; unread <= live. */
#include "daemon/ledger.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A hole of more numbers than this between two neighbours is no hole but another log's record. */
#define HOLE_MAX (1u << 20)

void ledger_done(struct ledger *l)
{
    for (size_t i = 0; i < l->count; i++)
        free(l->segments[i].places);
    free(l->segments);
    free(l->moved);
    *l = (struct ledger){0};
}

int ledger_push(struct ledger *l, uint64_t index, uint64_t bytes)
{
    assert(l->count == 0 || index > l->segments[l->count - 1].index);
    if (l->count == l->capacity) {
        size_t capacity = l->capacity != 0 ? 2 * l->capacity : 16;
        struct ledger_segment *grown = realloc(l->segments, capacity * sizeof *grown);

        if (grown == NULL)
            return -ENOMEM;
        l->segments = grown;
        l->capacity = capacity;
    }
    l->segments[l->count++] =
        (struct ledger_segment){.index = index, .bytes = bytes, .first_seq = l->last_seq + 1};
    l->bytes += bytes;
    return 0;
}

struct ledger_segment *ledger_oldest(const struct ledger *l)
{
    return l->count > 0 ? &l->segments[0] : NULL;
}

struct ledger_segment *ledger_youngest(const struct ledger *l)
{
    return l->count > 0 ? &l->segments[l->count - 1] : NULL;
}

struct ledger_segment *ledger_find(const struct ledger *l, uint64_t index)
{
    size_t low = 0, high = l->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (l->segments[middle].index < index)
            low = middle + 1;
        else
            high = middle;
    }
    return low < l->count && l->segments[low].index == index ? &l->segments[low] : NULL;
}

static enum record_place place_get(const struct ledger_segment *s, uint64_t at)
{
    return (enum record_place)(s->places[at / 4] >> (at % 4 * 2) & 3);
}

static void place_put(struct ledger_segment *s, uint64_t at, enum record_place place)
{
    unsigned shift = at % 4 * 2;

    s->places[at / 4] = (uint8_t)((s->places[at / 4] & ~(3u << shift)) | (unsigned)place << shift);
}

static int places_reserve(struct ledger_segment *s, uint64_t span)
{
    uint64_t capacity = s->capacity != 0 ? s->capacity : 1024;
    uint8_t *grown;

    while (capacity < span)
        capacity *= 2;
    if (capacity == s->capacity)
        return 0;
    grown = realloc(s->places, capacity / 4);
    if (grown == NULL)
        return -ENOMEM;
    s->places = grown;
    s->capacity = (uint32_t)capacity;
    return 0;
}

static size_t moved_slot(const struct ledger *l, uint64_t seq)
{
    size_t slot = (size_t)(seq * 0x9e3779b97f4a7c15u >> 32) & (l->moved_slots - 1);

    while (l->moved[slot].seq != 0 && l->moved[slot].seq != seq)
        slot = (slot + 1) & (l->moved_slots - 1);
    return slot;
}

static struct ledger_moved *moved_find(const struct ledger *l, uint64_t seq)
{
    struct ledger_moved *m;

    if (l->moved_count == 0)
        return NULL;
    m = &l->moved[moved_slot(l, seq)];
    return m->seq == seq ? m : NULL;
}

/* Makes the table anew with room for `count`, without the entries at home below `from_index`. */
static int moved_rebuild(struct ledger *l, size_t count, uint64_t from_index)
{
    struct ledger fresh = {.moved_slots = 64};

    while (fresh.moved_slots < 2 * count)
        fresh.moved_slots *= 2;
    fresh.moved = calloc(fresh.moved_slots, sizeof *fresh.moved);
    if (fresh.moved == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < l->moved_slots; i++) {
        if (l->moved[i].seq == 0 || l->moved[i].home < from_index)
            continue;
        fresh.moved[moved_slot(&fresh, l->moved[i].seq)] = l->moved[i];
        fresh.moved_count++;
    }
    free(l->moved);
    l->moved = fresh.moved;
    l->moved_slots = fresh.moved_slots;
    l->moved_count = fresh.moved_count;
    return 0;
}

int ledger_reserve(struct ledger *l, uint64_t first, uint64_t last, size_t moves)
{
    struct ledger_segment *s = ledger_youngest(l);
    int rc = 0;

    if (last >= first)
        rc = places_reserve(s, last + 1 - (s->span > 0 ? s->first_seq : first));
    if (rc == 0 && moves > 0 && 2 * (l->moved_count + moves) > l->moved_slots)
        rc = moved_rebuild(l, l->moved_count + moves, 0);
    return rc;
}

/* The segment to which a number belongs by its value; NULL for none. */
static struct ledger_segment *native_segment(const struct ledger *l, uint64_t seq)
{
    size_t low = 0, high = l->count;
    struct ledger_segment *s;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (l->segments[middle].first_seq <= seq)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0)
        return NULL;
    s = &l->segments[low - 1];
    return seq - s->first_seq < s->span ? s : NULL;
}

static void count_place(struct ledger *l, struct ledger_segment *s, enum record_place place, int by)
{
    if (place == PLACE_DISK || place == PLACE_MEMORY) {
        s->live += (uint32_t)by;
        l->live += (uint64_t)by;
    }
    if (place == PLACE_DISK) {
        s->unread += (uint32_t)by;
        l->unread += (uint64_t)by;
    }
}

void ledger_add(struct ledger *l, uint64_t seq, enum record_place place)
{
    struct ledger_segment *s = ledger_youngest(l);

    assert(seq > l->last_seq);
    if (s->span == 0)
        s->first_seq = seq;
    assert(seq - s->first_seq < s->capacity); /* ledger_reserve() saw to it */
    for (uint64_t hole = s->first_seq + s->span; hole < seq; hole++)
        place_put(s, hole - s->first_seq, PLACE_GONE);
    s->span = (uint32_t)(seq - s->first_seq + 1);
    place_put(s, seq - s->first_seq, place);
    s->records++;
    l->last_seq = seq;
    count_place(l, s, place, 1);
}

static void moved_put(struct ledger *l, uint64_t seq, uint64_t home, enum record_place place)
{
    struct ledger_moved *m = &l->moved[moved_slot(l, seq)];

    if (m->seq == 0)
        l->moved_count++;
    assert(2 * l->moved_count <= l->moved_slots);
    *m = (struct ledger_moved){seq, home, place};
}

enum record_place ledger_place(const struct ledger *l, uint64_t seq, uint64_t *ret_home)
{
    const struct ledger_moved *m = moved_find(l, seq);
    const struct ledger_segment *s = m != NULL ? ledger_find(l, m->home) : native_segment(l, seq);

    if (s == NULL)
        return PLACE_GONE;
    if (ret_home != NULL)
        *ret_home = s->index;
    return m != NULL ? m->place : place_get(s, seq - s->first_seq);
}

void ledger_set(struct ledger *l, uint64_t seq, enum record_place place, int64_t now_us)
{
    struct ledger_moved *m = moved_find(l, seq);
    struct ledger_segment *s = m != NULL ? ledger_find(l, m->home) : native_segment(l, seq);

    assert(s != NULL);
    if (m != NULL) {
        count_place(l, s, m->place, -1);
        m->place = place;
    } else {
        count_place(l, s, place_get(s, seq - s->first_seq), -1);
        place_put(s, seq - s->first_seq, place);
    }
    count_place(l, s, place, 1);
    assert(s->unread <= s->live);
    if (s->live == 0)
        s->done_at_us = now_us;
}

void ledger_move(struct ledger *l, uint64_t seq, int64_t now_us)
{
    enum record_place place = ledger_place(l, seq, NULL);
    struct ledger_segment *home = ledger_youngest(l);

    if (place != PLACE_GONE)
        ledger_set(l, seq, PLACE_GONE, now_us);
    else
        place = PLACE_DISK;
    moved_put(l, seq, home->index, place);
    home->records++;
    count_place(l, home, place, 1);
}

int ledger_recover(struct ledger *l, uint64_t seq)
{
    struct ledger_segment *s = ledger_youngest(l);
    int rc;

    if (seq > l->last_seq && (s->span == 0 || seq - l->last_seq <= HOLE_MAX)) {
        rc = ledger_reserve(l, seq, seq, 0);
        if (rc == 0)
            ledger_add(l, seq, PLACE_DISK);
        return rc;
    }
    rc = ledger_reserve(l, 1, 0, 1);
    if (rc != 0)
        return rc;
    /* Only what is not done is copied, so the note is older than a replay, whose own note may have
     * gone with its segment while this one's file is still there. */
    if (ledger_place(l, seq, NULL) == PLACE_DONE)
        ledger_set(l, seq, PLACE_DISK, 0);
    ledger_move(l, seq, 0);
    return 0;
}

uint64_t ledger_revive(struct ledger *l, uint64_t from_index)
{
    uint64_t before = l->live;

    for (size_t k = 0; k < l->count; k++) {
        struct ledger_segment *s = &l->segments[k];

        for (uint32_t i = 0; s->index >= from_index && i < s->span; i++) {
            if (place_get(s, i) == PLACE_DONE) {
                place_put(s, i, PLACE_DISK);
                count_place(l, s, PLACE_DISK, 1);
            }
        }
    }
    for (size_t i = 0; i < l->moved_slots; i++) {
        struct ledger_moved *m = &l->moved[i];

        if (m->seq != 0 && m->place == PLACE_DONE && m->home >= from_index) {
            m->place = PLACE_DISK;
            count_place(l, ledger_find(l, m->home), PLACE_DISK, 1);
        }
    }
    return l->live - before;
}

void ledger_pop(struct ledger *l)
{
    struct ledger_segment *s = ledger_youngest(l);

    assert(s->records == 0);
    l->bytes -= s->bytes;
    free(s->places);
    l->count--;
}

void ledger_trim(struct ledger *l, uint64_t index)
{
    size_t gone = 0;

    while (gone < l->count && l->segments[gone].index < index) {
        l->bytes -= l->segments[gone].bytes;
        l->live -= l->segments[gone].live;
        l->unread -= l->segments[gone].unread;
        free(l->segments[gone].places);
        gone++;
    }
    if (gone == 0)
        return;
    memmove(l->segments, l->segments + gone, (l->count - gone) * sizeof *l->segments);
    l->count -= gone;
    if (l->moved_count > 0)
        (void)!moved_rebuild(l, l->moved_count, index); /* short of memory: they stay, harmless */
}

uint64_t ledger_first_seq(const struct ledger *l)
{
    uint64_t first = l->last_seq + 1;

    for (size_t i = 0; i < l->count; i++)
        if (l->segments[i].span > 0 && l->segments[i].first_seq < first)
            first = l->segments[i].first_seq;
    for (size_t i = 0; i < l->moved_slots; i++)
        if (l->moved[i].seq != 0 && l->moved[i].seq < first)
            first = l->moved[i].seq;
    return first;
}
