/* How vectors of a configuration are made: the identity that convstore.embedding_models and the
 * cache know it by. */
#ifndef DAEMON_EMBEDDING_MODEL_H
#define DAEMON_EMBEDDING_MODEL_H

#include "daemon/config.h"
#include "daemon/pgwriter.h"

/* Fills *ret from the configuration, and what that leaves open ("auto", 0) from a table of models
 * known by name. The strings are config's or static. dimension 0 where provider is "none". 0; or
 * -EINVAL with one line in ret_error that says which key to set. */
int embedding_model_resolve(const struct config *config, struct embedding_model *ret,
                            char ret_error[256]) __attribute__((warn_unused_result));

/* What stands before a query where embedding.model does for documents what model.prefix says. */
const char *embedding_model_query_prefix(const struct config *config);

#endif
