/* Four sources, from the weakest to the strongest: default, file, environment, command line. Each
 * assigns keys of the one table in config_keys.c, so that a key is spelled, checked and refused the
 * same way wherever it comes from. A reload makes a new snapshot; the old one goes with the last
 * job that holds it.
 *
 * The one hard thing: Debian's libinih tells its handler no line numbers and cuts lines at 199
 * bytes without a word. The reader that it is given here counts the lines and refuses a longer one;
 * a value goes on in the next line when that line is indented. */
#include "daemon/config.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/config_keys.h"
#include "daemon/config_names.h"
#include "daemon/config_value.h"
#include "daemon/embedding.h"
#include "daemon/embedding_model.h"
#include "daemon/metrics_address.h"

#define ERROR_BYTES CONFIG_ERROR_BYTES

struct parse {
    struct config *config;
    char *error; /* ERROR_BYTES; the first one stays */
    const char *file;
    FILE *stream;
    unsigned line;
    bool continued; /* the line is indented: it goes on with the value above */
};

/* The first error stays. */
static void say(const struct parse *parse, const char *error)
{
    if (parse->error[0] == '\0')
        snprintf(parse->error, ERROR_BYTES, "%.200s:%u: %.280s", parse->file, parse->line, error);
}

static int on_ini_value(void *user, const char *section, const char *name, const char *value)
{
    struct parse *parse = user;
    const struct config_key *key = config_find(section, name);
    char error[ERROR_BYTES] = "out of memory";
    int rc = -ENOENT;

    if (parse->error[0] != '\0')
        return 0;
    if (key == NULL)
        config_explain_key(section, name, error);
    else if (parse->continued && key->type == CONFIG_TEXT)
        rc = config_append(parse->config, key, value);
    else
        rc = config_assign(parse->config, key, value, error);
    if (rc != 0)
        say(parse, error);
    return rc == 0;
}

/* libinih speaks of keys only: a section without any would pass unseen. */
static bool check_section(struct parse *parse, const char *line)
{
    char section[64], error[ERROR_BYTES];

    if (sscanf(line, " [%63[^]\n]", section) != 1 || parse->continued || config_is_section(section))
        return true;
    config_explain_section(section, error);
    say(parse, error);
    return false;
}

static char *read_line(char *line, int size, void *stream)
{
    struct parse *parse = stream;
    char error[ERROR_BYTES];

    if (fgets(line, size, parse->stream) == NULL)
        return NULL;
    parse->line++;
    parse->continued = line[0] == ' ' || line[0] == '\t';
    if (strchr(line, '\n') == NULL && !feof(parse->stream)) {
        snprintf(error, sizeof error,
                 "the line is longer than %d bytes; go on in the next line, indented", size - 2);
        say(parse, error);
        return NULL;
    }
    return check_section(parse, line) ? line : NULL;
}

static int load_file(struct config *config, const char *file, char *error)
{
    struct parse parse = {.config = config, .error = error, .file = file};
    int rc;

    parse.stream = fopen(file, "re");
    if (parse.stream == NULL) {
        snprintf(error, ERROR_BYTES, "%s: %s", file, strerror(errno));
        return -1;
    }
    rc = ini_parse_stream(read_line, &parse, on_ini_value, &parse);
    fclose(parse.stream);
    if (rc > 0 && error[0] == '\0')
        snprintf(error, ERROR_BYTES, "%s:%d: neither [section] nor key = value", file, rc);
    else if (rc < 0 && error[0] == '\0')
        snprintf(error, ERROR_BYTES, "%s: out of memory", file);
    return error[0] == '\0' ? 0 : -1;
}

/* DB_HOST and its kind are put behind database.conninfo: libpq takes the last value of a keyword.
 */
static int load_database_environment(struct config *config, char *error)
{
    static const char *const names[][2] = {{"DB_HOST", "host"},
                                           {"DB_PORT", "port"},
                                           {"DB_NAME", "dbname"},
                                           {"DB_USER", "user"},
                                           {"DB_PASSWORD", "password"}};
    const struct config_key *key = config_find("database", "conninfo");

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const char *value = getenv(names[i][0]);
        char more[1024];
        size_t len;

        if (value == NULL)
            continue;
        if (strncmp(config->database.conninfo, "postgres", 8) == 0) {
            snprintf(error, ERROR_BYTES,
                     "%s: cannot be joined to a database.conninfo that is a URI", names[i][0]);
            return -1;
        }
        len = (size_t)snprintf(more, sizeof more, "%s='", names[i][1]);
        for (; *value != '\0' && len < sizeof more - 4; value++) {
            if (*value == '\'' || *value == '\\')
                more[len++] = '\\';
            more[len++] = *value;
        }
        if (*value != '\0') {
            snprintf(error, ERROR_BYTES, "%s: too long", names[i][0]);
            return -1;
        }
        memcpy(more + len, "'", 2);
        if (config_append(config, key, more) != 0) {
            snprintf(error, ERROR_BYTES, "out of memory");
            return -1;
        }
    }
    return 0;
}

