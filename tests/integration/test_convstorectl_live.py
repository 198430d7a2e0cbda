"""convstorectl stats, top and health as operators have them: on a terminal (tmux), in a pipe, and in a
monitor; while the daemon works, goes and comes back."""
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import unittest

import msgpack

from harness import BUILD, Scenario, clean_environment, conversation, eventually
from limits import scaled
from load import Load


class Terminal:
    """A shell in a tmux of its own."""

    def __init__(self, test, columns=110, rows=44):
        self.command = ["tmux", "-S", str(test.directory / "tmux.sock"), "-f", "/dev/null"]
        environment = clean_environment(LC_ALL="C.UTF-8", TERM="screen-256color")
        for name in ("NO_COLOR", "TMUX"):
            environment.pop(name, None)
        subprocess.run([*self.command, "new-session", "-d", "-x", str(columns), "-y", str(rows),
                        "bash --norc --noprofile"], env=environment, check=True)
        test.addCleanup(self.end)

    def end(self):
        subprocess.run([*self.command, "kill-server"], capture_output=True, check=False)

    def tmux(self, *arguments):
        done = subprocess.run([*self.command, *map(str, arguments)], capture_output=True, text=True,
                              check=True, timeout=scaled(30))
        return done.stdout

    def type(self, text):
        self.tmux("send-keys", "-l", text)

    def run(self, line):
        self.type(line)
        self.press("Enter")

    def press(self, key):
        self.tmux("send-keys", key)

    def screen(self, colours=False):
        return self.tmux("capture-pane", "-p", *(["-e"] if colours else []))

    def resize(self, columns, rows):
        self.tmux("resize-window", "-x", columns, "-y", rows)

    def shows(self, pattern, colours=False):
        """Waits until the screen matches, and returns the match."""
        try:
            return eventually(lambda: re.search(pattern, self.screen(colours), re.M), 20)
        except AssertionError:
            raise AssertionError(f"{pattern!r} did not come; the screen:\n{self.screen()}") from None

    def state(self):
        """Of the screen: whether it is the alternate one, has a cursor, and wraps long lines."""
        return self.tmux("display-message", "-p", "#{alternate_on}#{cursor_flag}#{wrap_flag}").strip()

    def modes(self, path):
        """The terminal's modes, as its shell's stty tells them; only while the shell has it."""
        path.unlink(missing_ok=True)
        self.run(f"stty -g > {path}.new; mv {path}.new {path}")
        eventually(path.exists, what="stty")
        return path.read_text()

    def child(self):
        """The pid of what runs in the shell."""
        shell = self.tmux("display-message", "-p", "#{pane_pid}").strip()
        return int(eventually(lambda: subprocess.run(
            ["ps", "-o", "pid=", "--ppid", shell], capture_output=True, text=True, check=False
        ).stdout.strip(), what="a process in the shell"))


