/* Kill points: the armed one is set before any thread starts and only read afterwards. */
#include "daemon/kill_point.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const names[] = {
#define KILL_POINT_NAME(name, text) #name,
    KILL_POINTS(KILL_POINT_NAME)
#undef KILL_POINT_NAME
};

static enum kill_point armed = KILL_POINT_COUNT;
static atomic_ulong left;

void kill_point_arm(void)
{
    const char *value = getenv("CONVSTORE_KILL_POINT");
    const char *colon;
    size_t len;

    armed = KILL_POINT_COUNT;
    if (value == NULL)
        return;
    colon = strchr(value, ':');
    len = colon != NULL ? (size_t)(colon - value) : strlen(value);
    for (unsigned i = 0; i < KILL_POINT_COUNT; i++)
        if (strlen(names[i]) == len && memcmp(names[i], value, len) == 0)
            armed = (enum kill_point)i;
    atomic_store(&left, colon != NULL ? strtoul(colon + 1, NULL, 10) : 1);
}

void kill_point(enum kill_point point)
{
    if (__builtin_expect(point == armed, 0) && atomic_fetch_sub(&left, 1) == 1)
        kill(getpid(), SIGKILL);
}
