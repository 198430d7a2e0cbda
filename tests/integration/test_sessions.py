"""Sessions as clients of all kinds use them: pipelining, cut messages, slow readers, many
connections; flush, stats and the two sockets."""
import os
import select
import socket
import stat
import struct
import time
import unittest

from frames import Raw, encode, request, store
from harness import Client, RpcError, Scenario, conversation, eventually, scaled

MIB = 1 << 20
# Batches that leave only when something asks for it.
PATIENT = {"batch__batch_timeout_ms": 60000, "batch__batch_size": 5000}
FIGURE_KEYS = {"count", "errors", "mean_ms", "p50_ms", "p95_ms", "p99_ms", "max_ms"}
OPERATION_KEYS = FIGURE_KEYS | {"last_minute", "last_5_minutes"}
STATS_KEYS = {"version", "uptime_s", "connections", "queued", "processing", "completed", "failed",
              "dead_letters", "duplicates", "replayed", "rejected", "oldest_queued_ms",
              "embedding_backlog", "health", "alerts", "journal", "cache", "database", "embedding",
              "operations"}


class Pipelines(Scenario):
    def setUp(self):
        super().setUp()
        self.pg = self.shared_postgres()
        self.d = self.daemon(self.pg)

    def rows(self):
        return {row[0] for row in self.pg.sql("select transcript from convstore.conversations")}

    def test_64_deep(self):
        """Goal of this test: a client that always has 64 requests in flight gets one answer to each,
        and every conversation is a row."""
        with self.d.client() as client:
            waiting, ids = [], {}
            for number in range(1000):
                waiting.append((number, client.send("store", conversation(transcript=f"t{number}"))))
                if len(waiting) == 64:
                    first, msgid = waiting.pop(0)
                    ids[first] = client.reply(msgid)
            for number, msgid in waiting:
                ids[number] = client.reply(msgid)
            client.receive_nothing(0.1)
        self.assertEqual([n for n, (error, _) in ids.items() if error is not None], [])
        self.assertEqual(len({result["id"] for _, result in ids.values()}), 1000)
        self.d.flush()
        self.assertEqual(self.rows(), {f"t{number}" for number in range(1000)})

    def test_one_byte_at_a_time(self):
        """Goal of this test: messages that come byte by byte are understood, one after the other."""
        stream = request(1, "ping") + store(2, transcript="slowly") + request(3, "nope")
        with self.d.client() as client:
            for byte in stream:
                client.send_raw(bytes([byte]))
            self.assertEqual(client.reply(1)[1]["server"], "convstored")
            self.assertIsNone(client.reply(2)[0])
            self.assertEqual(client.reply(3)[0][1], "UNKNOWN_METHOD")
        self.d.flush()
        self.assertEqual(self.rows(), {"slowly"})

    def test_cut_at_every_boundary(self):
        """Goal of this test: wherever a message is cut in two writes, it is one message; what follows
        the cut may hold the next one's beginning."""
        clients = [self.d.client() for _ in range(4)]
        message = store(7, transcript="two parts", metadata={"a": [1, 2.5, None, "x" * 40]},
                        created_at=1700000000000)
        after = request(8, "ping")
        for cut in range(1, len(message)):
            client = clients[cut % 4]
            client.send_raw(message[:cut])
            time.sleep(0.0005)
            client.send_raw(message[cut:] + after[:cut % len(after)])
            client.send_raw(after[cut % len(after):])
            self.assertIsNone(client.reply(7)[0], f"cut at byte {cut}")
            self.assertEqual(client.reply(8)[1]["protocol"], 1)
        for client in clients:
            client.close()
        self.d.flush()
        self.assertEqual(self.pg.count(), len(message) - 1)
        self.assertEqual(self.rows(), {"two parts"})

    def test_many_messages_in_one_write(self):
        """Goal of this test: 5,000 messages in a single stream of large writes get 5,000 answers."""
        stream = b"".join(store(n, transcript=f"t{n}") for n in range(5000))
        with self.d.client(timeout=30) as client:
            client.send_raw(stream)
            answers = [client.reply(n) for n in range(5000)]
        self.assertEqual([a for a in answers if a[0] is not None], [])
        self.d.flush()
        self.assertEqual(self.rows(), {f"t{number}" for number in range(5000)})

    def test_half_close_still_gets_its_answers(self):
        """Goal of this test: a client that shuts down its sending side gets every answer, those of
        wait "stored" too, and then the end; half a message behind them is dropped."""
        with self.d.client() as client:
            ids = [client.send("store", conversation(transcript=f"t{n}"), {"wait": "stored"})
                   for n in range(50)]
            client.send_raw(store(999)[:-5])
            client.half_close()
            messages = client.wait_closed()
        self.assertEqual(sorted(m[1] for m in messages), sorted(ids))
        self.assertEqual([m for m in messages if m[0] != 1 or m[2] is not None], [])
        self.assertEqual(self.rows(), {f"t{n}" for n in range(50)})

    def test_a_client_that_goes_away_is_still_stored(self):
        """Goal of this test: what was read whole becomes a row though its client hung up at once."""
        for number in range(20):
            with self.d.client() as client:
                client.send_raw(store(1, transcript=f"gone {number}"))
        eventually(lambda: self.pg.count() == 20, 10, "20 rows")
        self.assertEqual(self.d.stats()["completed"], 20)

    def test_notifications(self):
        """Goal of this test: a notification of a known method does the work and answers nothing, also
        where it is refused; one of an unknown method is ignored, whatever its parameters."""
        with self.d.client() as client:
            client.notify("store", conversation(transcript="noted"))
            client.notify("store_many", [conversation(transcript="a"), conversation(transcript="")])
            client.notify("store", conversation(transcript=""))
            client.notify("store")
            client.notify("flush")
            client.notify("nvim_set_client_info", "x", {}, "remote", {}, {b"\xff": None})
            client.notify("")
            client.receive_nothing(0.2)
            self.assertEqual(client.request("ping")["server"], "convstored")
        self.d.flush()
        self.assertEqual(self.rows(), {"noted", "a"})
        self.assertEqual(self.d.stats()["completed"], 2)

    def test_msgids(self):
        """Goal of this test: every unsigned encoding of a msgid comes back as its number, also where
        it is longer than need be or used twice; nothing else is a msgid."""
        encodings = {b"\x00": 0, b"\x7f": 127, b"\xcc\x80": 128, b"\xcc\x05": 5,
                     b"\xcd\xff\xff": 65535, b"\xcd\x00\x07": 7, b"\xce\xff\xff\xff\xff": 2**32 - 1,
                     b"\xce\x00\x00\x00\x09": 9, b"\xcf" + struct.pack(">Q", 2**32 - 1): 2**32 - 1,
                     b"\xcf" + bytes(8): 0}
        with self.d.client() as client:
            for head, number in encodings.items():
                client.send_raw(encode([0, Raw(head), "ping", []]))
                message = client.receive()
                self.assertEqual(message[:3], [1, number, None], head)
            for _ in range(3):
                client.send_raw(request(5, "ping"))
            self.assertEqual([client.receive()[1] for _ in range(3)], [5, 5, 5])
        for bad in (b"\xff", b"\xd0\x05", b"\xd1\x00\x05", b"\xcf" + struct.pack(">Q", 2**32),
                    b"\xc0", b"\xa11", b"\xca" + struct.pack(">f", 1.0)):
            with self.subTest(msgid=bad), self.d.client() as client:
                client.send_raw(encode([0, Raw(bad), "ping", []]))
                (message,) = client.wait_closed()
                self.assertEqual(message[:2], [1, None])
                self.assertEqual(message[2][:2], [1, "INVALID_ARGUMENT"])
                self.assertIn("msgid", message[2][2])


