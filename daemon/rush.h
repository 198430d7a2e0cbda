/* A rush: many conversations come in while the database takes rows. Then the loop and the sync
 * thread come first on their processors (latency.h), and where they come thick the loop rests for a
 * moment before it waits for events, so that what comes in meanwhile is read, written, synced and
 * answered together. Loop. */
#ifndef DAEMON_RUSH_H
#define DAEMON_RUSH_H

#include <stdbool.h>
#include <stdint.h>

/* Two turns of the loop begin no closer together while it gathers. */
#define RUSH_TURN_NS 600000u

struct rush {
    uint64_t accepted, groups, written; /* at the last look, since the start */
    uint64_t turn_ns;                   /* when the last turn began */
    bool on;                            /* both threads come first */
    bool gathers;                       /* the loop rests between its turns */
};

/* Twice a second, with the totals since the start: conversations acknowledged, groups of the
 * journal, rows written. */
void rush_look(struct rush *r, uint64_t accepted, uint64_t groups, uint64_t written);

/* Right before the loop waits, behind all that is to be sent: sleeps where it is time to rest. */
void rush_rest(struct rush *r);

#endif
