/* What the journal does on its threads: jobs that go out and come back by move. The sync thread
 * writes and syncs groups, one at a time; the work thread prepares segments ahead of use, recycles
 * trimmed ones and reads records back. No state of the loop is touched here. */
#ifndef DAEMON_JOURNAL_DISK_H
#define DAEMON_JOURNAL_DISK_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/conversation.h"
#include "daemon/handoff.h"
#include "daemon/segment.h"
#include "daemon/segment_cursor.h"

struct sysio;

#define DISK_BUFFER_BYTES (1u << 20) /* a group larger than this goes out in several writes */
#define DISK_SPARES_MAX 4u           /* prepared files that are kept; more are deleted */
#define DISK_NAME_MAX 64u

/* An open segment that is written to. */
struct disk_segment {
    int fd; /* -1: none */
    uint64_t index;
    uint64_t bytes;
    struct segment_key key;
};

struct journal_disk {
    const struct sysio *sys;
    int dir_fd;
    int lock_fd;
    uint64_t segment_bytes;
    bool sync;
    /* The sync thread's: what is to be written next. The first bytes of the buffer are the last
     * page's, written before and written again with what follows, so that whole pages go out and
     * none has to be read first. */
    uint8_t *buffer;
    size_t filled;
    uint64_t base; /* of the buffer in the segment; page-aligned */
    /* The work thread's. */
    uint64_t spare_ids[DISK_SPARES_MAX];
    unsigned spares;
    uint64_t next_spare_id;
    struct segment_cursor cursor;
};

/* One group: everything that waits and fits into the segment. */
struct group_job {
    struct handoff_job base;
    struct journal_disk *disk;
    struct disk_segment segment;
    bool fresh;     /* the first group in its segment */
    int old_fd;     /* the segment before, to be closed; -1: none */
    bool old_dirty; /* and to be synced: its last group had notes only */
    uint64_t offset;
    struct conversation *conversations;
    struct conversation *moved;
    const struct done_range *done;
    unsigned done_count;
    uint64_t trim_point; /* 0: no trim note */
    bool replay;         /* a replay note, before the done notes */
    uint64_t next_seq;
    bool sync;
    /* results */
    int error;
    const char *step; /* what failed */
    uint64_t end;
    uint64_t ns;
};

enum work_kind {
    WORK_SEGMENT, /* makes segment `index` from a spare or anew, header synced, by its name */
    WORK_SPARE,   /* fills one more spare with zeros */
    WORK_RETIRE,  /* files of trimmed segments become spares or go */
    WORK_READ,    /* conversations back from `index`, between offset and limit */
    WORK_KINDS
};

struct work_job {
    struct handoff_job base;
    struct journal_disk *disk;
    enum work_kind kind;
    uint64_t index;
    uint64_t to_index;             /* RETIRE: all from index to before this one */
    uint64_t next_seq, trim_point; /* SEGMENT: for the header */
    uint64_t offset, limit;        /* READ; offset is also the result */
    size_t max_count, max_bytes;
    /* results */
    int error;
    const char *step;
    unsigned spares;
    struct disk_segment segment;
    struct conversation_list found;
};

/* Bytes of a read-back that one job looks at, so that the loop is never given too much at once. */
#define DISK_READ_BYTES (1u << 20)

int disk_init(struct journal_disk *disk, const struct sysio *sys, uint64_t segment_bytes, bool sync)
    __attribute__((warn_unused_result));
void disk_done(struct journal_disk *disk);

/* On the sync thread, and on the work thread. */
void disk_group_run(struct group_job *job);
void disk_work_run(struct work_job *job);

/* Writes a segment's bytes up to `end` anew, with an END behind them (unless the file is cut
 * there), and leaves the buffer ready to continue it. Does not sync. Start-up only. */
int disk_rewrite(struct journal_disk *disk, const struct disk_segment *segment, uint64_t end,
                 uint64_t next_seq) __attribute__((warn_unused_result));

/* A descriptor to write groups with: whole pages from a page-aligned buffer. Or a negative errno.
 */
int disk_open_segment(struct journal_disk *disk, uint64_t index)
    __attribute__((warn_unused_result));

/* A file that nobody needs becomes a spare, or goes. */
int disk_retire(struct journal_disk *disk, const char *name) __attribute__((warn_unused_result));
int disk_add_spare(struct journal_disk *disk) __attribute__((warn_unused_result));

/* Times `count` overwrites of a page with their syncs in the first spare; ns[] is sorted. */
int disk_probe(struct journal_disk *disk, uint64_t *ns, unsigned count)
    __attribute__((warn_unused_result));

/* File names: what they mean, and their making. */
enum disk_file { FILE_FOREIGN, FILE_SEGMENT, FILE_SPARE, FILE_UNFINISHED };
enum disk_file disk_parse_name(const char *name, uint64_t *ret_number);
void disk_segment_name(uint64_t index, char ret[DISK_NAME_MAX]);
void disk_spare_name(uint64_t id, char ret[DISK_NAME_MAX]);

#endif
