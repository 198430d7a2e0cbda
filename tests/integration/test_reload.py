"""The configuration read again while the daemon runs: by convstorectl, by the method, by SIGHUP. Each
key that config_keys.c calls LIVE has its own proof here that the new value is in force."""
import re
import signal
import subprocess
import time
import unittest

from harness import BUILD, ROOT, RpcError, Scenario, clean_environment, conversation, eventually, scaled, stays
from load import Load, check_loads

STORED = {"wait": "stored"}
HOUR = 3600000
QUICK = {"batch.batch_timeout_ms": 10, "batch.flush_interval_ms": 5}
# Of the journal's own affairs; test_other_limits of the unit test test_journal has them.
IN_UNIT_TESTS = {"journal.max_unsynced_bytes", "journal.retain_ms"}
ALERTS = re.findall(r"\(alerts, (\w+),", (ROOT / "daemon" / "config_keys.c").read_text())
covered = set()


def proves(*keys):
    """Marks a test as the proof for these live keys."""
    covered.update(keys)
    return lambda test: test


class Reloading(Scenario):
    """A daemon whose settings stand in a file, but for the paths."""

    def write(self, settings):
        sections = {}
        for key, value in settings.items():
            section, name = key.split(".")
            sections.setdefault(section, []).append(f"{name} = {value}\n")
        self.path = self.directory / "convstored.conf"
        self.path.write_text("".join(f"[{name}]\n{''.join(lines)}" for name, lines in sections.items()))

    def start(self, settings=None, database=True, **more):
        self.file = dict(settings or {})
        self.write(self.file)
        self.pg = self.shared_postgres() if database else None
        chosen = {} if database else {"database__conninfo": f"host={self.directory}"}
        d = self.daemon(self.pg, start=False, arguments=["--config", self.path], **chosen, **more)
        for key in set(d.settings) & set(self.file):
            del d.settings[key]  # --set would win
        return d.start()

    def reload(self, d, **changes):
        """Changes keys of the file and has it read; what the daemon said of it."""
        self.file.update({key.replace("__", "."): value for key, value in changes.items()})
        self.write(self.file)
        with d.control() as control:
            return control.request("reload")

    def change(self, d, **changes):
        """The same; all of it must be in force at once."""
        result = self.reload(d, **changes)
        self.assertEqual((sorted(result["changed"]), result["restart"]),
                         (sorted(key.replace("__", ".") for key in changes), []))


