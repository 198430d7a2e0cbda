/* An embedding server for bench_embedding, in a process of its own so that its CPU time is not
 * ours: Ollama's and OpenAI's dialect, prepared vectors, a delay for each request. */
#ifndef TESTS_BENCH_STAND_IN_H
#define TESTS_BENCH_STAND_IN_H

#include <stdint.h>
#include <sys/types.h>

enum stand_in_dialect { STAND_IN_OLLAMA, STAND_IN_OPENAI_FLOATS, STAND_IN_OPENAI_BASE64 };

struct stand_in {
    enum stand_in_dialect dialect;
    unsigned dimension;
    unsigned delay_ms;
    unsigned inputs_max; /* of a request */
};

/* A reply's body for count inputs. Its length; the body is the caller's to free. */
size_t stand_in_body(const struct stand_in *s, unsigned count, char **ret);

/* Forks it, listening on the Unix socket `path`. Call it before there are threads. Its process,
 * which dies with this one. */
pid_t stand_in_start(const struct stand_in *s, const char *path);

#endif
