/* What was forgotten and may still be in the journal: a list in memory and in a file ("forgotten")
 * in the journal's directory. Loop. */
#ifndef DAEMON_FORGOTTEN_H
#define DAEMON_FORGOTTEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/conversation.h"

#define FORGOTTEN_MAX 10000

/* A user's conversations, or one of them, that were appended before: their numbers are at most
 * last_seq. */
struct forgotten_entry {
    uint64_t last_seq;
    int64_t stored_until_us; /* by the database's clock: rows that are covered; 0: not removed */
    bool has_id;
    uint8_t id[16];
    char user_id[USER_ID_MAX_BYTES + 1];
};

struct forgotten {
    const char *directory;
    struct forgotten_entry *entries;
    size_t count;
    uint64_t last_seq; /* the highest of all entries */
};

/* Reads the file where there is one, for a journal that has the numbers from first_seq to last_seq
 * and gives the next ones anew. 0; or -1 with one line in error: a file that cannot be read stops
 * the start, because what it names would come back. */
int forgotten_start(struct forgotten *f, const char *directory, uint64_t first_seq,
                    uint64_t last_seq, char error[512]) __attribute__((warn_unused_result));
void forgotten_done(struct forgotten *f);

/* Adds an entry, durably. Those go that cover nothing of a journal that begins with first_seq, and
 * whose rows were removed by removed_us: no standby that is promoted has them any more. 0, -ENOSPC
 * at FORGOTTEN_MAX, or another negative errno, and then it is not there. Blocks for one sync. */
int forgotten_add(struct forgotten *f, const struct forgotten_entry *entry, uint64_t first_seq,
                  int64_t removed_us) __attribute__((warn_unused_result));

/* The rows of an entry that was added are removed: how far, durably. 0 or a negative errno. */
int forgotten_removed(struct forgotten *f, const struct forgotten_entry *entry)
    __attribute__((warn_unused_result));

bool forgotten_matches(const struct forgotten_entry *entry, const struct conversation *c);
bool forgotten_covers(const struct forgotten *f, const struct conversation *c);

#endif
