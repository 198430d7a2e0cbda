/* The file is the list as it is in memory behind a line with its checksum, written aside, synced
 * and renamed: whole or not at all. It is of this machine only, as the journal is.
 *
 * An entry must live as long as a record that it covers can come back: after a crash that lost the
 * note that its row was there, or when a standby is promoted. Records never get higher numbers when
 * they are moved, so an entry can go when the journal has no number as low as its own. Numbers that
 * went with a crash (never acknowledged), or with an emptied directory, are given again: an entry
 * is cut down to what the journal has before that, or it would cover what comes later. */
#include "daemon/forgotten.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/crc32c.h"
#include "daemon/sysio.h"

#define FILE_NAME "forgotten"
#define FILE_NAME_NEW "forgotten.new"
#define ERROR_BYTES 512

struct header { /* as on disk */
    char magic[16];
    uint32_t entry_bytes;
    uint32_t crc; /* CRC32C of the entries */
    uint64_t count;
};
#define MAGIC "cs forgotten 1\n"

static int write_entries(const struct sysio *sys, int fd, const struct forgotten_entry *entries,
                         size_t count)
{
    size_t len = count * sizeof *entries;
    struct header head = {.magic = MAGIC,
                          .entry_bytes = sizeof *entries,
                          .crc = ~crc32c_update(~0u, entries, len),
                          .count = count};
    int rc = sysio_write(sys, fd, &head, sizeof head, 0);

    if (rc == 0)
        rc = sysio_write(sys, fd, entries, len, sizeof head);
    return rc == 0 ? sysio_sync_data(sys, fd) : rc;
}

static int save_in(const struct sysio *sys, int dir, const struct forgotten_entry *entries,
                   size_t count)
{
    int fd = sysio_open(sys, dir, FILE_NAME_NEW, O_WRONLY | O_CREAT | O_TRUNC), rc;

    if (fd < 0)
        return fd;
    rc = write_entries(sys, fd, entries, count);
    sys->close(sys, fd);
    if (rc == 0)
        rc = sys->rename(sys, dir, FILE_NAME_NEW, FILE_NAME);
    return rc == 0 ? sysio_sync_directory(sys, dir) : rc;
}

static int save(const char *directory, const struct forgotten_entry *entries, size_t count)
{
    const struct sysio *sys = sysio_real();
    int dir = sys->open_directory(sys, directory), rc;

    if (dir < 0)
        return dir;
    rc = save_in(sys, dir, entries, count);
    sys->close(sys, dir);
    return rc;
}

/* 0, -ENOENT, -EBADMSG where it is not what save() writes, or another negative errno. */
static int load_entries(const struct sysio *sys, int fd, struct forgotten *f)
{
    struct header head;
    ssize_t n = sysio_read(sys, fd, &head, sizeof head, 0);
    size_t len;

    if (n < 0)
        return (int)n;
    if (n != sizeof head || memcmp(head.magic, MAGIC, sizeof head.magic) != 0 ||
        head.entry_bytes != sizeof *f->entries || head.count > FORGOTTEN_MAX)
        return -EBADMSG;
    len = head.count * sizeof *f->entries;
    n = sysio_read(sys, fd, f->entries, len, sizeof head);
    if (n < 0)
        return (int)n;
    if ((size_t)n != len || ~crc32c_update(~0u, f->entries, len) != head.crc)
        return -EBADMSG;
    f->count = head.count;
    return 0;
}

static int load(struct forgotten *f)
{
    const struct sysio *sys = sysio_real();
    int dir = sys->open_directory(sys, f->directory), fd, rc;

    if (dir < 0)
        return dir;
    rc = fd = sysio_open(sys, dir, FILE_NAME, O_RDONLY);
    if (fd >= 0) {
        rc = load_entries(sys, fd, f);
        sys->close(sys, fd);
    }
    sys->close(sys, dir);
    return rc;
}

