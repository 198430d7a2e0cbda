/* A rush: many conversations come in while the database takes rows. Then the loop and the sync
 * thread come first on their processors (latency.h), and where they come thick the loop rests for a
 * moment before it waits for events, so that what comes in meanwhile is read, written, synced and
 * answered together. Loop. */
#ifndef DAEMON_RUSH_H
#define DAEMON_RUSH_H

#include <stdbool.h>
#include <stdint.h>

#define RUSH_LOOKS_PER_SECOND 10u

/* Two turns of the loop begin no closer together while it gathers. */
#define RUSH_TURN_NS 600000u

/* Since the start. */
struct rush_totals {
    uint64_t accepted; /* conversations acknowledged */
    uint64_t replies;  /* that told a client of some of them */
    uint64_t groups;   /* of the journal */
    uint64_t written;  /* rows, */
    uint64_t batches;  /* and the transactions that wrote them */
};

struct rush {
    struct rush_totals before;    /* at the last look */
    uint64_t turn_ns;             /* when the last turn began */
    unsigned on_for, gathers_for; /* looks that it goes on, whatever they see */
    bool on;                      /* both threads come first */
    bool gathers;                 /* the loop rests between its turns */
};

/* RUSH_LOOKS_PER_SECOND times a second. */
void rush_look(struct rush *r, const struct rush_totals *now);

/* Right before the loop waits, behind all that is to be sent: sleeps where it is time to rest. */
void rush_rest(struct rush *r);

#endif
