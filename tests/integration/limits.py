"""Time limits of the tests: TEST_TIME_SCALE stretches all of them (sanitizers, valgrind, a busy
machine). A limit is there to end a hang, so nothing gets slower by a long one."""
import os
import time

SCALE = float(os.environ.get("TEST_TIME_SCALE", "1"))
LEAST_SECONDS = 30  # one sync of a disk that others keep busy can take ten


def scaled(seconds):
    return seconds * SCALE


def eventually(condition, seconds=LEAST_SECONDS, what="the condition"):
    """Calls condition until it is true and returns its value; AssertionError after the time, which is
    LEAST_SECONDS at least."""
    seconds = max(seconds, LEAST_SECONDS)
    deadline = time.monotonic() + scaled(seconds)
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"{what} did not come true within {scaled(seconds):.0f} s")
        time.sleep(0.02)


def stays(condition, seconds, what):
    """Calls condition for this time; AssertionError where it is no longer true."""
    deadline = time.monotonic() + scaled(seconds)
    while time.monotonic() < deadline:
        if not condition():
            raise AssertionError(f"{what} did not stay so for {scaled(seconds):g} s")
        time.sleep(0.02)


def undisturbed(measure, times=5):
    """Calls measure until it raises no AssertionError, and returns its value; the last one counts. For
    what a moment in which the machine stands still makes wrong, and only that."""
    for _ in range(times - 1):
        try:
            return measure()
        except AssertionError:
            pass
    return measure()
