/* Which records live where: two bits a record, kept by segment. Pure bookkeeping on the loop; no
 * file is touched here. */
#ifndef DAEMON_LEDGER_H
#define DAEMON_LEDGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Where a record is. */
enum record_place {
    PLACE_DISK = 0,   /* durable, behind the read cursor */
    PLACE_MEMORY = 1, /* durable, and handed to the backlog */
    PLACE_DONE = 2,   /* its row is committed */
    PLACE_GONE = 3    /* never seen, lost, or at home in another segment since */
};

struct ledger_segment {
    uint64_t index;
    uint64_t bytes;       /* of the file */
    uint64_t end;         /* of what is durable in it */
    uint64_t first_seq;   /* of its own (not moved) records; they have consecutive numbers */
    uint32_t span;        /* of its own numbers, holes included */
    uint32_t capacity;    /* of places */
    uint8_t *places;      /* four a byte */
    uint32_t records;     /* that were ever at home here */
    uint32_t live;        /* on disk or in memory, not done */
    uint32_t unread;      /* of those, on disk only */
    int64_t done_at_us;   /* when live became 0, for journal.retain_ms; monotonic */
    int64_t sparse_at_us; /* when few were left, for moves; 0: not seen yet */
};

/* A record that was appended again: its home is no longer the segment that its number says. */
struct ledger_moved {
    uint64_t seq; /* 0: a free slot */
    uint64_t home;
    enum record_place place;
};

struct ledger {
    struct ledger_segment *segments; /* oldest first, without holes between live ones */
    size_t count, capacity;
    struct ledger_moved *moved; /* open addressing */
    size_t moved_count, moved_slots;
    uint64_t last_seq; /* the highest number seen */
    uint64_t live, unread, bytes;
};

void ledger_done(struct ledger *l);

/* A new youngest segment. 0 or -ENOMEM. */
int ledger_push(struct ledger *l, uint64_t index, uint64_t bytes)
    __attribute__((warn_unused_result));
struct ledger_segment *ledger_oldest(const struct ledger *l); /* NULL when there is none */
struct ledger_segment *ledger_youngest(const struct ledger *l);
struct ledger_segment *ledger_find(const struct ledger *l, uint64_t index);

/* Room for the new numbers `first` to `last` in the youngest segment (none where last < first) and
 * for `moves` moved ones, so that ledger_add() and ledger_move() cannot fail. 0 or -ENOMEM. */
int ledger_reserve(struct ledger *l, uint64_t first, uint64_t last, size_t moves)
    __attribute__((warn_unused_result));

/* A new number, higher than all before, in the youngest segment. */
void ledger_add(struct ledger *l, uint64_t seq, enum record_place place);

/* A record found by recovery in the youngest segment: a new number, or a copy of an older one that
 * was not done when it was copied, whatever older notes say. 0 or -ENOMEM. */
int ledger_recover(struct ledger *l, uint64_t seq) __attribute__((warn_unused_result));

/* The youngest segment is now the home of seq, which keeps its place; what was not known is on disk
 * now. */
void ledger_move(struct ledger *l, uint64_t seq, int64_t now_us);

/* The lowest number that is at home anywhere, done or not; one more than the highest where there is
 * none. */
uint64_t ledger_first_seq(const struct ledger *l);

/* PLACE_GONE for what is not known (any more). ret_home may be NULL. */
enum record_place ledger_place(const struct ledger *l, uint64_t seq, uint64_t *ret_home);

/* Between DISK, MEMORY and DONE, or to GONE. now_us: for done_at_us. */
void ledger_set(struct ledger *l, uint64_t seq, enum record_place place, int64_t now_us);

/* Makes what is done in segments from `from_index` on unread again; returns how many. */
uint64_t ledger_revive(struct ledger *l, uint64_t from_index);

/* Forgets the youngest segment, in which nothing was ever recorded. */
void ledger_pop(struct ledger *l);

/* Forgets all segments below `index` and what is at home in them. */
void ledger_trim(struct ledger *l, uint64_t index);

#endif
