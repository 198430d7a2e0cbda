"""How many connections to PostgreSQL there are: never more than allowed, and one try at a time while it
does not answer."""
import pathlib
import re
import socket
import threading
import time
import unittest
import uuid

from harness import Scenario, conversation, eventually
from load import Load, check_loads

STORED = {"wait": "stored"}
# Small batches, so that several are under way.
SMALL_BATCHES = {"batch__batch_timeout_ms": 10, "batch__flush_interval_ms": 5, "batch__batch_size": 10}
OWN = "from pg_stat_activity where usename = 'convstore'"


class Repeated(threading.Thread):
    """Does the same thing again and again until the test ends."""

    def __init__(self, test, act, pause=0):
        super().__init__(daemon=True)
        self.act, self.pause = act, pause
        self.count, self.trouble = 0, None
        self.ending = threading.Event()
        test.addCleanup(self.end)
        self.start()

    def run(self):
        try:
            while not self.ending.is_set():
                self.act()
                self.count += 1
                time.sleep(self.pause)
        except Exception as error:  # the test must hear of it
            self.trouble = error

    def end(self):
        self.ending.set()
        self.join()


class ConnectionLimit(Scenario):
    def check_limit(self, limit):
        """The server itself refuses the role one more connection than the daemon may have, and writes
        that into its log: no moment is missed."""
        pg, server = self.shared_postgres(), self.ollama()
        pg.sql("drop role if exists convstore")
        pg.sql(f"create role convstore login connection limit {limit}")
        d = self.daemon(start=False, database__max_connections=limit, embedding__provider="ollama",
                        database__conninfo=pg.conninfo.replace("user=postgres", "user=convstore"),
                        embedding__url=server.url, embedding__deadline_ms=5, embedding__max_in_flight=2,
                        batch__max_concurrent_batches=8, **SMALL_BATCHES)
        for statement in ("schema",), ("schema", "--grants"):
            pg.sql(d.ctl(*statement).stdout)
        self.addCleanup(pg.sql, "drop schema convstore cascade; drop owned by convstore; drop role convstore")
        refused = pg.log().count("too many connections for role")
        pg.sql("alter table convstore.conversations add check (platform <> 'poison')")
        server.delay = 0.05  # later than the deadline: the backfill writes the vectors
        d.start()
        with d.client() as client:
            key = client.request("store", conversation("ann", "some words"), STORED)["id"]

        def poison():
            with d.client() as client:
                client.request("store", conversation("eve", str(uuid.uuid4()), platform="poison"))

        def read():
            with d.client() as client:
                client.request("get", "ann", key)
                client.request("list", {"user_id": "ann"})
                client.request("search", {"user_id": "ann", "query": "words", "mode": "text"})

        def operate():
            with d.control() as control:
                control.request("stats")
                control.request("dead_letters", {"action": "list"})
                control.request("dead_letters", {"action": "retry"})
                control.request("embeddings")

        peak = 0
        loads = [Load(d, f"user {n}", self) for n in range(3)]
        others = [Repeated(self, poison, pause=0.05), *(Repeated(self, read) for _ in range(3)),
                  *(Repeated(self, operate) for _ in range(2))]
        began, until = d.stats()["completed"], time.monotonic() + 4
        while time.monotonic() < until or peak < limit:
            self.assertLess(time.monotonic(), until + 30, f"only {peak} connections of {limit}")
            peak = max(peak, pg.value(f"select count(*) {OWN}"))
        for one in others:
            one.end()
            self.assertIsNone(one.trouble)
            self.assertGreater(one.count, 2)
        for load in loads:
            load.end()
            self.assertIsNone(load.trouble)
        self.assertGreater(d.stats()["completed"], began + 500)
        self.assertGreater(pg.value("select count(*) from convstore.embeddings"), 20)
        d.flush()
        self.assertEqual(peak, limit)
        self.assertEqual(pg.log().count("too many connections for role"), refused)
        self.assertEqual(d.stop(), 0)

    def test_four_connections(self):
        """Goal of this test: database.max_connections = 4 is kept to by stores, dead letters, reads,
        operators' questions and the backfill together, and all four are used."""
        self.check_limit(4)

    def test_six_connections(self):
        """Goal of this test: the same with six, where two write and two read."""
        self.check_limit(6)


class SlowToRefuse:
    """In PostgreSQL's place: takes a connection, says nothing for a while and hangs up. Knows how many
    there were, and how many at the same time at most."""

    HOLD_SECONDS = 0.3

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.now = self.most = self.count = 0
        self.lock = threading.Lock()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen(64)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                self.count += 1
                self.now += 1
                self.most = max(self.most, self.now)
            threading.Thread(target=self.hold, args=(client,), daemon=True).start()

    def hold(self, client):
        time.sleep(self.HOLD_SECONDS)
        with self.lock:
            self.now -= 1
        client.close()

    def close(self):
        # shutdown() wakes accept() up, close() alone would not.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.path.unlink(missing_ok=True)


class Reconnect(Scenario):
    def test_one_try_at_a_time(self):
        """Goal of this test: four writers lose their connections; until the database answers, one of
        them at a time tries to connect, and not at once again."""
        pg = self.postgres(durable=True)
        # Nobody but the writers has a connection: no vectors, no reads, no stats.
        d = self.daemon(pg, database__max_connections=8, embedding__provider="none", **SMALL_BATCHES)
        loads = [Load(d, f"user {n}", self) for n in range(4)]
        writers = "select count(*) from pg_stat_activity where application_name = 'convstored'"
        eventually(lambda: pg.value(writers) == 4, 20, "four writers at work")
        path = re.search(r"host=(\S+)", pg.conninfo)[1] + "/.s.PGSQL.5432"
        pg.stop()
        eventually(lambda: "database.down" in d.log(), 10, "the daemon knows")
        # What the writers had begun when they learnt it has ended.
        time.sleep(1)
        server = SlowToRefuse(path)
        self.addCleanup(server.path.unlink, missing_ok=True)
        eventually(lambda: server.count >= 5, 60, "five tries")
        server.close()
        self.assertEqual(server.most, 1)
        pg.start()
        acked = check_loads(self, pg, [d], loads)
        self.said = f"{server.count} tries, one at a time; {len(acked)} acked: 0 missing, 0 twice"

    def test_one_try_at_a_time_from_the_start(self):
        """Goal of this test: with more to write than one batch, and a database that was never there, the
        daemon makes one try after the other, too."""
        d = self.daemon(start=False, database__conninfo=f"host={self.directory} dbname=postgres user=postgres",
                        database__max_connections=8, embedding__provider="none", **SMALL_BATCHES)
        server = SlowToRefuse(self.directory / ".s.PGSQL.5432")
        self.addCleanup(server.close)
        d.start()
        with d.client() as client:
            client.request("store_many", [conversation(transcript=f"t{n}") for n in range(100)])
        eventually(lambda: server.count >= 4, 60, "four tries")
        self.assertEqual(server.most, 1)


if __name__ == "__main__":
    unittest.main()
