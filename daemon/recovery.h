/* Start-up: what the segments say. Everything is derived from them; nothing else is kept. Before
 * listening, or offline (the scan alone, which changes nothing). */
#ifndef DAEMON_RECOVERY_H
#define DAEMON_RECOVERY_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/journal.h"
#include "daemon/journal_disk.h"
#include "daemon/ledger.h"

/* One segment file as the scan found it. */
struct found_segment {
    uint64_t index;
    uint64_t size;    /* of the file */
    uint64_t end;     /* behind the last sound record */
    uint64_t records; /* of any type */
    uint64_t gaps;
    unsigned bad_headers; /* damaged copies: 2: it is no segment (any more) */
    bool closed;          /* an END stands at `end` */
    struct segment_key key;
};

struct damage_list {
    uint64_t count; /* all but torn tails */
    unsigned kept;
    struct journal_damage list[JOURNAL_DAMAGE_KEPT];
};
void damage_add(struct damage_list *damages, const struct journal_damage *damage);

struct recovery {
    struct ledger ledger; /* of the segments from trim_point on */
    uint64_t next_seq;
    uint64_t trim_point;
    uint64_t last_index;        /* the next segment's is one higher */
    struct damage_list damages; /* every one is in `pieces` too */
    struct disk_segment tail;   /* continue here; fd -1: start a new segment */
    uint64_t tail_offset;
    struct found_segment *found; /* by index */
    size_t found_count;
    struct journal_damage *pieces; /* all damages, in the order of the segments */
    size_t piece_count;
    char (*others)[DISK_NAME_MAX]; /* spares and unfinished files */
    size_t other_count;
};

/* Reads all. 0, or a negative errno with a line in ret_error. recovery_done() in either case. */
int recovery_scan(const struct sysio *sys, int dir_fd, struct recovery *ret, char ret_error[512])
    __attribute__((warn_unused_result));

/* Sets damage aside, writes the last segment anew, recycles what is left over: afterwards what the
 * ledger says is on disk for certain. Fills disk's buffer and spares, and r->tail. */
int recovery_apply(struct recovery *r, struct journal_disk *disk, char ret_error[512])
    __attribute__((warn_unused_result));

void recovery_done(struct recovery *r); /* not the ledger where it was moved (zeroed) away */

/* For both halves. The last segment in which anything was recorded, NULL for none: all before it
 * are complete. recovery_fail() says what failed and returns rc. */
const struct found_segment *recovery_last_used(const struct recovery *r);
int recovery_fail(char error[512], int rc, const char *what, const char *name);

const char *damage_kind_name(enum journal_damage_kind kind);

#endif
