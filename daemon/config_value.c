/* A key's type decides what its text may be, and where in the struct its value lies is the table's
 * affair: everything here goes through the key's offset. Owns nothing. */
#include "daemon/config_value.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ERROR_BYTES CONFIG_ERROR_BYTES

char *config_text(const struct config *config, const struct config_key *key)
{
    char *text;

    memcpy(&text, (const char *)config + key->offset, sizeof text);
    return text;
}

uint64_t config_number(const struct config *config, const struct config_key *key)
{
    uint64_t number;

    memcpy(&number, (const char *)config + key->offset, sizeof number);
    return number;
}

static bool flag_of(const struct config_key *key, const struct config *config)
{
    bool flag;

    memcpy(&flag, (const char *)config + key->offset, sizeof flag);
    return flag;
}

static bool is_choice(const char *choices, const char *value)
{
    size_t len = strlen(value);

    for (const char *at = choices; *at != '\0';) {
        size_t word = strcspn(at, " ");

        if (word == len && memcmp(at, value, len) == 0)
            return true;
        at += word + (at[word] == ' ');
    }
    return false;
}

static int assign_text(struct config *config, const struct config_key *key, const char *value)
{
    char *copy = strdup(value);

    if (copy == NULL)
        return -ENOMEM;
    free(config_text(config, key));
    memcpy((char *)config + key->offset, &copy, sizeof copy);
    return 0;
}

/* Decimal (or octal for modes) and, for sizes, a unit. */
static int parse_number(const struct config_key *key, const char *value, uint64_t *ret)
{
    static const struct {
        const char *name;
        unsigned shift;
    } units[] = {{"", 0}, {"B", 0}, {"KiB", 10}, {"MiB", 20}, {"GiB", 30}};
    char *end;
    uint64_t number;

    if (!isdigit((unsigned char)value[0]))
        return -EINVAL;
    errno = 0;
    number = strtoull(value, &end, key->type == CONFIG_MODE ? 8 : 10);
    if (errno != 0)
        return -ERANGE;
    while (*end == ' ')
        end++;
    for (size_t i = 0; i < (key->type == CONFIG_SIZE ? sizeof units / sizeof units[0] : 1); i++) {
        if (strcmp(end, units[i].name) != 0)
            continue;
        if (number > UINT64_MAX >> units[i].shift)
            return -ERANGE;
        *ret = number << units[i].shift;
        return *ret >= key->min && *ret <= key->max ? 0 : -ERANGE;
    }
    return -EINVAL;
}

static int assign_number(struct config *config, const struct config_key *key, const char *value,
                         char *error)
{
    uint64_t number = 0;
    int rc = parse_number(key, value, &number);

    if (rc == -ERANGE)
        snprintf(error, ERROR_BYTES, "%s.%s = %s: must be %ju to %ju", key->section, key->name,
                 value, (uintmax_t)key->min, (uintmax_t)key->max);
    else if (rc != 0)
        snprintf(error, ERROR_BYTES, "%s.%s = %s: must be %s", key->section, key->name, value,
                 key->type == CONFIG_SIZE   ? "a size such as 4MiB"
                 : key->type == CONFIG_MODE ? "octal permission bits such as 0660"
                                            : "a whole number");
    else
        memcpy((char *)config + key->offset, &number, sizeof number);
    return rc;
}

static int assign_bool(struct config *config, const struct config_key *key, const char *value,
                       char *error)
{
    bool yes = strcmp(value, "true") == 0 || strcmp(value, "yes") == 0 || strcmp(value, "1") == 0;
    bool no = strcmp(value, "false") == 0 || strcmp(value, "no") == 0 || strcmp(value, "0") == 0;

    if (!yes && !no) {
        snprintf(error, ERROR_BYTES, "%s.%s = %s: must be true or false", key->section, key->name,
                 value);
        return -EINVAL;
    }
    memcpy((char *)config + key->offset, &yes, sizeof yes);
    return 0;
}

int config_assign(struct config *config, const struct config_key *key, const char *value,
                  char error[ERROR_BYTES])
{
    switch (key->type) {
    case CONFIG_CHOICE:
        if (!is_choice(key->choices, value)) {
            snprintf(error, ERROR_BYTES, "%s.%s = %s: must be one of: %s", key->section, key->name,
                     value, key->choices);
            return -EINVAL;
        }
        /* fall through */
    case CONFIG_TEXT:
        return assign_text(config, key, value);
    case CONFIG_NUMBER:
    case CONFIG_SIZE:
    case CONFIG_MODE:
        return assign_number(config, key, value, error);
    case CONFIG_BOOL:
        return assign_bool(config, key, value, error);
    }
    abort();
}

int config_append(struct config *config, const struct config_key *key, const char *more)
{
    char *joined;
    int rc;

    if (asprintf(&joined, "%s %s", config_text(config, key), more) < 0)
        return -ENOMEM;
    rc = assign_text(config, key, joined);
    free(joined);
    return rc;
}

bool config_same(const struct config *a, const struct config *b, const struct config_key *key)
{
    switch (key->type) {
    case CONFIG_TEXT:
    case CONFIG_CHOICE:
        return strcmp(config_text(a, key), config_text(b, key)) == 0;
    case CONFIG_NUMBER:
    case CONFIG_SIZE:
    case CONFIG_MODE:
        return config_number(a, key) == config_number(b, key);
    case CONFIG_BOOL:
        return flag_of(key, a) == flag_of(key, b);
    }
    abort();
}

int config_copy(struct config *to, const struct config *from, const struct config_key *key)
{
    switch (key->type) {
    case CONFIG_TEXT:
    case CONFIG_CHOICE:
        return assign_text(to, key, config_text(from, key));
    case CONFIG_NUMBER:
    case CONFIG_SIZE:
    case CONFIG_MODE:
        memcpy((char *)to + key->offset, (const char *)from + key->offset, sizeof(uint64_t));
        return 0;
    case CONFIG_BOOL:
        memcpy((char *)to + key->offset, (const char *)from + key->offset, sizeof(bool));
        return 0;
    }
    abort();
}

void config_clear(struct config *config, const struct config_key *key)
{
    if (key->type == CONFIG_TEXT || key->type == CONFIG_CHOICE)
        free(config_text(config, key));
}

/* A conninfo may carry a password, in either of its two forms: then nothing of it is shown. */
static const char *shown_text(const struct config_key *key, const struct config *config)
{
    const char *text = config_text(config, key);

    if (strcmp(key->name, "conninfo") == 0 &&
        (strstr(text, "password") != NULL || strncmp(text, "postgres", 8) == 0))
        return "(not shown: may hold a password)";
    return text;
}

void config_print_value(const struct config *config, const struct config_key *key, FILE *out)
{
    switch (key->type) {
    case CONFIG_TEXT:
    case CONFIG_CHOICE:
        fprintf(out, "%s = %s\n", key->name, shown_text(key, config));
        break;
    case CONFIG_NUMBER:
    case CONFIG_SIZE:
        fprintf(out, "%s = %ju\n", key->name, (uintmax_t)config_number(config, key));
        break;
    case CONFIG_MODE:
        fprintf(out, "%s = %04jo\n", key->name, (uintmax_t)config_number(config, key));
        break;
    case CONFIG_BOOL:
        fprintf(out, "%s = %s\n", key->name, flag_of(key, config) ? "true" : "false");
        break;
    }
}
