/* `dead-letters`: what PostgreSQL refused for good, to look at, to try again, to drop. */
#include "client/convstorectl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEAD_LETTERS_TIMEOUT_MS 600000 /* a retry of very many takes its time */

const char ctl_dead_letters_help[] =
    "Usage: convstorectl dead-letters list [--limit N] [--after ID]\n"
    "       convstorectl dead-letters show ID\n"
    "       convstorectl dead-letters retry [ID]\n"
    "       convstorectl dead-letters drop [ID]\n"
    "\n"
    "Conversations that PostgreSQL refused for good are kept whole, with the reason, in\n"
    "convstore.dead_letters. list shows the oldest first; show prints one with its texts; retry\n"
    "makes it a row now, or keeps it with the new reason; drop removes it for good. retry and\n"
    "drop without an ID take all that are there. Exit status 1 when some were refused again.\n"
    "\n"
    "Options:\n"
    "  --limit N          of list: at most so many (default 100, at most 1000)\n"
    "  --after ID         of list: those behind this one\n"
    "\n"
    "Examples:\n"
    "  convstorectl dead-letters list\n"
    "  psql -c 'ALTER TABLE convstore.conversations DROP CONSTRAINT …'\n"
    "  convstorectl dead-letters retry\n";

enum { OPTION_LIMIT = 256, OPTION_AFTER };

struct request {
    const char *action;
    int64_t id, limit, after; /* 0: not given */
};

static int parse_positive(const struct ctl *ctl, const char *name, const char *text, int64_t *ret)
{
    char *end;

    errno = 0;
    *ret = strtoll(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || *ret < 1)
        return ctl_usage(ctl, "%s %s: must be a number from 1", name, text);
    return CTL_OK;
}

static int parse_arguments(const struct ctl *ctl, int argc, char **argv, struct request *ret)
{
    static const char *const actions[] = {"list", "show", "retry", "drop"};

    if (optind == argc)
        return ctl_usage(ctl, "say list, show, retry or drop");
    for (size_t i = 0; i < sizeof actions / sizeof *actions; i++)
        if (strcmp(argv[optind], actions[i]) == 0)
            ret->action = actions[i];
    if (ret->action == NULL)
        return ctl_usage(ctl, "\"%s\" is none of list, show, retry, drop", argv[optind]);
    optind++;
    if (optind < argc && strcmp(ret->action, "list") != 0) {
        int status = parse_positive(ctl, "ID", argv[optind++], &ret->id);

        if (status != CTL_OK)
            return status;
    }
    if (strcmp(ret->action, "show") == 0 && ret->id == 0)
        return ctl_usage(ctl, "show needs an ID");
    return ctl_no_arguments(ctl, argc, argv);
}

static int parse(struct ctl *ctl, int argc, char **argv, struct request *ret)
{
    static const struct option own[] = {
        {"limit", required_argument, NULL, OPTION_LIMIT},
        {"after", required_argument, NULL, OPTION_AFTER},
        {NULL, 0, NULL, 0},
    };
    int option, status = CTL_OK;

    while (status == CTL_OK && (option = ctl_getopt(ctl, argc, argv, own)) != -1)
        status = option == OPTION_LIMIT ? parse_positive(ctl, "--limit", optarg, &ret->limit)
                                        : parse_positive(ctl, "--after", optarg, &ret->after);
    return status != CTL_OK ? status : parse_arguments(ctl, argc, argv, ret);
}

static void pack_number(msgpack_packer *pk, const char *key, int64_t number)
{
    if (number == 0)
        return;
    msgpack_pack_str_with_body(pk, key, strlen(key));
    msgpack_pack_int64(pk, number);
}

static void pack_request(msgpack_packer *pk, const struct request *request)
{
    msgpack_pack_array(pk, 1);
    msgpack_pack_map(
        pk, (size_t)(1 + (request->id != 0) + (request->limit != 0) + (request->after != 0)));
    msgpack_pack_str_with_body(pk, "action", strlen("action"));
    msgpack_pack_str_with_body(pk, request->action, strlen(request->action));
    pack_number(pk, "id", request->id);
    pack_number(pk, "limit", request->limit);
    pack_number(pk, "after", request->after);
}

/* The small fields as a page, then the long texts whole. */
static int show_letter(const struct ctl *ctl, json_t *letter)
{
    static const char *const texts[] = {"metadata", "summary", "transcript"};
    json_t *small = json_deep_copy(letter);
    char *dump;

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        json_object_del(small, texts[i]);
    dump = json_dumps(small, 0);
    json_decref(small);
    if (dump == NULL)
        return CTL_REFUSED;
    (void)ctl_print_result(ctl, dump);
    free(dump);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (json_is_string(json_object_get(letter, texts[i])))
            ctl_print_text(texts[i], json_string_value(json_object_get(letter, texts[i])));
    return CTL_OK;
}

static int show_list(const struct ctl *ctl, const char *json, json_t *result)
{
    const json_t *letters = json_object_get(result, "dead_letters");
    size_t count = json_array_size(letters);

    if (count == 0) {
        puts("no dead letters");
        return CTL_OK;
    }
    (void)ctl_print_result(ctl, json);
    if (json_is_true(json_object_get(result, "more")))
        printf("\nmore: --after %" JSON_INTEGER_FORMAT "\n",
               json_integer_value(json_object_get(json_array_get(letters, count - 1), "id")));
    return CTL_OK;
}

static int show_result(const struct ctl *ctl, const struct request *request, const char *json)
{
    json_t *result = json_loads(json, 0, NULL);
    bool refused = json_integer_value(json_object_get(result, "refused")) > 0;
    int status = CTL_OK;

    if (!ctl->json && strcmp(request->action, "show") == 0)
        status = show_letter(ctl, result);
    else if (!ctl->json && strcmp(request->action, "list") == 0)
        status = show_list(ctl, json, result);
    else
        status = ctl_print_result(ctl, json);
    json_decref(result);
    return refused ? CTL_REFUSED : status;
}

int ctl_run_dead_letters(struct ctl *ctl, int argc, char **argv)
{
    struct request request = {0};
    msgpack_sbuffer params;
    msgpack_packer pk;
    const char *json;
    struct convstore *c;
    int status = parse(ctl, argc, argv, &request), code;

    if (status == CTL_OK)
        status = ctl_open(ctl, true, DEAD_LETTERS_TIMEOUT_MS, &c);
    if (status != CTL_OK)
        return status;
    msgpack_sbuffer_init(&params);
    msgpack_packer_init(&pk, &params, msgpack_sbuffer_write);
    pack_request(&pk, &request);
    code = convstore_call(c, "dead_letters", params.data, params.size, &json);
    status = code == 0 ? show_result(ctl, &request, json) : ctl_failed(c, code);
    msgpack_sbuffer_destroy(&params);
    convstore_close(c);
    return status;
}
