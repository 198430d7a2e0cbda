/* One key of a configuration: reading, setting, comparing, printing its value. Any thread. */
#ifndef DAEMON_CONFIG_VALUE_H
#define DAEMON_CONFIG_VALUE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "daemon/config.h"
#include "daemon/config_keys.h"

/* Of a CONFIG_TEXT or CONFIG_CHOICE; of a number of any kind. */
char *config_text(const struct config *config, const struct config_key *key);
uint64_t config_number(const struct config *config, const struct config_key *key);

/* Sets a key from text. 0; or a negative errno with one line in ret_error that names the key, the
 * value and what it must be. */
int config_assign(struct config *config, const struct config_key *key, const char *value,
                  char ret_error[CONFIG_ERROR_BYTES]) __attribute__((warn_unused_result));

/* Puts more text behind a CONFIG_TEXT, after a blank. 0 or -ENOMEM. */
int config_append(struct config *config, const struct config_key *key, const char *more)
    __attribute__((warn_unused_result));

bool config_same(const struct config *a, const struct config *b, const struct config_key *key);

/* Gives `to` the value that `from` has. 0 or -ENOMEM. */
int config_copy(struct config *to, const struct config *from, const struct config_key *key)
    __attribute__((warn_unused_result));

/* "name = value"; a password is not shown. */
void config_print_value(const struct config *config, const struct config_key *key, FILE *out);

/* Frees what the key holds. */
void config_clear(struct config *config, const struct config_key *key);

#endif
