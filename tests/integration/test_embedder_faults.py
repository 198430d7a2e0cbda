"""Every way in which an embedding server fails, in both dialects: conversations are stored in time,
vectors are all there once it is well again, and none is wrong."""
import time
import unittest

from harness import Scenario, conversation, eventually, scaled, vector

STORED = {"wait": "stored"}
PREFIX = "search_document: "  # what nomic-embed-text wants before a text
FAULTS = ("hang", "missing", "denied", "failed", "busy", "limited", "limited_date", "limited_ms", "eof",
          "cut", "drip", "huge", "count", "dimension", "nan", "null", "garbage")


class EmbedderFaults(Scenario):
    time_limit = 150

    def setUp(self):
        super().setUp()
        self.pg = self.shared_postgres()

    def embedding_daemon(self, url, **settings):
        chosen = {"embedding__provider": "ollama", "embedding__url": url,
                  "embedding__deadline_ms": 300, "embedding__timeout_ms": 1000,
                  "batch__batch_timeout_ms": 20, "batch__flush_interval_ms": 10}
        chosen.update(settings)
        return self.daemon(self.pg, **chosen)

    def store(self, daemon, texts):
        """Stores them in one request and waits for the rows; how long that took."""
        started = time.monotonic()
        with daemon.client(timeout=20) as client:
            answer = client.request("store_many", [conversation(transcript=text) for text in texts],
                                    STORED)
        self.assertEqual(answer["errors"], [])
        return time.monotonic() - started

    def check_vectors(self, count):
        """Each conversation has the stand-in's vector of its own text, and there is no other."""
        rows = self.pg.sql("select c.transcript, e.embedding::real[] from convstore.conversations c"
                           " left join convstore.embeddings e"
                           " on c.user_id = e.user_id and c.id = e.conversation_id")
        self.assertEqual(len(rows), count)
        self.assertEqual(self.pg.count("embeddings"), count)
        for text, numbers in rows:
            self.assertIsNotNone(numbers, text)
            expected = vector(PREFIX + text)
            self.assertLess(max(abs(a - b) for a, b in zip(numbers, expected, strict=True)), 1e-6, text)

    def survive(self, daemon, server, mode):
        """A server that fails like this for a while."""
        server.reset_counters()
        server.mode = mode
        self.assertLess(self.store(daemon, [f"{mode} {n}" for n in range(5)]), scaled(2))
        eventually(lambda: server.requests > 0, 15, f"a request that meets {mode}")
        # A vector that is bad costs its own text only: then the server counts as well.
        if mode not in ("nan", "null"):
            eventually(lambda: daemon.stats()["embedding"]["state"] == "failing", 10, "an alert")
            self.assertIn("embedder_down", [a["name"] for a in daemon.stats()["alerts"]])
        server.mode = "ok"
        eventually(lambda: self.pg.count("embedding_backlog") == 0, 40, f"recovery after {mode}")

    def survive_all(self, **settings):
        server = self.ollama()
        d = self.embedding_daemon(server.url, **settings)
        for mode in FAULTS:
            with self.subTest(mode):
                self.survive(d, server, mode)
        self.check_vectors(5 * len(FAULTS))
        stats = d.stats()
        self.assertEqual((stats["embedding"]["state"], stats["embedding_backlog"]), ("ok", 0))
        self.assertEqual(stats["embedding"]["servers"][0]["state"], "closed")
        # Neither a text nor a vector has any business in the log.
        self.assertNotIn("garbage 1", d.log())

    def test_every_fault_of_ollama(self):
        """Goal of this test: whatever the embedder answers, hangs or breaks off: texts in time, vectors
        all there after it, none wrong."""
        self.survive_all()

    def test_every_fault_of_openai(self):
        """Goal of this test: the same with /v1/embeddings, entries out of order, in base64."""
        self.survive_all(embedding__provider="openai", embedding__encoding_format="base64")

    def test_closed_connections_are_no_failure(self):
        """Goal of this test: a server that closes kept connections without a word fails nothing."""
        server = self.ollama()
        server.mode = "closing"
        d = self.embedding_daemon(server.url, embedding__deadline_ms=5000)
        for n in range(10):
            self.store(d, [f"text {n}"])
        self.check_vectors(10)
        self.assertEqual(d.stats()["operations"]["embedding"]["errors"], 0)

    def test_no_batch_waits_for_a_server_that_is_down(self):
        """Goal of this test: while the breaker is open texts are stored at once, whatever the deadline;
        the breaker is visible in stats; afterwards all is filled in."""
        server = self.ollama()
        server.close()
        d = self.embedding_daemon(server.url, embedding__deadline_ms=8000)
        self.store(d, ["the first finds out"])
        eventually(lambda: d.stats()["embedding"]["servers"][0]["state"] != "closed", 15, "a breaker")
        times = []
        for n in range(40):
            times.append(self.store(d, [f"text {n}"]))
        self.assertLess(sorted(times)[len(times) // 2], scaled(0.5))
        found = d.stats()["embedding"]["servers"][0]
        self.assertEqual(found["url"], server.url)
        self.assertGreaterEqual(found["failures"], 3)
        self.assertIn("connect", found["last_error"])
        server.open()
        eventually(lambda: self.pg.count("embedding_backlog") == 0, 40, "recovery")
        self.check_vectors(41)

    def test_several_servers(self):
        """Goal of this test: requests are spread over several URLs; one that is down costs no vector
        and no alert, and is used again when it is back."""
        one, down, two = self.ollama(), self.ollama(), self.ollama()
        down.close()
        d = self.embedding_daemon(", ".join((one.url, down.url, two.url)), embedding__deadline_ms=5000)
        for n in range(40):
            self.store(d, [f"text {n}"])
        self.check_vectors(40)
        self.assertGreater(min(one.requests, two.requests), 10)
        self.assertEqual(d.stats()["embedding"]["state"], "ok")
        down.open()

        def is_used():
            self.store(d, [f"more {time.monotonic()}"])
            return down.requests > 3
        eventually(is_used, 30, "the third server being used")

    def test_a_text_that_crashes_the_runner(self):
        """Goal of this test: a text that the model's process dies of is found by halving; the others
        have their vectors, and its row says why it has none."""
        server = self.ollama()
        server.killers = ["poison"]
        d = self.embedding_daemon(server.url)
        self.store(d, [*(f"text {n}" for n in range(20)), "some poison here"])
        eventually(lambda: self.pg.count("embeddings") == 20, 30, "the other vectors")
        eventually(lambda: "refuses" in (self.pg.value("select last_error from"
                                                       " convstore.embedding_backlog") or ""), 30, "why")

    def self_test(self, daemon, state):
        """Waits for the outcome of the self-test; its text."""
        def outcome():
            found = daemon.stats()["embedding"]["servers"][0]["self_test"]
            return found["state"] == state and found["text"] or None
        return eventually(outcome, 15, f"a self-test that is {state}")

    def test_self_test(self):
        """Goal of this test: the daemon looks at its embedder at the start and says what it found, in
        log and stats; one that is not there delays nothing and is looked at when it comes."""
        server = self.ollama()
        d = self.embedding_daemon(server.url, embedding__self_test="true")
        self.assertIn("768 dimensions", self.self_test(d, "passed"))
        self.assertIn("embedder.self_test", d.log())
        self.assertEqual(d.stats()["embedding"]["requests"], 1)
        server.close()
        late = self.embedding_daemon(server.url, name="late", embedding__self_test="true")
        self.assertIn("connect", self.self_test(late, "due"))
        self.assertIn("embedder_down", [a["name"] for a in late.stats()["alerts"]])
        server.open()
        self.self_test(late, "passed")
        self.assertEqual(late.stats()["embedding"]["state"], "ok")
        server.degrade = True
        worse = self.embedding_daemon(server.url, name="worse", embedding__self_test="true")
        self.assertIn("cosine", self.self_test(worse, "warning"))
        self.assertIn("embedder_batches_differ", [a["name"] for a in worse.stats()["alerts"]])

    def test_the_key_comes_from_a_file(self):
        """Goal of this test: the API key is sent as a bearer token and stands neither in the log, nor in
        stats, nor in --check-config; a key that cannot be read is said so and costs no text."""
        server = self.ollama()
        path = self.directory / "key"
        d = self.embedding_daemon(server.url, embedding__provider="openai", embedding__api_key_file=path)
        self.store(d, ["before"])
        self.assertIn("No such file", d.stats()["embedding"]["last_error"])
        path.write_text("sk-very-secret\n")
        eventually(lambda: self.pg.count("embedding_backlog") == 0, 40, "the key being found")
        self.check_vectors(1)
        self.assertEqual(server.authorization, "Bearer sk-very-secret")
        self.assertNotIn("sk-very-secret", d.log() + str(d.stats()))

    def test_a_text_that_hangs(self):
        """Goal of this test: a text whose every request hangs is soon tried alone: its neighbours and
        those who come meanwhile have their vectors, and it is tried more and more seldom."""
        server = self.ollama()
        server.hangers = ["tar pit"]
        d = self.embedding_daemon(server.url, embedding__timeout_ms=400)
        self.store(d, [f"neighbour {n}" for n in range(60)] + ["tar pit"])
        for n in range(4):
            self.store(d, [f"passer-by {n} {m}" for m in range(5)])
            time.sleep(0.2)
        eventually(lambda: self.pg.count("embeddings") == 80, 40, "the vectors of all others")
        eventually(lambda: self.pg.value("select last_error like '%takes too long%' from"
                                         " convstore.embedding_backlog"), 40, "its own error")
        self.assertGreater(self.pg.value("select extract(epoch from next_attempt_at - now())"
                                         " from convstore.embedding_backlog"), 1)
        self.pg.sql("delete from convstore.conversations where transcript = 'tar pit'")
        self.check_vectors(80)

    def test_a_text_that_always_fails(self):
        """Goal of this test: a text whose every request is answered 500, with one request at a time: its
        neighbours and those who come later have their vectors, long before a request's time-out."""
        server = self.ollama()
        server.spoilers = ["whoops"]
        d = self.embedding_daemon(server.url, embedding__timeout_ms=60000, embedding__max_in_flight=1)
        self.store(d, [f"neighbour {n}" for n in range(60)] + ["whoops"])
        started = time.monotonic()
        eventually(lambda: self.pg.count("embeddings") == 60, 110, "the vectors of its neighbours")
        self.said = f"its neighbours had their vectors after {time.monotonic() - started:.0f} s"
        waits = []
        for n in range(6):
            started = time.monotonic()
            self.store(d, [f"passer-by {n}"])
            eventually(lambda n=n: self.pg.count("embeddings") == 61 + n, 50, "a later vector")
            waits.append(time.monotonic() - started)
            time.sleep(1)
        self.said += f", those who came later after {max(waits):.1f} s at most"
        self.pg.sql("delete from convstore.conversations where transcript = 'whoops'")
        self.check_vectors(66)

    def test_requests_that_take_too_long_get_smaller(self):
        """Goal of this test: where a request for a whole batch takes longer than timeout_ms, smaller
        ones follow, and all texts get their vectors."""
        server = self.ollama()
        server.text_delay = 0.02
        d = self.embedding_daemon(server.url, embedding__timeout_ms=500)
        self.store(d, [f"text {n}" for n in range(120)])
        eventually(lambda: self.pg.count("embeddings") == 120, 40)
        self.check_vectors(120)


if __name__ == "__main__":
    unittest.main()