class Reload(Reloading):
    def test_what_changed_and_what_needs_a_restart(self):
        """Goal of this test: the answer names what is in force now and what a restart would bring, each
        time anew, in both forms of convstorectl; without a change it says so."""
        d = self.start({"batch.batch_size": 100, "database.max_connections": 8})
        done = d.ctl("reload", control=True)
        self.assertEqual((done.returncode, done.stdout), (0, "reloaded: nothing has changed\n"), done.stderr)
        self.file.update({"batch.batch_size": 200, "log.level": "debug", "listen.socket_mode": "0600",
                          "database.max_connections": 9})
        self.write(self.file)
        done = d.ctl("reload", control=True)
        self.assertEqual(done.stdout, "changed: batch.batch_size log.level\n"
                                      "needs a restart: listen.socket_mode database.max_connections\n")
        self.assertIn('config.reloaded changed="batch.batch_size log.level" '
                      'restart="listen.socket_mode database.max_connections"', d.log())
        self.assertEqual(self.reload(d, database__max_connections=8),
                         {"changed": [], "restart": ["listen.socket_mode"]})
        self.assertEqual(d.ctl("reload", "--json", control=True).stdout,
                         '{"changed":[],"restart":["listen.socket_mode"]}\n')

    def test_a_bad_file_is_refused(self):
        """Goal of this test: a file with a mistake is refused whole, with its name, line and reason, and
        the old configuration stays; so is one that is not there, and one whose limits would need a
        restart first."""
        d = self.start({"batch.batch_size": 100, "listen.max_message_bytes": "4MiB"})
        for text, reason in (("[log]\nlevel = debug\n[batch]\nbatch_siz = 5\n",
                              f"{self.path}:4: unknown key batch.batch_siz; did you mean batch.batch_size?"),
                             ("[log]\nlevel = debug\n[batch]\nbatch_size = 0\n",
                              f"{self.path}:4: batch.batch_size = 0: must be 1 to 10000"),
                             ("[log]\nlevel = debug\n[queue]\nmax_queue_size = 5\n",
                              "batch.batch_size (500) is larger than queue.max_queue_size (5)"),
                             ("[listen]\nmax_message_bytes = 20MiB\n[journal]\nsegment_bytes = 32MiB\n",
                              "this needs a restart: until then listen.max_message_bytes")):
            self.path.write_text(text)
            done = d.ctl("reload", control=True)
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertIn(reason, done.stderr)
            self.assertRegex(d.log(), rf"config\.refused .*{re.escape(reason)}")
            d.signal(signal.SIGHUP)
            eventually(lambda: d.log().count(reason) >= 2, 10, "the refusal of SIGHUP in the log")
        self.path.unlink()
        self.assertIn("No such file", d.ctl("reload", control=True).stderr)
        with d.client() as client:
            client.send_raw(b"\xc1")
            client.wait_closed()
        self.assertNotRegex(d.log(), r" debug ")
        self.write(self.file)
        with d.control() as control:
            self.assertEqual(control.request("reload"), {"changed": [], "restart": []})

    def test_sighup(self):
        """Goal of this test: SIGHUP does the same and says so in the log."""
        d = self.start({"log.level": "info"})
        self.write({"log.level": "debug"})
        d.signal(signal.SIGHUP)
        eventually(lambda: 'config.reloaded changed="log.level"' in d.log(), 10, "the reload")
        self.assertTrue(d.running())

    def test_environment_and_command_line_win(self):
        """Goal of this test: what stands in the environment or on the command line stays, whatever the
        file says now."""
        d = self.start({"batch.batch_size": 100}, env={"CONVSTORE_BATCH_BATCH_SIZE": "300"},
                       log__level="warning")
        self.assertEqual(self.reload(d, batch__batch_size=200, log__level="debug", batch__max_attempts=3),
                         {"changed": ["batch.max_attempts"], "restart": []})

    def test_who_may(self):
        """Goal of this test: services may not reload; without a file there is nothing to read; a
        notification does the work and answers nothing."""
        d = self.start({})
        with d.client() as client, self.assertRaises(RpcError) as raised:
            client.request("reload")
        self.assertEqual(raised.exception.name, "PERMISSION_DENIED")
        self.write({"log.level": "debug"})
        with d.control() as control:
            control.notify("reload")
            control.request("ping")
        self.assertIn('changed="log.level"', d.log())
        plain = self.daemon(self.pg, name="plain")
        with plain.control() as control, self.assertRaises(RpcError) as raised:
            control.request("reload")
        self.assertIn("without a configuration file", raised.exception.text)

    def test_under_load(self):
        """Goal of this test: while clients store and an embedder answers, a hundred reloads with other
        sizes, times and limits, some refused, lose nothing and store nothing twice."""
        server = self.ollama()
        d = self.start({"embedding.provider": "ollama", "embedding.url": server.url, **QUICK})
        loads = [Load(d, f"user {n}", self) for n in range(4)]
        with d.control(timeout=30) as control:
            for n in range(100):
                self.write({**self.file, "batch.batch_size": 1 + 7 * (n % 20),
                            "batch.flush_interval_ms": 1 + n % 7, "queue.max_queue_size": 200 + n,
                            "embedding.timeout_ms": 20000 + n, "embedding.request_inputs": 1 + n % 9,
                            "cache.embedding_cache_size": n % 50, "listen.max_in_flight": 10 + n % 5,
                            "journal.max_bytes": f"{64 + n % 3}MiB",
                            "batch.max_attempts": 0 if n % 10 == 9 else 8})
                if n % 10 == 9:
                    with self.assertRaises(RpcError):
                        control.request("reload")
                elif n % 10 == 8:
                    d.signal(signal.SIGHUP)
                else:
                    self.assertIn("embedding.timeout_ms", control.request("reload")["changed"])
        acked = check_loads(self, self.pg, [d], loads)
        self.assertGreater(len(acked), 200)


