"""What scenarios are made of: Postgres, Daemon and Scenario here; Client and FakeOllama beside it.

A scenario is a unittest class in tests/integration/test_*.py that inherits Scenario; every test
method's docstring begins "Goal of this test:". Each test has a directory of its own directly under
/tmp (a Unix socket's name must be short) and starts what it needs; all of it is stopped at the end
by process id. A daemon that a test leaves running is stopped with SIGTERM and must exit 0, and no
daemon's log may hold a sanitizer's report: every test checks both without asking for it.

What a time limit or a Ctrl-C can leave behind, clean_up() finds again in that directory.
"""
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import psycopg2

from limits import LEAST_SECONDS, SCALE, eventually, scaled, stays, undisturbed
from ollama import FakeOllama, vector
from rpc import Client, RpcError, conversation, pack

__all__ = ["Client", "Daemon", "FakeOllama", "Postgres", "RpcError", "SCALE", "Scenario",
           "clean_up", "conversation", "eventually", "pack", "scaled", "vector"]

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("TEST_BUILD", ROOT / "build")).resolve()
PG = ROOT / "tests" / "setup" / "pg"
START_SECONDS = 30
STOP_SECONDS = 60
SANITIZER = re.compile(r"(ERROR|WARNING): (Address|Leak|Thread|Memory)Sanitizer|runtime error:")
# Settings come from --set alone: whatever points this shell at a database or an embedder must not
# point a test's daemon there.
FOREIGN = re.compile(r"^(PG|DB_|OLLAMA_|CONVSTORE_)|^(NOTIFY_SOCKET|LISTEN_FDS|LISTEN_PID)$")


def clean_environment(**more):
    """This process's environment without what would reconfigure a daemon, plus `more`."""
    env = {k: v for k, v in os.environ.items() if not FOREIGN.search(k)}
    env.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
    env.update(more)
    return env


def unpacked(program, *packages):
    """(its path, an environment in which it runs): installed, or from Debian's packages, which are
    fetched and not installed. Skips where neither is possible."""
    done = subprocess.run([str(ROOT / "tests" / "setup" / "unpacked"), program, *packages], text=True,
                          capture_output=True, check=False)
    if done.returncode != 0:
        raise unittest.SkipTest(done.stderr.strip())
    path, *libraries = done.stdout.splitlines()
    return pathlib.Path(path), clean_environment(LD_LIBRARY_PATH="".join(libraries))


class Postgres:
    """A private cluster in a directory (see tests/setup/pg). fsync is off unless durable."""

    def __init__(self, directory, options="", durable=False):
        self.directory = pathlib.Path(directory)
        self.options = options if durable else f"-c fsync=off {options}"
        self._connection = None

    def _pg(self, command, *args):
        env = clean_environment(PG_START_SECONDS=str(int(scaled(60))))
        done = subprocess.run([str(PG), command, str(self.directory), *args], env=env, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"pg {command}: {done.stdout.strip()}")
        return done.stdout.strip()

    def start(self):
        self._pg("start", self.options)
        return self

    def start_as_standby(self, primary):
        """Starts it as an asynchronous standby of a running Postgres."""
        self._pg("standby", str(primary.directory), self.options)
        return self

    def stop(self):
        self.disconnect()
        self._pg("stop")

    def crash(self):
        """Immediate shutdown: no checkpoint, so that the next start recovers."""
        self.disconnect()
        self._pg("crash")

    def kill(self):
        """SIGKILL to the whole server, as a crash would be."""
        self.disconnect()
        self._pg("kill")

    def restart(self):
        self.disconnect()
        self._pg("restart")

    def drop(self):
        self.disconnect()
        self._pg("drop")

    @property
    def conninfo(self):
        return self._pg("conninfo")

    def connect(self, dbname="postgres"):
        connection = psycopg2.connect(f"{self.conninfo} dbname={dbname}")
        connection.autocommit = True
        return connection

    def disconnect(self):
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def sql(self, statement, *params):
        """Runs one statement (autocommit, %s for params) and returns its rows as tuples."""
        if self._connection is None or self._connection.closed:
            self._connection = self.connect()
        with self._connection.cursor() as cursor:
            cursor.execute(statement, params or None)
            return cursor.fetchall() if cursor.description else []

    def value(self, statement, *params):
        """The first column of the first row, or None."""
        rows = self.sql(statement, *params)
        return rows[0][0] if rows else None

    def count(self, table="conversations"):
        """How many rows a table of the daemon's schema holds; 0 while the table does not exist."""
        if self.value("select to_regclass(%s)", f"convstore.{table}") is None:
            return 0
        return self.value(f"select count(*) from convstore.{table}")

    def log(self):
        home = dict(part.split("=", 1) for part in self.conninfo.split())["host"]
        return (pathlib.Path(home) / "log").read_text(errors="replace")


