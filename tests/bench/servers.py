"""The servers that a benchmark starts: convstored, PostgreSQL, Redis, beanstalkd.

Each is private: Unix sockets (beanstalkd, which has none, a port on 127.0.0.1), data in a directory
below build/bench, on the disk that is measured. Each is ended by its process id, and end_all() ends
what is left, whatever happened.
"""
import ctypes
import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import psycopg2

ROOT = pathlib.Path(__file__).resolve().parents[2]
PG = ROOT / "tests" / "setup" / "pg"
START_SECONDS = 30
STOP_SECONDS = 20
PG_CONNECTIONS = 150
WAL_SEGMENTS = 256  # of 16 MB
FOREIGN = re.compile(r"^(PG|DB_|OLLAMA_|CONVSTORE_)|^(NOTIFY_SOCKET|LISTEN_FDS|LISTEN_PID)$")


class Failed(Exception):
    """Ends the benchmark with this text."""


def environment(**more):
    env = {k: v for k, v in os.environ.items() if not FOREIGN.search(k)}
    env.update(more)
    return env


def die_with_parent():
    """In the child: a benchmark that is killed leaves nothing running."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """One started program; its output goes to a log."""

    running = []

    def __init__(self, words, log, env=None):
        self.log = log
        with open(log, "wb") as output:
            self.process = subprocess.Popen([str(w) for w in words], stdin=subprocess.DEVNULL,
                                            stdout=output, stderr=output, start_new_session=True,
                                            env=env or environment(), preexec_fn=die_with_parent)
        Process.running.append(self)
        self.pid = self.process.pid

    def wait_for(self, ready):
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                tail = self.log.read_text(errors="replace").splitlines()[-5:]
                raise Failed(f"{self.process.args[0]} does not answer:\n" + "\n".join(tail))
            time.sleep(0.002)

    def end(self, how=signal.SIGKILL):
        """SIGKILL by default: what a benchmark leaves is thrown away."""
        if self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self in Process.running:
            Process.running.remove(self)

    def result(self):
        """Of a convstore-bench --json that ends by itself."""
        failed = self.process.wait(STOP_SECONDS)
        said = self.log.read_text(errors="replace")
        if failed:
            raise Failed(f"{self.process.args[1]}: {said.strip()}")
        return json.loads(said)["results"][0]

    def rss(self):
        pages = pathlib.Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGESIZE")


def end_all():
    for process in list(Process.running):
        process.end()


def answers(address):
    """Whether somebody listens at a Unix socket's path or on a port of 127.0.0.1."""
    family = socket.AF_INET if isinstance(address, int) else socket.AF_UNIX
    try:
        with socket.socket(family) as probe:
            probe.settimeout(1)
            probe.connect(("127.0.0.1", address) if isinstance(address, int) else str(address))
            return True
    except OSError:
        return False


def fresh(directory):
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


class Place:
    """Where everything lies: data in build/bench or where it is told, sockets in a directory with a
    short name."""

    def __init__(self, build, data=None):
        self.build = build
        self.data = data or build / "bench"
        self.data.mkdir(parents=True, exist_ok=True)
        self.lock = open(self.data / "lock", "w", encoding="ascii")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Failed(f"another benchmark is at work in {self.data}") from None
        self.sockets = pathlib.Path(tempfile.mkdtemp(prefix="convstore-bench.", dir="/tmp"))
        self.peers = {}
        self.libraries = ""

    def find_peers(self):
        """What tests/bench/peers finds or fetches: name -> program."""
        done = subprocess.run([str(ROOT / "tests" / "bench" / "peers")], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, text=True, check=True)
        for line in done.stdout.splitlines():
            name, where = line.split(" ", 1)
            if name == "LIBRARIES":
                self.libraries = where
            else:
                self.peers[name] = where
        if shutil.which("node"):
            self.peers["node"] = shutil.which("node")

    def remove(self):
        shutil.rmtree(self.sockets, ignore_errors=True)

    def peer_environment(self):
        return environment(LD_LIBRARY_PATH=self.libraries)

    def version(self, name):
        flag = "-v" if name == "beanstalkd" else "--version"
        done = subprocess.run([self.peers[name], flag], env=self.peer_environment(), text=True,
                              stdout=subprocess.PIPE, check=False)
        found = re.search(r"\d+\.[\d.]+", done.stdout)
        return found[0] if found else "?"


class Redis:
    """Streams with appendfsync always: an answered XADD is on the disk."""

    def __init__(self, place):
        self.socket = place.sockets / "redis.sock"
        self.directory = fresh(place.data / "redis")
        self.process = Process(
            [place.peers["redis-server"], "--port", "0", "--unixsocket", self.socket,
             "--dir", self.directory, "--appendonly", "yes", "--appendfsync", "always",
             "--save", "", "--auto-aof-rewrite-percentage", "0", "--maxclients", "20000",
             "--daemonize", "no"], place.data / "redis.log", place.peer_environment())
        self.process.wait_for(lambda: answers(self.socket))
        self.arguments = ["--target", "redis", "--socket", self.socket]

    def end(self):
        self.process.end()
        shutil.rmtree(self.directory, ignore_errors=True)


