/* A journal on a simulated disk, driven by hand, with an oracle that knows what was submitted,
 * acknowledged and done. Conversations are numbered; their texts follow from the number. */
#ifndef TESTS_WORLD_H
#define TESTS_WORLD_H

#include "daemon/journal_private.h"
#include "tests/support/simdisk.h"

#define WORLD_MAX 8192 /* conversations of one world */

enum fate {
    FATE_NONE,      /* never written, or certainly gone: must not appear */
    FATE_SUBMITTED, /* appended, no answer: may appear */
    FATE_ACKED,     /* must appear, once */
    FATE_DONE,      /* may appear: its note need not be on disk */
    FATE_NOTED      /* its note was synced: must not appear */
};

struct world {
    struct simdisk *disk;
    struct journal *journal; /* NULL while none is open */
    struct journal_config config;
    uint64_t random;
    uint64_t seed; /* for messages */
    /* Jobs that left, by kind; `ran` ones wait to be finished. */
    struct group_job *group;
    bool group_ran;
    struct work_job *work[WORK_KINDS];
    bool work_ran[WORK_KINDS];
    /* The oracle. */
    enum fate fates[WORLD_MAX];
    uint64_t seqs[WORLD_MAX];
    uint8_t in_memory[WORLD_MAX];
    uint8_t own_text[WORLD_MAX]; /* appended with a text of the test's own */
    uint32_t count;              /* numbers given: 1 .. count */
    uint32_t by_seq[WORLD_MAX * 2];
    uint64_t written_notes[WORLD_MAX]; /* in groups that no sync has covered yet */
    unsigned written_note_count;
    bool notes_are_void; /* those of the group that is out: a replay note will follow them */
    uint32_t next_ack;   /* acks come in the order of appending */
    bool reading_only;   /* a check: no job but read-back is run */
    unsigned lost;       /* on_lost calls */
    bool failed;
    int last_error;
    char text[512];
};

void world_init(struct world *w, uint64_t seed, const struct journal_config *config);
void world_done(struct world *w);

/* Opens the journal on w->disk; the result of journal_new(). */
int world_open(struct world *w);
void world_abandon(struct world *w); /* the process dies: the journal's memory goes */

/* 0 or what journal_append() said. */
int world_append(struct world *w, size_t transcript_len);
int world_append_text(struct world *w, const void *text, size_t len);
void world_pump(struct world *w);
bool world_run_group(struct world *w);    /* on "the sync thread" */
bool world_finish_group(struct world *w); /* back on the loop */
bool world_run_work(struct world *w, enum work_kind kind);
bool world_finish_work(struct world *w, enum work_kind kind);
void world_settle(struct world *w);             /* until nothing is left to do */
void world_commit(struct world *w, uint32_t n); /* its row is committed */
void world_replay(struct world *w);             /* all that is done and still there comes again */
void world_room(struct world *w, size_t count);

/* Compares what came back after an opening (all of it handed on) with the oracle. Ends the program
 * with the seed when they differ. */
void world_check_recovered(struct world *w);
/* And takes it as the truth from here on. */
void world_adopt(struct world *w);

void world_fail(const struct world *w, const char *format, ...)
    __attribute__((format(printf, 2, 3), noreturn));

size_t world_text(uint32_t n, size_t len, char *ret); /* the transcript of n */

#endif