static int assign_variable(struct config *config, const struct config_key *key,
                           const char *variable, char *error)
{
    const char *value = getenv(variable);
    char why[ERROR_BYTES] = "out of memory";

    if (value == NULL || config_assign(config, key, value, why) == 0)
        return 0;
    snprintf(error, ERROR_BYTES, "%s: %.400s", variable, why);
    return -1;
}

/* "CONVSTORE_BATCH_SIZE=5" is meant for us and would change nothing. */
static int refuse_unknown_variables(char *error)
{
    for (char **at = environ; *at != NULL; at++) {
        char variable[256];

        if (strncmp(*at, "CONVSTORE_", strlen("CONVSTORE_")) != 0)
            continue;
        snprintf(variable, sizeof variable, "%.*s", (int)strcspn(*at, "="), *at);
        if (config_explain_variable(variable, error))
            return -1;
        error[0] = '\0';
    }
    return 0;
}

static int load_environment(struct config *config, char *error)
{
    if (assign_variable(config, config_find("embedding", "url"), "OLLAMA_URL", error) != 0 ||
        assign_variable(config, config_find("embedding", "model"), "OLLAMA_EMBED_MODEL", error) !=
            0)
        return -1;
    for (size_t i = 0; i < config_key_count; i++) {
        char variable[CONFIG_NAME_BYTES];

        config_variable(&config_keys[i], variable);
        if (assign_variable(config, &config_keys[i], variable, error) != 0)
            return -1;
    }
    if (refuse_unknown_variables(error) != 0)
        return -1;
    return load_database_environment(config, error);
}

/* "section.key=value" */
static int load_setting(struct config *config, const char *setting, char *error)
{
    const char *dot = strchr(setting, '.');
    const char *equals = strchr(setting, '=');
    const struct config_key *key;
    char section[64], name[64], why[ERROR_BYTES] = "out of memory";

    if (dot == NULL || equals == NULL || dot > equals ||
        (size_t)(dot - setting) >= sizeof section || (size_t)(equals - dot) >= sizeof name) {
        snprintf(error, ERROR_BYTES, "--set %.200s: must be section.key=value", setting);
        return -1;
    }
    snprintf(section, sizeof section, "%.*s", (int)(dot - setting), setting);
    snprintf(name, sizeof name, "%.*s", (int)(equals - dot - 1), dot + 1);
    key = config_find(section, name);
    if (key == NULL)
        config_explain_key(section, name, why);
    else if (config_assign(config, key, equals + 1, why) == 0)
        return 0;
    snprintf(error, ERROR_BYTES, "--set: %.400s", why);
    return -1;
}

static bool too_many_urls(const char *list)
{
    int commas = 0;

    for (; *list != '\0'; list++)
        commas += *list == ',';
    return commas >= EMBEDDING_URLS_MAX;
}

static int check_limit(const struct config *config, const struct config_limit *limit, char *error)
{
    uint64_t low, high;
    char spare[32] = "";

    memcpy(&low, (const char *)config + limit->low_offset, sizeof low);
    memcpy(&high, (const char *)config + limit->high_offset, sizeof high);
    if (limit->zero_is_off && (low == 0 || high == 0))
        return 0;
    if (low <= high && high - low >= limit->spare)
        return 0;
    if (limit->spare > 0)
        snprintf(spare, sizeof spare, " less %ju", (uintmax_t)limit->spare);
    snprintf(error, ERROR_BYTES, "%s (%ju) is larger than %s (%ju)%s: %s", limit->low,
             (uintmax_t)low, limit->high, (uintmax_t)high, spare, limit->why);
    return -1;
}