class Beanstalkd:
    """Its log synced at every write: -f 0."""

    def __init__(self, place):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.directory = fresh(place.data / "beanstalkd")
        self.process = Process(
            [place.peers["beanstalkd"], "-l", "127.0.0.1", "-p", self.port, "-b", self.directory,
             "-f", "0", "-z", 1 << 20], place.data / "beanstalkd.log", place.peer_environment())
        self.process.wait_for(lambda: answers(self.port))
        self.arguments = ["--target", "beanstalkd", "--port", self.port]

    def end(self):
        self.process.end()
        shutil.rmtree(self.directory, ignore_errors=True)


class Embedder:
    """Answers every request with prepared vectors after 150 ms: see stand_in.h."""

    def __init__(self, place):
        self.socket = place.sockets / "embedder.sock"
        self.process = Process([place.build / "bench_embedding", "--serve", self.socket],
                               place.data / "embedder.log")
        self.process.wait_for(lambda: answers(self.socket))
        self.settings = {"embedding__provider": "ollama", "embedding__url": f"unix://{self.socket}",
                         "embedding__self_test": "false"}

    def end(self):
        self.process.end()


class Postgres:
    """A private cluster with the server's default durability. One for the whole benchmark; clear()
    gives every run an empty schema.

    Its write-ahead log is sized for the load and has its segments, as on a server that has been at
    work: with the default of 1 GB this load makes a checkpoint every four seconds, and a new server
    fills ten new segments a second with zeros, each 6 ms in which the disk does nothing for others."""

    def __init__(self, place):
        self.directory = place.data / "pg"
        self.conninfo = None

    def begin(self):
        """A new cluster; one that a killed run has left goes first."""
        self._pg("drop")
        self._start(2 * WAL_SEGMENTS)  # no checkpoint before all segments are there
        self.conninfo = self._pg("conninfo")
        self.sql(f"""do $$ begin for i in 1..{WAL_SEGMENTS} loop
                     perform pg_logical_emit_message(false, '', ''), pg_switch_wal();
                     end loop; end $$""")
        self._pg("stop")  # its checkpoint has them used again
        self._start(WAL_SEGMENTS)

    def _start(self, most_segments):
        self._pg("start", "-c", f"max_connections={PG_CONNECTIONS}", "-c",
                 f"min_wal_size={WAL_SEGMENTS * 16}MB", "-c", f"max_wal_size={most_segments * 16}MB")

    def _pg(self, command, *options):
        done = subprocess.run([str(PG), command, str(self.directory), *options], env=environment(),
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, start_new_session=True,
                              check=False)
        if done.returncode != 0:
            raise Failed(done.stdout.strip())
        return done.stdout.strip()

    def sql(self, statement):
        with psycopg2.connect(self.conninfo) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchone() if cursor.description else None

    def clear(self):
        self.sql("drop schema if exists convstore cascade")
        self.sql("checkpoint")

    def version(self):
        return self.sql("show server_version")[0].split()[0]

    def settings(self):
        names = ("fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "min_wal_size",
                 "max_wal_size")
        return {name: self.sql(f"show {name}")[0] for name in names}

    def drop(self):
        self._pg("drop")


class Convstored:
    """The daemon with a journal of its own. conninfo None: the database cannot be reached; wrapper: a
    program that runs it and leaves it its process id."""

    def __init__(self, place, conninfo=None, keep=False, profile=None, wrapper=(), **settings):
        self.place = place
        self.socket = place.sockets / "convstore.sock"
        self.control = place.sockets / "control.sock"
        self.directory = place.data / "convstored"
        if not keep:
            fresh(self.directory)
        chosen = {"listen.socket": self.socket, "listen.control_socket": self.control,
                  "listen.max_connections": 20000, "embedding.provider": "builtin",
                  "journal.directory": self.directory / "journal", "journal.max_bytes": "32GiB",
                  "database.conninfo": conninfo or f"host={place.sockets} dbname=postgres"}
        chosen.update({key.replace("__", "."): value for key, value in settings.items()})
        words = [*wrapper, place.build / "convstored"]
        if profile:
            words += ["--config", ROOT / "config" / f"{profile}.conf"]
        for key, value in chosen.items():
            words += ["--set", f"{key}={value}"]
        self.socket.unlink(missing_ok=True)
        started = time.monotonic()
        self.process = Process(words, place.data / "convstored.log")
        self.process.wait_for(lambda: answers(self.socket))
        self.start_s = time.monotonic() - started
        self.arguments = ["--socket", self.socket]

    def end(self, keep=False):
        self.process.end()
        if not keep:
            shutil.rmtree(self.directory, ignore_errors=True)
