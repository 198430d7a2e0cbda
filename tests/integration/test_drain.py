"""SIGTERM and SIGINT: what was acknowledged is a row when the daemon has ended with 0."""
import re
import signal
import threading
import time
import unittest

from harness import RpcError, Scenario, conversation, eventually, scaled

DEPTH = 64
CLIENTS = 4


class Importer(threading.Thread):
    """A client that keeps DEPTH stores in flight until the daemon closes; every answer is kept."""

    def __init__(self, daemon, user):
        super().__init__(daemon=True)
        self.client = daemon.client(timeout=60)
        self.user = user
        self.sent, self.acked, self.errors, self.trouble = {}, {}, [], None
        self.start()

    def run(self):
        try:
            may_send = True
            while True:
                while may_send and len(self.sent) < DEPTH:
                    may_send = self.send()
                message = self.client.receive()
                if message is None:
                    return
                text = self.sent.pop(message[1])
                if message[2] is None:
                    self.acked[message[3]["id"]] = text
                else:
                    self.errors.append(message[2])
        except Exception as error:  # the test must hear of it
            self.trouble = error

    def send(self):
        text = f"{self.user} number {self.client.next_msgid} " + "x" * 200
        try:
            self.sent[self.client.send("store", conversation(self.user, text))] = text
        except (BrokenPipeError, ConnectionResetError):
            return False  # answers may still be there to read
        return True


