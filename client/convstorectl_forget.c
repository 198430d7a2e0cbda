/* `forget`: erases what is stored of a user. */
#include "client/convstorectl.h"

#include <stdio.h>
#include <string.h>

#define FORGET_TIMEOUT_MS 600000 /* a user with very many takes its time */

const char ctl_forget_help[] = "Usage: convstorectl forget USER ID\n"
                               "       convstorectl forget USER --all\n"
                               "\n"
                               "Erases one conversation of a user, or all: from the journal's "
                               "backlog, the embedding caches and\n"
                               "every table. Neither a restart nor the promotion of a standby "
                               "brings it back. Every daemon that\n"
                               "the user's conversations went to must be asked. Cannot be undone.\n"
                               "\n"
                               "Options:\n"
                               "  --all              all of the user's conversations\n"
                               "\n"
                               "Examples:\n"
                               "  convstorectl forget u1 019abcde-f012-7345-8678-9abcdef01234\n"
                               "  convstorectl forget u1 --all\n";

struct request {
    const char *user_id, *id; /* id NULL: all */
};

static int parse(struct ctl *ctl, int argc, char **argv, struct request *ret)
{
    static const struct option own[] = {{"all", no_argument, NULL, 256}, {NULL, 0, NULL, 0}};
    bool all = false;

    while (ctl_getopt(ctl, argc, argv, own) != -1)
        all = true;
    if (optind == argc)
        return ctl_usage(ctl, "USER is missing");
    ret->user_id = argv[optind++];
    if (optind < argc && !all)
        ret->id = argv[optind++];
    else if (!all)
        return ctl_usage(ctl, "say which ID, or --all");
    return ctl_no_arguments(ctl, argc, argv);
}

static void pack_pair(msgpack_packer *pk, const char *key, const char *text)
{
    msgpack_pack_str_with_body(pk, key, strlen(key));
    msgpack_pack_str_with_body(pk, text, strlen(text));
}

int ctl_run_forget(struct ctl *ctl, int argc, char **argv)
{
    struct request request = {NULL, NULL};
    msgpack_sbuffer params;
    msgpack_packer pk;
    const char *json;
    struct convstore *c;
    int status = parse(ctl, argc, argv, &request), code;

    if (status == CTL_OK)
        status = ctl_open(ctl, true, FORGET_TIMEOUT_MS, &c);
    if (status != CTL_OK)
        return status;
    msgpack_sbuffer_init(&params);
    msgpack_packer_init(&pk, &params, msgpack_sbuffer_write);
    msgpack_pack_array(&pk, 1);
    msgpack_pack_map(&pk, request.id != NULL ? 2 : 1);
    pack_pair(&pk, "user_id", request.user_id);
    if (request.id != NULL)
        pack_pair(&pk, "id", request.id);
    code = convstore_call(c, "forget", params.data, params.size, &json);
    status = code == 0 ? ctl_print_result(ctl, json) : ctl_failed(c, code);
    msgpack_sbuffer_destroy(&params);
    convstore_close(c);
    return status;
}