class EachKey(Reloading):
    @staticmethod
    def store(d, count=1, size=100, options=None):
        with d.client(timeout=20) as client:
            answer = client.request("store_many", [conversation(transcript=f"{n} " + "x" * size)
                                                   for n in range(count)], options)
        return answer

    def rows(self, count):
        eventually(lambda: self.pg.count() == count, 20, f"{count} rows")

    def test_all_are_covered(self):
        """Goal of this test: a live key without a proof in this file fails here."""
        table = (ROOT / "daemon" / "config_keys.c").read_text().partition("config_keys[] = {")[2]
        live = {".".join(re.match(r"\s*[A-Z]+\((\w+), (\w+)", entry).groups())
                for entry in table.partition("};")[0].split("),\n") if entry.endswith("LIVE")}
        self.assertGreater(len(live), 20)
        self.assertEqual(live, covered | IN_UNIT_TESTS)

    @proves("listen.max_message_bytes", "listen.max_in_flight", "listen.max_connections")
    def test_sessions(self):
        """Goal of this test: the limits of messages, of requests in flight and of connections."""
        d = self.start({"listen.max_in_flight": 1, "listen.max_connections": 2, **QUICK}, database=False)
        with d.client() as first, d.client() as second:
            first.request("store", conversation(transcript="x" * 20000))
            self.change(d, listen__max_message_bytes="16KiB")
            with self.assertRaises(RpcError) as raised:
                first.request("store", conversation(transcript="x" * 20000))
            self.assertEqual(raised.exception.name, "TOO_LARGE")
            second.send("store", conversation(), STORED)
            second.send("ping")
            second.receive_nothing(0.3)
        with d.client() as first, d.client() as second, d.client() as third:
            waiting = third.send("ping")
            third.receive_nothing(0.3)
            self.change(d, listen__max_connections=4, listen__max_in_flight=2)  # one is gone, but has a call
            third.reply(waiting)
            third.send("store", conversation(), STORED)
            third.request("ping")

    @proves("listen.max_partial_bytes")
    def test_half_read_messages(self):
        """Goal of this test: half-read messages of all connections are held to the new bound."""
        d = self.start({"listen.max_message_bytes": "1MiB"})
        half = b"\x94\x00\x01\xa5store\x91\x81\xaatranscript\xdb\x00\x0c\x00\x00" + b"x" * 700000
        with d.client() as first, d.client() as second:
            first.send_raw(half)
            second.send_raw(half)
            first.receive_nothing(0.3)
        with d.client() as first, d.client() as second:
            self.change(d, listen__max_partial_bytes="1MiB")
            first.send_raw(half)
            second.send_raw(half)
            ended = eventually(lambda: "reason=max_partial_bytes" in d.log(), 10, "the bound")
            self.assertTrue(ended)

    @proves("listen.max_reply_bytes")
    def test_unread_replies(self):
        """Goal of this test: a client that reads nothing is read no further at the new bound."""
        d = self.start({"listen.max_reply_bytes": "8MiB", "listen.max_in_flight": 1000000})

        def refused_of_a_deaf_client():
            before = d.stats()["rejected"]
            with d.client() as client:
                client.socket.setblocking(False)
                data = b"\x94\x00\x01\xa5store\x91\x81\xa1a\x01" * 30000
                try:
                    while data:
                        data = data[client.socket.send(data):]
                except BlockingIOError:
                    pass
                last = -1
                while last != (last := d.stats()["rejected"]):
                    time.sleep(scaled(0.5))
                return last - before

        many = refused_of_a_deaf_client()
        self.change(d, listen__max_reply_bytes="64KiB")
        self.assertLess(refused_of_a_deaf_client(), many / 2)

    @proves("journal.max_bytes")
    def test_journal(self):
        """Goal of this test: a journal that is full takes again when it may be larger."""
        d = self.start({"journal.max_bytes": "2MiB", "journal.segment_bytes": "1MiB",
                        "listen.max_message_bytes": "512KiB"}, database=False)
        with self.assertRaises(RpcError) as raised:
            for _ in range(100):
                self.store(d, size=100000)
        self.assertEqual(raised.exception.name, "QUEUE_FULL")
        self.change(d, journal__max_bytes="4MiB")
        self.store(d, 5, 100000)

    @proves("queue.max_queue_size", "queue.max_queue_bytes")
    def test_queue(self):
        """Goal of this test: what waits on disk for want of room in memory comes in when there is more."""
        d = self.start({"queue.max_queue_size": 10, "batch.batch_size": 10, "queue.max_queue_bytes": "1MiB",
                        "listen.max_message_bytes": "1MiB"}, database=False)
        self.store(d, 20)
        for _ in range(5):
            self.store(d, 10, 30000)

        def on_disk():
            return d.stats()["journal"]["waiting_on_disk"]
        self.assertEqual(on_disk(), 60)
        self.change(d, queue__max_queue_size=1000)
        eventually(lambda: on_disk() < 45, 10, "the records that there is room for")
        self.assertGreater(on_disk(), 5)
        self.change(d, queue__max_queue_bytes="32MiB")
        eventually(lambda: on_disk() == 0, 10, "all of them")

    @proves("batch.batch_size", "batch.batch_timeout_ms", "batch.flush_interval_ms")
    def test_batches(self):
        """Goal of this test: the size and the age at which a batch leaves, and how often that is looked
        at."""
        d = self.start({"batch.batch_size": 50, "batch.batch_timeout_ms": HOUR, "batch.flush_interval_ms": 5})
        self.store(d, 20)
        self.assertEqual(d.stats()["queued"], 20)
        self.change(d, batch__batch_size=20)
        self.rows(20)
        self.store(d)
        self.assertEqual(d.stats()["queued"], 1)
        self.change(d, batch__batch_timeout_ms=10)
        self.rows(21)
        self.change(d, batch__flush_interval_ms=HOUR)
        self.store(d)
        stays(lambda: self.pg.count() == 21, 0.3, "21 rows")
        self.change(d, batch__flush_interval_ms=5)
        self.rows(22)

    @proves("batch.max_attempts")
    def test_attempts(self):
        """Goal of this test: a row that is tried again and again becomes a dead letter at the new limit."""
        d = self.start({"batch.max_attempts": 1000, **QUICK})
        self.store(d, options=STORED)
        self.pg.sql("create function convstore.f() returns trigger language plpgsql as"
                    " $$ begin return null; end $$;"
                    " create trigger t before insert on convstore.conversations"
                    " for each row execute function convstore.f()")
        self.store(d)
        stays(lambda: d.stats()["dead_letters"] == 0, 1, "no dead letter")
        self.change(d, batch__max_attempts=2)
        eventually(lambda: d.stats()["dead_letters"] == 1, 30, "the dead letter")

    @proves("batch.drain_timeout_ms")
    def test_drain(self):
        """Goal of this test: the end waits for the database as long as the new value says."""
        d = self.start({"batch.drain_timeout_ms": HOUR, **QUICK})
        self.store(d, options=STORED)
        with self.pg.connect() as other:
            other.autocommit = False
            other.cursor().execute("lock table convstore.conversations")
            self.store(d)
            self.change(d, batch__drain_timeout_ms=200)
            self.assertEqual(d.stop(20), 0)
            other.rollback()
        self.assertIn('reason="batch.drain_timeout_ms"', d.log())

    @proves("embedding.api_key_file", "embedding.encoding_format", "embedding.request_inputs",
            "embedding.request_bytes")
    def test_requests_of_the_embedder(self):
        """Goal of this test: the next request has the new key and format, and as many texts as it may."""
        server = self.ollama()
        for name in ("one", "two"):
            (self.directory / name).write_text(f"key-{name}\n")
        d = self.start({"embedding.provider": "openai", "embedding.url": server.url,
                        "embedding.deadline_ms": int(scaled(20000)), "embedding.max_in_flight": 1,
                        "embedding.api_key_file": self.directory / "one", **QUICK,
                        "cache.embedding_cache_size": 0})
        self.store(d, 6, 600, STORED)
        self.assertEqual((server.authorization, server.encoding_format, server.requests),
                         ("Bearer key-one", None, 1))
        self.change(d, embedding__api_key_file=self.directory / "two", embedding__encoding_format="base64")
        self.store(d, 6, 600, STORED)
        self.assertEqual((server.authorization, server.encoding_format), ("Bearer key-two", "base64"))
        for setting, requests in ({"embedding__request_inputs": 3}, 2), ({"embedding__request_bytes": "1KiB"}, 6):
            self.change(d, **setting)
            server.reset_counters()
            self.store(d, 6, 600, STORED)
            self.assertEqual(server.requests, requests, setting)

    @proves("embedding.deadline_ms", "embedding.timeout_ms")
    def test_times_of_the_embedder(self):
        """Goal of this test: a batch waits for its vectors, and a request for its answer, as long as the
        new values say."""
        server = self.ollama()
        d = self.start({"embedding.provider": "ollama", "embedding.url": server.url,
                        "embedding.timeout_ms": HOUR, "embedding.deadline_ms": HOUR, **QUICK})
        self.store(d, options=STORED)
        server.mode = "hang"
        self.store(d, size=50)
        eventually(lambda: server.in_flight == 1, 10, "a request that hangs")
        self.change(d, embedding__deadline_ms=100, embedding__timeout_ms=300)
        with d.client() as client:
            client.request("store", conversation("other"), STORED)
        eventually(lambda: d.stats()["embedding"]["last_error"] != "", 10, "a request that timed out")
        self.assertEqual(self.pg.count("embeddings"), 1)
        server.close()  # lets go of the first request, whose snapshot allows it an hour

    @proves("cache.embedding_cache_size", "cache.embedding_cache_bytes")
    def test_cache(self):
        """Goal of this test: a smaller cache puts out the oldest at once; none keeps none."""
        d = self.start(QUICK)
        self.store(d, 20, options=STORED)

        def cached():
            return d.stats()["cache"]["entries"]
        self.assertEqual(cached(), 20)
        self.change(d, cache__embedding_cache_size=8)
        self.assertEqual(cached(), 8)
        self.change(d, cache__embedding_cache_bytes=10000)
        self.assertEqual(cached(), 3)
        self.store(d, 20, options=STORED)
        self.assertEqual(cached(), 3)

    @proves(*(f"alerts.{name}" for name in ALERTS))
    def test_alerts(self):
        """Goal of this test: thresholds and delays hold from the next look on; health.c takes each of
        them from the configuration in force, every time."""
        source = (ROOT / "daemon" / "health.c").read_text()
        for name in ALERTS:
            self.assertIn(f"config->alerts.{name}", source)
        d = self.start({"alerts.queue_depth_warning": 0, "alerts.queue_depth_critical": 0,
                        "alerts.raise_after_ms": HOUR}, database=False)

        def raised():
            return {alert["name"]: alert["severity"] for alert in d.stats()["alerts"]}
        self.store(d, 10)
        self.change(d, alerts__queue_depth_warning=5)
        self.assertNotIn("queue_depth", raised())
        self.change(d, alerts__raise_after_ms=0, alerts__clear_after_ms=0)
        eventually(lambda: raised().get("queue_depth") == "warning", 10, "the alert")
        self.change(d, alerts__queue_depth_critical=8)
        eventually(lambda: raised().get("queue_depth") == "critical", 10, "the worse alert")
        self.change(d, alerts__queue_depth_warning=1000, alerts__queue_depth_critical=1000)
        eventually(lambda: "queue_depth" not in raised(), 10, "its end")

    @proves("log.level", "log.format")
    def test_log(self):
        """Goal of this test: lines of level debug come when they are asked for, and go again."""
        d = self.start({})

        def debug_lines():
            with d.client() as client:
                client.send_raw(b"\x92\x02\xa1")
            self.store(d)  # behind it
            return len(re.findall(r"(?m) debug |^<7>", d.log()))
        self.assertEqual(debug_lines(), 0)
        self.change(d, log__level="debug")
        eventually(lambda: debug_lines() > 0, 10, "a line of level debug")
        self.change(d, log__level="warning")
        eventually(lambda: debug_lines() == debug_lines(), 10, "their end")
        self.change(d, log__format="json", log__level="info")
        d.signal(signal.SIGHUP)
        eventually(lambda: d.log_tail(1).startswith('{"'), 10, "a line in JSON")


