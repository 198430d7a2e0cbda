/* What somebody probably meant is the known name with the fewest letters to insert, drop or change
 * (Levenshtein's distance). A name that is too far from all known ones is not guessed at. */
#include "daemon/config_names.h"

#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#define ERROR_BYTES CONFIG_ERROR_BYTES
#define OTHER_SECTION                                                                              \
    1 /* a key's right name under another section is close, but not the closest                    \
       */

static unsigned smaller(unsigned a, unsigned b)
{
    return a < b ? a : b;
}

/* One row of the table at a time; a longer name is compared by its first bytes. */
static unsigned distance(const char *a, const char *b)
{
    unsigned row[CONFIG_NAME_BYTES + 1];
    size_t columns = strnlen(b, CONFIG_NAME_BYTES);

    for (size_t j = 0; j <= columns; j++)
        row[j] = (unsigned)j;
    for (size_t i = 0; i < CONFIG_NAME_BYTES && a[i] != '\0'; i++) {
        unsigned diagonal = row[0]++;

        for (size_t j = 0; j < columns; j++) {
            unsigned change = diagonal + (a[i] != b[j]);

            diagonal = row[j + 1];
            row[j + 1] = smaller(change, smaller(row[j], diagonal) + 1);
        }
    }
    return row[columns];
}

static bool is_close(unsigned d, const char *name)
{
    return d <= 1 + strlen(name) / 4;
}

const struct config_key *config_find(const char *section, const char *name)
{
    for (size_t i = 0; i < config_key_count; i++)
        if (strcmp(config_keys[i].section, section) == 0 && strcmp(config_keys[i].name, name) == 0)
            return &config_keys[i];
    return NULL;
}

bool config_is_section(const char *section)
{
    for (size_t i = 0; i < config_key_count; i++)
        if (strcmp(config_keys[i].section, section) == 0)
            return true;
    return false;
}

void config_explain_section(const char *section, char error[ERROR_BYTES])
{
    const struct config_key *nearest = config_keys;
    unsigned least = UINT_MAX;

    for (size_t i = 0; i < config_key_count; i++) {
        unsigned d = distance(section, config_keys[i].section);

        if (d < least) {
            least = d;
            nearest = &config_keys[i];
        }
    }
    if (is_close(least, section))
        snprintf(error, ERROR_BYTES, "unknown section [%.100s]; did you mean [%s]?", section,
                 nearest->section);
    else
        snprintf(error, ERROR_BYTES, "unknown section [%.100s]; see convstored.conf(5)", section);
}

void config_explain_key(const char *section, const char *name, char error[ERROR_BYTES])
{
    const struct config_key *nearest = config_keys;
    unsigned least = UINT_MAX;

    if (!config_is_section(section)) {
        config_explain_section(section, error);
        return;
    }
    for (size_t i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];
        unsigned d =
            distance(name, key->name) + (strcmp(section, key->section) == 0 ? 0 : OTHER_SECTION);

        if (d < least) {
            least = d;
            nearest = key;
        }
    }
    if (is_close(least, name))
        snprintf(error, ERROR_BYTES, "unknown key %s.%.100s; did you mean %s.%s?", section, name,
                 nearest->section, nearest->name);
    else
        snprintf(error, ERROR_BYTES, "unknown key %s.%.100s; see convstored.conf(5)", section,
                 name);
}

static void upper(char *text)
{
    for (; *text != '\0'; text++)
        *text = (char)toupper((unsigned char)*text);
}

void config_variable(const struct config_key *key, char ret[CONFIG_NAME_BYTES])
{
    snprintf(ret, CONFIG_NAME_BYTES, "CONVSTORE_%s_%s", key->section, key->name);
    upper(ret);
}

static bool names_section(const char *variable, const struct config_key *key)
{
    char prefix[CONFIG_NAME_BYTES];

    snprintf(prefix, sizeof prefix, "CONVSTORE_%s_", key->section);
    upper(prefix);
    return strncmp(variable, prefix, strlen(prefix)) == 0;
}

bool config_explain_variable(const char *variable, char error[ERROR_BYTES])
{
    char nearest[CONFIG_NAME_BYTES] = "";
    unsigned least = UINT_MAX;
    bool ours = false;

    for (size_t i = 0; i < config_key_count; i++) {
        char known[CONFIG_NAME_BYTES];
        unsigned d;

        config_variable(&config_keys[i], known);
        d = distance(variable, known);
        if (d == 0)
            return false;
        ours = ours || names_section(variable, &config_keys[i]);
        if (d < least) {
            least = d;
            memcpy(nearest, known, sizeof nearest);
        }
    }
    if (is_close(least, variable + strlen("CONVSTORE_")))
        snprintf(error, ERROR_BYTES, "%.150s: no such key; did you mean %s?", variable, nearest);
    else
        snprintf(error, ERROR_BYTES, "%.150s: no such key; see convstored.conf(5)", variable);
    return ours || is_close(least, variable + strlen("CONVSTORE_"));
}
