/* --check-config --connect: a look at the database and the embedder before the daemon is started.
 * Changes nothing. Before there are threads. */
#ifndef DAEMON_CHECK_H
#define DAEMON_CHECK_H

#include <stdbool.h>
#include <stdio.h>

#include "daemon/config.h"

/* Connects to both as the daemon would and writes what it finds, a line each beginning with "# ".
 * false: the daemon could not work with one of them; that line says why. */
bool check_connect(const struct config *config, FILE *out);

#endif
