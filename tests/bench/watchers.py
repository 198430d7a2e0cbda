"""Those who watch the daemon while it works: a scraper at 10 Hz and `convstorectl top` at 5 Hz."""
import fcntl
import http.client
import os
import pty
import re
import signal
import subprocess
import termios
import threading
import time

import servers

SCRAPE_SECONDS = 0.1
TOP_SECONDS = 0.2
ADDRESS = re.compile(r"metrics\.listen address=(\S+)\s")


class Watchers:
    """At work from the start to end(). The daemon's metrics.listen is a port of 127.0.0.1."""

    def __init__(self, place, daemon):
        # The daemon answers on its socket a moment before it has said so.
        log = place.data / "convstored.log"
        daemon.process.wait_for(lambda: ADDRESS.search(log.read_text(errors="replace")))
        self.address = ADDRESS.search(log.read_text(errors="replace"))[1]
        self.scrapes, self.failed, self.over = 0, 0, threading.Event()
        self.thread = threading.Thread(target=self._scrape, daemon=True)
        self.terminal, side = pty.openpty()
        termios.tcsetwinsize(side, (40, 120))
        self.top = subprocess.Popen(
            [str(place.build / "convstorectl"), "--socket", str(daemon.socket), "top", "--interval",
             str(TOP_SECONDS)], stdin=side, stdout=side, stderr=side, start_new_session=True,
            env=servers.environment(TERM="xterm"), preexec_fn=self._take_terminal)
        os.close(side)
        self.reader = threading.Thread(target=self._read_terminal, daemon=True)
        self.painted = 0  # bytes
        self.thread.start()
        self.reader.start()

    @staticmethod
    def _take_terminal():
        """In the child: top draws on a terminal that is its own."""
        servers.die_with_parent()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def _scrape(self):
        due = time.monotonic()
        while not self.over.wait(max(0.0, due - time.monotonic())):
            due += SCRAPE_SECONDS
            try:
                connection = http.client.HTTPConnection(self.address, timeout=10)
                connection.request("GET", "/metrics")
                body = connection.getresponse().read()
                connection.close()
                self.scrapes += b"convstore_build_info" in body
            except (OSError, http.client.HTTPException):
                self.failed += 1

    def _read_terminal(self):
        try:
            while data := os.read(self.terminal, 65536):
                self.painted += len(data)
        except OSError:
            pass  # top has ended

    def end(self):
        """What was done, for the results."""
        self.over.set()
        self.thread.join(20)
        running = self.top.poll() is None
        if running:
            self.top.send_signal(signal.SIGTERM)
        self.top.wait(20)
        self.reader.join(20)
        os.close(self.terminal)
        if self.failed or not self.scrapes or not running or not self.painted:
            raise servers.Failed(f"watchers: {self.scrapes} scrapes, {self.failed} failed; top "
                                 f"{'ran' if running else 'ended early'}, {self.painted} bytes")
        return {"scrapes": self.scrapes, "top_bytes": self.painted}
