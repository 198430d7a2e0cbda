/* Reads the text once, front to back. How many pairs a map has is known at its end only, so each
 * container gets a header of full width (5 bytes) that is filled in then. */
#include "proto/jsonb.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#define ARRAY_32 0xdd
#define MAP_32 0xdf

struct parser {
    const char *at;
    msgpack_sbuffer *out;
    msgpack_packer pk;
    unsigned depth;
};

static int put_value(struct parser *p);

static void skip_blanks(struct parser *p)
{
    p->at += strspn(p->at, " \t\n\r");
}

static bool take(struct parser *p, char c)
{
    skip_blanks(p);
    if (*p->at != c)
        return false;
    p->at++;
    return true;
}

static bool take_word(struct parser *p, const char *word)
{
    if (strncmp(p->at, word, strlen(word)) != 0)
        return false;
    p->at += strlen(word);
    return true;
}

/* One character of a string, after a backslash. Characters beyond ASCII are printed as they are. */
static int unescape(const char **at, char *ret)
{
    static const char letters[] = "\"\\/bfnrt", plain[] = "\"\\/\b\f\n\r\t";
    const char *found = **at != '\0' ? strchr(letters, **at) : NULL;
    char *end, digits[5] = "";
    unsigned long code;

    if (found != NULL) {
        *ret = plain[found - letters];
        (*at)++;
        return 0;
    }
    if (**at != 'u')
        return -EBADMSG;
    strncpy(digits, *at + 1, 4);
    code = strtoul(digits, &end, 16);
    if (end != digits + 4 || code == 0 || code >= 0x80)
        return -EBADMSG;
    *ret = (char)code;
    *at += 5;
    return 0;
}

/* The string at p->at, behind its opening quote: its length without escapes, and where to is not
 * NULL its bytes. Leaves *at behind the closing quote. */
static int read_string(const char **at, size_t *ret_len, char *to)
{
    size_t len = 0;

    while (**at != '"') {
        char c = *(*at)++;

        if (c == '\0' || (c == '\\' && unescape(at, &c) != 0))
            return -EBADMSG;
        if (to != NULL)
            to[len] = c;
        len++;
    }
    (*at)++;
    *ret_len = len;
    return 0;
}

static int put_string(struct parser *p)
{
    const char *ahead = ++p->at;
    char *text;
    size_t len;
    int rc = read_string(&ahead, &len, NULL);

    if (rc != 0)
        return rc;
    text = malloc(len + 1);
    if (text == NULL)
        return -ENOMEM;
    rc = read_string(&p->at, &len, text);
    if (rc == 0 && msgpack_pack_str_with_body(&p->pk, text, len) != 0)
        rc = -ENOMEM;
    free(text);
    return rc;
}

static int put_number(struct parser *p)
{
    size_t len = strspn(p->at, "+-.0123456789eE");
    bool whole = strspn(p->at, "-0123456789") == len;
    const char *text = p->at;
    char *end;
    int rc;

    p->at += len;
    errno = 0;
    if (whole && *text == '-') {
        int64_t n = strtoll(text, &end, 10);

        rc = errno == 0 ? msgpack_pack_int64(&p->pk, n) : 1;
    } else {
        uint64_t n = whole ? strtoull(text, &end, 10) : 0;

        rc = whole && errno == 0 ? msgpack_pack_uint64(&p->pk, n) : 1;
    }
    if (rc == 1)
        rc = msgpack_pack_double(&p->pk, strtod(text, &end));
    return len == 0 || end != p->at ? -EBADMSG : rc == 0 ? 0 : -ENOMEM;
}

static void set_header(char *header, uint8_t tag, uint32_t count)
{
    header[0] = (char)tag;
    for (int i = 0; i < 4; i++)
        header[1 + i] = (char)(count >> (24 - 8 * i));
}

static int put_member(struct parser *p, bool map)
{
    int rc;

    skip_blanks(p);
    if (!map)
        return put_value(p);
    if (*p->at != '"')
        return -EBADMSG;
    rc = put_string(p);
    if (rc != 0)
        return rc;
    return take(p, ':') ? put_value(p) : -EBADMSG;
}

static int put_container(struct parser *p, bool map)
{
    size_t header = p->out->size;
    uint32_t count = 0;
    char close = map ? '}' : ']';
    int rc = msgpack_sbuffer_write(p->out, "\0\0\0\0\0", 5) == 0 ? 0 : -ENOMEM;

    p->at++;
    if (++p->depth > JSONB_MAX_DEPTH)
        return -EBADMSG;
    if (rc == 0 && !take(p, close)) {
        do {
            rc = put_member(p, map);
            count++;
        } while (rc == 0 && take(p, ','));
        if (rc == 0 && !take(p, close))
            rc = -EBADMSG;
    }
    p->depth--;
    if (rc == 0)
        set_header(p->out->data + header, map ? MAP_32 : ARRAY_32, count);
    return rc;
}

static int put_value(struct parser *p)
{
    skip_blanks(p);
    switch (*p->at) {
    case '{':
    case '[':
        return put_container(p, *p->at == '{');
    case '"':
        return put_string(p);
    case 'n':
        return !take_word(p, "null") ? -EBADMSG : msgpack_pack_nil(&p->pk) == 0 ? 0 : -ENOMEM;
    case 't':
        return !take_word(p, "true") ? -EBADMSG : msgpack_pack_true(&p->pk) == 0 ? 0 : -ENOMEM;
    case 'f':
        return !take_word(p, "false") ? -EBADMSG : msgpack_pack_false(&p->pk) == 0 ? 0 : -ENOMEM;
    default:
        return put_number(p);
    }
}

int jsonb_pack(msgpack_sbuffer *out, struct slice json)
{
    struct parser p = {.at = json.data, .out = out};
    int rc;

    msgpack_packer_init(&p.pk, out, msgpack_sbuffer_write);
    rc = put_value(&p);
    skip_blanks(&p);
    return rc == 0 && p.at != json.data + json.len ? -EBADMSG : rc;
}
