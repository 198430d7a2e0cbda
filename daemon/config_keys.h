/* The one table of configuration keys: what each is called, may hold, and holds by default. */
#ifndef DAEMON_CONFIG_KEYS_H
#define DAEMON_CONFIG_KEYS_H

#include <stddef.h>
#include <stdint.h>

#include "daemon/config.h"

enum config_type {
    CONFIG_TEXT,   /* char *, any text, may be empty */
    CONFIG_CHOICE, /* char *, one word of `choices` */
    CONFIG_NUMBER, /* uint64_t */
    CONFIG_SIZE,   /* uint64_t, bytes; KiB, MiB, GiB may follow */
    CONFIG_MODE,   /* uint64_t, octal permission bits */
    CONFIG_BOOL,   /* bool */
};

struct config_key {
    const char *section;
    const char *name;
    enum config_type type;
    size_t offset;
    const char *fallback;
    uint64_t min, max;
    const char *choices; /* blank-separated */
};

extern const struct config_key config_keys[];
extern const size_t config_key_count;

#endif
