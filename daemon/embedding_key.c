/* Reads the API key: from a file and never from the command line, where everybody could see it.
 * Owns nothing. */
#include "daemon/embedding_key.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CREDENTIAL "embedding_api_key"

/* Printable and without blanks, or it could not stand in a header. */
static int check_key(char *key, const char *path, char error[256])
{
    key[strcspn(key, "\r\n")] = '\0';
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

static int read_file(const char *path, char ret[EMBEDDING_KEY_MAX], char error[256])
{
    FILE *file = fopen(path, "re");
    size_t len;

    if (file == NULL) {
        snprintf(error, 256, "the API key: %.160s: %s", path, strerror(errno));
        return -EINVAL;
    }
    setvbuf(file, NULL, _IONBF, 0); /* no second copy of the key in memory */
    len = fread(ret, 1, EMBEDDING_KEY_MAX, file);
    fclose(file);
    if (len == EMBEDDING_KEY_MAX) {
        snprintf(error, 256, "%.160s: longer than an API key (%d bytes)", path,
                 EMBEDDING_KEY_MAX - 1);
        return -EINVAL;
    }
    ret[len] = '\0';
    return check_key(ret, path, error);
}

int embedding_key_read(const struct config *config, char ret[EMBEDDING_KEY_MAX], char error[256])
{
    const char *directory = getenv("CREDENTIALS_DIRECTORY");
    char path[4096];
    FILE *file;

    ret[0] = '\0';
    if (config->embedding.api_key_file[0] != '\0')
        return read_file(config->embedding.api_key_file, ret, error);
    if (directory == NULL)
        return 0;
    snprintf(path, sizeof path, "%s/%s", directory, CREDENTIAL);
    file = fopen(path, "re");
    if (file == NULL && errno == ENOENT)
        return 0; /* the unit gives other credentials */
    if (file != NULL)
        fclose(file);
    return read_file(path, ret, error);
}
