/* Owns nothing and keeps nothing: whoever reads a secret wipes it. */
#include "daemon/secret.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int secret_read(const char *path, char *ret, size_t size)
{
    FILE *file = fopen(path, "re");
    size_t len;
    int rc;

    if (file == NULL)
        return -errno;
    setvbuf(file, NULL, _IONBF, 0); /* no second copy in memory */
    len = fread(ret, 1, size, file);
    rc = ferror(file) ? -errno : len == size ? -EFBIG : 0;
    fclose(file);
    if (rc != 0) {
        explicit_bzero(ret, len);
        return rc;
    }
    ret[len] = '\0';
    ret[strcspn(ret, "\r\n")] = '\0';
    return 0;
}

/* A credential that is there and cannot be read is one: its reader says why. */
bool secret_credential(const char *name, char ret_path[SECRET_PATH_MAX])
{
    const char *directory = getenv("CREDENTIALS_DIRECTORY");

    if (directory == NULL)
        return false;
    snprintf(ret_path, SECRET_PATH_MAX, "%s/%s", directory, name);
    return access(ret_path, F_OK) == 0 || errno != ENOENT;
}
