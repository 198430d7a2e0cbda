/* Reads a journal's directory and says what is in it; changes nothing, takes no lock. Beside a
 * running daemon it may see a group half written and call it a torn tail. Any thread. */
#include <inttypes.h>
#include <string.h>

#include "daemon/journal.h"
#include "daemon/recovery.h"
#include "daemon/sysio.h"

static void print_report(const struct recovery *r, FILE *out)
{
    for (size_t i = 0; i < r->found_count; i++) {
        const struct found_segment *f = &r->found[i];
        const struct ledger_segment *s = ledger_find(&r->ledger, f->index);

        fprintf(out,
                "segment=%016" PRIx64 " size=%" PRIu64 " used=%" PRIu64 " records=%" PRIu64
                " waiting=%u state=%s\n",
                f->index, f->size, f->end, f->records, s != NULL ? s->live : 0,
                f->bad_headers == 2 ? "no-segment"
                : s == NULL         ? "trimmed"
                : f->gaps > 0       ? "damaged"
                : f->closed         ? "whole"
                                    : "torn-tail");
    }
    for (size_t i = 0; i < r->piece_count; i++) {
        const struct journal_damage *d = &r->pieces[i];

        fprintf(out, "damage=%s segment=%016" PRIx64 " offset=%" PRIu64 " bytes=%" PRIu64 "\n",
                damage_kind_name(d->kind), d->segment, d->offset, d->bytes);
    }
    fprintf(out, "segments=%zu waiting=%" PRIu64 " next_seq=%" PRIu64 " damage=%zu\n",
            r->ledger.count, r->ledger.live, r->next_seq, r->piece_count);
}

int journal_verify(const char *directory, const struct sysio *sys, FILE *out)
{
    char error[512] = "";
    struct recovery r;
    int dir_fd = sys->open_directory(sys, directory);
    int rc;

    if (dir_fd < 0) {
        fprintf(out, "cannot open %s: %s\n", directory, strerror(-dir_fd));
        return dir_fd;
    }
    rc = recovery_scan(sys, dir_fd, &r, error);
    sys->close(sys, dir_fd);
    if (rc != 0) {
        fprintf(out, "%s\n", error);
    } else {
        print_report(&r, out);
        for (size_t i = 0; i < r.piece_count; i++)
            if (r.pieces[i].kind != JOURNAL_DAMAGE_TAIL) /* the normal end of a crash */
                rc = 1;
    }
    recovery_done(&r);
    return rc;
}
