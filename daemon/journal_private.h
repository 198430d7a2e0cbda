/* The journal's inside, for its own files: journal_start.c, journal.c (records),
 * journal_group.c (what is sent), journal_space.c (segments), journal_read.c (what comes back from
 * disk) and journal_loop.c (libuv), and for tests that run the disk's work by hand. Everything is
 * the loop's except what is in a job that is on its way. */
#ifndef DAEMON_JOURNAL_PRIVATE_H
#define DAEMON_JOURNAL_PRIVATE_H

#include "daemon/conversation.h"
#include "daemon/journal.h"
#include "daemon/journal_disk.h"
#include "daemon/ledger.h"
#include "daemon/recovery.h"

/* What is left free at the end of a segment: an END, and a trim note, so that a full segment can
 * still say what may go. */
#define JOURNAL_TRIM_BYTES (2 * sizeof(struct record_header) - RECORD_ALIGN)
#define JOURNAL_TAIL_BYTES (sizeof(struct record_header) + JOURNAL_TRIM_BYTES)

/* For records, in a segment that is new. */
static inline uint64_t journal_usable_bytes(const struct journal_config *config)
{
    return config->segment_bytes - SEGMENT_DATA - JOURNAL_TAIL_BYTES;
}

#define JOURNAL_RESERVE 2u             /* prepared segments for notes and moves, beyond max_bytes */
#define JOURNAL_GROUP_BYTES (4u << 20) /* more waits for the next group */
#define JOURNAL_NOTES_MAX 8192u        /* ranges of done numbers that wait to be noted */
#define JOURNAL_RETRY_US 1000000       /* between two tries for space on a full disk */
#define JOURNAL_SPARSE_US 5000000      /* a nearly done segment waits that long for its last rows */

/* Where a job goes; it comes back through journal_group_finished() or journal_work_finished(). */
struct journal_executor {
    void (*group)(void *context, struct group_job *job);
    void (*work)(void *context, struct work_job *job);
    void *context;
};

enum journal_state {
    JOURNAL_RUNNING,
    JOURNAL_FAILING, /* an error is known; a group is still out, whose answer nobody may hear */
    JOURNAL_FAILED   /* on_failed has run */
};

enum journal_phase {
    JOURNAL_OPEN,
    JOURNAL_STOPPING,   /* jobs come back, none leaves */
    JOURNAL_GROUPS_ONLY /* the last groups, on the closing thread */
};

enum move_state {
    MOVE_NONE,
    MOVE_READING,  /* the survivors of move_index are being read */
    MOVE_APPENDING /* they wait in `moving`, or are in a group */
};

struct journal {
    struct journal_config config;
    const struct sysio *sys;
    struct journal_callbacks on;
    void *owner;
    struct journal_executor executor;
    struct journal_disk disk; /* only the jobs look at it */
    struct ledger ledger;
    enum journal_state state;
    enum journal_phase phase;
    int error;
    char error_text[160];
    uint64_t next_seq;
    uint64_t first_seq;   /* of this run */
    uint64_t found_bytes; /* of segments in use at the start, or when max_bytes was lowered */

    /* Records that wait for a group, and the group that is out. */
    struct conversation_list forming;
    uint64_t forming_bytes; /* as they will be on disk */
    struct group_job group;
    bool group_out;
    unsigned group_records;
    uint64_t group_bytes;
    bool congested;

    /* Numbers that are done and not noted; those in the group that is out. */
    struct done_range *notes, *notes_out;
    unsigned note_count;
    bool replay_wanted;

    /* Segments. The current one's free space starts at `offset`. */
    struct disk_segment current, next;
    uint64_t offset;
    bool fresh; /* nothing is written in the current one yet */
    bool dirty; /* its last group was not synced */
    int old_fd; /* the one before, until the next group closes it; -1 */
    bool old_dirty;
    uint64_t last_index; /* of the youngest segment, the next one included */
    unsigned spares;
    bool no_space;
    int64_t retry_us[WORK_KINDS]; /* after a failure that may pass */
    struct work_job work[WORK_KINDS];
    bool work_out[WORK_KINDS];

    /* Trim: [retired, trim_point) have files that may go; trim_wanted is to be noted. */
    uint64_t trim_point, trim_wanted, retired;

    /* Moves. */
    enum move_state move_state;
    uint64_t move_index, move_offset, move_bytes;
    int64_t move_retry_us; /* a segment that is to be tried again is left alone until then */
    struct conversation_list moving;

    /* The read cursor; it means something while ledger.unread > 0. */
    uint64_t cursor_index, cursor_offset;
    int64_t cursor_arrived_us;
    uint64_t read_from; /* where the cursor stood when the read job left */
    bool read_is_move;
    size_t room_count, room_bytes;

    struct damage_list damages;
    uint64_t syncs, records, moved, recovered;
    uint64_t probe_p50_ns, probe_p99_ns;
    void *loop; /* journal_loop.c's */
};

/* journal_start.c. journal_new() is journal_open() without threads; journal_delete() closes what is
 * open and frees; no job may be out. */
int journal_new(const struct journal_config *config, const struct sysio *sys,
                const struct journal_callbacks *callbacks, void *owner,
                const struct journal_executor *executor, struct journal **ret, char ret_error[512])
    __attribute__((warn_unused_result));

/* journal.c */
void journal_delete(struct journal *j);
void journal_pump(struct journal *j); /* starts all work that is due; once an iteration */
/* The next group leaves with the next pump, behind all that the same iteration reads. */
void journal_group_finished(struct journal *j);
void journal_work_finished(struct journal *j, struct work_job *job);
bool journal_has_unwritten(const struct journal *j);
int64_t journal_now_us(const struct journal *j); /* monotonic: clocks on the wall jump */
bool journal_may_try(const struct journal *j, enum work_kind kind);
bool journal_transient(int error); /* trouble that may pass: try again later */
void journal_fail(struct journal *j, int error, const char *step);

/* journal_group.c */
void journal_send_group(struct journal *j);
void journal_note_done(struct journal *j, uint64_t seq);

/* journal_space.c */
void journal_space_pump(struct journal *j);
bool journal_rotate(struct journal *j); /* false: the next segment is not ready */
void journal_segment_finished(struct journal *j, struct work_job *job);
void journal_spare_finished(struct journal *j, struct work_job *job);
void journal_retire_finished(struct journal *j, struct work_job *job);
void journal_trimmed(struct journal *j, uint64_t trim_point);
unsigned journal_prepared(const struct journal *j);
bool journal_under_pressure(const struct journal *j);
void journal_submit(struct journal *j, struct work_job *job);

/* journal_read.c */
void journal_read_pump(struct journal *j);
void journal_read_finished(struct journal *j, struct work_job *job);
void journal_moves_synced(struct journal *j, struct conversation *moved);
void journal_ready(struct journal *j, struct conversation *c);

#endif
