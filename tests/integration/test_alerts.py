"""What operators see: timings that services record, alerts by their real causes, logs."""
import json
import math
import os
import random
import re
import subprocess
import time
import unittest

import test_disk
from harness import BUILD, Postgres, RpcError, Scenario, conversation, eventually, scaled, stays, undisturbed


FAST = {"alerts__raise_after_ms": 200, "alerts__clear_after_ms": 200, "alerts__min_samples": 1,
        "batch__flush_interval_ms": 1, "batch__batch_timeout_ms": 1}
STORED = {"wait": "stored", "timeout_ms": 60000}
# As small as a journal can be.
SMALL = {"journal__segment_bytes": "128KiB", "journal__max_bytes": "2MiB", "listen__max_message_bytes": "60KiB"}


class Recorded(Scenario):
    def test_a_services_own_timings(self):
        """Goal of this test: what services record, as requests or notifications, is in stats with its
        percentiles over each window; what is wrong is refused by name and counts nowhere."""
        d = self.daemon()
        with d.client() as client:
            own = len(client.request("stats")["operations"])
            for n in range(1, 101):
                self.assertIsNone(client.request("record", "llm.answer", n, n % 10 != 0))
            client.notify("record", "llm.answer", 0.25, True)
            found = client.request("stats")["operations"]["llm.answer"]
            for figures in (found, found["last_minute"], found["last_5_minutes"]):
                self.assertEqual((figures["count"], figures["errors"], figures["max_ms"]), (101, 10, 100))
                for name, exact in (("p50_ms", 50), ("p95_ms", 95), ("p99_ms", 99)):
                    self.assertAlmostEqual(figures[name], exact, delta=exact * 0.01 + 1)
            wrong = [([7, 1, True], "operation: must be a string"), (["", 1, True], "operation: must be 1 to 64"),
                     (["a b", 1, True], "operation: must be 1 to 64"), (["queue", 1, True], "daemon's own"),
                     (["x", "1", True], "duration_ms"), (["x", -1, True], "duration_ms"),
                     (["x", math.nan, True], "duration_ms"), (["x", math.inf, True], "duration_ms"),
                     (["x", 1, 1], "success: must be true or false"), (["x", 1], "takes 3 to 3 parameters")]
            for params, text in wrong:
                with self.subTest(params), self.assertRaises(RpcError) as raised:
                    client.request("record", *params)
                self.assertEqual(raised.exception.name, "INVALID_ARGUMENT")
                self.assertIn(text, raised.exception.text)
                client.notify("record", *params)
            for n in range(63):
                client.request("record", f"name-{n}", 1, True)
            with self.assertRaises(RpcError) as raised:
                client.request("record", "name-64", 1, True)
            self.assertIn("64 names", raised.exception.text)
            self.assertEqual(len(client.request("stats")["operations"]), own + 64)


class Agreement(Scenario):
    def test_the_load_generator_sees_the_same(self):
        """Goal of this test: count, mean and percentiles of end_to_end agree with what the load
        generator has measured itself from sending to the answer, within 5 %."""
        undisturbed(self.compare)

    def compare(self):
        d = self.daemon(self.shared_postgres(), batch__batch_timeout_ms=200)
        done = subprocess.run([str(BUILD / "convstore-bench"), "open", "--socket", str(d.socket), "--rate", "300",
                               "--connections", "20", "--seconds", "4", "--warmup", "0", "--wait", "stored",
                               "--json", "--quiet"], capture_output=True, text=True, timeout=scaled(60), check=True)
        report = json.loads(done.stdout)
        seen = (report["results"][0] if "results" in report else report)["latency_us"]
        told = d.stats()["operations"]["end_to_end"]
        d.stop()
        self.assertEqual(told["count"], seen["count"])
        for name in ("mean", "p50", "p95"):
            self.assertAlmostEqual(told[f"{name}_ms"], seen[name] / 1000, delta=0.05 * seen[name] / 1000)
        self.said = (f"p50 {told['p50_ms']:.1f} ms (load generator {seen['p50'] / 1000:.1f}), "
                     f"p95 {told['p95_ms']:.1f} ({seen['p95'] / 1000:.1f})")


