/* convstorectl store: one conversation from the command line. */
#include "client/convstorectl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_MAX_BYTES (64 * 1024 * 1024) /* read from a file or standard input */

const char ctl_store_help[] =
    "Usage: convstorectl store --user ID --platform NAME --transcript TEXT|@FILE|- [OPTION…]\n"
    "\n"
    "Stores one conversation and prints its id once it is safe on the daemon's disk.\n"
    "\n"
    "Options:\n"
    "  --user ID              whose conversation it is\n"
    "  --platform NAME        where it took place\n"
    "  --transcript TEXT      its text; @FILE reads a file, - standard input\n"
    "  --summary TEXT         a summary of it (also @FILE or -)\n"
    "  --metadata JSON        an object of your own (also @FILE or -)\n"
    "  --id UUID              its id (default: a new one); a second store of the same id is the\n"
    "                         same conversation\n"
    "  --created-at TIME      milliseconds since 1970, or 2024-05-01T12:00:00Z (default: now)\n"
    "  --wait                 wait until it is a row in the database\n"
    "\n"
    "Examples:\n"
    "  convstorectl store --user u1 --platform web --transcript 'User: Hi'\n"
    "  convstorectl store --user u1 --platform web --transcript @chat.txt \\\n"
    "      --metadata '{\"lang\": \"en\"}' --wait\n"
    "  tail -n 50 chat.log | convstorectl store --user u1 --platform irc --transcript -\n";

enum {
    OPTION_USER = 256,
    OPTION_PLATFORM,
    OPTION_TRANSCRIPT,
    OPTION_SUMMARY,
    OPTION_METADATA,
    OPTION_ID,
    OPTION_CREATED_AT,
    OPTION_WAIT,
};

struct store {
    struct ctl *ctl;
    struct ctl_item item;
    enum convstore_wait wait;
    char *transcript, *summary, *metadata; /* malloc'd; NULL: not given */
};

/* The bytes of TEXT, @FILE or -, malloc'd. An exit code when it has said what is wrong. */
static int load_text(const struct ctl *ctl, const char *argument, char **ret,
                     struct convstore_text *ret_text)
{
    bool from_stdin = strcmp(argument, "-") == 0;
    FILE *file = stdin;
    size_t len = 0, capacity = 65536;
    char *data;

    if (!from_stdin && argument[0] != '@') {
        free(*ret);
        *ret = strdup(argument);
        *ret_text = convstore_str(*ret);
        return *ret != NULL ? CTL_OK : CTL_REFUSED;
    }
    if (!from_stdin && (file = fopen(argument + 1, "re")) == NULL)
        return ctl_usage(ctl, "%s: %s", argument + 1, strerror(errno));
    data = malloc(capacity);
    while (data != NULL && capacity <= 2 * TEXT_MAX_BYTES && !feof(file) && !ferror(file)) {
        len += fread(data + len, 1, capacity - len, file);
        if (len == capacity) {
            char *grown = realloc(data, capacity *= 2);

            if (grown == NULL)
                free(data);
            data = grown;
        }
    }
    errno = data == NULL ? ENOMEM : ferror(file) ? errno : len > TEXT_MAX_BYTES ? EFBIG : 0;
    if (errno != 0) {
        int status = ctl_usage(ctl, "%s: %s", argument, strerror(errno));

        free(data);
        if (!from_stdin)
            fclose(file);
        return status;
    }
    if (!from_stdin)
        fclose(file);
    free(*ret);
    *ret = data;
    *ret_text = (struct convstore_text){data, len};
    return CTL_OK;
}

