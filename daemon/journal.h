/* The journal: what has been acknowledged and is not yet a row lives here, on disk.
 *
 * The life of a record: appended -> in a group -> written -> synced -> acknowledged -> ready (in
 * memory) or behind the read cursor (on disk only) -> done (its row is committed) -> trimmed with
 * its segment. All functions are for the loop's thread; the disk work runs on two threads of the
 * journal's own. The format is in proto/JOURNAL.md. */
#ifndef DAEMON_JOURNAL_H
#define DAEMON_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <uv.h>

struct conversation;
struct handoff_job;
struct journal;
struct sysio;

struct journal_config {
    const char *directory;
    bool sync;                   /* journal.durability = fsync; false: written, not synced */
    uint64_t max_bytes;          /* of segments in use; two more are held in reserve */
    uint64_t segment_bytes;      /* a multiple of 4096; a record must fit into one */
    uint64_t max_unsynced_bytes; /* more than this waits: journal_congested() */
    uint64_t retain_ms;          /* done segments stay that long, room permitting */
};

/* All run on the loop. None may call back into journal_close(). */
struct journal_callbacks {
    /* On disk, its sync has returned: send the ack. In the order of appending. The journal keeps c,
     * and either gives it away with on_ready or frees it; take what you need of c->call now. */
    void (*on_durable)(void *owner, struct conversation *c);
    /* Into the backlog: fresh, or read back from disk (then c->replayed). Takes ownership. Only
     * while there is room (journal_room). Each seq comes once between opening and closing, unless
     * journal_replay_done() makes it come again. */
    void (*on_ready)(void *owner, struct conversation *c);
    /* Durability is lost while c waited: answer STORAGE_FAILED. The journal keeps c and frees it.
     */
    void (*on_lost)(void *owner, struct conversation *c);
    /* Once, after the last on_lost: no ack will ever come again; say why, exit non-zero. */
    void (*on_failed)(void *owner, int error, const char *text);
    /* journal_congested() has become false. */
    void (*on_uncongested)(void *owner);
    /* One group was written and synced, behind its on_durable; NULL where nobody counts. */
    void (*on_group)(void *owner, unsigned records, uint64_t bytes, uint64_t ns);
};

/* Locks the directory (made where it is missing, 0700), recovers what is there, prepares the first
 * segment. Blocks; for the time before listening. 0 or a negative errno with one clear line in
 * ret_error ("… is held by pid N"). Afterwards call journal_room() once: what recovery found comes
 * through on_ready. sys: sysio_real(). */
int journal_open(const struct journal_config *config, uv_loop_t *loop, const struct sysio *sys,
                 const struct journal_callbacks *callbacks, void *owner, struct journal **ret,
                 char ret_error[512]) __attribute__((warn_unused_result));

/* Writes what waits, joins the threads, gives the directory free. Blocks. on_closed (may be NULL)
 * runs on the loop when all handles are gone and j is freed. Also after on_failed. */
void journal_close(struct journal *j, void (*on_closed)(void *owner));

/* Another max_bytes, max_unsynced_bytes and retain_ms from now on; the rest of config stays. A
 * journal beyond a lowered max_bytes drains. */
void journal_reconfigure(struct journal *j, const struct journal_config *config);

/* Whether the sync thread comes first on its processor from its next group on, where that is
 * permitted: see rush.h. */
void journal_come_first(struct journal *j, bool first);

/* Appends; gives c->seq and takes ownership on 0. -EDQUOT: journal.max_bytes is reached; -ENOSPC:
 * the disk is full; both mean QUEUE_FULL, and c stays the caller's. -EMSGSIZE: no segment can hold
 * it. -EIO: on_failed has run. */
int journal_append(struct journal *j, struct conversation *c) __attribute__((warn_unused_result));

/* What journal_append() would say to `count` records of `packed_bytes` together: for QUEUE_FULL
 * before the first of a store_many. 0, -EDQUOT, -ENOSPC, -EIO. */
int journal_admits(const struct journal *j, unsigned count, uint64_t packed_bytes)
    __attribute__((warn_unused_result));

/* The number of the youngest record, whether it is durable yet or not; 0: there never was one. */
uint64_t journal_last_seq(const struct journal *j);

/* No record on disk has a lower number: what is known of lower ones can be forgotten. */
uint64_t journal_first_seq(const struct journal *j);

/* More than max_unsynced_bytes wait for their sync: read no session further until on_uncongested.
 */
bool journal_congested(const struct journal *j);

/* The row of seq is committed, or it is a dead letter: it needs no replay any more. */
void journal_done(struct journal *j, uint64_t seq);

/* The room that the backlog has now (not a difference). The journal lowers its own copy with each
 * on_ready by one and by conversation_bytes(c); call this whenever room has become free. */
void journal_room(struct journal *j, size_t conversations, size_t bytes);

/* Makes every done record that is still on disk live again, to be read back through on_ready: for a
 * server whose timeline changed and that may lack the last commits. Returns how many. */
uint64_t journal_replay_done(struct journal *j);

enum journal_damage_kind {
    JOURNAL_DAMAGE_HEADER, /* one copy of a segment's header; no record is lost */
    JOURNAL_DAMAGE_BYTES,  /* bytes between records, set aside in `file` */
    JOURNAL_DAMAGE_TAIL,   /* a torn tail: written, never acknowledged; the normal end of a crash */
    JOURNAL_DAMAGE_SEGMENT, /* a file that is no segment, set aside as `file` */
    JOURNAL_DAMAGE_MISSING  /* a segment that should be there */
};

struct journal_damage {
    enum journal_damage_kind kind;
    uint64_t segment;
    uint64_t offset;
    uint64_t bytes;
    char file[64]; /* where it was set aside, in the journal's directory; empty where it was not */
};

#define JOURNAL_DAMAGE_KEPT 64 /* of the list; the counter counts all */

struct journal_stats {
    uint64_t bytes;            /* of segments in use */
    uint64_t retained_bytes;   /* of those, the ones that are done and only kept (retain_ms) */
    uint64_t segments;         /* in use */
    uint64_t spares;           /* prepared */
    uint64_t syncs;            /* groups synced since the start */
    uint64_t records;          /* records in them */
    uint64_t waiting;          /* durable and not done */
    uint64_t waiting_on_disk;  /* of those, behind the read cursor */
    int64_t oldest_on_disk_us; /* arrival of the next one behind the cursor, since 1970; 0: none */
    uint64_t unsynced_bytes;
    uint64_t moved;        /* records appended again so that their segment could go */
    uint64_t recovered;    /* records that the start found live */
    uint64_t damages;      /* torn tails do not count */
    unsigned damage_count; /* in the list */
    struct journal_damage damage[JOURNAL_DAMAGE_KEPT];
    uint64_t probe_p50_ns; /* of the syncs timed at the start; 0 with durability os */
    uint64_t probe_p99_ns;
    bool full; /* a record of a page would be refused now */
};
void journal_stats(const struct journal *j, struct journal_stats *ret);

/* Reads a journal without touching it and writes a report, one line a segment and one a damage. 0:
 * whole; 1: damaged; or a negative errno (no such directory). Any thread, no daemon needed. */
int journal_verify(const char *directory, const struct sysio *sys, FILE *out)
    __attribute__((warn_unused_result));

#endif