class Alerts(Scenario):
    """Each alert is raised and cleared by what really causes it."""

    def find(self, name):
        return next((a for a in self.d.stats()["alerts"] if a["name"] == name), None)

    def raised(self, name, severity="warning", seconds=15, meanwhile=lambda: None):
        """Waits for the alert, which must say what an operator needs, in stats and in the log."""
        def look():
            meanwhile()
            alert = self.find(name)
            return alert and alert["severity"] == severity and alert
        alert = eventually(look, seconds, f"alert {name}")
        self.assertEqual(alert.keys(), {"name", "severity", "text", "figure", "value", "threshold",
                                        "since_ms", "action"})
        self.assertTrue(0 <= time.time() * 1000 - alert["since_ms"] < scaled(60000), alert)
        self.assertGreater(len(alert["action"]), 10)
        figure = self.d.stats()
        for key in alert["figure"].split("."):
            figure = figure[key]
        self.assertIn(self.d.stats()["health"], ("critical", severity))
        level = {"warning": "warning", "critical": "error"}[severity]
        self.assertRegex(self.d.log(), rf'(?m) {level} alert\.raised name={name} severity={severity} text=".+" action=".+"$')
        return alert

    def cleared(self, name, seconds=20, meanwhile=lambda: None):
        def look():
            meanwhile()
            return self.find(name) is None
        eventually(look, seconds, f"the end of alert {name}")
        self.assertRegex(self.d.log(), rf"(?m) info alert\.cleared name={name} ")

    def eased(self, name, since):
        """Waits until the alert is a warning only, the same one as before."""
        eventually(lambda: self.find(name)["severity"] == "warning", 15, f"alert {name} easing")
        alert = self.find(name)
        self.assertEqual(alert["since_ms"], since)
        self.assertRegex(self.d.log(), rf'(?m) warning alert\.eased name={name} severity=warning text=".+"$')

    def store(self, count=1, options=None, **more):
        with self.d.client(timeout=60) as client:
            for _ in range(count):
                text = "".join(random.choices("abcdefghij ", k=40))
                client.request("store", conversation(**{"transcript": text, **more}), *([options] if options else []))

    def store_until_full(self):
        with self.d.client(timeout=60) as client, self.assertRaises(RpcError) as raised:
            while True:
                client.request("store", conversation(transcript="x" * 30000))
        self.assertEqual(raised.exception.name, "QUEUE_FULL")

    def test_the_database_is_stopped(self):
        """Goal of this test: PostgreSQL stops under load: down, the queue long and old, the journal
        large, then full; with PostgreSQL back all of it is over."""
        pg = self.postgres()
        self.d = self.daemon(pg, **FAST, **SMALL, alerts__queue_depth_warning=10, alerts__queue_depth_critical=30,
                             alerts__queue_age_warning_ms=500, alerts__queue_age_critical_ms=0,
                             embedding__provider="none")
        self.store(options=STORED)
        pg.stop()
        self.store()
        down = self.raised("database_down", "critical")
        self.assertEqual(down["text"], self.d.stats()["database"]["last_error"])
        self.store(20)  # not before: the batch that finds the database down takes its rows out of the queue
        depth = self.raised("queue_depth")
        self.assertRegex(depth["text"], r"^conversations that wait: \d+, threshold 10$")
        self.assertEqual(depth["threshold"], 10)
        age = self.raised("queue_age")
        self.assertGreaterEqual(age["value"], 500)
        self.store_until_full()
        self.raised("journal_full", "critical")
        self.raised("journal_size", "critical")
        critical = self.raised("queue_depth", "critical")
        self.assertEqual((critical["threshold"], critical["since_ms"]), (30, depth["since_ms"]))
        pg.start()
        for name in ("database_down", "queue_depth", "queue_age", "journal_full", "journal_size"):
            self.cleared(name, 30)

    def test_the_database_is_down_at_the_start(self):
        """Goal of this test: a database that does not answer is told before anything is stored."""
        pg = Postgres(self.directory / "pg")
        self.addCleanup(pg.drop)
        self.d = self.daemon(pg, **FAST)
        self.raised("database_down", "critical")
        pg.start()
        self.store(options=STORED)
        self.cleared("database_down")

    def test_the_database_refuses(self):
        """Goal of this test: a table that is missing stops all writing, and says which; a server with
        fsync=off is told until a connection finds it on."""
        pg = self.postgres(durable=True)
        pg.sql("alter system set fsync = off")
        pg.sql("select pg_reload_conf()")
        self.d = self.daemon(pg, **FAST)
        self.store(options=STORED)
        self.raised("database_fsync_off")
        pg.sql("alter table convstore.conversations rename to gone")
        self.store()
        self.assertIn("conversations", self.raised("database_stopped", "critical")["text"])
        pg.sql("alter table convstore.gone rename to conversations")
        self.cleared("database_stopped")
        pg.sql("alter system reset fsync")
        pg.sql("select pg_reload_conf()")
        pg.sql("select pg_terminate_backend(pid) from pg_stat_activity "
               "where pid <> pg_backend_pid() and backend_type = 'client backend'")
        self.cleared("database_fsync_off", meanwhile=lambda: self.store(options=STORED))

    def test_a_slow_database(self):
        """Goal of this test: a batch that waits for a lock makes database_slow; fast ones end it."""
        pg = self.shared_postgres()
        self.d = self.daemon(pg, **FAST, alerts__database_p99_warning_ms=500, alerts__database_p99_critical_ms=0)
        self.store(options=STORED)
        with pg.connect() as other:
            other.autocommit = False
            other.cursor().execute("lock table convstore.conversations in access exclusive mode")
            self.store()
            time.sleep(1)
            other.rollback()
        alert = self.raised("database_slow")
        self.assertRegex(alert["text"], r"^p99 of writing a batch in the last minute: \d+ ms, threshold 500 ms$")
        self.assertGreaterEqual(alert["value"], 500)
        self.cleared("database_slow", 40, lambda: self.store(20, STORED))

    def test_rows_that_are_refused(self):
        """Goal of this test: rows that the database refuses make failure_rate and dead_letters; the one
        ends with rows that are taken, the other when somebody has dropped them."""
        pg = self.shared_postgres()
        self.d = self.daemon(pg, **FAST, alerts__failure_rate_warning_percent=10, alerts__failure_rate_critical_percent=80,
                             alerts__dead_letters_warning=3)
        self.store(10, STORED)
        pg.sql("alter table convstore.conversations add constraint no_bad check (platform <> 'bad')")
        self.store(5, platform="bad")
        self.raised("failure_rate")
        self.raised("dead_letters")
        self.cleared("failure_rate", meanwhile=lambda: self.store(10, STORED))
        self.assertIsNotNone(self.find("dead_letters"))
        with self.d.control() as control:
            self.assertEqual(control.request("dead_letters", {"action": "drop"})["dropped"], 5)
        self.cleared("dead_letters")

    def test_the_embedder(self):
        """Goal of this test: an embedder that is slow, then down: embedding_slow, embedder_down and a
        backlog of vectors; all of it ends with the embedder well."""
        pg, ollama = self.shared_postgres(), self.ollama()
        self.d = self.daemon(pg, **FAST, embedding__provider="ollama", embedding__url=ollama.url,
                             embedding__deadline_ms=100, alerts__embedding_backlog_warning=10,
                             alerts__embedding_p99_warning_ms=600, alerts__embedding_p99_critical_ms=0)
        ollama.delay = 1.0
        self.store(options=STORED)
        self.assertGreaterEqual(self.raised("embedding_slow")["value"], 600)
        ollama.delay = 0
        self.cleared("embedding_slow", 40, lambda: self.store(20, STORED))
        ollama.mode = "failed"  # to connections that are open already
        ollama.close()
        self.store(20, STORED)
        self.raised("embedder_down")
        self.raised("embedding_backlog")
        ollama.mode = "ok"
        ollama.open()
        self.cleared("embedder_down", 30)
        self.cleared("embedding_backlog", 30)

    def test_an_embedder_that_spoils_batches(self):
        """Goal of this test: an embedder whose vectors differ in batches is told until its self-test,
        which a reload makes again, passes, or until texts go to it one by one; while it is away the
        finding stands."""
        ollama = self.ollama()
        ollama.degrade = True
        config = self.directory / "convstored.conf"
        config.touch()
        self.d = self.daemon(self.shared_postgres(), arguments=("--config", str(config)), **FAST,
                             embedding__provider="ollama", embedding__url=ollama.url, embedding__self_test="true")

        def reload(inputs=100):
            config.write_text(f"[embedding]\nrequest_inputs = {inputs}\n")
            with self.d.control() as control:
                control.request("reload")
        self.assertIn("batches", self.raised("embedder_batches_differ")["text"])
        reload(1)
        self.cleared("embedder_batches_differ", 3)
        reload()
        self.raised("embedder_batches_differ")
        ollama.mode = "failed"
        before = ollama.requests
        reload()
        eventually(lambda: ollama.requests > before and self.find("embedder_down"), 15, "the failed self-test")
        self.assertIsNotNone(self.find("embedder_batches_differ"))
        ollama.mode, ollama.degrade = "ok", False
        self.cleared("embedder_batches_differ", 30)
        self.assertEqual(self.d.stats()["embedding"]["servers"][0]["self_test"]["state"], "passed")

    def test_the_cache(self):
        """Goal of this test: where cache_hit_rate is set, texts that are all new raise it, and texts
        that come again clear it."""
        self.d = self.daemon(self.shared_postgres(), **FAST, alerts__cache_hit_rate_warning_percent=50,
                             alerts__cache_hit_rate_critical_percent=10)
        self.store(20, STORED)
        self.raised("cache_hit_rate", "critical")
        self.cleared("cache_hit_rate", meanwhile=lambda: self.store(20, STORED, transcript="the same"))

    def test_a_slow_disk(self):
        """Goal of this test: one sync of a second makes journal_slow_sync and ack_slow; fast ones end
        both."""
        if not test_disk.can_trace():
            self.skipTest("strace is not there or not allowed")
        self.d = test_disk.Disk.traced(self, self.shared_postgres(), "fdatasync", "delay_enter=1000000:when=30",
                                       **{k: v for k, v in FAST.items() if k.startswith("alerts")},
                                       alerts__ack_p99_warning_ms=500, alerts__sync_p99_warning_ms=500,
                                       alerts__ack_p99_critical_ms=0, alerts__sync_p99_critical_ms=0)
        self.raised("journal_slow_sync", meanwhile=self.store)
        self.raised("ack_slow", seconds=2)
        self.cleared("journal_slow_sync", 40, lambda: self.store(30))
        self.cleared("ack_slow", 40, lambda: self.store(30))

    def test_a_slow_disk_at_the_start(self):
        """Goal of this test: one of the syncs timed at the start takes a second: journal_slow_disk,
        until a start at which none does."""
        self.d = test_disk.Disk.traced(self, None, "fdatasync", "delay_enter=1000000:when=20",
                                       alerts__raise_after_ms=200, alerts__clear_after_ms=200,
                                       alerts__start_sync_p99_warning_ms=500,
                                       alerts__start_sync_p99_critical_ms=0)
        self.assertGreaterEqual(self.raised("journal_slow_disk")["value"], 1000)
        self.d.stop()
        self.d.wrapper, self.d.env = [], {}
        self.d.start()
        self.store()
        stays(lambda: self.find("journal_slow_disk") is None, 2, "no alert")

    def test_little_space(self):
        """Goal of this test: the journal's disk fills up: a warning, then critical, long before
        anything is refused; some space eases it, more ends it."""
        wrapper, inside, outside = test_disk.Disk.small_disk(self, "16m")
        self.d = self.daemon(wrapper=wrapper, journal__directory=inside / "journal", **FAST,
                             **{**SMALL, "journal__max_bytes": "4MiB"}, alerts__disk_space_warning_bytes="8MiB",
                             alerts__disk_space_critical_bytes="4MiB")
        self.assertIsNone(self.find("disk_space"))
        filler = os.path.join(outside, "filler")
        for size, severity in ((8, "warning"), (12, "critical")):
            with open(filler, "wb") as file:
                file.write(b"x" * (size << 20))
            alert = self.raised("disk_space", severity)
            self.assertRegex(alert["text"], r"^space left on the journal's disk: \d\.\d MiB, threshold [48]\.0 MiB$")
        self.store()
        os.truncate(filler, 8 << 20)
        self.eased("disk_space", since=alert["since_ms"])
        os.unlink(filler)
        self.cleared("disk_space")

    def test_a_damaged_journal(self):
        """Goal of this test: a bit that flipped in a record is told at each start until the segment is
        done with and gone."""
        pg = self.shared_postgres()
        self.d = self.daemon(**FAST, **SMALL, database__conninfo=f"host={self.directory}/nowhere")
        for n in range(20):
            self.store(transcript=f"number {n:02}")
        self.d.kill()
        (path,) = [p for p in self.d.journal.glob("*.segment") if b"number 07" in p.read_bytes()]
        data = path.read_bytes()
        path.write_bytes(data.replace(b"number 07", b"number 47"))
        self.d.start()
        self.raised("journal_damaged")
        stats = self.d.stats()  # one answer for both: what waits is tried meanwhile
        self.assertEqual(stats["queued"] + stats["processing"], 19)
        self.d.kill()
        self.d.settings["database.conninfo"] = pg.conninfo
        self.d.start()
        self.d.flush()
        self.store(20, STORED, transcript="x" * 30000)  # several segments
        self.assertEqual((self.d.stop(), pg.count()), (0, 39))
        self.d.start()
        self.assertIsNone(self.find("journal_damaged"))

    def test_thresholds_of_zero(self):
        """Goal of this test: 0 switches a threshold off."""
        self.d = self.daemon(**FAST, database__conninfo=f"host={self.directory}/nowhere",
                             alerts__queue_depth_warning=0, alerts__queue_depth_critical=0,
                             alerts__queue_age_warning_ms=1, alerts__queue_age_critical_ms=0)
        self.store(20)
        self.raised("queue_age")
        time.sleep(0.5)
        self.assertIsNone(self.find("queue_depth"))


