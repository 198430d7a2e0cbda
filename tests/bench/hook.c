/* See hook.h. Main thread. */
#include "tests/bench/hook.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

pid_t hook_start(const char *command)
{
    char shell[] = "sh", flag[] = "-c";
    char *const words[] = {shell, flag, (char *)command, NULL};
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    sigset_t defaults;
    pid_t process = 0;
    int error = posix_spawn_file_actions_init(&files);

    if (error != 0)
        return -error;
    error = posix_spawnattr_init(&attributes);
    if (error != 0) {
        posix_spawn_file_actions_destroy(&files);
        return -error;
    }
    /* This program ignores SIGPIPE, which a shell's pipes need. */
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGPIPE);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
    error = posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    if (error == 0)
        error = posix_spawn_file_actions_adddup2(&files, STDERR_FILENO, STDOUT_FILENO);
    if (error == 0)
        error = posix_spawn(&process, "/bin/sh", &files, &attributes, words, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&files);
    return error == 0 ? process : -error;
}

int hook_wait(pid_t process, const char *option)
{
    int status = 0;
    pid_t ended = process;

    while (process > 0 && (ended = waitpid(process, &status, 0)) < 0 && errno == EINTR)
        ;
    if (ended < 0)
        fprintf(stderr, "convstore-bench: the command of %s: %s\n", option,
                strerror(process < 0 ? -process : errno));
    else if (WIFSIGNALED(status))
        fprintf(stderr, "convstore-bench: the command of %s was ended by signal %d\n", option,
                WTERMSIG(status));
    else if (WEXITSTATUS(status) != 0)
        fprintf(stderr, "convstore-bench: the command of %s ended with status %d\n", option,
                WEXITSTATUS(status));
    return ended >= 0 && status == 0 ? 0 : -1;
}