static int check_together(const struct config *config, char *error)
{
    struct embedding_model model;

    for (size_t i = 0; i < config_limit_count; i++)
        if (check_limit(config, &config_limits[i], error) != 0)
            return -1;
    if (config->journal.segment_bytes % 4096 != 0)
        snprintf(error, ERROR_BYTES, "journal.segment_bytes (%ju) is no multiple of 4KiB",
                 (uintmax_t)config->journal.segment_bytes);
    else if (config->journal.max_bytes / 2 < config->journal.segment_bytes)
        snprintf(error, ERROR_BYTES,
                 "journal.max_bytes (%ju) is less than two segments of journal.segment_bytes (%ju)",
                 (uintmax_t)config->journal.max_bytes, (uintmax_t)config->journal.segment_bytes);
    else if (strcmp(config->listen.socket, config->listen.control_socket) == 0)
        snprintf(error, ERROR_BYTES,
                 "listen.socket and listen.control_socket are the same path (%.300s)",
                 config->listen.socket);
    else if (config->metrics.listen[0] != '\0' && !metrics_address_is_valid(config->metrics.listen))
        snprintf(error, ERROR_BYTES,
                 "metrics.listen = %.300s: must be host:port, [v6]:port or a socket's path",
                 config->metrics.listen);
    else if (too_many_urls(config->embedding.url))
        snprintf(error, ERROR_BYTES, "embedding.url names more than %d servers",
                 EMBEDDING_URLS_MAX);
    else
        return embedding_model_resolve(config, &model, error) == 0 ? 0 : -1;
    return -1;
}

static int load_all(struct config *config, const struct config_source *source, char *error)
{
    for (size_t i = 0; i < config_key_count; i++) {
        int rc = config_assign(config, &config_keys[i], config_keys[i].fallback, error);

        assert(rc == 0 || rc == -ENOMEM);
        if (rc != 0) {
            snprintf(error, ERROR_BYTES, "out of memory");
            return -1;
        }
    }
    if (source->file != NULL && load_file(config, source->file, error) != 0)
        return -1;
    if (load_environment(config, error) != 0)
        return -1;
    for (const char *const *set = source->set; set != NULL && *set != NULL; set++)
        if (load_setting(config, *set, error) != 0)
            return -1;
    return check_together(config, error);
}

int config_load(const struct config_source *source, struct config **ret, char ret_error[512])
{
    struct config *config = calloc(1, sizeof *config);

    ret_error[0] = '\0';
    if (config == NULL) {
        snprintf(ret_error, ERROR_BYTES, "out of memory");
        return -1;
    }
    config->references = 1;
    if (load_all(config, source, ret_error) != 0) {
        config_release(config);
        return -1;
    }
    *ret = config;
    return 0;
}

/* What only a start reads stays as it is; the rest is the new. */
static int merge(struct config *next, const struct config *now, struct config_changes *changes,
                 char *error)
{
    *changes = (struct config_changes){0};
    for (size_t i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];

        if (config_same(next, now, key))
            continue;
        if (key->live) {
            changes->changed[changes->changed_count++] = key;
            continue;
        }
        changes->restart[changes->restart_count++] = key;
        if (config_copy(next, now, key) != 0) {
            snprintf(error, ERROR_BYTES, "out of memory");
            return -1;
        }
    }
    return 0;
}

int config_reload(const struct config_source *source, const struct config *now, struct config **ret,
                  struct config_changes *ret_changes, char ret_error[ERROR_BYTES])
{
    struct config *next;
    char why[ERROR_BYTES];

    if (config_load(source, &next, ret_error) != 0)
        return -1;
    if (merge(next, now, ret_changes, ret_error) == 0) {
        if (check_together(next, why) == 0) {
            *ret = next;
            return 0;
        }
        snprintf(ret_error, ERROR_BYTES, "this needs a restart: until then %.400s", why);
    }
    config_release(next);
    return -1;
}

const struct config *config_hold(const struct config *config)
{
    if (config->references > 0)
        ((struct config *)config)->references++;
    return config;
}

void config_release(const struct config *config)
{
    struct config *own = (struct config *)config;

    if (own == NULL || own->references == 0 || --own->references > 0)
        return;
    for (size_t i = 0; i < config_key_count; i++)
        config_clear(own, &config_keys[i]);
    free(own);
}

void config_print(const struct config *config, FILE *out)
{
    const char *section = "";

    for (size_t i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];

        if (strcmp(section, key->section) != 0)
            fprintf(out, "%s[%s]\n", i == 0 ? "" : "\n", key->section);
        section = key->section;
        config_print_value(config, key, out);
    }
}
