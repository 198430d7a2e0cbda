/* The one table of configuration keys: what each is called, may hold, and holds by default; and
 * which of them contradict each other. */
#ifndef DAEMON_CONFIG_KEYS_H
#define DAEMON_CONFIG_KEYS_H

#include <stdbool.h>
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
    bool live;           /* a reload applies it; false: it needs a restart */
};

extern const struct config_key config_keys[];
extern const size_t config_key_count;

/* A number that contradicts another one: low + spare must not be over high. */
struct config_limit {
    const char *low, *high; /* section.name */
    size_t low_offset, high_offset;
    uint64_t spare;
    bool zero_is_off; /* neither is compared with a 0 */
    const char *why;
};

#define CONFIG_SEGMENT_SPARE                                                                       \
    (64 * 1024) /* more than headers, a record's frame and packing take                            \
                 */

extern const struct config_limit config_limits[];
extern const size_t config_limit_count;

#endif
