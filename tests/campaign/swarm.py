"""Many clients that remember every ack, and the comparison with the rows: for the campaigns.

Book knows what was sent, acked and refused; Swarm is the clients, on one thread; Place is a private
PostgreSQL and a directory for daemons. A conversation is a number: its id, user and text follow from
the book's seed and the number, and the text begins with the number. So millions of them cost a byte
each, and a row tells by itself which one it should be.

The one hard thing is what a broken connection means: what was in flight may be stored or not, and a
refusal (QUEUE_FULL) counts as "certainly not stored" only if no earlier try is still uncertain.
"""
import hashlib
import os
import pathlib
import select
import shutil
import socket
import sys
import tempfile
import time
import uuid

import msgpack

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "integration"))

from harness import Daemon, Postgres   # noqa: E402
from limits import SCALE, eventually, scaled  # noqa: E402,F401 (campaigns import them from here)

NEVER, UNCERTAIN, ACKED = 0, 1, 2
USERS = 50
FILLER = "".join(chr(33 + (7 * n + n // 61) % 90) for n in range(1 << 17))
SMALL_BYTES = 600
LARGE_BYTES = 40_000
LARGE_ONE_IN = 60
ITEM_BYTES = 120       # of a conversation without its text, in a message
RECEIVE_BYTES = 1 << 18
REFUSED_PAUSE = 0.02   # before what was refused for want of room is sent again
WORST_SHOWN = 5


class Failed(Exception):
    """Something was lost, doubled or otherwise wrong."""


class Book:
    """What became of each conversation."""

    def __init__(self, seed, text_bytes=None):
        self.seed = seed
        self.text_bytes = text_bytes  # all of this length; None: mostly small, a few large
        self.large_one_in = LARGE_ONE_IN
        self.large = {}               # number -> True where large_one_in was another at the time
        self.state = bytearray()
        self.sent = self.refused = 0

    def __len__(self):
        return len(self.state)

    def acked(self):
        return self.state.count(ACKED)

    def new(self):
        n = len(self.state)
        self.state.append(NEVER)
        if self.large_one_in != LARGE_ONE_IN:
            self.large[n] = self.large_one_in
        return n

    def _digest(self, n):
        return hashlib.blake2b(b"%d:%d" % (self.seed, n), digest_size=24).digest()

    def identity(self, n):
        return self._digest(n)[:16]

    def user(self, n):
        return f"user {n % USERS}"

    def text(self, n):
        digest = self._digest(n)
        chance = int.from_bytes(digest[16:20], "little")
        start = int.from_bytes(digest[20:22], "little")
        if self.text_bytes is not None:
            length = self.text_bytes
        elif chance % self.large.get(n, LARGE_ONE_IN) == 0:
            length = LARGE_BYTES // 2 + chance // 64 % (LARGE_BYTES // 2)
        else:
            length = 20 + chance % SMALL_BYTES
        return f"{n} {FILLER[start:start + length]}"

    def conversation(self, n):
        return {"id": self.identity(n), "user_id": self.user(n), "platform": "campaign",
                "transcript": self.text(n)}

    def check(self, postgres):
        """Compares with the rows; raises Failed. Returns their number."""
        seen, wrong = bytearray(len(self.state)), []
        rows = 0
        connection = postgres.connect()
        connection.autocommit = False
        with connection.cursor("rows") as cursor:
            cursor.itersize = 10000
            cursor.execute("select user_id, id::text, split_part(left(transcript, 20), ' ', 1),"
                           " md5(transcript), platform from convstore.conversations"
                           " where platform = 'campaign'")
            for row in cursor:
                rows += 1
                self._check_row(row, seen, wrong)
        connection.close()
        missing = [n for n, state in enumerate(self.state) if state == ACKED and not seen[n]]
        dead = postgres.sql("select user_id, id::text, sqlstate, reason from convstore.dead_letters")
        if missing:
            wrong.append(f"{len(missing)} acked and missing: {missing[:WORST_SHOWN]}")
        if dead:
            wrong.append(f"{len(dead)} in dead_letters: {dead[:WORST_SHOWN]}")
        if wrong:
            raise Failed(f"{len(wrong)} findings in {rows} rows: " + "; ".join(wrong[:WORST_SHOWN]))
        return rows

    def _check_row(self, row, seen, wrong):
        user, identity, number, md5, _ = row
        n = int(number) if number.isdigit() else -1
        if not 0 <= n < len(self.state) or self.state[n] == NEVER:
            wrong.append(f"a row that was never sent: {user} {identity} ({number})")
        elif (user, uuid.UUID(identity).bytes) != (self.user(n), self.identity(n)):
            wrong.append(f"{n} is there under another key: {user} {identity}")
        elif md5 != hashlib.md5(self.text(n).encode()).hexdigest():
            wrong.append(f"{n} has another text")
        elif seen[n]:
            wrong.append(f"{n} is there twice")
        else:
            seen[n] = 1


class Connection:
    """One client of a swarm: it has up to `depth` messages in flight."""

    def __init__(self, swarm, path):
        self.swarm = swarm
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(str(path))
        self.socket.setblocking(False)
        self.unpacker = msgpack.Unpacker(raw=False, strict_map_key=False, max_buffer_size=1 << 26)
        self.packer = msgpack.Packer(use_bin_type=True)
        self.out = b""
        self.in_flight = {}  # msgid -> [(number, its state before)]
        self.next_msgid = 0
        self.lost = False    # STORAGE_FAILED came: nothing may be acked any more
        self.broken = False  # the daemon takes no more; what it sent may still be there to read

    def fileno(self):
        return self.socket.fileno()

    def fill(self):
        while not self.broken and not self.out and len(self.in_flight) < self.swarm.depth:
            numbers = self.swarm.take()
            if not numbers:
                return
            self._pack(numbers)
            self.flush()

    def _pack(self, numbers):
        book, msgid = self.swarm.book, self.next_msgid
        self.next_msgid = (msgid + 1) % 2**32
        self.in_flight[msgid] = [(n, book.state[n]) for n in numbers]
        for n in numbers:
            book.state[n] = max(book.state[n], UNCERTAIN)
        book.sent += len(numbers)
        items = [book.conversation(n) for n in numbers]
        if len(items) == 1:
            self.out = self.packer.pack([0, msgid, "store", items])
        else:
            self.out = self.packer.pack([0, msgid, "store_many", [items]])

    def flush(self):
        try:
            while self.out:
                self.out = self.out[self.socket.send(self.out):]
        except BlockingIOError:
            pass
        except OSError:
            self.broken, self.out = True, b""

    def receive(self):
        """Reads what is there. False at the end of the stream."""
        try:
            data = self.socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.unpacker.feed(data)
        for kind, msgid, error, result in self.unpacker:
            if kind != 1 or msgid not in self.in_flight:
                raise Failed(f"an answer to nothing: {[kind, msgid, error, result]!r}")
            self._settle(self.in_flight.pop(msgid), error, result)
        return bool(data)

    def _settle(self, items, error, result):
        self.lost = self.lost or (error is not None and error[1] == "STORAGE_FAILED")
        if self.lost and error is None:
            raise Failed(f"an ack after STORAGE_FAILED: {result!r}")
        if error is not None:
            for number, before in items:
                self.swarm.on_refused(number, before, error)
            return
        errors = dict(result.get("errors") or ())
        ids = result["ids"] if "ids" in result else [result["id"]]
        for index, (number, before) in enumerate(items):
            if index in errors:
                self.swarm.on_refused(number, before, errors[index])
            elif uuid.UUID(ids[index]).bytes != self.swarm.book.identity(number):
                raise Failed(f"{number} is acked as {ids[index]}")
            else:
                self.swarm.on_ack(number)

    def close(self):
        """The conversations whose fate is uncertain now."""
        self.socket.close()
        return [number for items in self.in_flight.values() for number, _ in items]


class Swarm:
    """The clients. run() serves them until a time is over or the daemon is gone."""

    def __init__(self, book, random, clients=20, depth=16):
        self.book, self.random = book, random
        self.clients, self.depth = clients, depth
        self.many_one_in, self.many_most, self.many_bytes = 12, 25, 55_000
        self.limit = None        # no more new conversations than that in the book
        self.budget = None       # of one run()
        self.again_one_in = 100  # of what was acked already, as a client does that never heard
        self.resend = True
        self.connections = []
        self.waiting = []        # to be sent again
        self.refused_until = 0.0
        self.errors = {}         # name -> how often
        self.acks = 0
        self.last_ack = 0.0

    def connect(self, path):
        """All clients. False when the daemon is not there (any more)."""
        try:
            while len(self.connections) < self.clients:
                self.connections.append(Connection(self, path))
        except OSError:
            self.disconnect()
            return False
        return True

    def disconnect(self):
        for connection in list(self.connections):
            self._drop(connection)

    def _drop(self, connection):
        self.connections.remove(connection)
        uncertain = connection.close()
        if self.resend:
            self.waiting.extend(uncertain)

    def _next(self):
        if self.waiting:
            return self.waiting.pop()
        if self.limit is not None and len(self.book) >= self.limit:
            return None
        if len(self.book) > 100 and self.random.randrange(self.again_one_in) == 0:
            n = self.random.randrange(len(self.book))
            if self.book.state[n] == ACKED:
                return n
        return self.book.new()

    def take(self):
        """The numbers of the next message; none when there is nothing to send now."""
        if self.refused_until > time.monotonic():
            return []
        count = 1
        if self.many_one_in and self.random.randrange(self.many_one_in) == 0:
            count = self.random.randint(2, self.many_most)
        if self.budget is not None:
            count = min(count, self.budget)
        numbers = []
        while len(numbers) < count:
            n = self._next()
            if n is None:
                break
            if n not in numbers:
                numbers.append(n)
        # Of several, what makes the message too large goes in another one.
        size = sum(len(self.book.text(n)) + ITEM_BYTES for n in numbers) if len(numbers) > 1 else 0
        while len(numbers) > 1 and size > self.many_bytes:
            size -= len(self.book.text(numbers[-1])) + ITEM_BYTES
            self.waiting.append(numbers.pop())
        if self.budget is not None:
            self.budget -= len(numbers)
        return numbers

    def on_ack(self, number):
        self.book.state[number] = ACKED
        self.acks += 1
        self.last_ack = time.monotonic()

    def on_refused(self, number, before, error):
        name = error[1]
        self.errors[name] = self.errors.get(name, 0) + 1
        if name == "STORAGE_FAILED":
            self.waiting.append(number)
        elif name == "QUEUE_FULL":
            if not isinstance(error[3], int) or error[3] < 1:
                raise Failed(f"QUEUE_FULL without retry_after_ms: {error!r}")
            # Sent again meanwhile by another client it may be acked: that stands.
            if self.book.state[number] != ACKED:
                self.book.state[number] = before
            self.book.refused += 1
            self.refused_until = time.monotonic() + REFUSED_PAUSE
            if self.resend:
                self.waiting.append(number)
        else:
            raise Failed(f"{number} is refused: {error!r}")

    def idle(self):
        """Nothing is in flight and nothing left to send."""
        return not self.waiting and not any(c.in_flight for c in self.connections) and (
            self.budget == 0 or (self.limit is not None and len(self.book) >= self.limit))

    def run(self, seconds, until=None):
        """Until the time is over, all connections are gone, or until() is true."""
        deadline = time.monotonic() + seconds
        while self.connections and time.monotonic() < deadline and not (until and until()):
            for connection in self.connections:
                connection.fill()
            poll = select.poll()
            for connection in self.connections:
                poll.register(connection, select.POLLIN | (select.POLLOUT if connection.out else 0))
            ready = dict(poll.poll(10))
            for connection in list(self.connections):
                events = ready.get(connection.fileno(), 0)
                if events & select.POLLOUT:
                    connection.flush()
                if events & ~select.POLLOUT and not connection.receive():
                    self._drop(connection)


class Place:
    """A directory, a PostgreSQL (with its default durability where the campaign may kill it), and
    daemons; all of it ends with it."""

    def __init__(self, durable=False):
        parent = os.environ.get("TEST_DIR") or tempfile.gettempdir()
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="convstore-", dir=parent))
        self.directory.chmod(0o711)
        self.daemons = []
        self.postgres = Postgres(self.directory / "pg", durable=durable)

    def __enter__(self):
        self.postgres.start()
        return self

    def __exit__(self, *unused):
        for daemon in self.daemons:
            if daemon.process is not None:
                daemon.kill()
        self.postgres.drop()
        if not os.environ.get("TEST_KEEP"):
            shutil.rmtree(self.directory, ignore_errors=True)

    def daemon(self, name="d", **settings):
        chosen = {"database.conninfo": self.postgres.conninfo}
        chosen.update({key.replace("__", "."): value for key, value in settings.items()})
        daemon = Daemon(self.directory / name, chosen)
        self.daemons.append(daemon)
        return daemon


def flush(daemon, seconds=120):
    """Waits until all that is acked is a row."""
    with daemon.control(timeout=seconds + 5) as client:
        result = client.request("flush", {"timeout_ms": int(scaled(seconds) * 1000)})
    if result["remaining"] > 0:
        raise Failed(f"flush left {result['remaining']}")


def check_alive(daemon):
    """Fails when the daemon ended by itself, or a sanitizer has something to say."""
    report = daemon.sanitizer_report()
    if report:
        raise Failed(f"a sanitizer's report:\n{report}")
    if not daemon.running():
        raise Failed(f"the daemon ended by itself with {daemon.process.returncode}; its log:\n"
                     f"{daemon.log_tail()}")


def main(name, seed, run):
    """Runs a campaign and exits: 0, or 1 with what is wrong and how to see it again."""
    started = time.monotonic()
    try:
        print(f"{name}: {run()}; {time.monotonic() - started:.0f} s, seed {seed}")
    except (Failed, AssertionError, RuntimeError, OSError) as error:
        print(f"{name}: FAILED with seed {seed}: {error}", flush=True)
        sys.exit(1)