class Limits(Scenario):
    def setUp(self):
        super().setUp()
        self.pg = self.shared_postgres()

    def fill(self, sock, data):
        """Writes until the daemon takes no more for a while; bytes written."""
        sock.setblocking(False)
        written = 0
        while select.select([], [sock], [], scaled(0.5))[1]:
            try:
                written += sock.send(data)
            except BlockingIOError:
                continue
            if written > 64 * MIB:
                break
        return written

    def test_a_reader_that_never_reads(self):
        """Goal of this test: a client that sends and never reads its answers is read no further at
        listen.max_reply_bytes; memory stays bounded and others are served meanwhile."""
        d = self.daemon(self.pg)
        before, _ = d.memory()
        greedy = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for sock in greedy:
            sock.connect(str(d.socket))
            written = self.fill(sock, request(1, "stats") * 500)
            self.assertLess(written, 32 * MIB, "the daemon reads on and on")
        after, most = d.memory()
        # For each of them 1 MiB of answers, the same again while they are handed over, and change.
        self.assertLess(most - before, 30 * MIB)
        with d.client() as client:
            started = time.monotonic()
            client.request("store", conversation(), {"wait": "stored"})
            self.assertLess(time.monotonic() - started, scaled(2))
        # It reads again: everything that was sent whole is answered.
        reader = Client(d.socket)
        reader.socket.close()
        reader.socket = greedy[0]
        reader.socket.setblocking(True)
        reader.half_close()
        answers = reader.wait_closed(timeout=30)
        self.assertGreater(len(answers), 1000)
        self.assertEqual({(m[0], m[1], m[2]) for m in answers}, {(1, 1, None)})
        for sock in greedy:
            sock.close()
        eventually(lambda: d.stats()["connections"] == 1, 5, "the others are gone")

    def test_unanswered_requests_are_bounded(self):
        """Goal of this test: beyond listen.max_in_flight a connection is read no further until some
        are answered; none is lost."""
        d = self.daemon(self.pg, listen__max_in_flight=10, **PATIENT)
        with d.client() as client:
            for n in range(30):
                client.send("store", conversation(transcript=f"t{n}"), {"wait": "stored"}, msgid=n)
            eventually(lambda: d.stats()["queued"] == 10, 5, "ten are queued")
            client.receive_nothing(0.3)
            self.assertEqual(d.stats()["queued"], 10)
            with d.control() as control:
                while (stats := control.request("stats"))["completed"] < 30:
                    self.assertLessEqual(stats["queued"] + stats["processing"], 10)
                    control.request("flush")
            self.assertEqual([client.reply(n)[0] for n in range(30)], [None] * 30)
        self.assertEqual(self.pg.count(), 30)

    def test_half_read_messages_are_bounded(self):
        """Goal of this test: beyond listen.max_partial_bytes the longest idle half-read message is
        refused with TOO_LARGE and its connection closed; the others stay and finish."""
        d = self.daemon(self.pg, listen__max_partial_bytes="4MiB", listen__max_message_bytes="1MiB")
        message = store(1, transcript="x" * (1000 * 1000))
        clients = []
        for _ in range(12):
            client = d.client()
            clients.append(client)
            client.send_raw(message[:700 * 1000])
            time.sleep(0.01)
        refused = [n for n, client in enumerate(clients) if select.select([client], [], [], 0.2)[0]]
        self.assertEqual(refused, list(range(len(refused))), "the longest idle go first")
        self.assertTrue(5 <= len(refused) <= 8, refused)
        for n in refused:
            (answer,) = clients[n].wait_closed()
            self.assertEqual((answer[:2], answer[2][:2]), ([1, None], [2, "TOO_LARGE"]))
            self.assertIn("listen.max_partial_bytes", answer[2][2])
        for client in clients[len(refused):]:
            client.send_raw(message[700 * 1000:])
            self.assertIsNone(client.reply(1)[0])
        d.flush()
        self.assertEqual(self.pg.count(), 12 - len(refused))
        for client in clients:
            client.close()

    def test_1000_connections(self):
        """Goal of this test: a thousand connections at once are all served, and all of them again
        when each has stored something."""
        d = self.daemon(self.pg)
        clients = [d.client(timeout=30) for _ in range(1000)]
        for n, client in enumerate(clients):
            client.send("store", conversation(transcript=f"t{n}"), msgid=n)
        for n, client in enumerate(clients):
            self.assertIsNone(client.reply(n)[0])
        self.assertEqual(d.stats()["connections"], 1001)
        for client in clients:
            client.close()
        d.flush()
        self.assertEqual(self.pg.count(), 1000)
        eventually(lambda: d.stats()["connections"] == 1, 10, "all are gone")
        self.assertLess(d.open_files(), 60)

    def test_more_connections_than_allowed_wait(self):
        """Goal of this test: beyond listen.max_connections nobody is turned away: they wait, and are
        served as soon as others leave; the control socket answers meanwhile."""
        d = self.daemon(self.pg, listen__max_connections=5)
        # The ping that the harness waited for may still be closing.
        eventually(lambda: d.stats()["connections"] == 1, 5, "no other connection")
        first = [d.client() for _ in range(5)]
        for client in first:
            client.request("ping")
        waiting = [d.client() for _ in range(5)]
        for n, client in enumerate(waiting):
            client.send("store", conversation(transcript=f"waited {n}"), msgid=n)
        waiting[0].receive_nothing(0.3)
        with d.control() as control:
            self.assertEqual(control.request("stats")["queued"], 0)
        for client in first:
            client.close()
        for n, client in enumerate(waiting):
            self.assertIsNone(client.reply(n)[0])
            client.close()
        d.flush()
        self.assertEqual(self.pg.count(), 5)


