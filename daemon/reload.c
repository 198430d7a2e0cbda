/* All sources are read again into a new snapshot, or the whole is refused and nothing changes: a
 * file is never half in force. The modules are then told in turn; nothing runs in between, since
 * all of this is the loop's. Jobs that are under way end with the snapshot that they began with. */
#include "daemon/reload.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "daemon/backfill.h"
#include "daemon/config_keys.h"
#include "daemon/journal.h"
#include "daemon/listener.h"
#include "daemon/log.h"
#include "daemon/rpc.h"
#include "daemon/server.h"
#include "daemon/settings.h"
#include "proto/reply.h"

#define NAMES_BYTES 1024 /* of a line of the log; what is longer is cut there */

/* Whatever reads server->config each time that it needs a value has nothing to be told. */
static void reconfigure(struct server *server)
{
    const struct config *config = server->config;
    struct sessions_config sessions = settings_sessions(config);
    struct journal_config journal = settings_journal(config);
    struct batcher_config batcher = settings_batcher(config);
    size_t connections = settings_max_connections(config);

    log_set_level(log_level_of(config->log.level));
    log_set_format(log_format_of(config->log.format));
    sessions_reconfigure(server->sessions, &sessions);
    listener_reconfigure(server->listener, connections);
    listener_reconfigure(server->control_listener, connections + SETTINGS_CONTROL_CONNECTIONS);
    journal_reconfigure(server->journal, &journal);
    embedding_stage_reconfigure(server->embedding, config);
    reads_reconfigure(&server->reads);
    if (server->backfill != NULL)
        backfill_reconfigure(server->backfill, config);
    batcher_reconfigure(server->batcher, &batcher);
    server_offer_room(server);
}

static const char *join(const struct config_key *const *keys, size_t count, char ret[NAMES_BYTES])
{
    size_t len = 0;

    ret[0] = '\0';
    for (size_t i = 0; i < count && len < NAMES_BYTES; i++)
        len += (size_t)snprintf(ret + len, NAMES_BYTES - len, "%s%s.%s", i > 0 ? " " : "",
                                keys[i]->section, keys[i]->name);
    return ret;
}

static void log_changes(const struct config_changes *changes)
{
    char changed[NAMES_BYTES], restart[NAMES_BYTES];

    log_info("config.reloaded changed=\"%s\" restart=\"%s\"",
             join(changes->changed, changes->changed_count, changed),
             join(changes->restart, changes->restart_count, restart));
}

static int refuse(struct wire_error *err)
{
    log_warning("config.refused reason=\"%s\" advice=\"the old configuration stays\"", err->text);
    return -1;
}

/* 0 with what has changed; or -1 with *err, and nothing has. */
static int reload(struct server *server, struct config_changes *ret, struct wire_error *err)
{
    const struct config *old = server->config;
    struct config *next;
    char error[CONFIG_ERROR_BYTES];

    if (server->state != SERVER_SERVING)
        return wire_fail(err, WIRE_SHUTTING_DOWN, "the daemon is ending; the next start reads it");
    if (server->reload.source->file == NULL) {
        (void)wire_fail(err, WIRE_INVALID_ARGUMENT,
                        "the daemon was started without a configuration file: restart it with one");
        return refuse(err);
    }
    if (config_reload(server->reload.source, old, &next, ret, error) != 0) {
        (void)wire_fail(err, WIRE_INVALID_ARGUMENT, "%.239s", error);
        return refuse(err);
    }
    server->config = next;
    reconfigure(server);
    config_release(old);
    log_changes(ret);
    return 0;
}

static void pack_names(msgpack_packer *pk, const char *name, const struct config_key *const *keys,
                       size_t count)
{
    pack_str(pk, name);
    msgpack_pack_array(pk, count);
    for (size_t i = 0; i < count; i++) {
        char key[CONFIG_ERROR_BYTES];

        snprintf(key, sizeof key, "%s.%s", keys[i]->section, keys[i]->name);
        pack_str(pk, key);
    }
}

void reload_handle(struct rpc *rpc)
{
    struct config_changes changes;
    struct wire_error err;
    msgpack_packer *pk;

    if (reload(rpc->server, &changes, &err) != 0) {
        rpc_refuse(rpc, &err);
        return;
    }
    if (!rpc_wants_answer(rpc) || !session_is_open(rpc->session))
        return;
    pk = session_reply(rpc->session);
    reply_begin(pk, rpc->message->msgid);
    msgpack_pack_map(pk, 2);
    pack_names(pk, "changed", changes.changed, changes.changed_count);
    pack_names(pk, "restart", changes.restart, changes.restart_count);
}

static void on_sighup(uv_signal_t *handle, int signum)
{
    struct config_changes changes;
    struct wire_error err;

    (void)signum;
    if (reload(handle->data, &changes, &err) != 0)
        return; /* the log has it */
}

void reload_start(struct server *server, const struct config_source *source)
{
    struct reload *r = &server->reload;
    int rc = uv_signal_init(server->loop, &r->sighup);

    r->source = source;
    r->sighup.data = server;
    rc |= uv_signal_start(&r->sighup, on_sighup, SIGHUP);
    assert(rc == 0);
}

void reload_close(struct server *server)
{
    uv_close((uv_handle_t *)&server->reload.sighup, NULL);
}