class Daemon:
    """One convstored with its sockets, journal and log in a directory, which a restart reuses."""

    def __init__(self, directory, settings=None, arguments=(), env=None, wrapper=()):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.socket = self.directory / "convstore.sock"
        self.control_socket = self.directory / "control.sock"
        self.journal = self.directory / "journal"
        self.log_path = self.directory / "convstored.log"
        self.settings = {
            "listen.socket": self.socket,
            "listen.control_socket": self.control_socket,
            "journal.directory": self.journal,
            "embedding.provider": "builtin",
            "embedding.self_test": "false",  # tests count requests
        }
        self.settings.update(settings or {})
        self.arguments = list(arguments)
        self.env = env or {}
        self.wrapper = list(wrapper) or os.environ.get("TEST_WRAPPER", "").split()
        self.pass_fds = ()  # descriptors that the process gets under the same numbers
        self.process = None
        self.exit_seen = True  # a test has read how the latest process ended

    def command(self):
        program = BUILD / "convstored"
        if not program.exists():
            raise RuntimeError(f"{program} is not built; run make")
        words = [*self.wrapper, str(program), *self.arguments]
        for key, value in self.settings.items():
            words += ["--set", f"{key}={value}"]
        return words

    def start(self, wait=True):
        """Starts it; with wait, returns when it answers a ping."""
        if self.process is not None and self.process.poll() is None:
            raise RuntimeError("the daemon runs already")
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=clean_environment(**self.env), start_new_session=True, pass_fds=self.pass_fds)
        self.exit_seen = False
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, seconds=START_SECONDS):
        deadline = time.monotonic() + scaled(seconds)
        while True:
            if self.process.poll() is not None:
                self.exit_seen = True
                raise AssertionError(f"the daemon exited with {self.process.returncode} before it "
                                     f"listened; its log:\n{self.log_tail()}")
            try:
                with Client(self.socket) as client:
                    return client.request("ping")
            except (OSError, RpcError) as error:
                if time.monotonic() > deadline:
                    raise AssertionError(f"the daemon does not answer ({error}); its log:\n"
                                         f"{self.log_tail()}") from error
            time.sleep(0.01)

    @property
    def pid(self):
        return self.process.pid

    def running(self):
        return self.process is not None and self.process.poll() is None

    def signal(self, number):
        self.process.send_signal(number)

    def wait_exit(self, seconds=STOP_SECONDS):
        """The exit status (negative: the signal that ended it)."""
        try:
            status = self.process.wait(scaled(seconds))
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the daemon did not end within {scaled(seconds):.0f} s; its log:\n"
                                 f"{self.log_tail()}") from None
        self.exit_seen = True
        return status

    def stop(self, seconds=STOP_SECONDS):
        """SIGTERM, and the exit status."""
        if self.running():
            self.signal(signal.SIGTERM)
        return self.wait_exit(seconds)

    def kill(self):
        if self.running():
            self.signal(signal.SIGKILL)
        self.process.wait()
        self.exit_seen = True

    def client(self, timeout=LEAST_SECONDS):
        return Client(self.socket, timeout)

    def control(self, timeout=LEAST_SECONDS):
        return Client(self.control_socket, timeout)

    def flush(self, seconds=30):
        """Waits until everything acknowledged so far is a row or a dead letter."""
        with self.control(timeout=seconds + 5) as client:
            result = client.request("flush", {"timeout_ms": int(scaled(seconds) * 1000)})
        if result["remaining"] > 0:
            raise AssertionError(f"flush left {result['remaining']}; log:\n{self.log_tail()}")
        return result

    def stats(self):
        with self.client() as client:
            return client.request("stats")

    def ctl(self, *arguments, stdin=None, seconds=60, control=False):
        """Runs convstorectl on this daemon's socket; a CompletedProcess with text output."""
        path = self.control_socket if control else self.socket
        command = [str(BUILD / "convstorectl"), "--socket", str(path), *map(str, arguments)]
        given = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
        return subprocess.run(command, capture_output=True, text=True, timeout=scaled(seconds),
                              env=clean_environment(), check=False, **given)

    def memory(self):
        """(resident bytes now, the most so far)."""
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", status, re.M))
        return int(found["VmRSS"]) * 1024, int(found["VmHWM"]) * 1024

    def threads(self):
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def open_files(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_tail(self, lines=25):
        return "\n".join(self.log().splitlines()[-lines:])

    def sanitizer_report(self):
        """The log from the first sanitizer's report on, or None."""
        text = self.log()
        found = SANITIZER.search(text)
        return text[found.start():found.start() + 6000] if found else None


class Scenario(unittest.TestCase):
    """A test case with its own directory, PostgreSQL and daemons."""

    maxDiff = 2000
    said = ""   # a line that the run shows beside the test's name: figures
    faults = 0  # of PostgreSQL, made on purpose while clients stored
    durable = False  # shared_postgres()

    def setUp(self):
        parent = os.environ.get("TEST_DIR") or tempfile.gettempdir()
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="convstore-", dir=parent))
        # PostgreSQL runs as another user than root and must get through.
        self.directory.chmod(0o711)
        self.daemons = []
        self.addCleanup(self._remove_directory)

    def postgres(self, name="pg", options="", durable=False):
        """A started PostgreSQL that ends with the test."""
        server = Postgres(self.directory / name, options, durable)
        self.addCleanup(server.drop)
        return server.start()

    def shared_postgres(self):
        """One PostgreSQL for all tests of the class, without what the test before left in it."""
        cls = type(self)
        if cls.__dict__.get("_shared") is None:
            parent = os.environ.get("TEST_DIR") or tempfile.gettempdir()
            directory = pathlib.Path(tempfile.mkdtemp(prefix="convstore-", dir=parent))
            directory.chmod(0o711)
            cls.addClassCleanup(shutil.rmtree, directory, ignore_errors=True)
            cls._shared = Postgres(directory / "pg", durable=cls.durable)
            cls.addClassCleanup(cls._shared.drop)
            cls._shared.start()
        cls._shared.sql("drop schema if exists convstore cascade")
        return cls._shared

    def daemon(self, postgres=None, start=True, name="d", arguments=(), env=None, wrapper=(),
               **settings):
        """A daemon on `postgres`, running unless start=False. Settings: section__key=value."""
        chosen = {key.replace("__", "."): value for key, value in settings.items()}
        if postgres is not None:
            chosen.setdefault("database.conninfo", postgres.conninfo)
        daemon = Daemon(self.directory / name, chosen, arguments, env, wrapper)
        self.daemons.append(daemon)
        self.addCleanup(self._end_daemon, daemon)
        return daemon.start() if start else daemon

    def ollama(self, **options):
        server = FakeOllama(**options)
        self.addCleanup(server.close)
        return server

    def _end_daemon(self, daemon):
        if daemon.process is None:
            return
        try:
            if not daemon.exit_seen:
                ended_alone = not daemon.running()
                status = daemon.stop()
                how = "ended by itself" if ended_alone else "was stopped with SIGTERM"
                if ended_alone or status != 0:
                    self.fail(f"the daemon {how} and its exit status is {status}; its log:\n"
                              f"{daemon.log_tail()}")
            report = daemon.sanitizer_report()
            if report:
                self.fail(f"a sanitizer's report in the daemon's log:\n{report}")
        finally:
            daemon.kill()
            if self._failed():
                print(f"--- log of the daemon in {daemon.directory.name}:\n{daemon.log_tail()}",
                      file=sys.stderr)

    def _failed(self):
        outcome = self._outcome
        if hasattr(outcome, "errors"):  # Python before 3.11
            return any(error for _, error in outcome.errors)
        result = outcome.result
        return any(test is self for test, _ in result.failures + result.errors)

    def _remove_directory(self):
        if not os.environ.get("TEST_KEEP"):
            shutil.rmtree(self.directory, ignore_errors=True)


def clean_up(directory):
    """Ends what a killed test process left: every process whose command line names this directory,
    which mkdtemp made for that one test process. Twice, because one may just be starting another."""
    for attempt in range(2):
        for proc in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                words = (proc / "cmdline").read_bytes()
            except OSError:
                continue
            if str(directory).encode() in words and int(proc.name) != os.getpid():
                # A PostgreSQL that is asked to quit at once takes its shared memory with it.
                polite = attempt == 0 and words.split(b"\0")[0].endswith(b"/postgres")
                try:
                    os.kill(int(proc.name), signal.SIGQUIT if polite else signal.SIGKILL)
                except ProcessLookupError:
                    pass
        time.sleep(0.3)
    for link in pathlib.Path(directory).rglob("elsewhere"):
        shutil.rmtree(link.resolve(), ignore_errors=True)
    shutil.rmtree(directory, ignore_errors=True)