class Control(Scenario):
    def setUp(self):
        super().setUp()
        self.pg = self.shared_postgres()

    def test_flush_is_for_operators(self):
        """Goal of this test: flush on the services' socket is PERMISSION_DENIED and flushes nothing;
        on the control socket every method works."""
        d = self.daemon(self.pg, **PATIENT)
        with d.client() as client, d.control() as control:
            client.request("store", conversation())
            with self.assertRaises(RpcError) as raised:
                client.request("flush")
            self.assertEqual((raised.exception.code, raised.exception.name), (7, "PERMISSION_DENIED"))
            self.assertIn("flush", raised.exception.text)
            self.assertEqual(client.request("stats")["queued"], 1)
            control.request("store", conversation())
            control.request("store_many", [conversation()])
            self.assertEqual(control.request("ping"), client.request("ping"))
            self.assertEqual(control.request("stats").keys(), client.request("stats").keys())
            self.assertEqual(control.request("flush"), {"flushed": 3, "remaining": 0})
        self.assertEqual(self.pg.count(), 3)

    def test_what_flush_means(self):
        """Goal of this test: flush answers when all that was acked before it is rows, at once where
        there is nothing; with timeout_ms it says how many are not yet."""
        d = self.daemon(self.pg, **PATIENT)
        with d.client() as client, d.control() as control:
            self.assertEqual(control.request("flush"), {"flushed": 0, "remaining": 0})
            for round_number in range(5):
                for _ in range(20):
                    client.request("store", conversation())
                result = control.request("flush", {"timeout_ms": 30000})
                self.assertEqual(result, {"flushed": 20, "remaining": 0})
                self.assertEqual(self.pg.count(), 20 * (round_number + 1))
            holder = self.pg.connect()
            holder.autocommit = False
            with holder.cursor() as cursor:
                cursor.execute("lock table convstore.conversations in access exclusive mode")
            client.request("store", conversation())
            started = time.monotonic()
            self.assertEqual(control.request("flush", {"timeout_ms": 300}),
                             {"flushed": 0, "remaining": 1})
            self.assertTrue(0.29 <= time.monotonic() - started <= scaled(2))
            flushes = [control.send("flush") for _ in range(3)]
            holder.rollback()
            holder.close()
            self.assertEqual([control.reply(m) for m in flushes],
                             [(None, {"flushed": 1, "remaining": 0})] * 3)
            self.assertEqual(self.pg.count(), 101)
            for bad, text in (({"timeout_ms": 0}, "options.timeout_ms"),
                              ({"wait": "stored"}, 'options: unknown key "wait"')):
                with self.assertRaises(RpcError) as raised:
                    control.request("flush", bad)
                self.assertEqual(raised.exception.name, "INVALID_ARGUMENT")
                self.assertTrue(raised.exception.text.startswith(text), raised.exception.text)

    def test_stats(self):
        """Goal of this test: stats has every key that PROTOCOL.md lists, of its type, and the
        numbers follow what is done."""
        d = self.daemon(self.pg, **PATIENT)
        with d.client() as client:
            for _ in range(3):
                client.request("store", conversation())
            with self.assertRaises(RpcError):
                client.request("store", conversation(transcript=""))
            time.sleep(0.05)
            stats = client.request("stats")
            self.assertLessEqual(STATS_KEYS, stats.keys())
            self.assertEqual({key: stats[key] for key in ("queued", "processing", "completed", "failed",
                                                          "dead_letters", "duplicates", "replayed",
                                                          "rejected", "connections",
                                                          "embedding_backlog")},
                             {"queued": 3, "processing": 0, "completed": 0, "failed": 0,
                              "dead_letters": 0, "duplicates": 0, "replayed": 0, "rejected": 1,
                              "connections": 1, "embedding_backlog": 0})
            self.assertTrue(50 <= stats["oldest_queued_ms"] <= scaled(30000), stats["oldest_queued_ms"])
            self.assertIn(stats["health"], ("healthy", "warning"))
            self.assertLessEqual({"entries", "hits", "misses", "hit_rate"}, stats["cache"].keys())
            self.assertIsInstance(stats["cache"]["hit_rate"], float)
            for part in ("database", "embedding"):
                self.assertIsInstance(stats[part]["state"], str)
                self.assertEqual(stats[part]["last_error"], "")
            d.flush()
            stats = client.request("stats")
        self.assertEqual((stats["queued"], stats["completed"], stats["oldest_queued_ms"]), (0, 3, 0))
        self.assertEqual(stats["database"]["state"], "up")
        # The tests' server runs with fsync=off, and the daemon must say so. A busy disk is no fault.
        alerts = {a["name"]: a["severity"] for a in stats["alerts"]}
        for busy in ("journal_slow_sync", "journal_slow_disk"):
            alerts.pop(busy, None)
        self.assertEqual(alerts, {"database_fsync_off": "warning"})
        self.assertEqual(stats["health"], "warning")
        self.assertLessEqual({"bytes", "segments", "syncs", "records_per_sync", "waiting_on_disk", "moved",
                              "recovered", "damages"}, stats["journal"].keys())
        for name in ("queue", "journal_sync", "embedding", "batch_insert", "end_to_end"):
            operation = stats["operations"][name]
            self.assertEqual(operation.keys(), OPERATION_KEYS, name)
            self.assertGreaterEqual(operation["count"], 1, name)
            self.assertEqual(operation["errors"], 0, name)
            for window in ("last_minute", "last_5_minutes"):
                self.assertEqual(operation[window], {key: operation[key] for key in FIGURE_KEYS})
            # Bucketed to a few per cent, and what takes less than a microsecond counts as 0.
            self.assertTrue(0 <= operation["p50_ms"] <= operation["p95_ms"] <= operation["p99_ms"]
                            <= operation["max_ms"] * 1.1, (name, operation))
        self.assertGreater(stats["operations"]["end_to_end"]["p50_ms"], 1)
        self.assertEqual(stats["operations"]["queue"]["count"], 3)
        self.assertTrue(1 <= stats["journal"]["syncs"] <= 10, stats["journal"])
        self.assertEqual(stats["operations"]["end_to_end"]["count"], 3)
        self.assertLessEqual(stats["uptime_s"], scaled(60))

    def test_modes_of_the_sockets(self):
        """Goal of this test: the files have the configured permission bits whatever the umask is, the
        control socket 0600 by default."""
        d = self.daemon(self.pg)
        self.assertEqual(self.mode(d.socket), 0o660)
        self.assertEqual(self.mode(d.control_socket), 0o600)
        d.stop()
        old = os.umask(0o077)
        try:
            d = self.daemon(self.pg, name="open", listen__socket_mode="0666",
                            listen__control_socket_mode="0640")
        finally:
            os.umask(old)
        self.assertEqual(self.mode(d.socket), 0o666)
        self.assertEqual(self.mode(d.control_socket), 0o640)

    def mode(self, path):
        found = os.stat(path)
        self.assertTrue(stat.S_ISSOCK(found.st_mode))
        return stat.S_IMODE(found.st_mode)


if __name__ == "__main__":
    unittest.main()
