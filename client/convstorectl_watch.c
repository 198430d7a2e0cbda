/* The rhythm of a live display. Signals come through a descriptor, so that one poll(2) sees all
 * there is to see and nothing is ever interrupted half-way.
 *
 * The daemon is asked with a call that waits: at most a second, and at once where no daemon
 * listens. A key that is pressed while a daemon hangs waits that long. */
#include "client/convstorectl_watch.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "client/convstorectl_terminal.h"

#define INTERVAL_MIN_S 0.2
#define INTERVAL_MAX_S 86400
#define SAMPLE_TIMEOUT_MS 1000
#define ESCAPE '\033'

static bool parse_interval(const char *text, double *ret_seconds)
{
    char *end;
    double seconds = strtod(text, &end);

    if (end == text || *end != '\0' || !(seconds >= INTERVAL_MIN_S && seconds <= INTERVAL_MAX_S))
        return false;
    *ret_seconds = seconds;
    return true;
}

int watch_options(struct ctl *ctl, int argc, char **argv, const char *name, double *ret_interval_s,
                  bool *ret_colour)
{
    enum { OPTION_INTERVAL = 256, OPTION_COLOR };
    const struct option own[] = {{name, required_argument, NULL, OPTION_INTERVAL},
                                 {"color", required_argument, NULL, OPTION_COLOR},
                                 {0}};
    const char *color = NULL;
    int option;

    while ((option = ctl_getopt(ctl, argc, argv, own)) != -1) {
        if (option == OPTION_COLOR)
            color = optarg;
        else if (!parse_interval(optarg, ret_interval_s))
            return ctl_usage(ctl, "--%s %s: must be %g to %d seconds", name, optarg, INTERVAL_MIN_S,
                             INTERVAL_MAX_S);
    }
    if (!terminal_colour(color, ret_colour))
        return ctl_usage(ctl, "--color %s: must be auto, always or never", color);
    return ctl_no_arguments(ctl, argc, argv);
}

static int take_signals(bool keys)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGWINCH, SIGCONT};
    sigset_t set;

    sigemptyset(&set);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        sigaddset(&set, numbers[i]);
    if (keys)
        sigaddset(&set, SIGTSTP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

int watch_open(struct watch *watch, const struct ctl *ctl, bool keys)
{
    int status;

    *watch = (struct watch){.signal_fd = -1, .keys = keys};
    status = ctl_open_later(ctl, false, SAMPLE_TIMEOUT_MS, &watch->store);
    if (status != CTL_OK)
        return status;
    watch->signal_fd = take_signals(keys);
    if (watch->signal_fd >= 0)
        return CTL_OK;
    perror("convstorectl: signalfd");
    watch_close(watch);
    return CTL_REFUSED;
}

void watch_close(struct watch *watch)
{
    figures_done(&watch->now);
    if (watch->signal_fd >= 0)
        close(watch->signal_fd);
    convstore_close(watch->store);
    watch->store = NULL;
    watch->signal_fd = -1;
}

/* ---- a sample ---- */

static bool not_reachable(struct watch *watch, const char *why)
{
    snprintf(watch->trouble, sizeof watch->trouble, "%s", why);
    watch->reachable = false;
    watch->has_change = false;
    return false;
}

bool watch_sample(struct watch *watch)
{
    struct figures figures;
    int64_t at_us;
    int code = convstore_connect(watch->store);

    if (code == 0)
        code = convstore_stats(watch->store, NULL, &watch->json);
    if (code != 0)
        return not_reachable(watch, convstore_error_text(watch->store));
    at_us = ctl_now_us();
    if (figures_read(watch->json, &figures) != 0)
        return not_reachable(watch, "its answer to stats is no map: another program listens there");
    watch->has_change = watch->reachable;
    if (watch->has_change)
        watch->change =
            figures_between(&watch->now, &figures, (double)(at_us - watch->now_us) / 1e6);
    figures_done(&watch->now);
    watch->now = figures;
    watch->now_us = at_us;
    watch->reachable = true;
    return true;
}

/* ---- the wait ---- */

enum { WAIT_SIGNALS, WAIT_OUTPUT, WAIT_KEYS, WAITS };

static enum watch_event event_of(uint32_t number)
{
    switch (number) {
    case SIGWINCH:
        return WATCH_RESIZE;
    case SIGTSTP:
        return WATCH_STOP;
    case SIGCONT:
        return WATCH_RESUME;
    default:
        return WATCH_END;
    }
}

/* -1: nothing has come, or no more will (*ret_end). */
static int read_byte(bool wait, bool *ret_end)
{
    struct pollfd fd = {.fd = STDIN_FILENO, .events = POLLIN};
    unsigned char byte;
    ssize_t n;

    *ret_end = false;
    if (!wait && poll(&fd, 1, 0) != 1)
        return -1;
    n = read(STDIN_FILENO, &byte, 1);
    *ret_end = n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN);
    return n == 1 ? byte : -1;
}

