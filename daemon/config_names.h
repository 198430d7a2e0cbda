/* The names of keys and sections: finding them, and what was probably meant where they are wrong.
 * Any thread. */
#ifndef DAEMON_CONFIG_NAMES_H
#define DAEMON_CONFIG_NAMES_H

#include <stdbool.h>

#include "daemon/config_keys.h"

#define CONFIG_NAME_BYTES 96 /* of a variable, the longest form of a name */

/* NULL where there is no such key. */
const struct config_key *config_find(const char *section, const char *name);

bool config_is_section(const char *section);

/* "unknown key batch.batchsize; did you mean batch.batch_size?", or the same of its section. */
void config_explain_key(const char *section, const char *name, char ret_error[CONFIG_ERROR_BYTES]);
void config_explain_section(const char *section, char ret_error[CONFIG_ERROR_BYTES]);

/* CONVSTORE_SECTION_KEY */
void config_variable(const struct config_key *key, char ret[CONFIG_NAME_BYTES]);

/* True for the name of a variable that means a key of ours and is none: it names a section of ours,
 * or is close to a key's variable; then with one line in ret_error. Other programs have variables
 * that begin with CONVSTORE_ too, and Kubernetes makes some for a service of that name. */
bool config_explain_variable(const char *variable, char ret_error[CONFIG_ERROR_BYTES]);

#endif
