/* `embeddings` and `reembed`: the models that made vectors, and moving from one to another. */
#include "client/convstorectl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LONG_TIMEOUT_MS 3600000 /* a walk over all conversations takes its time */
#define PROGRESS_S 1

const char ctl_embeddings_help[] =
    "Usage: convstorectl embeddings [list]\n"
    "       convstorectl embeddings drop MODEL_ID\n"
    "\n"
    "Another provider, model, dimension, prefix or source of the text is another model. list "
    "shows\n"
    "them with the count of their vectors and of the conversations that wait for one (backlog).\n"
    "drop removes the vectors of a model that is no longer the daemon's.\n"
    "\n"
    "Examples:\n"
    "  convstorectl embeddings\n"
    "  convstorectl embeddings drop 1\n";

const char ctl_reembed_help[] =
    "Usage: convstorectl reembed [--wait]\n"
    "\n"
    "After a change of model: every conversation that has no vector of the daemon's current model\n"
    "gets one in the background. New conversations get theirs as ever.\n"
    "\n"
    "Options:\n"
    "  --wait             show how many are left until all are done\n"
    "\n"
    "Examples:\n"
    "  convstorectl reembed --wait\n"
    "  convstorectl embeddings\n";

static void pack_text(msgpack_packer *pk, const char *text)
{
    msgpack_pack_str_with_body(pk, text, strlen(text));
}

/* The call, and its result as JSON in *ret_json; its exit code. */
static int call(struct convstore *c, const char *method, int64_t drop, const char **ret_json)
{
    msgpack_sbuffer params;
    msgpack_packer pk;
    int code;

    msgpack_sbuffer_init(&params);
    msgpack_packer_init(&pk, &params, msgpack_sbuffer_write);
    msgpack_pack_array(&pk, drop > 0);
    if (drop > 0) {
        msgpack_pack_map(&pk, 2);
        pack_text(&pk, "action");
        pack_text(&pk, "drop");
        pack_text(&pk, "model_id");
        msgpack_pack_int64(&pk, drop);
    }
    code = convstore_call(c, method, params.data, params.size, ret_json);
    msgpack_sbuffer_destroy(&params);
    return code == 0 ? CTL_OK : ctl_failed(c, code);
}

static int parse_embeddings(struct ctl *ctl, int argc, char **argv, int64_t *ret_drop)
{
    char *end;

    *ret_drop = 0;
    while (ctl_getopt(ctl, argc, argv, NULL) != -1) {
    }
    if (optind == argc)
        return CTL_OK;
    if (strcmp(argv[optind], "list") == 0) {
        optind++;
        return ctl_no_arguments(ctl, argc, argv);
    }
    if (strcmp(argv[optind], "drop") != 0)
        return ctl_usage(ctl, "\"%s\" is neither list nor drop", argv[optind]);
    if (++optind == argc)
        return ctl_usage(ctl, "drop needs a MODEL_ID");
    errno = 0;
    *ret_drop = strtoll(argv[optind], &end, 10);
    if (errno != 0 || end == argv[optind] || *end != '\0' || *ret_drop < 1)
        return ctl_usage(ctl, "MODEL_ID %s: must be a number from 1", argv[optind]);
    optind++;
    return ctl_no_arguments(ctl, argc, argv);
}

int ctl_run_embeddings(struct ctl *ctl, int argc, char **argv)
{
    struct convstore *c;
    const char *json;
    int64_t drop;
    int status = parse_embeddings(ctl, argc, argv, &drop);

    if (status == CTL_OK)
        status = ctl_open(ctl, true, LONG_TIMEOUT_MS, &c);
    if (status != CTL_OK)
        return status;
    status = call(c, "embeddings", drop, &json);
    if (status == CTL_OK)
        status = ctl_print_result(ctl, json);
    convstore_close(c);
    return status;
}

/* How many wait for a vector; -1 where stats does not say, and *ret_status why. */
static int64_t backlog(struct convstore *c, int *ret_status)
{
    const char *json;
    json_t *stats;
    int64_t left;
    int code = convstore_stats(c, NULL, &json);

    if (code != 0) {
        *ret_status = ctl_failed(c, code);
        return -1;
    }
    stats = json_loads(json, 0, NULL);
    left = json_integer_value(json_object_get(stats, "embedding_backlog"));
    json_decref(stats);
    return left;
}

static int wait_for_all(struct convstore *c)
{
    bool terminal = isatty(STDERR_FILENO);
    char number[32];
    int status = CTL_OK;
    int64_t left;

    while ((left = backlog(c, &status)) > 0) {
        fprintf(stderr, terminal ? "\r%s left \033[K" : "%s left\n", ctl_grouped(left, number));
        sleep(PROGRESS_S);
    }
    if (terminal)
        fputs("\r\033[K", stderr);
    return status;
}

int ctl_run_reembed(struct ctl *ctl, int argc, char **argv)
{
    static const struct option own[] = {{"wait", no_argument, NULL, 256}, {NULL, 0, NULL, 0}};
    struct convstore *c;
    const char *json;
    bool wait = false;
    int status;

    while (ctl_getopt(ctl, argc, argv, own) != -1)
        wait = true;
    status = ctl_no_arguments(ctl, argc, argv);
    if (status == CTL_OK)
        status = ctl_open(ctl, true, LONG_TIMEOUT_MS, &c);
    if (status != CTL_OK)
        return status;
    status = call(c, "reembed", 0, &json);
    if (status == CTL_OK)
        status = ctl_print_result(ctl, json);
    if (status == CTL_OK && wait)
        status = wait_for_all(c);
    convstore_close(c);
    return status;
}