class Drain(Scenario):
    def setUp(self):
        super().setUp()
        self.pg = self.shared_postgres()

    def hold_table(self):
        """Nothing can be inserted until the connection that is returned closes."""
        holder = self.pg.connect()
        self.addCleanup(holder.close)
        holder.autocommit = False
        with holder.cursor() as cursor:
            cursor.execute("lock table convstore.conversations in access exclusive mode")
        return holder

    def held_daemon(self, **settings):
        """A daemon whose schema is there and whose inserts wait for hold_table()'s end."""
        d = self.daemon(self.pg, **settings)
        with d.client() as client:
            client.request("store", conversation(), {"wait": "stored"})
        return d, self.hold_table()

    def check_import_ended_by(self, number):
        d = self.daemon(self.pg, name=f"d{number}", batch__batch_size=300, batch__batch_timeout_ms=60000)
        importers = [Importer(d, f"{number}-{n}") for n in range(CLIENTS)]
        eventually(lambda: d.stats()["completed"] >= 1000, 20, "an import under way")
        d.signal(number)
        self.assertEqual(d.wait_exit(), 0)
        for importer in importers:
            importer.join(scaled(20))
            self.assertIsNone(importer.trouble)
        outstanding = re.search(r"server\.draining .*outstanding=(\d+)", d.log())
        self.assertGreater(int(outstanding[1]), 0, "nothing was left to drain: the test shows nothing")
        rows = dict(self.pg.sql("select id::text, transcript from convstore.conversations"))
        for importer in importers:
            self.assertGreater(len(importer.acked), 100)
            lost = [key for key, text in importer.acked.items() if rows.get(key) != text]
            self.assertEqual(lost, [])
            self.assertLessEqual({(e[0], e[1]) for e in importer.errors}, {(4, "SHUTTING_DOWN")})
            importer.client.close()
        self.assertFalse(d.socket.exists() or d.control_socket.exists(), "sockets are left behind")

    def test_a_database_that_was_never_there(self):
        """Goal of this test: SIGTERM right after a start, with work from before and no database: the
        daemon sees that it is down, and ends long before its deadline."""
        d = self.daemon(database__conninfo=f"host={self.directory}/nowhere")
        with d.client() as client:
            for n in range(3):
                client.request("store", conversation(transcript=f"before {n}"))
        d.kill()
        d.start()
        self.assertEqual(d.stop(), 0)
        self.assertRegex(d.log(), r'info server\.end reason="database down" left_in_journal=3 ')

    def test_sigterm_in_mid_import(self):
        """Goal of this test: SIGTERM under four pipelining clients: exit status 0, and every
        conversation that was acked is a row."""
        self.check_import_ended_by(signal.SIGTERM)

    def test_sigint_in_mid_import(self):
        """Goal of this test: Ctrl-C does what SIGTERM does."""
        self.check_import_ended_by(signal.SIGINT)

    def test_an_idle_daemon_ends_at_once(self):
        """Goal of this test: with nothing queued and clients connected the end waits for no timer."""
        d = self.daemon(self.pg)
        with d.client() as client:
            client.request("ping")
            started = time.monotonic()
            self.assertEqual(d.stop(), 0)
            self.assertLess(time.monotonic() - started, scaled(10))
            self.assertEqual(client.wait_closed(), [])

    def test_while_it_drains(self):
        """Goal of this test: after the signal a store is SHUTTING_DOWN, new connections are refused,
        stats still answers, and who waits for a row or a flush gets his answer."""
        d, holder = self.held_daemon()
        with d.client() as client, d.client() as waiter, d.control() as control:
            acked = client.request("store", conversation("acked"))["id"]
            waiting = waiter.send("store", conversation("waits"), {"wait": "stored"})
            flushing = control.send("flush")
            eventually(lambda: client.request("stats")["processing"] == 2, 5, "a batch under way")
            d.signal(signal.SIGTERM)
            eventually(lambda: "server.draining" in d.log(), 5, "the drain")
            for method, params in (("store", conversation()), ("store_many", [conversation()] * 3)):
                with self.assertRaises(RpcError) as raised:
                    client.request(method, params)
                self.assertEqual((raised.exception.code, raised.exception.name), (4, "SHUTTING_DOWN"))
            with self.assertRaises(OSError):
                d.client()
            self.assertEqual(client.request("stats")["processing"], 2)
            holder.rollback()
            error, result = waiter.reply(waiting)
            self.assertIsNone(error)
            self.assertEqual(control.reply(flushing), (None, {"flushed": 2, "remaining": 0}))
            self.assertEqual(d.wait_exit(), 0)
        rows = dict(self.pg.sql("select user_id, id::text from convstore.conversations"))
        self.assertEqual((rows.get("acked"), rows.get("waits"), len(rows)), (acked, result["id"], 3))

    def test_a_second_signal_ends_at_once(self):
        """Goal of this test: a drain that cannot go on is cut short by a second signal, with a line
        that says what was left; who waited for a row is told, and the next start writes it."""
        d, holder = self.held_daemon()
        with d.client() as client:
            waiting = client.send("store", conversation(), {"wait": "stored"})
            eventually(lambda: d.stats()["processing"] == 1, 5, "a batch under way")
            d.signal(signal.SIGTERM)
            eventually(lambda: "server.draining" in d.log(), 5, "the drain")
            started = time.monotonic()
            d.signal(signal.SIGTERM)
            self.assertEqual(d.wait_exit(), 0)
            self.assertLess(time.monotonic() - started, scaled(1))
            error, _ = client.reply(waiting)
            self.assertEqual(error[:2], [4, "SHUTTING_DOWN"])
        self.assertRegex(d.log(), r'server\.end reason="second signal" left_in_journal=1 ')
        self.check_next_start(d, holder, 2)

    def test_the_drain_has_an_end(self):
        """Goal of this test: at batch.drain_timeout_ms the daemon ends, says how many are left in the
        journal, and tells who waited for a row; the next start writes them."""
        d, holder = self.held_daemon(batch__drain_timeout_ms=500)
        with d.client() as client:
            waiting = client.send("store", conversation(), {"wait": "stored"})
            client.request("store", conversation())
            started = time.monotonic()
            d.signal(signal.SIGTERM)
            self.assertEqual(d.wait_exit(), 0)
            self.assertTrue(0.45 <= time.monotonic() - started <= scaled(3))
            error, _ = client.reply(waiting)
            self.assertEqual(error[:2], [4, "SHUTTING_DOWN"])
        self.assertRegex(d.log(), r'server\.end reason="batch\.drain_timeout_ms" left_in_journal=2 ')
        self.check_next_start(d, holder, 3)

    def test_a_question_that_hangs_holds_no_signal(self):
        """Goal of this test: with everything stored, questions that the database does not answer do not
        keep the daemon from its deadline, nor from the second signal."""
        for settings, signals in (({}, 2), ({"batch__drain_timeout_ms": 1000}, 1)):
            d, holder = self.held_daemon(**settings)
            holder.rollback()
            d.flush()
            holder.cursor().execute("lock table convstore.conversations in access exclusive mode")
            with d.control() as control:
                for user in ("ann", "bob", "eve"):
                    control.send("forget", {"user_id": user})
                self.assertEqual(d.stats()["queued"], 0)  # they are under way
                started = time.monotonic()
                d.signal(signal.SIGTERM)
                eventually(lambda d=d: "server.draining" in d.log(), 5, "the drain")
                for _ in range(signals - 1):
                    d.signal(signal.SIGTERM)
                self.assertEqual(d.wait_exit(), 0)
            self.assertLess(time.monotonic() - started, scaled(3))
            holder.rollback()

    def test_an_embedder_that_hangs_is_not_waited_for(self):
        """Goal of this test: with everything stored, a request to an embedder that hangs holds the end
        for a moment only."""
        server = self.ollama()
        server.mode = "hang"
        d = self.daemon(self.pg, embedding__provider="ollama", embedding__url=server.url,
                        embedding__deadline_ms=100)
        with d.client() as client:
            client.request("store", conversation(summary="a topic"), {"wait": "stored"})
        started = time.monotonic()
        self.assertEqual(d.stop(), 0)
        self.assertLess(time.monotonic() - started, scaled(6))

    def check_next_start(self, d, holder, rows):
        holder.rollback()
        d.start()
        d.flush()
        self.assertEqual(self.pg.count(), rows)
        self.assertEqual(self.pg.count("dead_letters"), 0)
        self.assertEqual(d.stop(), 0)


if __name__ == "__main__":
    unittest.main()
