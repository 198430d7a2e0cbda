/* Four sources, from the weakest to the strongest: default, file, environment, command line. Each
 * assigns keys of the one table in config_keys.c, so that a key is spelled, checked and refused the
 * same way wherever it comes from.
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

#include "daemon/config_keys.h"
#include "daemon/embedding.h"
#include "daemon/metrics_address.h"

#define ERROR_BYTES 512
#define SEGMENT_OVERHEAD (64 * 1024) /* more than headers, a record's frame and packing take */

struct parse {
    struct config *config;
    char *error; /* ERROR_BYTES; the first one stays */
    const char *file;
    FILE *stream;
    unsigned line;
    bool continued; /* the line is indented: it goes on with the value above */
};

static char *text_of(const struct config_key *key, const struct config *config)
{
    char *text;

    memcpy(&text, (const char *)config + key->offset, sizeof text);
    return text;
}

static uint64_t number_of(const struct config_key *key, const struct config *config)
{
    uint64_t number;

    memcpy(&number, (const char *)config + key->offset, sizeof number);
    return number;
}

static const struct config_key *find_key(const char *section, const char *name)
{
    for (size_t i = 0; i < config_key_count; i++)
        if (strcmp(config_keys[i].section, section) == 0 && strcmp(config_keys[i].name, name) == 0)
            return &config_keys[i];
    return NULL;
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
    free(text_of(key, config));
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

static int assign(struct config *config, const struct config_key *key, const char *value,
                  char *error)
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

static void unknown_key(const char *section, const char *name, char *error)
{
    for (size_t i = 0; i < config_key_count; i++)
        if (strcmp(config_keys[i].section, section) == 0) {
            snprintf(error, ERROR_BYTES, "unknown key %s.%s", section, name);
            return;
        }
    snprintf(error, ERROR_BYTES, "unknown section [%s]", section);
}

/* An indented line goes on with the value above it. */
static int append_text(struct config *config, const struct config_key *key, const char *more)
{
    char *joined;
    int rc;

    if (asprintf(&joined, "%s %s", text_of(key, config), more) < 0)
        return -ENOMEM;
    rc = assign_text(config, key, joined);
    free(joined);
    return rc;
}

static int on_ini_value(void *user, const char *section, const char *name, const char *value)
{
    struct parse *parse = user;
    const struct config_key *key = find_key(section, name);
    char error[ERROR_BYTES] = "out of memory";
    int rc = -ENOENT;

    if (parse->error[0] != '\0')
        return 0;
    if (key == NULL)
        unknown_key(section, name, error);
    else if (parse->continued && key->type == CONFIG_TEXT)
        rc = append_text(parse->config, key, value);
    else
        rc = assign(parse->config, key, value, error);
    if (rc != 0)
        snprintf(parse->error, ERROR_BYTES, "%s:%u: %.400s", parse->file, parse->line, error);
    return rc == 0;
}

static char *read_line(char *line, int size, void *stream)
{
    struct parse *parse = stream;
    char *got = fgets(line, size, parse->stream);

    if (got == NULL)
        return NULL;
    parse->line++;
    parse->continued = line[0] == ' ' || line[0] == '\t';
    if (strchr(line, '\n') == NULL && !feof(parse->stream)) {
        if (parse->error[0] == '\0')
            snprintf(parse->error, ERROR_BYTES,
                     "%s:%u: the line is longer than %d bytes; go on in the next line, indented",
                     parse->file, parse->line, size - 2);
        return NULL;
    }
    return got;
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
    const struct config_key *key = find_key("database", "conninfo");

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
        if (append_text(config, key, more) != 0) {
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

    if (value == NULL || assign(config, key, value, why) == 0)
        return 0;
    snprintf(error, ERROR_BYTES, "%s: %.400s", variable, why);
    return -1;
}

static int load_environment(struct config *config, char *error)
{
    if (assign_variable(config, find_key("embedding", "url"), "OLLAMA_URL", error) != 0 ||
        assign_variable(config, find_key("embedding", "model"), "OLLAMA_EMBED_MODEL", error) != 0)
        return -1;
    for (size_t i = 0; i < config_key_count; i++) {
        char variable[128];

        snprintf(variable, sizeof variable, "CONVSTORE_%s_%s", config_keys[i].section,
                 config_keys[i].name);
        for (char *at = variable; *at != '\0'; at++)
            *at = (char)toupper((unsigned char)*at);
        if (assign_variable(config, &config_keys[i], variable, error) != 0)
            return -1;
    }
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
    key = find_key(section, name);
    if (key == NULL)
        unknown_key(section, name, why);
    else if (assign(config, key, equals + 1, why) == 0)
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

static int check_together(const struct config *config, char *error)
{
    if (config->listen.max_message_bytes > config->queue.max_queue_bytes)
        snprintf(
            error, ERROR_BYTES,
            "listen.max_message_bytes (%ju) is larger than queue.max_queue_bytes (%ju): such a "
            "message could never be taken",
            (uintmax_t)config->listen.max_message_bytes, (uintmax_t)config->queue.max_queue_bytes);
    else if (config->listen.max_message_bytes + SEGMENT_OVERHEAD > config->journal.segment_bytes)
        snprintf(
            error, ERROR_BYTES,
            "listen.max_message_bytes (%ju) does not fit into journal.segment_bytes (%ju) less "
            "%d: such a message could never be taken",
            (uintmax_t)config->listen.max_message_bytes, (uintmax_t)config->journal.segment_bytes,
            SEGMENT_OVERHEAD);
    else if (config->journal.segment_bytes % 4096 != 0)
        snprintf(error, ERROR_BYTES, "journal.segment_bytes (%ju) is no multiple of 4KiB",
                 (uintmax_t)config->journal.segment_bytes);
    else if (config->journal.segment_bytes > config->journal.max_bytes)
        snprintf(error, ERROR_BYTES,
                 "journal.segment_bytes (%ju) is larger than journal.max_bytes (%ju)",
                 (uintmax_t)config->journal.segment_bytes, (uintmax_t)config->journal.max_bytes);
    else if (config->listen.max_message_bytes > config->listen.max_partial_bytes)
        snprintf(error, ERROR_BYTES,
                 "listen.max_message_bytes (%ju) is larger than listen.max_partial_bytes (%ju)",
                 (uintmax_t)config->listen.max_message_bytes,
                 (uintmax_t)config->listen.max_partial_bytes);
    else if (strcmp(config->listen.socket, config->listen.control_socket) == 0)
        snprintf(error, ERROR_BYTES, "listen.socket and listen.control_socket are the same path");
    else if (config->metrics.listen[0] != '\0' && !metrics_address_is_valid(config->metrics.listen))
        snprintf(error, ERROR_BYTES,
                 "metrics.listen = %.300s: must be host:port, [v6]:port or a socket's path",
                 config->metrics.listen);
    else if (too_many_urls(config->embedding.url))
        snprintf(error, ERROR_BYTES, "embedding.url names more than %d servers",
                 EMBEDDING_URLS_MAX);
    else
        return 0;
    return -1;
}

static int load_all(struct config *config, const struct config_source *source, char *error)
{
    for (size_t i = 0; i < config_key_count; i++) {
        int rc = assign(config, &config_keys[i], config_keys[i].fallback, error);

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
    if (load_all(config, source, ret_error) != 0) {
        config_free(config);
        return -1;
    }
    *ret = config;
    return 0;
}

void config_free(struct config *config)
{
    if (config == NULL)
        return;
    for (size_t i = 0; i < config_key_count; i++)
        if (config_keys[i].type == CONFIG_TEXT || config_keys[i].type == CONFIG_CHOICE)
            free(text_of(&config_keys[i], config));
    free(config);
}

/* A conninfo may carry a password, in either of its two forms: then nothing of it is shown. */
static const char *shown_text(const struct config_key *key, const struct config *config)
{
    const char *text = text_of(key, config);

    if (strcmp(key->name, "conninfo") == 0 &&
        (strstr(text, "password") != NULL || strncmp(text, "postgres", 8) == 0))
        return "(not shown: may hold a password)";
    return text;
}

void config_print(const struct config *config, FILE *out)
{
    const char *section = "";

    for (size_t i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];

        if (strcmp(section, key->section) != 0)
            fprintf(out, "%s[%s]\n", i == 0 ? "" : "\n", key->section);
        section = key->section;
        switch (key->type) {
        case CONFIG_TEXT:
        case CONFIG_CHOICE:
            fprintf(out, "%s = %s\n", key->name, shown_text(key, config));
            break;
        case CONFIG_NUMBER:
        case CONFIG_SIZE:
            fprintf(out, "%s = %ju\n", key->name, (uintmax_t)number_of(key, config));
            break;
        case CONFIG_MODE:
            fprintf(out, "%s = %04jo\n", key->name, (uintmax_t)number_of(key, config));
            break;
        case CONFIG_BOOL:
            fprintf(out, "%s = %s\n", key->name,
                    *((const bool *)config + key->offset) ? "true" : "false");
            break;
        }
    }
}
