/* The terminal. The full screen is plain ECMA-48 as every terminal of today has it, and not curses:
 * `stats --watch` and `top` then show the same pages, and the whole of it is the six sequences
 * below.
 *
 * The hard thing is to give the terminal back on every way out: by a key, exit(3), a signal, a stop
 * (Ctrl-Z) or a crash. So leaving uses async-signal-safe calls only, and it knows from saved_valid
 * whether there is anything to give back. */
#include "client/convstorectl_terminal.h"

#include <errno.h>
#include <langinfo.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#define DEFAULT_ROWS 24
#define DEFAULT_COLUMNS 80

/* The alternate screen, no cursor, long lines cut instead of wrapped; and all of that undone. */
static const char enter_sequence[] = "\033[?1049h\033[?25l\033[?7l\033[2J";
static const char leave_sequence[] = "\033[0m\033[?7h\033[?25h\033[?1049l";

static struct termios saved;
static volatile sig_atomic_t saved_valid; /* the full screen is on */

static bool is_dumb(void)
{
    const char *term = getenv("TERM");

    return term == NULL || term[0] == '\0' || strcmp(term, "dumb") == 0;
}

bool terminal_colour(const char *when, bool *ret_colour)
{
    const char *no_color = getenv("NO_COLOR");

    if (when == NULL || strcmp(when, "auto") == 0)
        *ret_colour =
            isatty(STDOUT_FILENO) == 1 && !is_dumb() && (no_color == NULL || no_color[0] == '\0');
    else if (strcmp(when, "always") == 0)
        *ret_colour = true;
    else if (strcmp(when, "never") == 0)
        *ret_colour = false;
    else
        return false;
    return true;
}

bool terminal_utf8(void)
{
    return setlocale(LC_CTYPE, "") != NULL && strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
}

void terminal_size(int *ret_rows, int *ret_columns)
{
    struct winsize size;
    bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 && size.ws_col > 0;

    *ret_rows = known ? size.ws_row : DEFAULT_ROWS;
    *ret_columns = known ? size.ws_col : DEFAULT_COLUMNS;
}

int terminal_write(const char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = write(STDOUT_FILENO, data, len);

        if (n < 0 && errno == EAGAIN) {
            struct pollfd wait = {.fd = STDOUT_FILENO, .events = POLLOUT};

            (void)poll(&wait, 1, -1);
            continue;
        }
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0) {
            data += n;
            len -= (size_t)n;
        }
    }
    return 0;
}

int terminal_show(const struct page *page, int rows)
{
    struct page frame = {.colour = false};
    const char *at = page->data;
    int shown = page->lines < rows ? page->lines : rows;
    int rc;

    page_bytes(&frame, "\033[H", 3);
    for (int i = 0; i < shown; i++) {
        const char *end = strchr(at, '\n');

        /* The line is cleared before it is written: afterwards, the cursor may stand on its last
         * character. No newline behind the last line: it would scroll. */
        page_bytes(&frame, "\033[K", 3);
        page_bytes(&frame, at, (size_t)(end - at));
        if (i + 1 < shown)
            page_bytes(&frame, "\r\n", 2);
        at = end + 1;
    }
    if (shown < rows)
        page_bytes(&frame, "\r\n\033[J", 5);
    rc = terminal_write(frame.data, frame.len);
    page_done(&frame);
    return rc;
}

void terminal_leave(void)
{
    ssize_t ignored;

    if (!saved_valid)
        return;
    saved_valid = 0;
    ignored = write(STDOUT_FILENO, leave_sequence, sizeof leave_sequence - 1);
    (void)ignored;
    tcsetattr(STDIN_FILENO, TCSADRAIN, &saved);
}

/* SA_RESETHAND: the signal that comes again then ends the process as it would have. */
static void on_crash(int number)
{
    terminal_leave();
    raise(number);
}

static void leave_on_every_way_out(void)
{
    static const int crashes[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    static bool done;
    struct sigaction action = {.sa_handler = on_crash, .sa_flags = (int)SA_RESETHAND};

    if (done)
        return;
    done = true;
    atexit(terminal_leave);
    for (size_t i = 0; i < sizeof crashes / sizeof crashes[0]; i++)
        sigaction(crashes[i], &action, NULL);
}

bool terminal_enter(void)
{
    struct termios raw;

    if (saved_valid)
        return true;
    /* From the background the shell's own modes would be read, and then spoilt. */
    if (tcgetpgrp(STDIN_FILENO) != getpgrp() || tcgetattr(STDIN_FILENO, &saved) != 0)
        return false;
    leave_on_every_way_out();
    saved_valid = 1;
    raw = saved;
    raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
    return terminal_write(enter_sequence, sizeof enter_sequence - 1) == 0;
}
