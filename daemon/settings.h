/* What the configuration says to each module, in the module's own terms: for the start and for each
 * reload. Loop. */
#ifndef DAEMON_SETTINGS_H
#define DAEMON_SETTINGS_H

#include "daemon/batcher.h"
#include "daemon/config.h"
#include "daemon/journal.h"
#include "daemon/session.h"

#define SETTINGS_CONTROL_CONNECTIONS 32 /* operators get in when services take all */

struct sessions_config settings_sessions(const struct config *config);
struct journal_config settings_journal(const struct config *config);

/* Without write_threads, rows_first and writer. */
struct batcher_config settings_batcher(const struct config *config);

/* Raises the process's limit of descriptors for listen.max_connections. Returns how many
 * connections there may be; where that is less it is logged. */
size_t settings_max_connections(const struct config *config);

#endif
