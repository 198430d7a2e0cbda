/* `status`, `get`, `list` and `search`: what is stored, read back. */
#include "client/convstorectl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define READ_TIMEOUT_MS 30000

const char ctl_status_help[] =
    "Usage: convstorectl status USER ID\n"
    "\n"
    "Tells where a conversation is: queued (on disk, not in the database yet), stored (a row),\n"
    "embedded (a row with its vectors), or failed (refused by the database, with the reason).\n"
    "\n"
    "Examples:\n"
    "  convstorectl status u1 019abcde-f012-7345-8678-9abcdef01234\n";

const char ctl_get_help[] = "Usage: convstorectl get USER ID\n"
                            "\n"
                            "Prints one conversation with its texts.\n"
                            "\n"
                            "Examples:\n"
                            "  convstorectl get u1 019abcde-f012-7345-8678-9abcdef01234\n"
                            "  convstorectl --json get u1 019abcde-… | jq -r .transcript\n";

const char ctl_list_help[] = "Usage: convstorectl list USER [--limit N] [--before CURSOR]\n"
                             "\n"
                             "A user's conversations, newest first.\n"
                             "\n"
                             "Options:\n"
                             "  --limit N          at most so many (default 20, at most 100)\n"
                             "  --before CURSOR    go on where an earlier list ended\n"
                             "\n"
                             "Examples:\n"
                             "  convstorectl list u1 --limit 5\n";

const char ctl_search_help[] =
    "Usage: convstorectl search USER QUERY [OPTION…]\n"
    "\n"
    "Searches a user's conversations, best first.\n"
    "\n"
    "Options:\n"
    "  --mode MODE        vector (by meaning), text (by words) or hybrid (both)\n"
    "  --limit N          at most so many (default 20, at most 100)\n"
    "  --platform NAME    only those of this platform\n"
    "  --since TIME       not older than this: 2024-05-01T12:00:00Z, or milliseconds since 1970\n"
    "  --until TIME       older than this\n"
    "\n"
    "Examples:\n"
    "  convstorectl search u1 'printer on fire'\n"
    "  convstorectl search u1 '\"paper jam\" -solved' --mode text --since 2026-01-01T00:00:00Z\n";

enum {
    OPTION_LIMIT = 256,
    OPTION_BEFORE,
    OPTION_MODE,
    OPTION_PLATFORM,
    OPTION_SINCE,
    OPTION_UNTIL
};

static const struct option list_options[] = {
    {"limit", required_argument, NULL, OPTION_LIMIT},
    {"before", required_argument, NULL, OPTION_BEFORE},
    {NULL, 0, NULL, 0},
};

static const struct option search_options[] = {
    {"limit", required_argument, NULL, OPTION_LIMIT},
    {"mode", required_argument, NULL, OPTION_MODE},
    {"platform", required_argument, NULL, OPTION_PLATFORM},
    {"since", required_argument, NULL, OPTION_SINCE},
    {"until", required_argument, NULL, OPTION_UNTIL},
    {NULL, 0, NULL, 0},
};

static int take_limit(const struct ctl *ctl, unsigned *ret)
{
    char *end;
    unsigned long n = strtoul(optarg, &end, 10);

    if (*optarg < '0' || *optarg > '9' || *end != '\0' || n < 1 || n > 100)
        return ctl_usage(ctl, "--limit %s: must be 1 to 100", optarg);
    *ret = (unsigned)n;
    return CTL_OK;
}

static int take_time(const struct ctl *ctl, bool *ret_given, int64_t *ret_us)
{
    if (ctl_parse_time(optarg, ret_us) != 0)
        return ctl_usage(ctl, "%s: must be milliseconds since 1970, or 2024-05-01T12:00:00Z",
                         optarg);
    *ret_given = true;
    return CTL_OK;
}

static int take_option(const struct ctl *ctl, int option, struct convstore_query *ret)
{
    switch (option) {
    case OPTION_LIMIT:
        return take_limit(ctl, &ret->limit);
    case OPTION_SINCE:
        return take_time(ctl, &ret->has_since, &ret->since_us);
    case OPTION_UNTIL:
        return take_time(ctl, &ret->has_until, &ret->until_us);
    case OPTION_BEFORE:
        ret->before = optarg;
        break;
    case OPTION_MODE:
        ret->mode = optarg;
        break;
    case OPTION_PLATFORM:
        ret->platform = optarg;
        break;
    }
    return CTL_OK;
}

/* Options, then as many arguments as names says ("USER", "ID"), each into its place. */
static int parse(struct ctl *ctl, int argc, char **argv, const struct option *own,
                 struct convstore_query *query, const char *const names[2],
                 const char **const ret[2])
{
    int option, status = CTL_OK;

    while (status == CTL_OK && (option = ctl_getopt(ctl, argc, argv, own)) != -1)
        status = take_option(ctl, option, query);
    for (int i = 0; status == CTL_OK && i < 2 && names[i] != NULL; i++) {
        if (optind == argc)
            return ctl_usage(ctl, "%s is missing", names[i]);
        *ret[i] = argv[optind++];
    }
    return status != CTL_OK ? status : ctl_no_arguments(ctl, argc, argv);
}