static int load_metadata(struct store *store, const char *argument)
{
    struct convstore_text text;
    char why[CTL_WHY_SIZE];
    json_t *metadata;
    int status = load_text(store->ctl, argument, &store->metadata, &text);
    int rc;

    if (status != CTL_OK)
        return status;
    metadata = ctl_parse_json(text.data, text.len, why);
    if (metadata == NULL)
        return ctl_usage(store->ctl, "--metadata: %s", why);
    msgpack_sbuffer_clear(&store->item.metadata);
    rc = ctl_item_set_metadata(&store->item, metadata, why);
    json_decref(metadata);
    return rc == 0 ? CTL_OK : ctl_usage(store->ctl, "--%s", why);
}

static int take_option(struct store *store, int option)
{
    struct convstore_conversation *c = &store->item.conversation;

    switch (option) {
    case OPTION_USER:
        c->user_id = convstore_str(optarg);
        return CTL_OK;
    case OPTION_PLATFORM:
        c->platform = convstore_str(optarg);
        return CTL_OK;
    case OPTION_TRANSCRIPT:
        return load_text(store->ctl, optarg, &store->transcript, &c->transcript);
    case OPTION_SUMMARY:
        return load_text(store->ctl, optarg, &store->summary, &c->summary);
    case OPTION_METADATA:
        return load_metadata(store, optarg);
    case OPTION_ID:
        c->id = optarg;
        return CTL_OK;
    case OPTION_CREATED_AT:
        c->has_created_at = true;
        if (ctl_parse_time(optarg, &c->created_at_us) != 0)
            return ctl_usage(store->ctl,
                             "--created-at %s: must be milliseconds since 1970 or a time such as "
                             "2024-05-01T12:00:00Z",
                             optarg);
        return CTL_OK;
    default:
        store->wait = CONVSTORE_STORED;
        return CTL_OK;
    }
}

static int parse_options(struct store *store, int argc, char **argv)
{
    static const struct option own[] = {
        {"user", required_argument, NULL, OPTION_USER},
        {"platform", required_argument, NULL, OPTION_PLATFORM},
        {"transcript", required_argument, NULL, OPTION_TRANSCRIPT},
        {"summary", required_argument, NULL, OPTION_SUMMARY},
        {"metadata", required_argument, NULL, OPTION_METADATA},
        {"id", required_argument, NULL, OPTION_ID},
        {"created-at", required_argument, NULL, OPTION_CREATED_AT},
        {"wait", no_argument, NULL, OPTION_WAIT},
        {NULL, 0, NULL, 0},
    };
    const struct convstore_conversation *c = &store->item.conversation;
    int option, status = CTL_OK;

    while (status == CTL_OK && (option = ctl_getopt(store->ctl, argc, argv, own)) != -1)
        status = take_option(store, option);
    if (status == CTL_OK)
        status = ctl_no_arguments(store->ctl, argc, argv);
    if (status == CTL_OK &&
        (c->user_id.data == NULL || c->platform.data == NULL || c->transcript.data == NULL))
        status = ctl_usage(store->ctl, "store needs --user, --platform and --transcript");
    return status;
}

static int send_it(struct store *store)
{
    char id[CONVSTORE_ID_SIZE] = "";
    struct convstore *c;
    int status = ctl_open(store->ctl, false, CONVSTORE_DEFAULT_TIMEOUT_MS, &c);
    int code;

    if (status != CTL_OK)
        return status;
    code = convstore_store(c, &store->item.conversation, store->wait, id);
    if (code == 0)
        printf(store->ctl->json ? "{\"id\": \"%s\"}\n" : "%s\n", id);
    else
        status = ctl_failed(c, code);
    if (code == CONVSTORE_TIMED_OUT)
        fprintf(stderr, "convstorectl: it may have been stored; try again with --id %s\n", id);
    convstore_close(c);
    return status;
}

int ctl_run_store(struct ctl *ctl, int argc, char **argv)
{
    struct store store = {.ctl = ctl};
    int status;

    ctl_item_init(&store.item);
    status = parse_options(&store, argc, argv);
    if (status == CTL_OK)
        status = send_it(&store);
    ctl_item_done(&store.item);
    free(store.transcript);
    free(store.summary);
    free(store.metadata);
    return status;
}