class Connect(Scenario):
    """--check-config --connect."""

    def check(self, *settings):
        words = [word for setting in settings for word in ("--set", setting)]
        return subprocess.run([str(BUILD / "convstored"), "--check-config", "--connect", *words], text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=scaled(60),
                              env=clean_environment(), check=False)

    def test_what_it_finds(self):
        """Goal of this test: it says which server it reached, with encoding, pgvector and schema, before
        and after the daemon made its tables, changes nothing, and prints a configuration still."""
        pg = self.postgres()
        found = self.check(f"database.conninfo={pg.conninfo}")
        self.assertEqual((found.returncode, found.stderr), (0, ""))
        self.assertRegex(found.stdout, r"# database: connected to \S+ as \S+ on \S+, PostgreSQL \d+\S*.*, "
                                       r"encoding UTF8\n# database: (no )?pgvector.*\n"
                                       r"# database: no schema convstore yet; the daemon makes it\n")
        self.assertIn("# embedder: builtin needs no server\n", found.stdout)
        self.assertIsNone(pg.value("select to_regnamespace('convstore')"))
        printed = self.directory / "printed.conf"
        printed.write_text(re.sub("(?m)^conninfo.*", "", found.stdout))
        again = subprocess.run([str(BUILD / "convstored"), "--check-config", "--config", str(printed)],
                               env=clean_environment(), capture_output=True, text=True, check=False)
        self.assertEqual(again.returncode, 0, again.stderr)
        d = self.daemon(pg)
        with d.client() as client:
            client.request("store", conversation(), STORED)
        found = self.check(f"database.conninfo={pg.conninfo}")
        self.assertRegex(found.stdout, r"# database: schema convstore, version \d+\n")

    def test_what_it_finds_wrong(self):
        """Goal of this test: no server, another encoding, a schema that is due by hand and a role that
        may not make it each end with 1 and say why."""
        pg = self.postgres()
        cases = [([f"database.conninfo=host={self.directory}"], "FAILED: connection to server"),
                 ([f"database.conninfo={pg.conninfo}", "database.auto_migrate=no"],
                  'apply the output of "convstorectl schema"')]
        pg.sql("create database latin encoding 'LATIN1' locale 'C' template template0")
        cases.append(([f"database.conninfo={pg.conninfo} dbname=latin"], "ENCODING 'UTF8'"))
        pg.sql("create role guest login")
        cases.append(([f"database.conninfo={pg.conninfo} user=guest"], "guest may not make one"))
        for settings, reason in cases:
            with self.subTest(reason):
                found = self.check(*settings)
                self.assertEqual(found.returncode, 1, found.stdout)
                self.assertIn(reason, found.stdout)

    def test_embedders(self):
        """Goal of this test: each server is tried with the self-test, one that fails makes it end with 1,
        one that is odd is told of; passwords in URLs are not shown."""
        pg, good, odd = self.postgres(), self.ollama(), self.ollama()
        odd.degrade = True
        found = self.check(f"database.conninfo={pg.conninfo}", "embedding.provider=ollama",
                           f"embedding.url={good.url},{odd.url}")
        self.assertEqual(found.returncode, 0, found.stdout)
        self.assertRegex(found.stdout, rf"# embedder: {re.escape(good.url)}: 768 dimensions, ")
        self.assertRegex(found.stdout, rf"# embedder: {re.escape(odd.url)}: WARNING: .*cosine")
        good.mode = "missing"
        secret = good.url.replace("//", "//me:hunter2@")
        found = self.check(f"database.conninfo={pg.conninfo}", "embedding.provider=ollama",
                           f"embedding.url={secret}")
        self.assertEqual(found.returncode, 1)
        findings = found.stdout[found.stdout.index("\n# "):]
        self.assertIn(f"# embedder: {good.url}: FAILED: ", findings)
        self.assertNotIn("hunter2", findings)


if __name__ == "__main__":
    unittest.main()