class Logs(Scenario):
    def lines(self, daemon):
        return [json.loads(line) for line in daemon.log().splitlines()]

    def test_json(self):
        """Goal of this test: with log.format = json every line is an object; the start says what is in
        force and what was found, the end says the totals; no password and no transcript anywhere."""
        pg = self.postgres()
        d = self.daemon(pg, log__format="json", log__level="debug",
                        database__conninfo=f"{pg.conninfo} password=hunter2")
        with d.client() as client:
            client.request("store", conversation(transcript="a private word"), STORED)
            client.notify("store", conversation(transcript="a private word", platform=7))
            pg.sql("alter table convstore.conversations add constraint no_bad check (platform <> 'bad')")
            client.request("store", conversation(transcript="a private word", platform="bad"))
            eventually(lambda: client.request("stats")["failed"] == 1)
        d.stop()
        lines = self.lines(d)
        for line in lines:
            self.assertLessEqual({"time", "level", "event"}, line.keys())
            self.assertRegex(line["time"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
            self.assertIn(line["level"], ("error", "warning", "info", "debug"))
        by_event = {line["event"]: line for line in lines}
        start = by_event["server.start"]
        self.assertEqual((start["socket"], start["journal"], start["provider"], start["dimensions"],
                          start["journal_waiting"]), (str(d.socket), str(d.journal), "builtin", "768", "0"))
        self.assertRegex(start["database"], r"host=\S+ .*dbname=postgres|dbname=postgres .*host=\S+")
        self.assertRegex(start["version"], r"^\d+\.\d+\.\d+$")
        up = by_event["database.up"]
        self.assertEqual((up["fsync"], up["timeline"]), ("off", "1"))
        self.assertRegex(up["pgvector"], r"^(none|[\d.]+)$")
        end = by_event["server.end"]
        self.assertEqual((end["reason"], end["accepted"], end["completed"], end["failed"]), ("drained", "2", "1", "1"))
        for secret in ("hunter2", "private word"):
            self.assertNotIn(secret, d.log())

    def test_repeats_are_held_back(self):
        """Goal of this test: a client that does the same wrong thing a thousand times fills no log; how
        often it happened is said."""
        d = self.daemon()
        with d.client() as client:
            for _ in range(1000):
                client.notify("store", 7)
            client.request("ping")
        d.stop()
        said = d.log().count(" notification.refused ")
        self.assertLessEqual(said, 40)  # twice LOG_BURST: a period may end in between
        held = sum(int(n) for n in re.findall(r"log\.held_back event=notification\.refused lines=(\d+)", d.log()))
        self.assertEqual(said + held, 1000)


if __name__ == "__main__":
    unittest.main()
