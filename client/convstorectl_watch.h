/* What `stats --watch` and `top` share: one sample of the daemon after another, and the wait in
 * between that ends early for a key, a signal or a reader that has gone. One thread. */
#ifndef CONVSTORECTL_WATCH_H
#define CONVSTORECTL_WATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "client/convstorectl.h"
#include "client/convstorectl_figures.h"

struct watch {
    struct convstore *store;
    int signal_fd;
    bool keys;      /* standard input brings keys */
    bool reachable; /* the last sample came */
    struct figures now;
    int64_t now_us; /* when now was taken; 0: there is none */
    bool has_change;
    struct figures_change change;      /* since the sample before */
    const char *json;                  /* the last sample as it came; good until the next */
    char trouble[CONVSTORE_TEXT_SIZE]; /* why it is not reachable */
};

/* Reads the options of a live display: --`name` SECONDS between two samples, and --color WHEN; no
 * arguments may follow. The interval stays what it is where it is not given. CTL_OK, or an exit
 * code when it has said why. */
int watch_options(struct ctl *ctl, int argc, char **argv, const char *name, double *ret_interval_s,
                  bool *ret_colour) __attribute__((warn_unused_result));

/* From here on SIGINT, SIGTERM, SIGHUP, SIGWINCH, SIGTSTP (where keys is set) and SIGCONT are
 * events, and SIGPIPE is an error of write(2). CTL_OK, or an exit code when it has said why. */
int watch_open(struct watch *watch, const struct ctl *ctl, bool keys)
    __attribute__((warn_unused_result));
void watch_close(struct watch *watch);

/* Asks the daemon once, for at most a second or --timeout. True: now is new. False: trouble says
 * why, and now is what it was. */
bool watch_sample(struct watch *watch);

enum watch_event {
    WATCH_DUE,    /* the time has come */
    WATCH_KEY,    /* keys were pressed */
    WATCH_RESIZE, /* the terminal has another size */
    WATCH_STOP,   /* Ctrl-Z: the process is to stop, see watch_stop() */
    WATCH_RESUME, /* it goes on after a stop */
    WATCH_END,    /* a signal, or nobody reads what is written */
};

/* Waits until due_us (of ctl_now_us()). ret_key: the key, with WATCH_KEY; cursor and other function
 * keys are left out. */
enum watch_event watch_wait(struct watch *watch, int64_t due_us, char *ret_key);

/* Stops this process as Ctrl-Z does; returns when it goes on. */
void watch_stop(void);

#endif