/* Entries that cover nothing go, too, but for those whose rows were removed after removed_us.
 * Whether one was cut down. */
static bool cut_down(struct forgotten *f, uint64_t first_seq, uint64_t last_seq, int64_t removed_us)
{
    size_t kept = 0;
    bool cut = false;

    f->last_seq = 0;
    for (size_t i = 0; i < f->count; i++) {
        if (f->entries[i].last_seq > last_seq) {
            f->entries[i].last_seq = last_seq;
            cut = true;
        }
        if (f->entries[i].last_seq < first_seq && f->entries[i].stored_until_us <= removed_us)
            continue;
        if (f->entries[i].last_seq > f->last_seq)
            f->last_seq = f->entries[i].last_seq;
        f->entries[kept++] = f->entries[i];
    }
    f->count = kept;
    return cut;
}

int forgotten_start(struct forgotten *f, const char *directory, uint64_t first_seq,
                    uint64_t last_seq, char error[512])
{
    int rc;

    *f = (struct forgotten){.directory = directory};
    f->entries =
        calloc(FORGOTTEN_MAX, sizeof *f->entries); /* pages that nobody writes cost nothing */
    rc = f->entries != NULL ? load(f) : -ENOMEM;
    if (rc != 0 && rc != -ENOENT) {
        snprintf(error, ERROR_BYTES,
                 "%s/" FILE_NAME ": %s; it says what must not come back from the journal: let the "
                 "daemon drain without it (move it away), then forget again",
                 directory, rc == -EBADMSG ? "damaged" : strerror(-rc));
        return -1;
    }
    rc = cut_down(f, first_seq, last_seq, INT64_MAX) ? save(directory, f->entries, f->count) : 0;
    if (rc == 0)
        return 0;
    snprintf(error, ERROR_BYTES, "%s/" FILE_NAME ": cannot be written: %s", directory,
             strerror(-rc));
    return -1;
}

void forgotten_done(struct forgotten *f)
{
    free(f->entries);
    f->entries = NULL;
}

int forgotten_add(struct forgotten *f, const struct forgotten_entry *entry, uint64_t first_seq,
                  int64_t removed_us)
{
    int rc;

    cut_down(f, first_seq, UINT64_MAX, removed_us);
    if (f->count == FORGOTTEN_MAX)
        return -ENOSPC;
    f->entries[f->count] = *entry;
    rc = save(f->directory, f->entries, f->count + 1);
    if (rc != 0)
        return rc;
    f->count++;
    if (entry->last_seq > f->last_seq)
        f->last_seq = entry->last_seq;
    return 0;
}

int forgotten_removed(struct forgotten *f, const struct forgotten_entry *entry)
{
    bool found = false;

    for (size_t i = 0; i < f->count; i++) {
        struct forgotten_entry *known = &f->entries[i];

        if (known->last_seq != entry->last_seq || known->has_id != entry->has_id ||
            memcmp(known->id, entry->id, sizeof known->id) != 0 ||
            strcmp(known->user_id, entry->user_id) != 0)
            continue;
        known->stored_until_us = entry->stored_until_us;
        found = true;
    }
    if (!found && f->count < FORGOTTEN_MAX)
        f->entries[f->count++] = *entry; /* cut meanwhile */
    return save(f->directory, f->entries, f->count);
}

bool forgotten_matches(const struct forgotten_entry *entry, const struct conversation *c)
{
    const uint8_t *id = conversation_header(c)->id;

    return c->seq <= entry->last_seq && slice_equals(conversation_user_id(c), entry->user_id) &&
           (!entry->has_id || memcmp(entry->id, id, sizeof entry->id) == 0);
}

bool forgotten_covers(const struct forgotten *f, const struct conversation *c)
{
    if (c->seq > f->last_seq)
        return false; /* nearly always */
    for (size_t i = 0; i < f->count; i++)
        if (forgotten_matches(&f->entries[i], c))
            return true;
    return false;
}
