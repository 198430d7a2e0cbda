#include "daemon/announce.h"

#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/journal.h"
#include "daemon/log.h"
#include "daemon/server.h"

#define DATABASE_BYTES 256

/* Where the rows go, as libpq will understand it: from conninfo, else from its environment. Nothing
 * but these four is shown, so that no password is. */
static void describe_database(const char *conninfo, char ret[DATABASE_BYTES])
{
    static const char *const shown[] = {"host", "port", "dbname", "user"};
    PQconninfoOption *options = PQconninfoParse(conninfo, NULL);
    size_t len = 0;

    ret[0] = '\0';
    for (const PQconninfoOption *o = options; o != NULL && o->keyword != NULL; o++)
        for (size_t i = 0; i < sizeof shown / sizeof shown[0]; i++) {
            const char *value = o->val;

            if (strcmp(o->keyword, shown[i]) != 0)
                continue;
            if (value == NULL && o->envvar != NULL)
                value = getenv(o->envvar);
            if (value != NULL && len < DATABASE_BYTES)
                len += (size_t)snprintf(ret + len, DATABASE_BYTES - len, "%s%s=%s",
                                        len > 0 ? " " : "", o->keyword, value);
        }
    PQconninfoFree(options);
}

void announce_start(const struct server *server)
{
    const struct config *config = server->config;
    char database[DATABASE_BYTES];
    struct journal_stats journal;

    describe_database(config->database.conninfo, database);
    journal_stats(server->journal, &journal);
    log_info("server.start version=%s socket=\"%s\" control_socket=\"%s\" journal=\"%s\" "
             "durability=%s journal_waiting=%ju journal_damages=%ju database=\"%s\" provider=%s "
             "model=\"%s\" dimensions=%u",
             CONVSTORE_VERSION, config->listen.socket, config->listen.control_socket,
             config->journal.directory, config->journal.durability, (uintmax_t)journal.waiting,
             (uintmax_t)journal.damages, database, config->embedding.provider,
             server->model.dimension > 0 ? server->model.model : "none", server->model.dimension);
}

void announce_end(const struct server *server, const char *reason)
{
    const struct stats *stats = &server->stats;

    log_held_back(true);
    log_info("server.end reason=\"%s\" left_in_journal=%zu accepted=%ju completed=%ju "
             "duplicates=%ju replayed=%ju failed=%ju rejected=%ju uptime_s=%ju",
             reason, server->outstanding, (uintmax_t)stats->accepted, (uintmax_t)stats->completed,
             (uintmax_t)stats->duplicates, (uintmax_t)stats->replayed, (uintmax_t)stats->failed,
             (uintmax_t)stats->rejected,
             (uintmax_t)(uv_hrtime() - server->started_ns) / 1000000000u);
}
