/* metrics.listen: host:port, [v6]:port, :port or the path of a Unix socket. Before the loop runs.
 */
#ifndef DAEMON_METRICS_ADDRESS_H
#define DAEMON_METRICS_ADDRESS_H

#include <stdbool.h>
#include <sys/types.h>

/* Whether it is written as one of these. */
bool metrics_address_is_valid(const char *address);

/* A Unix socket's path, and no host and port. */
bool metrics_address_is_path(const char *address);

/* Listens there, and says in ret_shown where: the port is known then, should the address say 0.
 * mode: permission bits of a Unix socket's file. 0; or -1 with one clear line in ret_error. */
int metrics_address_listen(const char *address, mode_t mode, int *ret_fd, char ret_shown[128],
                           char ret_error[512]) __attribute__((warn_unused_result));

#endif
