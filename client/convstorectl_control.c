/* The commands of operators, over the control socket. */
#include "client/convstorectl.h"

#include <stdio.h>
#include <string.h>

#define FLUSH_TIMEOUT_MS 60000
#define FLUSH_MARGIN_MS 2000 /* the daemon's own time-out must be heard of before ours */

const char ctl_flush_help[] =
    "Usage: convstorectl flush [OPTION…]\n"
    "\n"
    "Writes the backlog to the database at once, and ends when everything that was acked before it "
    "is\n"
    "a row (or a dead letter). Exit status 1 when the time-out came first.\n"
    "\n"
    "Options:\n"
    "  --timeout SECONDS  how long to wait (default 60)\n"
    "\n"
    "Examples:\n"
    "  convstorectl flush\n"
    "  convstorectl --timeout 600 flush && pg_dump …\n";

static int show_flush(const struct ctl *ctl, const char *json)
{
    json_t *result = json_loads(json, 0, NULL);
    json_int_t remaining = json_integer_value(json_object_get(result, "remaining"));
    bool flushed = remaining == 0;
    char number[32];

    json_decref(result);
    if (ctl->json)
        (void)ctl_print_result(ctl, json);
    else if (flushed)
        puts("flushed: everything acked before is in the database");
    else
        printf("not flushed in time: %s remain\n", ctl_grouped(remaining, number));
    return flushed ? CTL_OK : CTL_REFUSED;
}

int ctl_run_flush(struct ctl *ctl, int argc, char **argv)
{
    unsigned timeout_ms;
    msgpack_sbuffer params;
    msgpack_packer pk;
    const char *json;
    struct convstore *c;
    int status, code;

    while (ctl_getopt(ctl, argc, argv, NULL) != -1) {
    }
    status = ctl_no_arguments(ctl, argc, argv);
    if (status == CTL_OK)
        status = ctl_open(ctl, true, FLUSH_TIMEOUT_MS, &c);
    if (status != CTL_OK)
        return status;
    timeout_ms = ctl_timeout_ms(ctl, FLUSH_TIMEOUT_MS);
    convstore_set_timeout(c, timeout_ms + FLUSH_MARGIN_MS);
    msgpack_sbuffer_init(&params);
    msgpack_packer_init(&pk, &params, msgpack_sbuffer_write);
    msgpack_pack_array(&pk, 1);
    msgpack_pack_map(&pk, 1);
    msgpack_pack_str_with_body(&pk, "timeout_ms", strlen("timeout_ms"));
    msgpack_pack_unsigned_int(&pk, timeout_ms);
    code = convstore_call(c, "flush", params.data, params.size, &json);
    status = code == 0 ? show_flush(ctl, json) : ctl_failed(c, code);
    msgpack_sbuffer_destroy(&params);
    convstore_close(c);
    return status;
}

const char ctl_reload_help[] =
    "Usage: convstorectl reload [OPTION…]\n"
    "\n"
    "Has the daemon read its configuration again. What can change while it runs is in force when "
    "this\n"
    "ends; what needs a restart is named. A file with a mistake is refused with its line, and the\n"
    "old configuration stays (exit status 1).\n"
    "\n"
    "Examples:\n"
    "  convstored --check-config && convstorectl reload\n";

static void show_keys(const char *what, const json_t *keys)
{
    size_t i;
    json_t *key;

    if (json_array_size(keys) == 0)
        return;
    printf("%s:", what);
    json_array_foreach(keys, i, key) printf(" %s", json_string_value(key));
    putchar('\n');
}

static int show_reload(const struct ctl *ctl, const char *json)
{
    json_t *result = json_loads(json, 0, NULL);
    const json_t *changed = json_object_get(result, "changed");
    const json_t *restart = json_object_get(result, "restart");

    if (ctl->json)
        (void)ctl_print_result(ctl, json);
    else if (json_array_size(changed) + json_array_size(restart) == 0)
        puts("reloaded: nothing has changed");
    if (!ctl->json) {
        show_keys("changed", changed);
        show_keys("needs a restart", restart);
    }
    json_decref(result);
    return CTL_OK;
}

int ctl_run_reload(struct ctl *ctl, int argc, char **argv)
{
    return ctl_run_plain(ctl, argc, argv, "reload", show_reload);
}