/* The small fields as a page, then the long texts whole. */
static int show_conversation(const struct ctl *ctl, const char *json)
{
    static const char *const texts[] = {"summary", "transcript"};
    json_t *all = json_loads(json, 0, NULL), *small = json_deep_copy(all);
    char *dump;

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        json_object_del(small, texts[i]);
    dump = json_dumps(small, 0);
    if (dump != NULL)
        (void)ctl_print_result(ctl, dump);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (json_is_string(json_object_get(all, texts[i])))
            ctl_print_text(texts[i], json_string_value(json_object_get(all, texts[i])));
    free(dump);
    json_decref(small);
    json_decref(all);
    return CTL_OK;
}

static int show_list(const struct ctl *ctl, const char *json)
{
    json_t *result = json_loads(json, 0, NULL), *row;
    json_t *rows = json_object_get(result, "conversations");
    json_t *next = json_incref(json_object_get(result, "next"));
    size_t i;
    char *dump;

    json_array_foreach(rows, i, row) json_object_del(row, "metadata"); /* no cell can hold it */
    json_object_del(result, "next");
    dump = json_dumps(result, 0);
    if (json_array_size(rows) == 0)
        puts("no conversations");
    else if (dump != NULL)
        (void)ctl_print_result(ctl, dump);
    if (json_is_string(next))
        printf("\nmore: --before %s\n", json_string_value(next));
    free(dump);
    json_decref(next);
    json_decref(result);
    return CTL_OK;
}

static int show_hits(const char *json)
{
    json_t *result = json_loads(json, 0, NULL), *hit;
    json_t *hits = json_object_get(result, "results");
    size_t i;

    if (json_array_size(hits) == 0)
        puts("nothing found");
    json_array_foreach(hits, i, hit)
    {
        char title[200];

        snprintf(title, sizeof title, "%.4f  %s  %s  %.64s",
                 json_number_value(json_object_get(hit, "score")),
                 json_string_value(json_object_get(hit, "id")),
                 json_string_value(json_object_get(hit, "created_at")),
                 json_string_value(json_object_get(hit, "platform")));
        ctl_print_text(title, json_string_value(json_object_get(hit, "snippet")));
    }
    json_decref(result);
    return CTL_OK;
}

typedef int call_with_key(struct convstore *c, const char *user_id, const char *id,
                          const char **ret_json);

static int run_key(struct ctl *ctl, int argc, char **argv, call_with_key *call,
                   int (*show)(const struct ctl *ctl, const char *json))
{
    static const char *const names[2] = {"USER", "ID"};
    const char *user_id = NULL, *id = NULL, *json;
    const char **const arguments[2] = {&user_id, &id};
    struct convstore *c;
    int status = parse(ctl, argc, argv, NULL, NULL, names, arguments), code;

    if (status == CTL_OK)
        status = ctl_open(ctl, false, READ_TIMEOUT_MS, &c);
    if (status != CTL_OK)
        return status;
    code = call(c, user_id, id, &json);
    status = code != 0   ? ctl_failed(c, code)
             : ctl->json ? ctl_print_result(ctl, json)
                         : show(ctl, json);
    convstore_close(c);
    return status;
}

int ctl_run_status(struct ctl *ctl, int argc, char **argv)
{
    return run_key(ctl, argc, argv, convstore_status, ctl_print_result);
}

int ctl_run_get(struct ctl *ctl, int argc, char **argv)
{
    return run_key(ctl, argc, argv, convstore_get, show_conversation);
}

static int run_query(struct ctl *ctl, int argc, char **argv, bool search)
{
    const char *const names[2] = {"USER", search ? "QUERY" : NULL};
    struct convstore_query query = {0};
    const char **const arguments[2] = {&query.user_id, &query.query}, *json;
    struct convstore *c;
    int status =
        parse(ctl, argc, argv, search ? search_options : list_options, &query, names, arguments);
    int code;

    if (status == CTL_OK)
        status = ctl_open(ctl, false, READ_TIMEOUT_MS, &c);
    if (status != CTL_OK)
        return status;
    code = search ? convstore_search(c, &query, &json) : convstore_list(c, &query, &json);
    if (code != 0)
        status = ctl_failed(c, code);
    else if (ctl->json)
        status = ctl_print_result(ctl, json);
    else
        status = search ? show_hits(json) : show_list(ctl, json);
    convstore_close(c);
    return status;
}

int ctl_run_list(struct ctl *ctl, int argc, char **argv)
{
    return run_query(ctl, argc, argv, false);
}

int ctl_run_search(struct ctl *ctl, int argc, char **argv)
{
    return run_query(ctl, argc, argv, true);
}