/* One key a call. What a function key sends is an escape, '[' or 'O', and all up to a letter or
 * '~'; it comes in one piece, and the next key may come right behind it. */
static bool read_key(char *ret_key, bool *ret_end)
{
    int byte = read_byte(true, ret_end);

    if (byte != ESCAPE) {
        *ret_key = (char)byte;
        return byte >= 0;
    }
    byte = read_byte(false, ret_end);
    if (byte < 0 && !*ret_end) {
        *ret_key = ESCAPE;
        return true;
    }
    if (byte == '[' || byte == 'O') {
        do {
            byte = read_byte(false, ret_end);
        } while (byte >= 0 && byte < '@');
    }
    return false;
}

/* WATCH_DUE: nothing of note. */
static enum watch_event look(struct watch *watch, const struct pollfd fds[WAITS], char *ret_key)
{
    struct signalfd_siginfo info;
    bool end = false;

    if (fds[WAIT_SIGNALS].revents != 0 &&
        read(watch->signal_fd, &info, sizeof info) == (ssize_t)sizeof info)
        return event_of(info.ssi_signo);
    if (fds[WAIT_OUTPUT].revents != 0)
        return WATCH_END;
    if (fds[WAIT_KEYS].revents != 0 && read_key(ret_key, &end))
        return WATCH_KEY;
    return end ? WATCH_END : WATCH_DUE;
}

enum watch_event watch_wait(struct watch *watch, int64_t due_us, char *ret_key)
{
    struct pollfd fds[WAITS] = {
        [WAIT_SIGNALS] = {.fd = watch->signal_fd, .events = POLLIN},
        [WAIT_OUTPUT] = {.fd = STDOUT_FILENO}, /* an error alone: the reader has closed it */
        [WAIT_KEYS] = {.fd = watch->keys ? STDIN_FILENO : -1, .events = POLLIN},
    };

    for (;;) {
        int64_t left_us = due_us - ctl_now_us();
        struct timespec timeout = {.tv_sec = left_us / 1000000,
                                   .tv_nsec = left_us % 1000000 * 1000};
        enum watch_event event;
        int n;

        if (left_us < 0)
            timeout = (struct timespec){.tv_sec = 0};
        n = ppoll(fds, WAITS, &timeout, NULL);
        event = n > 0 ? look(watch, fds, ret_key) : WATCH_DUE;
        if (event != WATCH_DUE || (n == 0 && left_us <= 0))
            return event;
    }
}

void watch_stop(void)
{
    sigset_t set, before;

    sigemptyset(&set);
    sigaddset(&set, SIGTSTP);
    raise(SIGTSTP); /* it is blocked, and stops the process when it no longer is */
    sigprocmask(SIG_UNBLOCK, &set, &before);
    sigprocmask(SIG_SETMASK, &before, NULL);
}
