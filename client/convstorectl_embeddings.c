/* `embeddings`, `reembed` and `migrate-vectors`: the models that made vectors, and going from one
 * to another. */
#include "client/convstorectl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LONG_TIMEOUT_MS 3600000 /* a walk over all conversations takes its time */
#define PROGRESS_S 1
#define NOTICE_S 3 /* other daemons look every 2 s how vectors are stored */

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
    "Usage: convstorectl reembed [--model MODEL_ID] [--wait]\n"
    "\n"
    "After a change of model: every conversation that has no vector of the daemon's current model\n"
    "gets one in the background. New conversations get theirs as ever.\n"
    "\n"
    "Options:\n"
    "  --model MODEL_ID   fill in the vectors of this model, whose number \"embeddings\" shows; "
    "where\n"
    "                     it is not this daemon's, a daemon that has it makes them\n"
    "  --wait             show how many are left until all are done\n"
    "\n"
    "Examples:\n"
    "  convstorectl reembed --wait\n"
    "  convstorectl embeddings\n";

const char ctl_migrate_vectors_help[] =
    "Usage: convstorectl migrate-vectors\n"
    "\n"
    "Moves the vectors of the daemon's model to the daemon's embedding.storage: from real[] after\n"
    "CREATE EXTENSION vector, or from vector to halfvec after a change of configuration. Goes in\n"
    "small steps while daemons work, and shows how far it is; after an interruption run it again.\n"
    "Daemons on this database that have not noticed yet go over within seconds, and what they\n"
    "write meanwhile is moved, too. Until it is done a search sees only part of the vectors.\n"
    "\n"
    "Examples:\n"
    "  convstorectl migrate-vectors\n"
    "  convstorectl embeddings\n";

static void pack_text(msgpack_packer *pk, const char *text)
{
    msgpack_pack_str_with_body(pk, text, strlen(text));
}

/* The call with its options (a packed map; NULL for none), and its result as JSON in *ret_json; its
 * exit code. */
static int call(struct convstore *c, const char *method, const msgpack_sbuffer *options,
                const char **ret_json)
{
    msgpack_sbuffer params;
    msgpack_packer pk;
    int code;

    msgpack_sbuffer_init(&params);
    msgpack_packer_init(&pk, &params, msgpack_sbuffer_write);
    msgpack_pack_array(&pk, options != NULL);
    if (options != NULL)
        msgpack_sbuffer_write(&params, options->data, options->size);
    code = convstore_call(c, method, params.data, params.size, ret_json);
    msgpack_sbuffer_destroy(&params);
    return code == 0 ? CTL_OK : ctl_failed(c, code);
}

/* The same about one model; action NULL and model_id 0 are left out. */
static int call_about(struct convstore *c, const char *method, const char *action, int64_t model_id,
                      const char **ret_json)
{
    msgpack_sbuffer options;
    msgpack_packer pk;
    int status;

    msgpack_sbuffer_init(&options);
    msgpack_packer_init(&pk, &options, msgpack_sbuffer_write);
    msgpack_pack_map(&pk, (action != NULL) + (model_id > 0));
    if (action != NULL) {
        pack_text(&pk, "action");
        pack_text(&pk, action);
    }
    if (model_id > 0) {
        pack_text(&pk, "model_id");
        msgpack_pack_int64(&pk, model_id);
    }
    status = call(c, method, &options, ret_json);
    msgpack_sbuffer_destroy(&options);
    return status;
}

static int parse_model_id(const struct ctl *ctl, const char *text, int64_t *ret)
{
    char *end;

    errno = 0;
    *ret = strtoll(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || *ret < 1)
        return ctl_usage(ctl, "MODEL_ID %s: must be a number from 1", text);
    return CTL_OK;
}

