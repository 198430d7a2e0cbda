"""A database behind a name for which no name server answers: what hangs is one worker at most."""
import os
import random
import time
import unittest

from harness import RpcError, Scenario, conversation, eventually, scaled
from load import Load, check_loads
from name_server import NameServer

WAITS = True
STORED = {"wait": "stored"}
SMALL_BATCHES = {"batch__batch_timeout_ms": 10, "batch__flush_interval_ms": 5, "batch__batch_size": 20}
WORKERS = "from pg_stat_activity where application_name = 'convstored'"


@unittest.skipIf(os.getuid() != 0, "port 53 and a mount of its own take root")
class DatabaseDns(Scenario):
    def setUp(self):
        super().setUp()
        self.names = NameServer(self)
        # Its own address, since the port is the same for all servers that run side by side.
        self.address = ".".join(["127", *(str(random.randint(1, 254)) for _ in range(3))])
        self.pg = self.postgres(durable=True, options=f"-c listen_addresses={self.address}")

    def named_daemon(self, **settings):
        return self.daemon(database__conninfo="host=database.example dbname=postgres user=postgres",
                           wrapper=self.names.wrapper, search__timeout_ms=500, **settings)

    def store_200(self, d, user):
        """One after the other, none of them in a time in which a look-up ends."""
        slowest = 0
        with d.client() as client:
            for n in range(200):
                sent = time.monotonic()
                client.request("store", conversation(user, f"{user} {n}"))
                slowest = max(slowest, time.monotonic() - sent)
        self.assertLess(slowest, scaled(5))
        return slowest

    def check_reads(self, d):
        """What needs no database is answered, what needs it says in time that there is none."""
        with d.client() as client:
            started = time.monotonic()
            with self.assertRaises(RpcError) as raised:
                client.request("list", {"user_id": "ann"})
            self.assertEqual(raised.exception.name, "UNAVAILABLE")
            self.assertLess(time.monotonic() - started, scaled(3))

    def state_is(self, d, state):
        eventually(lambda: d.stats()["database"]["state"] == state, 40, f"stats says {state}")

    def check_ends_promptly(self, d):
        started = time.monotonic()
        self.assertEqual(d.stop(), 0)
        self.assertLess(time.monotonic() - started, scaled(5))
        self.assertIn('reason="database down"', d.log_tail(3))

    def test_a_name_that_hangs_from_the_start(self):
        """Goal of this test: while the database's name hangs stores are acked as ever, reads say in
        time that there is no database, stats say down, SIGTERM ends the daemon in a moment; once the
        name resolves all that was acked is a row."""
        d = self.named_daemon()
        slowest = [self.store_200(d, "ann")]
        eventually(lambda: self.names.asked > 0, 10, "a question for the name")
        self.check_reads(d)
        self.state_is(d, "down")
        self.assertIn("database.example", d.stats()["database"]["last_error"])
        slowest.append(self.store_200(d, "bob"))
        self.check_ends_promptly(d)
        d.start()
        slowest.append(self.store_200(d, "eve"))
        self.assertEqual((d.stats()["queued"] + d.stats()["processing"], self.pg.count()), (600, 0))
        self.names.address = self.address
        eventually(lambda: self.pg.count() == 600, 40, "the rows")
        self.state_is(d, "up")
        self.said = f"slowest store {max(slowest) * 1000:.1f} ms"

    def test_a_name_that_hangs_later(self):
        """Goal of this test: the name hangs when one of the workers has a connection: it goes on
        writing while another looks the name up. When the connection breaks, too, all waits, and is a
        row when the name resolves again."""
        self.names.address = self.address
        d = self.named_daemon(**SMALL_BATCHES)
        self.state_is(d, "up")
        asked, self.names.address = self.names.asked, None
        loads = [Load(d, f"user {n}", self, pause=0.02) for n in range(3)]
        eventually(lambda: self.names.asked > asked, 10, "a worker that looks the name up")
        started, before = time.monotonic(), self.pg.count()
        eventually(lambda: self.pg.count() >= before + 300, 30, "rows by the one that is connected")
        seconds = time.monotonic() - started
        self.assertLess(seconds, scaled(8), "a look-up ends after 10 s")
        self.pg.sql(f"select pg_terminate_backend(pid) {WORKERS}")
        self.state_is(d, "down")
        acked = sum(len(load.acked) for load in loads)
        eventually(lambda: sum(len(load.acked) for load in loads) > acked + 500, 30, "acks go on")
        self.names.address = self.address
        self.state_is(d, "up")
        acked = check_loads(self, self.pg, [d], loads)
        self.said = f"300 rows in {seconds:.1f} s beside a look-up; {len(acked)} acked: 0 missing, 0 twice"


if __name__ == "__main__":
    unittest.main()