class FakeDaemon(threading.Thread):
    """Answers every request with one map: a daemon of another version, or in another mood."""

    def __init__(self, test, result):
        super().__init__(daemon=True)
        self.path, self.result = test.directory / "fake.sock", result
        self.path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen()
        test.addCleanup(self.end)
        self.start()

    def run(self):
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            unpacker = msgpack.Unpacker()
            with peer:
                while data := peer.recv(65536):
                    unpacker.feed(data)
                    for request in unpacker:
                        peer.sendall(msgpack.packb([1, request[1], None, self.result]))

    def end(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.join(scaled(10))


def ctl(daemon, *arguments):
    return [str(BUILD / "convstorectl"), "--socket", str(daemon.socket), *map(str, arguments)]


class Live(Scenario):
    def store_one(self, daemon):
        """A daemon knows how its database is from the first row on."""
        with daemon.client() as client:
            client.request("store", conversation("u1", "hello"), {"wait": "stored"})

    def start_watch(self, daemon, *arguments):
        """stats --watch in pipes; ended at the test's end."""
        process = subprocess.Popen(ctl(daemon, "stats", "--watch", "0.2", *arguments),
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True, env=clean_environment())

        def end():
            process.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()

        self.addCleanup(end)
        return process

    def start_top(self, terminal, daemon, *arguments):
        terminal.run("clear; echo MARK; " + " ".join(ctl(daemon, "top", *arguments)) +
                     "; echo ended $?")
        terminal.shows(r"^convstored \d.*every ")

    def check_given_back(self, terminal, before):
        """The terminal is as it was before top: screen, cursor, modes."""
        eventually(lambda: terminal.state() == "011", what="the main screen with its cursor")
        self.assertIn("MARK", terminal.screen())
        self.assertEqual(terminal.modes(self.directory / "after"), before)

    # stats

    def test_stats_on_a_terminal_and_elsewhere(self):
        """Goal of this test: the page has colours on a terminal, none in a pipe or with NO_COLOR, and
        --color decides over both."""
        daemon = self.daemon(self.shared_postgres())
        self.assertNotIn("\033", daemon.ctl("stats").stdout)
        self.assertIn("\033[", daemon.ctl("stats", "--color=always").stdout)
        self.assertIn("must be auto, always or never", daemon.ctl("stats", "--color", "x").stderr)
        self.assertIn("must be 0.2 to", daemon.ctl("stats", "--watch", "0.1").stderr)
        page = " ".join(ctl(daemon, "stats"))
        terminal = Terminal(self)
        for prefix, suffix, colours in [("", "", True), ("NO_COLOR=1 ", "", False),
                                        ("NO_COLOR=1 ", " --color always", True),
                                        ("", " --color=never", False), ("TERM=dumb ", "", False)]:
            with self.subTest(prefix + suffix):
                terminal.run(f"clear; {prefix}{page}{suffix}; echo ended $?")
                terminal.shows("^ended 0")
                title = terminal.shows(r"^.*convstored \d.*$", colours=True)[0]
                self.assertEqual("\033[1m" in title, colours, title)
                terminal.run("clear")
                eventually(lambda: "ended" not in terminal.screen())

    def test_watch_as_json_goes_on_over_a_restart(self):
        """Goal of this test: --json --watch gives one whole object a line, says once that the daemon
        has gone and that it is back, and SIGINT ends it with status 0."""
        daemon = self.daemon(self.shared_postgres())
        process = self.start_watch(daemon, "--json")
        first = json.loads(process.stdout.readline())
        self.assertGreaterEqual(json.loads(process.stdout.readline())["uptime_s"], first["uptime_s"])
        self.assertEqual(daemon.stop(), 0)
        self.assertRegex(process.stderr.readline(), "^convstorectl: not reachable, trying again: .+")
        daemon.start()
        self.assertEqual(process.stderr.readline(), "convstorectl: reachable again\n")
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        self.assertEqual((process.wait(scaled(20)), process.stderr.read()), (0, ""))
        self.assertTrue(rest.endswith("}\n"), rest[-100:])
        for line in rest.splitlines():
            self.assertIn("queued", json.loads(line))

    def test_watch_as_text_ends_with_its_reader(self):
        """Goal of this test: pages are appended, without control characters, with the rates since the
        page before; when the reader closes the pipe, it ends at once with status 0."""
        daemon = self.daemon(self.shared_postgres())
        Load(daemon, "watched", self)
        process = self.start_watch(daemon)
        text = ""
        while text.count("\n---- ") < 3:
            text += process.stdout.readline()
        self.assertRegex(text, r"\A---- \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\nconvstored ")
        self.assertNotIn("\033", text)
        self.assertRegex(text, r"acknowledged +[\d,.]+/s")
        process.stdout.close()
        self.assertEqual(process.wait(scaled(20)), 0)
        self.assertEqual(process.stderr.read(), "")

    def test_watch_on_a_terminal_stands_still(self):
        """Goal of this test: on a terminal the page changes in place, from its upper left corner on; a
        low one gets what fits; Ctrl-C ends it."""
        daemon = self.daemon(self.shared_postgres())
        terminal = Terminal(self, rows=12)
        terminal.run(" ".join(ctl(daemon, "stats", "--watch", "0.2")) + "; echo ended $?")
        terminal.shows(r"\Aconvstored \d")
        terminal.shows(r"^\d+ more lines")
        terminal.shows(r"\Aconvstored .* up [1-9]")
        self.assertEqual(daemon.stop(), 0)
        terminal.shows(r"\Anot reachable, trying again: ")
        daemon.start()
        terminal.shows(r"\Aconvstored \d")
        terminal.press("C-c")
        terminal.shows("^ended 0")

    # top

    def test_top_obeys_its_keys(self):
        """Goal of this test: pause, sort, window, interval and help do what they say, figures move, and
        q gives the terminal back as it was."""
        daemon = self.daemon(self.shared_postgres())
        Load(daemon, "shown", self)
        terminal = Terminal(self)
        before = terminal.modes(self.directory / "before")
        self.start_top(terminal, daemon, "--interval", "0.2")
        self.assertEqual(terminal.state(), "100")
        terminal.shows(r"^acked +[\d,]+(\.\d)?/s +[▁-█]{5}")
        terminal.shows(r"^queue +\w.* +[\d,]+$")
        terminal.press("p")
        terminal.shows(r"PAUSED  every 0.2 s")
        still = terminal.screen()
        time.sleep(0.6)
        self.assertEqual(terminal.screen(), still)
        terminal.press("Space")
        eventually(lambda: terminal.screen() != still and "PAUSED" not in terminal.screen())
        for column in ("rate", "p99", "max", "errors", "count"):
            terminal.press("s")
            terminal.shows(r"\033\[(0;)?1m" + column, colours=True)
        for key, seconds in [("-", "0.5"), ("-", "1"), ("+", "0.5"), ("+", "0.2"), ("+", "0.2")]:
            terminal.type(key)
            terminal.shows(rf"every {seconds} s")
        terminal.tmux("send-keys", "Up", "F5", "?")  # two that are no keys of ours, and help
        terminal.shows("^p, space +pause")
        terminal.press("Escape")
        terminal.shows("^acked ")
        terminal.press("q")
        terminal.shows("^ended 0")
        self.check_given_back(terminal, before)

    def test_top_fits_every_terminal(self):
        """Goal of this test: a change of size shows at once: trends side by side on a wide screen, below
        one another on a narrow one, and still health and trends on five short lines."""
        daemon = self.daemon(self.shared_postgres())
        terminal = Terminal(self)
        self.start_top(terminal, daemon, "--interval", "5")
        terminal.shows(r"^acked .* ack ")
        terminal.resize(60, 24)
        terminal.shows(r"^ack p99 ")
        terminal.resize(30, 5)
        terminal.shows(r"\Aconvstored \d.*\n(.*\n)*acked ")
        self.assertNotIn("operation", terminal.screen())
        terminal.resize(100, 40)
        terminal.shows(r"^q quit ")
        terminal.press("q")
        terminal.shows("^ended 0")

    def test_top_gives_the_terminal_back(self):
        """Goal of this test: after Ctrl-Z, Ctrl-C, SIGTERM and a crash the terminal is as it was; fg
        brings the dashboard back."""
        daemon = self.daemon(self.shared_postgres())
        terminal = Terminal(self)
        before = terminal.modes(self.directory / "before")
        self.start_top(terminal, daemon)
        terminal.press("C-z")
        terminal.shows("Stopped")
        self.check_given_back(terminal, before)
        terminal.run("fg")
        eventually(lambda: terminal.state() == "100")
        terminal.shows(r"\Aconvstored \d")
        terminal.press("C-c")
        eventually(lambda: terminal.state() == "011")
        self.check_given_back(terminal, before)
        for number, status in [(signal.SIGTERM, 0), (signal.SIGHUP, 0),
                               (signal.SIGABRT, 128 + signal.SIGABRT)]:
            with self.subTest(number.name):
                self.start_top(terminal, daemon)
                os.kill(terminal.child(), number)
                terminal.shows(f"^ended {status}")
                self.check_given_back(terminal, before)

    def test_top_stays_while_the_daemon_goes_and_comes(self):
        """Goal of this test: a daemon that is killed, and one that hangs, is said to be not reachable,
        and is shown again by itself; a database that stops is an alert."""
        postgres = self.postgres()
        daemon = self.daemon(postgres)
        self.store_one(daemon)
        terminal = Terminal(self)
        self.start_top(terminal, daemon, "--interval", "0.2")
        terminal.shows("^database +up")
        daemon.kill()
        terminal.shows(r"\Aconvstored not reachable, trying again")
        terminal.shows("^cannot connect to ")
        daemon.start()
        terminal.shows(r"\Aconvstored \d")
        daemon.signal(signal.SIGSTOP)
        terminal.shows(r"\Aconvstored not reachable, trying again")
        daemon.signal(signal.SIGCONT)
        terminal.shows(r"\Aconvstored \d")
        postgres.crash()
        Load(daemon, "down", self)
        terminal.shows("^critical +database_down")
        postgres.start()
        terminal.shows("^database +up")
        terminal.press("q")
        terminal.shows("^ended 0")

    def test_top_needs_a_terminal(self):
        """Goal of this test: in a pipe, top says what to take instead."""
        done = self.daemon(start=False).ctl("top")
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertIn("stats --watch", done.stderr)

    # health

    def test_health_of_a_real_daemon(self):
        """Goal of this test: health says what stats says; 2 without a daemon."""
        daemon = self.daemon(self.shared_postgres())
        self.store_one(daemon)
        done = daemon.ctl("health")
        # The tests' database has fsync=off; a busy machine may have raised more.
        verdict = {1: "WARNING", 2: "CRITICAL"}[done.returncode]
        self.assertRegex(done.stdout, rf"\Aconvstored {verdict}: .*database_fsync_off: [^|]+ \| "
                                      r"queued=\d+ .* journal=\d+B .*\n\Z")
        done = daemon.ctl("health", "--json")
        self.assertIn("database_fsync_off", [a["name"] for a in json.loads(done.stdout)["alerts"]])
        self.assertEqual(daemon.stop(), 0)
        done = daemon.ctl("health")
        self.assertEqual((done.returncode, done.stderr), (2, ""))
        self.assertRegex(done.stdout, r"\Aconvstored CRITICAL: cannot connect to [^\n]+\n\Z")

    def test_health_by_the_daemons_word(self):
        """Goal of this test: each state has its exit status; foreign texts can break neither the line
        nor the figures; a daemon that tells little is borne."""
        alert = {"name": "a|b", "severity": "critical", "text": "line\n|\x1b[2J"}
        for status, result, line in [
                (0, {"health": "healthy", "queued": 5, "database": {"state": "up"}},
                 "convstored OK: 5 queued, ack p99 -, database up, embedding  | queued=5\n"),
                (1, {"health": "warning", "alerts": [alert]},
                 "convstored WARNING: a/b: line / [2J |\n"),
                (2, {"health": "critical", "alerts": [alert, alert]},
                 "convstored CRITICAL: a/b: line / [2J; a/b: line / [2J |\n"),
                (2, {}, "convstored CRITICAL: - queued, ack p99 -, database , embedding  |\n"),
                (2, [1], "convstored CRITICAL: the answer to stats is no map\n")]:
            with self.subTest(line):
                fake = FakeDaemon(self, result)
                done = subprocess.run(
                    [str(BUILD / "convstorectl"), "--socket", str(fake.path), "health"],
                    capture_output=True, text=True, env=clean_environment(), check=False)
                self.assertEqual((done.returncode, done.stderr, done.stdout), (status, "", line))


if __name__ == "__main__":
    unittest.main()
