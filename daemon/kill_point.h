/* Named places where a test lets the daemon die at once: CONVSTORE_KILL_POINT=name or name:n (the
 * n-th time it is passed) in the environment. Not armed otherwise, and then one compare each. */
#ifndef DAEMON_KILL_POINT_H
#define DAEMON_KILL_POINT_H

/* One list, so that a test can go through all of them. */
#define KILL_POINTS(X)                                                                             \
    X(append, "a record waits, no group has it")                                                   \
    X(group_formed, "a group is on its way to the sync thread")                                    \
    X(group_partial, "the first part of a long group is written")                                  \
    X(group_written, "written, not synced")                                                        \
    X(group_synced, "synced, nobody told")                                                         \
    X(group_acked, "the acks of a group are given out")                                            \
    X(record_ready, "a record went to the backlog")                                                \
    X(record_left_on_disk, "a record was acknowledged and left to the read cursor")                \
    X(read_back, "records were read back")                                                         \
    X(rotate, "the next segment became the current one")                                           \
    X(old_segment_synced, "the segment before was synced for its notes")                           \
    X(spare_filled, "a new file is full of zeros, not synced")                                     \
    X(spare_renamed, "a new spare has its name")                                                   \
    X(header_written, "a segment's header is written, not synced")                                 \
    X(header_synced, "synced, still a spare by name")                                              \
    X(segment_renamed, "a segment by name, directory not synced")                                  \
    X(segment_ready, "the directory is synced")                                                    \
    X(done_noted, "a done note is in a group")                                                     \
    X(trim_noted, "a trim note is in a group")                                                     \
    X(trim_synced, "the trim point is synced, no file touched")                                    \
    X(segment_recycled, "a trimmed segment became a spare")                                        \
    X(segment_unlinked, "a trimmed segment is gone")                                               \
    X(move_read, "the survivors of the oldest segment are read")                                   \
    X(move_synced, "the survivors are appended again and synced")                                  \
    X(recovery_locked, "the directory is locked")                                                  \
    X(recovery_scanned, "everything was read, nothing changed")                                    \
    X(recovery_set_aside, "a damaged piece was set aside")                                         \
    X(recovery_rewritten, "the last segment was written anew, not synced")                         \
    X(recovery_synced, "and synced")                                                               \
    X(recovery_cleaned, "left-over files are recycled")                                            \
    X(recovery_ready, "about to accept")

enum kill_point {
#define KILL_POINT_ENUM(name, text) KILL_##name,
    KILL_POINTS(KILL_POINT_ENUM)
#undef KILL_POINT_ENUM
        KILL_POINT_COUNT
};

/* Reads the environment; journal_open() calls it. */
void kill_point_arm(void);

/* Passes the point, or ends the process with SIGKILL. Any thread. */
void kill_point(enum kill_point point);

#endif
