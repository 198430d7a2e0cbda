/* What a promotion costs is known only to the old primary. So the timeline of the server's WAL is
 * watched, which changes with each promotion and never with a mere restart; when it rises, every
 * record that the journal still has goes to the database again, and the primary key makes it
 * harmless where the row is there.
 *
 * Two hard things. A worker may still bring home what it committed on the old primary after another
 * worker has met the new one: its rows count as done only now, so the replay is done once more. And
 * the daemon may end before the replay does: the new timeline goes to disk (a file in the journal's
 * directory) only when every replayed record has come to its end, and the next start compares with
 * what is there. Loop thread; the file is written about once in a failover. */
#include "daemon/failover.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "daemon/journal.h"
#include "daemon/log.h"
#include "daemon/server.h"
#include "daemon/sysio.h"

#define FILE_NAME "timeline"
#define FILE_NAME_NEW "timeline.new"
/* A result from before the change comes within this time: no statement and no silence is longer. */
#define LATE_NS (90ull * 1000000000)

/* 0 or a negative errno. Whole or not at all: written aside, synced, renamed. */
static int write_file(const struct sysio *sys, int dir, const char *text)
{
    int fd = sysio_open(sys, dir, FILE_NAME_NEW, O_WRONLY | O_CREAT | O_TRUNC);
    int rc;

    if (fd < 0)
        return fd;
    rc = sysio_write(sys, fd, text, strlen(text), 0);
    if (rc == 0)
        rc = sysio_sync_data(sys, fd);
    sys->close(sys, fd);
    if (rc == 0)
        rc = sys->rename(sys, dir, FILE_NAME_NEW, FILE_NAME);
    return rc == 0 ? sysio_sync_directory(sys, dir) : rc;
}

static void save(const struct server *server)
{
    const struct sysio *sys = sysio_real();
    int dir = sys->open_directory(sys, server->config->journal.directory);
    char text[32];
    int rc = dir;

    snprintf(text, sizeof text, "%" PRIu32 "\n", server->failover.timeline);
    if (dir >= 0) {
        rc = write_file(sys, dir, text);
        sys->close(sys, dir);
    }
    /* Without the file a promotion while no daemon runs goes unseen; all else is as it was. */
    if (rc != 0)
        log_warning("failover.file_not_written file=%s/" FILE_NAME " error=\"%s\"",
                    server->config->journal.directory, strerror(-rc));
}

void failover_start(struct server *server)
{
    const struct sysio *sys = sysio_real();
    int dir = sys->open_directory(sys, server->config->journal.directory), fd;
    char text[32] = "";

    if (dir < 0)
        return;
    fd = sysio_open(sys, dir, FILE_NAME, O_RDONLY);
    if (fd >= 0) {
        if (sysio_read(sys, fd, text, sizeof text - 1, 0) > 0)
            server->failover.timeline = (uint32_t)strtoul(text, NULL, 10);
        sys->close(sys, fd);
    }
    sys->close(sys, dir);
}

/* Everything that the journal still has goes to the database again. */
static void replay(struct server *server, uint32_t before, uint32_t now)
{
    struct failover *f = &server->failover;
    uint64_t revived = journal_replay_done(server->journal);
    struct stats *stats = &server->stats;

    /* Whether these are rows is open again, until they are. */
    server->outstanding += revived;
    stats->completed -= revived < stats->completed ? revived : stats->completed;
    flush_widen(&server->flushes, journal_last_seq(server->journal), server->outstanding);
    f->replayed += revived;
    f->last_seq = journal_last_seq(server->journal);
    f->remaining = server->outstanding;
    log_warning("database.promoted timeline_before=%" PRIu32 " timeline=%" PRIu32
                " replayed=%" PRIu64 "%s",
                before, now, revived,
                server->config->journal.retain_ms > 0
                    ? ""
                    : " advice=\"set journal.retain_ms where the standby is asynchronous\"");
    forget_again(server);
    if (f->remaining == 0)
        save(server);
}

void failover_on_timeline(struct server *server, uint32_t timeline, bool settled)
{
    struct failover *f = &server->failover;
    uint32_t before = f->timeline;
    bool rose = before != 0 && timeline > before;
    bool late = f->connected && timeline < before && f->change_ns != 0 &&
                uv_hrtime() - f->change_ns < LATE_NS;

    if (timeline == 0 || (timeline == before && f->connected))
        return;
    if (late) {
        if (settled)
            replay(server, timeline, before);
        return;
    }
    f->connected = true;
    f->timeline = timeline;
    if (rose) {
        f->change_ns = uv_hrtime();
        replay(server, before, timeline);
    } else if (timeline != before) { /* the first one ever, or another server altogether */
        save(server);
    }
}

void failover_on_settled(struct server *server, uint64_t seq)
{
    struct failover *f = &server->failover;

    if (f->remaining == 0 || seq > f->last_seq)
        return;
    if (--f->remaining == 0)
        save(server);
}
