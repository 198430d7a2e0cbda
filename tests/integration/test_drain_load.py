"""SIGTERM under load while PostgreSQL is up, slow, cut off or down: the daemon ends with 0, tells
systemd the truth, and the next start makes rows of all that was left."""
import re
import signal
import time
import unittest

from harness import Scenario, conversation, eventually, scaled
from notified import Notified
from test_drain import Importer

WORKERS = "from pg_stat_activity where application_name = 'convstored' and pid <> pg_backend_pid()"
SLOW_ROWS = ("create function convstore.slow() returns trigger language plpgsql as $$ begin"
             " perform pg_sleep(0.01); return new; end $$;"
             " create trigger slow before insert on convstore.conversations"
             " for each row execute function convstore.slow()")


class DrainUnderLoad(Scenario):
    def setUp(self):
        super().setUp()
        self.pg = self.shared_postgres()
        self.notified = Notified(self.directory / "notify", self)

    def start(self, **settings):
        """A daemon that tells this test what it would tell systemd, and four pipelining clients."""
        d = self.daemon(self.pg, env={"NOTIFY_SOCKET": self.notified.path},
                        batch__batch_size=50, **settings)
        with d.client() as client:
            client.request("store", conversation("first"), {"wait": "stored"})
        return d

    def importers(self, d):
        importers = [Importer(d, f"importer {n}") for n in range(4)]
        eventually(lambda: sum(len(i.acked) for i in importers) > 500, 20, "an import under way")
        return importers

    def check_next_start(self, d, importers):
        """Starts the daemon again: all that was acked becomes a row, once."""
        for importer in importers:
            importer.join(scaled(20))
            self.assertIsNone(importer.trouble)
            self.assertLessEqual({error[1] for error in importer.errors}, {"SHUTTING_DOWN"})
            importer.client.close()
        left = int(re.findall(r"server\.end .*left_in_journal=(\d+)", d.log())[-1])
        d.start()
        d.flush()
        acked = {key: text for importer in importers for key, text in importer.acked.items()}
        rows = dict(self.pg.sql("select id::text, transcript from convstore.conversations"
                                " where user_id <> 'first'"))
        self.assertEqual([key for key, text in acked.items() if rows.get(key) != text], [])
        # What was in flight unanswered when the daemon ended may be there too, each once.
        self.assertLessEqual(len(rows), len(acked) + sum(len(i.sent) for i in importers))
        self.said = f"{len(acked)} acked, {left} of them left for the next start: 0 missing, 0 twice"
        return left

    def test_systemd_hears_of_progress_only(self):
        """Goal of this test: while the drain stands still STATUS= is sent and no EXTEND_TIMEOUT_USEC=;
        as soon as rows go, both; then the drain ends with all of it stored."""
        d = self.start()
        self.pg.sql(SLOW_ROWS)
        holder = self.pg.connect()
        self.addCleanup(holder.close)
        holder.autocommit = False
        holder.cursor().execute("lock table convstore.conversations in access exclusive mode")
        with d.client() as client:
            client.request("store_many", [conversation(transcript=f"t{n}") for n in range(600)])
        eventually(lambda: self.notified.take_until("READY=1"), 10, "READY=1")
        d.signal(signal.SIGTERM)
        told = []

        def said_twice():
            told.extend(self.notified.take())
            return sum("STATUS=Draining: 600 " in m for m in told) >= 2
        eventually(said_twice, 20, "the drain's status, told twice")
        eventually(lambda: "progress=no" in d.log(), 20, "a line about it")
        told += self.notified.take()
        self.assertIn("STOPPING=1", "".join(told))
        self.assertNotIn("EXTEND_TIMEOUT_USEC", "".join(told))
        holder.rollback()
        self.assertEqual(d.wait_exit(), 0)
        told = [m for m in self.notified.take() if "EXTEND_TIMEOUT_USEC=" in m]
        self.assertGreater(len(told), 0)
        left = [int(re.search(r"STATUS=Draining: (\d+) ", m)[1]) for m in told]
        self.assertEqual(left, sorted(left, reverse=True))
        self.assertRegex(d.log(), r"server\.draining left=\d+ progress=yes")
        self.assertRegex(d.log(), r"server\.draining left=600 progress=no")
        self.assertEqual(self.pg.count(), 601)

    def test_the_database_is_down(self):
        """Goal of this test: SIGTERM while PostgreSQL is down ends the daemon in a moment; the next
        start, with PostgreSQL up, makes rows of everything."""
        d = self.start()
        importers = self.importers(d)
        self.pg.stop()
        try:
            eventually(lambda: d.stats()["database"]["state"] == "down", 10, "stats says down")
            started = time.monotonic()
            d.signal(signal.SIGTERM)
            self.assertEqual(d.wait_exit(), 0)
            self.assertLess(time.monotonic() - started, scaled(3))
        finally:
            self.pg.start()
        self.assertRegex(d.log(), r'server\.end reason="database down"')
        self.assertGreater(self.check_next_start(d, importers), 0)

    def test_the_database_goes_down_in_mid_drain(self):
        """Goal of this test: the drain ends early when the database goes away in its middle."""
        d = self.start()
        self.pg.sql(SLOW_ROWS)
        importers = self.importers(d)
        d.signal(signal.SIGTERM)
        eventually(lambda: "progress=yes" in d.log(), 20, "a drain that moves")
        self.pg.crash()
        try:
            self.assertEqual(d.wait_exit(10), 0)
        finally:
            self.pg.start()
        self.pg.sql("drop trigger slow on convstore.conversations")
        self.assertRegex(d.log(), r'server\.end reason="database down"')
        self.assertGreater(self.check_next_start(d, importers), 0)

    def test_one_cut_connection_is_not_the_end(self):
        """Goal of this test: connections terminated in mid-drain are made anew, and the drain goes on
        to its end."""
        d = self.start()
        self.pg.sql(SLOW_ROWS)
        importers = self.importers(d)
        d.signal(signal.SIGTERM)
        eventually(lambda: "progress=yes" in d.log(), 20, "a drain that moves")
        self.assertGreater(len(self.pg.sql(f"select pg_terminate_backend(pid) {WORKERS}")), 0)
        self.pg.sql("drop trigger slow on convstore.conversations")
        self.assertEqual(d.wait_exit(), 0)
        self.assertRegex(d.log(), r'server\.end reason="drained" left_in_journal=0')
        self.assertEqual(self.check_next_start(d, importers), 0)

    def test_the_time_is_up_under_load(self):
        """Goal of this test: at batch.drain_timeout_ms a drain that still moves ends too; and a second
        SIGTERM ends the next one at once."""
        d = self.start(batch__drain_timeout_ms=1000)
        self.pg.sql(SLOW_ROWS)
        importers = self.importers(d)
        started = time.monotonic()
        d.signal(signal.SIGTERM)
        self.assertEqual(d.wait_exit(), 0)
        self.assertTrue(0.9 <= time.monotonic() - started <= scaled(4))
        d.settings["batch.drain_timeout_ms"] = 60000
        d.start()
        d.signal(signal.SIGTERM)
        eventually(lambda: d.log().count("server.draining signal") == 2, 10, "the second drain")
        d.signal(signal.SIGTERM)
        self.assertEqual(d.wait_exit(5), 0)
        self.assertRegex(d.log(), r'server\.end reason="second signal"')
        self.pg.sql("drop trigger slow on convstore.conversations")
        self.assertGreater(self.check_next_start(d, importers), 0)


if __name__ == "__main__":
    unittest.main()
