/* Secrets come from files: a command line or an environment can be seen by others. Any thread. */
#ifndef DAEMON_SECRET_H
#define DAEMON_SECRET_H

#include <stdbool.h>
#include <stddef.h>

#define SECRET_PATH_MAX 4096

/* The first line of a file, without its end. 0; or a negative errno, -EFBIG where it does not fit
 * into size bytes. */
int secret_read(const char *path, char *ret, size_t size) __attribute__((warn_unused_result));

/* The path of the credential `name` in $CREDENTIALS_DIRECTORY (systemd's LoadCredential=, or a
 * container's /run/secrets). False when there is none. */
bool secret_credential(const char *name, char ret_path[SECRET_PATH_MAX]);

#endif
