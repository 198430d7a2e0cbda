/* Reads the API key: from a file and never from the command line, where everybody could see it.
 * Owns nothing. */
#include "daemon/embedding_key.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "daemon/secret.h"

#define CREDENTIAL "embedding_api_key"

/* Printable and without blanks, or it could not stand in a header. */
static int check_key(const char *key, const char *path, char error[256])
{
    for (const char *c = key; *c != '\0'; c++)
        if (!isgraph((unsigned char)*c)) {
            snprintf(error, 256, "%.160s: byte %td cannot be part of an API key", path, c - key);
            return -EINVAL;
        }
    if (key[0] != '\0')
        return 0;
    snprintf(error, 256, "%.160s: the first line is empty where the API key is due", path);
    return -EINVAL;
}

static int read_key(const char *path, char ret[EMBEDDING_KEY_MAX], char error[256])
{
    int rc = secret_read(path, ret, EMBEDDING_KEY_MAX);

    if (rc == -EFBIG)
        snprintf(error, 256, "%.160s: longer than an API key (%d bytes)", path,
                 EMBEDDING_KEY_MAX - 1);
    else if (rc != 0)
        snprintf(error, 256, "the API key: %.160s: %s", path, strerror(-rc));
    return rc == 0 ? check_key(ret, path, error) : -EINVAL;
}

int embedding_key_read(const struct config *config, char ret[EMBEDDING_KEY_MAX], char error[256])
{
    char path[SECRET_PATH_MAX];

    ret[0] = '\0';
    if (config->embedding.api_key_file[0] != '\0')
        return read_key(config->embedding.api_key_file, ret, error);
    return secret_credential(CREDENTIAL, path) ? read_key(path, ret, error) : 0;
}
