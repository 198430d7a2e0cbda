/* The API key of the embedding server. Any thread. */
#ifndef DAEMON_EMBEDDING_KEY_H
#define DAEMON_EMBEDDING_KEY_H

#include "daemon/config.h"
#include "daemon/embedding_http.h"

/* From embedding.api_key_file; else from the systemd credential "embedding_api_key"
 * (LoadCredential=); "" where there is neither. 0; or -EINVAL with one line in error that says what
 * to do. The key is in no message. */
int embedding_key_read(const struct config *config, char ret[EMBEDDING_KEY_MAX], char error[256])
    __attribute__((warn_unused_result));

#endif
