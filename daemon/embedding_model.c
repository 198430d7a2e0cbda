/* Models known by name: their dimension and the prefixes that documents and queries need. Owns
 * nothing. */
#include "daemon/embedding_model.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "daemon/embedding.h"

/* The constants of embedding_builtin.c go with this name. */
#define BUILTIN_MODEL "hash-v1"

struct known_model {
    const char *name;
    const char *tag; /* NULL: every size of this name that has no line of its own */
    uint32_t dimension;
    const char *document_prefix, *query_prefix;
};

#define PASSAGES "Represent this sentence for searching relevant passages: "
#define INSTRUCT                                                                                   \
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"

/* A name whose untagged line has dimension 0 comes in sizes of its own: any other tag must say. */
static const struct known_model known_models[] = {
    {"nomic-embed-text", NULL, 768, "search_document: ", "search_query: "},
    {"nomic-embed-text-v2-moe", NULL, 768, "search_document: ", "search_query: "},
    {"mxbai-embed-large", NULL, 1024, "", PASSAGES},
    {"bge-m3", NULL, 1024, "", ""},
    {"bge-large", NULL, 1024, "", PASSAGES},
    {"all-minilm", NULL, 384, "", ""},
    {"paraphrase-multilingual", NULL, 768, "", ""},
    {"snowflake-arctic-embed2", NULL, 1024, "", "query: "},
    {"snowflake-arctic-embed", "22m", 384, "", PASSAGES},
    {"snowflake-arctic-embed", "33m", 384, "", PASSAGES},
    {"snowflake-arctic-embed", "110m", 768, "", PASSAGES},
    {"snowflake-arctic-embed", "137m", 768, "", PASSAGES},
    {"snowflake-arctic-embed", "335m", 1024, "", PASSAGES},
    {"snowflake-arctic-embed", "latest", 1024, "", PASSAGES},
    {"snowflake-arctic-embed", NULL, 0, "", PASSAGES},
    {"embeddinggemma", NULL, 768, "title: none | text: ", "task: search result | query: "},
    {"qwen3-embedding", "0.6b", 1024, "", INSTRUCT},
    {"qwen3-embedding", "4b", 2560, "", INSTRUCT},
    {"qwen3-embedding", "8b", 4096, "", INSTRUCT},
    {"qwen3-embedding", "latest", 4096, "", INSTRUCT},
    {"qwen3-embedding", NULL, 0, "", INSTRUCT},
    {"e5-small", NULL, 384, "passage: ", "query: "},
    {"e5-base", NULL, 768, "passage: ", "query: "},
    {"e5-large", NULL, 1024, "passage: ", "query: "},
    {"multilingual-e5-small", NULL, 384, "passage: ", "query: "},
    {"multilingual-e5-base", NULL, 768, "passage: ", "query: "},
    {"multilingual-e5-large", NULL, 1024, "passage: ", "query: "},
};

/* The model's line, whatever registry ("hub.example/team/") stands before its name; NULL where none
 * is known. */
static const struct known_model *find_known(const char *model)
{
    const char *slash = strrchr(model, '/');
    const char *name = slash != NULL ? slash + 1 : model;
    size_t len = strcspn(name, ":");
    const char *tag = name[len] == ':' ? name + len + 1 : "latest";

    for (size_t i = 0; i < sizeof known_models / sizeof known_models[0]; i++) {
        const struct known_model *known = &known_models[i];

        if (strlen(known->name) == len && strncmp(known->name, name, len) == 0 &&
            (known->tag == NULL || strcmp(known->tag, tag) == 0))
            return known;
    }
    return NULL;
}

static int resolve_named(const struct config *config, struct embedding_model *ret,
                         char ret_error[256])
{
    const struct known_model *known = find_known(config->embedding.model);
    const char *prefix = config->embedding.document_prefix;

    ret->model = config->embedding.model;
    ret->dimension = (uint32_t)config->embedding.dimensions;
    if (ret->dimension == 0 && known != NULL)
        ret->dimension = known->dimension;
    if (ret->dimension == 0) {
        snprintf(ret_error, 256,
                 "embedding.model \"%.100s\" is not known by name: set embedding.dimensions to the "
                 "length of its vectors",
                 ret->model);
        return -EINVAL;
    }
    if (strcmp(prefix, "auto") == 0)
        prefix = known != NULL ? known->document_prefix : "";
    ret->prefix = prefix;
    return 0;
}

int embedding_model_resolve(const struct config *config, struct embedding_model *ret,
                            char ret_error[256])
{
    struct embedding_model model = {
        .provider = config->embedding.provider,
        .model = "",
        .prefix = "",
        .source = config->embedding.source,
        .storage = config->embedding.storage,
    };

    if (strcmp(model.provider, "builtin") == 0) {
        if (config->embedding.dimensions != 0 &&
            config->embedding.dimensions != BUILTIN_DIMENSION) {
            snprintf(ret_error, 256,
                     "the builtin embedder has %d dimensions: leave embedding.dimensions out",
                     BUILTIN_DIMENSION);
            return -EINVAL;
        }
        model.model = BUILTIN_MODEL;
        model.dimension = BUILTIN_DIMENSION;
    } else if (strcmp(model.provider, "none") != 0) {
        int rc = resolve_named(config, &model, ret_error);

        if (rc != 0)
            return rc;
    }
    *ret = model;
    return 0;
}

const char *embedding_model_query_prefix(const struct config *config)
{
    const char *prefix = config->embedding.query_prefix;
    const struct known_model *known;

    if (strcmp(config->embedding.provider, "builtin") == 0)
        return ""; /* whose vectors are of the same kind */
    if (strcmp(prefix, "auto") != 0)
        return prefix;
    known = find_known(config->embedding.model);
    return known != NULL ? known->query_prefix : "";
}
