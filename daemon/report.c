/* ping and journal; stats has a file of its own. */
#include "daemon/report.h"

#include "daemon/figures.h"
#include "daemon/recovery.h"
#include "daemon/report_pack.h"
#include "daemon/server.h"
#include "proto/reply.h"

void report_ping(const struct server *server, struct session *s, uint32_t msgid)
{
    msgpack_packer *pk = session_reply(s);

    reply_begin(pk, msgid);
    msgpack_pack_map(pk, 4);
    pack_str(pk, "server");
    pack_str(pk, "convstored");
    pack_str(pk, "version");
    pack_str(pk, CONVSTORE_VERSION);
    pack_str(pk, "protocol");
    msgpack_pack_int(pk, 1);
    pack_str(pk, "durability");
    pack_str(pk, server->config->journal.durability);
}

static void pack_damage(msgpack_packer *pk, const struct journal_damage *damage)
{
    msgpack_pack_map(pk, 5);
    pack_text(pk, "kind", damage_kind_name(damage->kind));
    pack_number(pk, "segment", damage->segment);
    pack_number(pk, "offset", damage->offset);
    pack_number(pk, "bytes", damage->bytes);
    pack_text(pk, "file", damage->file);
}

void report_journal(const struct server *server, struct session *s, uint32_t msgid)
{
    msgpack_packer *pk = session_reply(s);
    const struct journal_stats *journal;
    struct figures figures;

    figures_gather(server, &figures);
    journal = &figures.journal;
    reply_begin(pk, msgid);
    msgpack_pack_map(pk, 18);
    pack_text(pk, "directory", server->config->journal.directory);
    pack_text(pk, "durability", server->config->journal.durability);
    pack_number(pk, "bytes", journal->bytes);
    pack_number(pk, "max_bytes", server->config->journal.max_bytes);
    pack_number(pk, "segments", journal->segments);
    pack_number(pk, "prepared_segments", journal->spares);
    pack_number(pk, "waiting", journal->waiting);
    pack_number(pk, "waiting_on_disk", journal->waiting_on_disk);
    pack_number(pk, "oldest_ms", figures.oldest_queued_ms);
    pack_number(pk, "unsynced_bytes", journal->unsynced_bytes);
    pack_number(pk, "syncs", journal->syncs);
    pack_number(pk, "records", journal->records);
    pack_number(pk, "moved", journal->moved);
    pack_number(pk, "recovered", journal->recovered);
    pack_ms(pk, "sync_p50_ms_at_start", (double)journal->probe_p50_ns / 1000);
    pack_ms(pk, "sync_p99_ms_at_start", (double)journal->probe_p99_ns / 1000);
    pack_number(pk, "damages", journal->damages);
    pack_str(pk, "damage");
    msgpack_pack_array(pk, journal->damage_count);
    for (unsigned i = 0; i < journal->damage_count; i++)
        pack_damage(pk, &journal->damage[i]);
}