static int parse_embeddings(struct ctl *ctl, int argc, char **argv, int64_t *ret_drop)
{
    int status;

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
    status = parse_model_id(ctl, argv[optind++], ret_drop);
    if (status != CTL_OK)
        return status;
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
    status = call_about(c, "embeddings", drop > 0 ? "drop" : "list", drop, &json);
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

/* Whether this daemon makes the vectors, as the answer of reembed says. */
static bool is_current(const char *json)
{
    json_t *answer = json_loads(json, 0, NULL);
    bool current = json_is_true(json_object_get(answer, "current"));

    json_decref(answer);
    return current;
}

static int reembed(struct ctl *ctl, struct convstore *c, int64_t model_id, bool wait)
{
    const char *json;
    int status = call_about(c, "reembed", NULL, model_id, &json);
    bool current;

    if (status != CTL_OK)
        return status;
    current = is_current(json);
    ctl_print_result(ctl, json);
    if (!current)
        fprintf(stderr,
                "convstorectl: model %jd is not this daemon's: a daemon that has it fills them "
                "in\n",
                (intmax_t)model_id);
    return wait && current ? wait_for_all(c) : CTL_OK;
}

int ctl_run_reembed(struct ctl *ctl, int argc, char **argv)
{
    static const struct option own[] = {{"model", required_argument, NULL, 256},
                                        {"wait", no_argument, NULL, 257},
                                        {NULL, 0, NULL, 0}};
    struct convstore *c;
    int64_t model_id = 0;
    bool wait = false;
    int option, status = CTL_OK;

    while (status == CTL_OK && (option = ctl_getopt(ctl, argc, argv, own)) != -1) {
        if (option == 256)
            status = parse_model_id(ctl, optarg, &model_id);
        else
            wait = true;
    }
    if (status == CTL_OK)
        status = ctl_no_arguments(ctl, argc, argv);
    if (status == CTL_OK)
        status = ctl_open(ctl, true, LONG_TIMEOUT_MS, &c);
    if (status != CTL_OK)
        return status;
    status = reembed(ctl, c, model_id, wait);
    convstore_close(c);
    return status;
}

/* ---- migrate-vectors ---- */

struct migration {
    struct convstore *c;
    bool terminal;
    int64_t total;                      /* vectors of all models at the begin */
    int64_t seen, moved, backlog_moved; /* seen: of the present pass */
    bool columns_added;
};

static int count_vectors(struct convstore *c, int64_t *ret)
{
    const char *json;
    int status = call(c, "embeddings", NULL, &json);
    json_t *answer, *model;
    size_t i;

    if (status != CTL_OK)
        return status;
    answer = json_loads(json, 0, NULL);
    *ret = 0;
    json_array_foreach(json_object_get(answer, "models"), i, model) *ret +=
        json_integer_value(json_object_get(model, "vectors"));
    json_decref(answer);
    return CTL_OK;
}

static void show_migration(const struct migration *m)
{
    char seen[32], total[32], moved[32];

    fprintf(stderr,
            m->terminal ? "\r%s of %s looked at, %s moved \033[K"
                        : "%s of %s looked at, %s moved\n",
            ctl_grouped(m->seen, seen), ctl_grouped(m->total, total), ctl_grouped(m->moved, moved));
}

/* One call, which moves for about a second. *next: where it begins, and then the next one; "": the
 * pass is over. */
static int migrate_on(struct migration *m, char next[512])
{
    msgpack_sbuffer options;
    msgpack_packer pk;
    const char *json, *after;
    json_t *answer;
    int status;

    msgpack_sbuffer_init(&options);
    msgpack_packer_init(&pk, &options, msgpack_sbuffer_write);
    msgpack_pack_map(&pk, 1);
    pack_text(&pk, "after");
    next[0] != '\0' ? pack_text(&pk, next) : (void)msgpack_pack_nil(&pk);
    status = call(m->c, "migrate_vectors", &options, &json);
    msgpack_sbuffer_destroy(&options);
    if (status != CTL_OK)
        return status;
    answer = json_loads(json, 0, NULL);
    after = json_string_value(json_object_get(answer, "next"));
    snprintf(next, 512, "%s", after != NULL ? after : "");
    m->seen += json_integer_value(json_object_get(answer, "seen"));
    m->moved += json_integer_value(json_object_get(answer, "moved"));
    m->backlog_moved += json_integer_value(json_object_get(answer, "backlog_moved"));
    m->columns_added |= json_is_true(json_object_get(answer, "columns_added"));
    json_decref(answer);
    return CTL_OK;
}

/* Passes until one finds nothing, with a pause for daemons that have not noticed yet. */
static int migrate(struct migration *m)
{
    bool first = true;

    for (;; first = false) {
        int64_t before = m->moved + m->backlog_moved;
        char next[512] = "";
        int status;

        m->seen = 0;
        do {
            status = migrate_on(m, next);
            if (status != CTL_OK)
                return status;
            show_migration(m);
        } while (next[0] != '\0');
        if (m->moved + m->backlog_moved == before && !(first && m->columns_added))
            return CTL_OK;
        sleep(NOTICE_S);
    }
}

int ctl_run_migrate_vectors(struct ctl *ctl, int argc, char **argv)
{
    struct migration m = {.terminal = isatty(STDERR_FILENO)};
    int status;

    while (ctl_getopt(ctl, argc, argv, NULL) != -1) {
    }
    status = ctl_no_arguments(ctl, argc, argv);
    if (status == CTL_OK)
        status = ctl_open(ctl, true, LONG_TIMEOUT_MS, &m.c);
    if (status != CTL_OK)
        return status;
    status = count_vectors(m.c, &m.total);
    if (status == CTL_OK)
        status = migrate(&m);
    if (m.terminal)
        fputs("\r\033[K", stderr);
    if (status == CTL_OK) {
        char json[128];

        snprintf(json, sizeof json, "{\"moved\": %jd, \"backlog_moved\": %jd}", (intmax_t)m.moved,
                 (intmax_t)m.backlog_moved);
        status = ctl_print_result(ctl, json);
    }
    convstore_close(m.c);
    return status;
}
