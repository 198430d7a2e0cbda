#include "daemon/rpc.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/dead_letters.h"
#include "daemon/embeddings.h"
#include "daemon/forget.h"
#include "daemon/journal.h"
#include "daemon/log.h"
#include "daemon/metrics.h"
#include "daemon/read.h"
#include "daemon/reload.h"
#include "daemon/report.h"
#include "daemon/server.h"
#include "daemon/store.h"
#include "proto/reply.h"

static void ping_handle(struct rpc *rpc)
{
    if (rpc_wants_answer(rpc))
        report_ping(rpc->server, rpc->session, rpc->message->msgid);
}

static void stats_handle(struct rpc *rpc)
{
    if (rpc_wants_answer(rpc))
        report_stats(rpc->server, rpc->session, rpc->message->msgid);
}

static void metrics_handle(struct rpc *rpc)
{
    struct wire_error err;
    msgpack_packer *pk;
    char *text;
    size_t len;

    if (!rpc_wants_answer(rpc))
        return;
    if (metrics_text(rpc->server, &text, &len) != 0) {
        wire_fail(&err, WIRE_INTERNAL, "out of memory");
        rpc_refuse(rpc, &err);
        return;
    }
    pk = session_reply(rpc->session);
    reply_begin(pk, rpc->message->msgid);
    pack_slice(pk, (struct slice){.data = text, .len = len});
    free(text);
}

static void journal_handle(struct rpc *rpc)
{
    if (rpc_wants_answer(rpc))
        report_journal(rpc->server, rpc->session, rpc->message->msgid);
}

static void flush_handle(struct rpc *rpc)
{
    struct server *server = rpc->server;
    struct wire_error err;
    uint32_t timeout_ms = 0;

    if (rpc->message->param_count > 0 &&
        flush_options_decode(&rpc->message->params, &timeout_ms, &err) != 0) {
        rpc_refuse(rpc, &err);
        return;
    }
    if (!rpc_wants_answer(rpc))
        return;
    if (flush_begin(&server->flushes, server->loop, rpc->session, rpc->message->msgid,
                    journal_last_seq(server->journal), server->outstanding, timeout_ms) != 0) {
        wire_fail(&err, WIRE_INTERNAL, "out of memory");
        rpc_refuse(rpc, &err);
        return;
    }
    server_update_urgency(server);
}

/* A service's own timing. */
static int record_decode(struct rpc *rpc, struct wire_error *err)
{
    struct reader *r = &rpc->message->params;
    struct value name, duration, success;
    double ms;

    if (reader_next(r, &name) != 0 || name.type != VALUE_STR)
        return wire_fail(err, WIRE_INVALID_ARGUMENT, "operation: must be a string");
    if (reader_next(r, &duration) != 0 ||
        (duration.type != VALUE_UINT && duration.type != VALUE_FLOAT &&
         duration.type != VALUE_DOUBLE))
        return wire_fail(err, WIRE_INVALID_ARGUMENT,
                         "duration_ms: must be a finite number from 0 to %.0f",
                         STATS_DURATION_MAX_MS);
    ms = duration.type == VALUE_UINT ? (double)duration.as_uint : duration.as_double;
    if (reader_next(r, &success) != 0 || success.type != VALUE_BOOL)
        return wire_fail(err, WIRE_INVALID_ARGUMENT, "success: must be true or false");
    return stats_record_named(&rpc->server->stats, name.bytes, ms, success.as_bool, err);
}

static void record_handle(struct rpc *rpc)
{
    struct wire_error err;

    if (record_decode(rpc, &err) != 0) {
        rpc_refuse(rpc, &err);
        return;
    }
    if (!rpc_wants_answer(rpc))
        return;
    reply_begin(session_reply(rpc->session), rpc->message->msgid);
    msgpack_pack_nil(session_reply(rpc->session));
}

static const struct rpc_method methods[] = {
    {"store", store_handle, false, 1, 2},
    {"store_many", store_many_handle, false, 1, 2},
    {"record", record_handle, false, 3, 3},
    {"status", status_handle, false, 2, 2},
    {"get", get_handle, false, 2, 2},
    {"list", list_handle, false, 1, 1},
    {"search", search_handle, false, 1, 1},
    {"ping", ping_handle, false, 0, 0},
    {"stats", stats_handle, false, 0, 0},
    {"metrics", metrics_handle, true, 0, 0},
    {"forget", forget_handle, true, 1, 1},
    {"flush", flush_handle, true, 0, 1},
    {"journal", journal_handle, true, 0, 0},
    {"reload", reload_handle, true, 0, 0},
    {"dead_letters", dead_letters_handle, true, 1, 1},
    {"embeddings", embeddings_handle, true, 0, 1},
    {"reembed", reembed_handle, true, 0, 1},
    {"migrate_vectors", migrate_vectors_handle, true, 0, 1},
};

static const struct rpc_method *find_method(struct slice name)
{
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++)
        if (slice_equals(name, methods[i].name))
            return &methods[i];
    return NULL;
}

bool rpc_wants_answer(const struct rpc *rpc)
{
    return rpc->message->type == MESSAGE_REQUEST;
}

void rpc_refuse(struct rpc *rpc, const struct wire_error *err)
{
    if (!rpc_wants_answer(rpc)) {
        rpc->server->stats.notifications_refused++;
        log_warning("notification.refused code=%s text=\"%s\"", wire_code_name(err->code),
                    err->text);
        return;
    }
    if (session_is_open(rpc->session))
        reply_error(session_reply(rpc->session), true, rpc->message->msgid, err);
}

/* Everything that is wrong with a call before its handler looks at the parameters. */
static int check_call(struct rpc *rpc, struct wire_error *err)
{
    const struct message *m = rpc->message;

    if (rpc->method == NULL)
        return wire_fail(err, WIRE_UNKNOWN_METHOD, "no such method; PROTOCOL.md lists them");
    if (rpc->method->control_only && !session_is_control(rpc->session))
        return wire_fail(err, WIRE_PERMISSION_DENIED, "%s: on the control socket only",
                         rpc->method->name);
    if (m->param_count < rpc->method->min_params || m->param_count > rpc->method->max_params)
        return wire_fail(err, WIRE_INVALID_ARGUMENT, "%s: takes %u to %u parameters, got %u",
                         rpc->method->name, rpc->method->min_params, rpc->method->max_params,
                         m->param_count);
    return 0;
}

void rpc_dispatch(struct server *server, struct session *s, const void *data, size_t len)
{
    struct message message;
    struct wire_error err;
    struct rpc rpc = {.server = server, .session = s, .message = &message};

    if (message_parse(data, len, &message, &err) != 0) {
        session_fail(s, message.has_msgid, message.msgid, &err);
        return;
    }
    rpc.method = find_method(message.method);
    if (rpc.method == NULL && message.type == MESSAGE_NOTIFICATION)
        return; /* clients announce themselves with notifications of their own */
    if (check_call(&rpc, &err) != 0) {
        rpc_refuse(&rpc, &err);
        return;
    }
    rpc.method->handle(&rpc);
}
