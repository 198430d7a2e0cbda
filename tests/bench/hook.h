/* A command of the operator's, which takes something away from the daemon or brings it back. */
#ifndef TESTS_BENCH_HOOK_H
#define TESTS_BENCH_HOOK_H

#include <sys/types.h>

/* Starts the shell's command beside this program; what it prints goes to stderr. The process, for
 * hook_wait(); or a negative errno. */
pid_t hook_start(const char *command) __attribute__((warn_unused_result));

/* Waits for it, as long as it takes. 0; or -1 when it did not start or did not end with 0, and then
 * it was said: option is the name by which it was given. */
int hook_wait(pid_t process, const char *option) __attribute__((warn_unused_result));

#endif
