"""Embeddings from Ollama's stand-in: one request for a batch, the cache, and every way in which an
embedder fails. Whatever it does, the texts are stored in time and no wrong vector ever is."""
import time
import unittest

from harness import Scenario, conversation, eventually, scaled, vector

STORED = {"wait": "stored"}
PREFIX = "search_document: "  # what nomic-embed-text wants before a text


class Embedding(Scenario):
    def setUp(self):
        super().setUp()
        self.pg = self.shared_postgres()

    def ollama_daemon(self, server, **settings):
        """A daemon with the stand-in behind it, whose batches leave by their timer alone."""
        chosen = {"embedding__provider": "ollama", "embedding__url": server.url,
                  "embedding__deadline_ms": int(scaled(10000)), "embedding__timeout_ms": 30000}
        chosen.update(settings)
        return self.daemon(self.pg, **chosen)

    def store(self, daemon, texts, **fields):
        """Stores them in one request and waits for the rows; how long that took."""
        started = time.monotonic()
        with daemon.client(timeout=20) as client:
            answer = client.request("store_many", [conversation(transcript=text, **fields)
                                                   for text in texts], STORED)
        self.assertEqual(answer["errors"], [])
        return time.monotonic() - started

    def check_vectors(self, texts):
        """Each of these texts has the stand-in's vector, and there is no other embedding."""
        rows = self.pg.sql("select c.transcript, e.embedding::real[] from convstore.embeddings e"
                           " join convstore.conversations c"
                           " on c.user_id = e.user_id and c.id = e.conversation_id")
        self.assertEqual(sorted(row[0] for row in rows), sorted(texts))
        for text, numbers in rows:
            expected = vector(PREFIX + text)
            self.assertLess(max(abs(a - b) for a, b in zip(numbers, expected, strict=True)), 1e-6, text)

    def waiting(self):
        """The texts that have a row and wait for their vector."""
        return sorted(row[0] for row in self.pg.sql(
            "select c.transcript from convstore.embedding_backlog b join convstore.conversations c"
            " on c.user_id = b.user_id and c.id = b.conversation_id"))

    def test_one_request_for_a_batch(self):
        """Goal of this test: a batch's texts go out in one request with the model's prefix, and each
        row gets the vector of its own text."""
        server = self.ollama()
        d = self.ollama_daemon(server)
        texts = [f"Frage {n}: \"Wie geht's?\" 🙂 \\ \n" + "x" * n for n in range(100)]
        self.store(d, texts)
        self.assertEqual((server.requests, server.inputs), (1, 100))
        self.assertEqual(sorted(server.texts), sorted(PREFIX + text for text in texts))
        self.assertEqual(server.models, {"nomic-embed-text"})
        self.check_vectors(texts)
        self.assertEqual(self.pg.sql("select provider, model, dimension, prefix"
                                     " from convstore.embedding_models"),
                         [("ollama", "nomic-embed-text", 768, PREFIX)])
        stats = d.stats()
        self.assertEqual((stats["embedding"]["state"], stats["embedding"]["last_error"]), ("ok", ""))
        self.assertEqual((stats["operations"]["embedding"]["count"], stats["embedding_backlog"]), (1, 0))

    def test_requests_are_bounded(self):
        """Goal of this test: no request has more than embedding.request_inputs texts, and no more than
        embedding.max_in_flight are under way."""
        server = self.ollama()
        server.delay = 0.05
        d = self.ollama_daemon(server, embedding__request_inputs=16, embedding__max_in_flight=3)
        texts = [f"text {n}" for n in range(200)]
        self.store(d, texts)
        self.assertEqual((server.requests, server.inputs), (13, 200))
        self.assertEqual(server.most_in_flight, 3)
        self.check_vectors(texts)

    def test_the_summary_is_embedded_where_there_is_one(self):
        """Goal of this test: embedding.source "summary": the summary's text, not the transcript's; the
        transcript where the summary is missing or empty."""
        server = self.ollama()
        d = self.ollama_daemon(server)
        self.store(d, ["long"], summary="short")
        self.store(d, ["no summary"], summary="")
        self.assertEqual(server.texts, [PREFIX + "short", PREFIX + "no summary"])

    def test_the_same_text_is_asked_for_once(self):
        """Goal of this test: a text that comes again, in the same batch or later, is not asked for
        again, and every conversation has its vector."""
        server = self.ollama()
        d = self.ollama_daemon(server)
        self.store(d, ["same"] * 20)
        self.store(d, ["same"] * 5 + ["other"])
        self.store(d, ["other", "same"])
        self.assertEqual(sorted(server.texts), [PREFIX + "other", PREFIX + "same"])
        self.check_vectors(["same"] * 26 + ["other"] * 2)
        cache = d.stats()["cache"]
        self.assertEqual(cache["entries"], 2)
        self.assertGreaterEqual(cache["hits"], 7)
        self.assertGreater(cache["hit_rate"], 0)

    def test_the_cache_is_bounded(self):
        """Goal of this test: over cache.embedding_cache_size the text that was used least recently is
        forgotten, and only that one."""
        server = self.ollama()
        d = self.ollama_daemon(server, cache__embedding_cache_size=2)
        for text in ("a", "b", "a", "c", "a", "b"):
            self.store(d, [text])
        self.assertEqual([text[-1] for text in server.texts], ["a", "b", "c", "b"])
        self.assertEqual(d.stats()["cache"]["entries"], 2)

    def test_the_cache_outlives_the_daemon(self):
        """Goal of this test: with cache.file a text that was embedded before a restart is not asked for
        again; a damaged file is ignored with a warning."""
        server = self.ollama()
        path = self.directory / "cache"
        d = self.ollama_daemon(server, cache__file=path)
        self.store(d, ["a", "b"])
        self.assertEqual(d.stop(), 0)
        d.start()
        self.store(d, ["b", "a", "c"])
        self.assertEqual(server.texts[-1], PREFIX + "c")
        self.assertEqual(server.inputs, 3)
        self.assertEqual(d.stop(), 0)
        path.write_bytes(path.read_bytes()[:-1])
        d.start()
        self.assertIn("embedding_cache.read", d.log())
        self.store(d, ["a"])
        self.assertEqual(server.inputs, 4)
        self.check_vectors(["a", "b", "b", "a", "c", "a"])

    def test_a_slow_embedder_holds_no_text(self):
        """Goal of this test: after embedding.deadline_ms the texts are stored without vectors and
        noted in embedding_backlog; the late vectors are written when they come."""
        server = self.ollama()
        server.gate.clear()
        d = self.ollama_daemon(server, embedding__deadline_ms=200)
        self.store(d, ["slow 1", "slow 2"])
        self.check_vectors([])
        self.assertEqual(self.waiting(), ["slow 1", "slow 2"])
        eventually(lambda: d.stats()["embedding_backlog"] == 2, 20, "stats saying so")
        server.gate.set()
        eventually(lambda: d.stats()["embedding_backlog"] == 0, 10, "the late vectors")
        self.store(d, ["slow 1"])
        self.assertEqual(server.inputs, 2)
        self.check_vectors(["slow 1", "slow 1", "slow 2"])

    def check_failing(self, d, server, mode):
        server.mode = mode
        texts = [f"{mode} {n}" for n in range(5)]
        took = self.store(d, texts)
        self.assertLess(took, scaled(3))
        self.assertEqual([t for t in self.waiting() if t.startswith(mode)], texts)

    def test_every_failure_costs_the_vector_only(self):
        """Goal of this test: whatever the embedder answers, hangs or breaks off, the texts are rows in
        time, without a vector, and in embedding_backlog; when it is well again, so are new vectors."""
        server = self.ollama()
        d = self.ollama_daemon(server, embedding__timeout_ms=300, embedding__deadline_ms=600)
        modes = ("failed", "busy", "limited", "eof", "cut", "drip", "garbage", "hang", "missing",
                 "count", "dimension")
        for mode in modes:
            with self.subTest(mode):
                self.check_failing(d, server, mode)
        stats = d.stats()
        self.assertEqual(stats["embedding"]["state"], "failing")
        self.assertNotEqual(stats["embedding"]["last_error"], "")
        self.assertIn("embedder_down", [a["name"] for a in stats["alerts"]])
        self.assertNotEqual(stats["health"], "healthy")
        self.assertGreater(stats["operations"]["embedding"]["errors"], 0)
        self.check_vectors([])
        self.assertEqual(stats["embedding_backlog"], 5 * len(modes))
        server.mode = "ok"
        eventually(lambda: self.recovered(d), 30, "vectors again")
        self.assertNotIn("embedder_down", [a["name"] for a in d.stats()["alerts"]])
        # Neither a text nor a vector has any business in the log.
        self.assertNotIn("garbage 1", d.log())

    def recovered(self, d):
        self.store(d, [f"well again {time.monotonic()}"])
        return self.pg.count("embeddings") > 0 and d.stats()["embedding"]["state"] == "ok"

    def test_no_vector_that_is_not_finite(self):
        """Goal of this test: NaN and null in a reply are never stored; every conversation has either
        a good vector or a row in embedding_backlog."""
        server = self.ollama()
        d = self.ollama_daemon(server)
        for mode in ("nan", "null"):
            server.mode = mode
            self.store(d, [f"{mode} {n}" for n in range(4)])
        self.assertEqual(self.pg.count(), 8)
        self.assertGreaterEqual(len(self.waiting()), 2)
        self.assertEqual(self.pg.count("embeddings") + len(self.waiting()), 8)
        self.assertEqual(self.pg.value("select count(*) from convstore.embeddings"
                                       " where vector_norm(embedding) between 0.99 and 1.01"),
                         self.pg.count("embeddings"))

    def test_one_bad_text_costs_its_own_vector(self):
        """Goal of this test: a text that makes its whole request fail is found; the others of its
        batch get their vectors."""
        server = self.ollama()
        server.poison = ["poison"]
        d = self.ollama_daemon(server)
        texts = [f"text {n}" for n in range(20)]
        self.store(d, [*texts[:13], "some poison here", *texts[13:]])
        self.check_vectors(texts)
        self.assertEqual(self.waiting(), ["some poison here"])
        self.assertLessEqual(server.requests, 2 * 21)

    def test_down_and_back(self):
        """Goal of this test: an embedder that refuses connections, at the start and later, costs
        vectors only, and is used again when it is back."""
        server = self.ollama()
        server.close()
        d = self.ollama_daemon(server, embedding__deadline_ms=500)
        self.assertLess(self.store(d, ["down"]), scaled(3))
        self.assertEqual(self.waiting(), ["down"])
        self.assertEqual(d.stats()["embedding"]["state"], "failing")
        server.open()
        eventually(lambda: self.recovered(d), 30, "vectors again")
        eventually(lambda: self.waiting() == [], 30, "the vector that was missing")

    def test_text_first_under_load(self):
        """Goal of this test: a slow embedder does not set the pace of rows: where more wait than may be
        under way, they become rows without waiting for their vectors, which follow."""
        server = self.ollama()
        server.delay = 0.2
        deadline_s, rows, at_once = 5, 400, 4 * 10
        d = self.ollama_daemon(server, embedding__deadline_ms=deadline_s * 1000, embedding__request_inputs=1,
                               embedding__max_in_flight=1, batch__batch_size=10, batch__max_concurrent_batches=4,
                               batch__flush_interval_ms=5)
        started = time.monotonic()
        with d.client(timeout=scaled(60)) as client:
            client.request("store_many", [conversation(transcript=f"t{n}") for n in range(rows)])
        eventually(lambda: self.pg.count() >= rows - at_once, 60, "all rows but those of the last batches")
        took, waited = time.monotonic() - started, rows / at_once * deadline_s
        self.assertLess(took, waited / 4)
        server.delay = 0
        eventually(lambda: self.pg.count("embeddings") == rows, 60, "all vectors")
        self.said = f"{rows} rows in {took:.1f} s, with waiting for the embedder {waited:.0f} s"

    def test_over_a_unix_socket(self):
        """Goal of this test: embedding.url may be unix://PATH."""
        path = self.directory / "ollama.sock"
        server = self.ollama(unix_path=path)
        d = self.ollama_daemon(server, embedding__url=f"unix://{path}")
        self.store(d, ["over a socket"])
        self.check_vectors(["over a socket"])

    def test_a_hanging_embedder_does_not_hold_the_end(self):
        """Goal of this test: SIGTERM while requests hang: the texts are rows, the exit status is 0, and
        it takes no longer than the request's time-out."""
        server = self.ollama()
        server.mode = "hang"
        d = self.ollama_daemon(server, embedding__deadline_ms=300, embedding__timeout_ms=1000)
        with d.client() as client:
            for n in range(10):
                client.request("store", conversation(transcript=f"hang {n}"))
        eventually(lambda: server.requests > 0, 5, "a request that hangs")
        started = time.monotonic()
        self.assertEqual(d.stop(), 0)
        self.assertLess(time.monotonic() - started, scaled(4))
        self.assertEqual((self.pg.count(), len(self.waiting())), (10, 10))

    def test_provider_none(self):
        """Goal of this test: with provider "none" there are rows, no vectors, and nothing waits for
        any."""
        d = self.daemon(self.pg, embedding__provider="none")
        self.store(d, [f"text {n}" for n in range(10)])
        self.assertEqual((self.pg.count(), self.pg.count("embeddings"),
                          self.pg.count("embedding_backlog")), (10, 0, 0))
        stats = d.stats()
        self.assertEqual((stats["embedding_backlog"], stats["operations"]["embedding"]["count"]), (0, 0))
        self.assertNotIn("embedder_down", [a["name"] for a in stats["alerts"]])


if __name__ == "__main__":
    unittest.main()
