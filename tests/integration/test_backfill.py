"""Text first, vector later: rows that were stored without a vector get theirs, whoever left them and
whenever, in order, once, and without holding up new texts."""
import random
import threading
import time
import unittest

from harness import Scenario, conversation, eventually, scaled, vector
from pg_proxy import OtherStatement

STORED = {"wait": "stored"}
PREFIX = "search_document: "  # what nomic-embed-text wants before a text


class Backfill(Scenario):
    def setUp(self):
        super().setUp()
        self.pg = self.shared_postgres()

    def ollama_daemon(self, server, **settings):
        chosen = {"embedding__provider": "ollama", "embedding__url": server.url,
                  "embedding__deadline_ms": 200, "embedding__timeout_ms": 5000,
                  "batch__batch_timeout_ms": 20, "batch__flush_interval_ms": 10}
        chosen.update(settings)
        return self.daemon(self.pg, **chosen)

    def store(self, daemon, texts, **fields):
        with daemon.client(timeout=20) as client:
            answer = client.request("store_many", [conversation(transcript=text, **fields)
                                                   for text in texts], STORED)
        self.assertEqual(answer["errors"], [])
        return answer["ids"]

    def waits_for_backlog(self, daemon, seconds=30):
        """Until nothing waits for a vector, neither in the table nor in what stats says."""
        eventually(lambda: self.pg.count("embedding_backlog") == 0, seconds, "an empty backlog")
        eventually(lambda: daemon.stats()["embedding_backlog"] == 0, 40, "stats saying so")

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

    def test_late_vectors_are_written(self):
        """Goal of this test: vectors that come after embedding.deadline_ms are written all the same,
        without asking for their texts again."""
        server = self.ollama()
        server.gate.clear()
        d = self.ollama_daemon(server, embedding__timeout_ms=60000)
        self.store(d, [f"late {n}" for n in range(20)])
        self.assertEqual(self.pg.count("embeddings"), 0)
        self.assertGreater(d.stats()["embedding_backlog"], 0)
        server.gate.set()
        self.waits_for_backlog(d)
        self.check_vectors(20)
        self.assertEqual(server.inputs, 20)

    def test_a_count_that_the_server_ends(self):
        """Goal of this test: the backlog is too large for the server to count it within
        statement_timeout: its rows get their vectors all the same."""
        server = self.ollama()
        self.pg.sql(self.daemon(self.pg, start=False).ctl("schema").stdout)
        self.pg.sql("create function public.ended() returns int8 language plpgsql as $$ begin"
                    " raise 'canceling statement due to statement timeout' using errcode = '57014'; end $$")
        proxy = OtherStatement(self.directory / "proxy", self.pg,
                               "SELECT count(*) FROM convstore.embedding_backlog WHERE model_id = $1::int2",
                               "SELECT public.ended() WHERE $1::int2 > 0")
        self.addCleanup(proxy.close)
        server.gate.clear()
        d = self.ollama_daemon(server, name="counting", database__conninfo=proxy.conninfo,
                               embedding__timeout_ms=60000)
        self.store(d, [f"late {n}" for n in range(20)])
        self.assertEqual(self.pg.count("embeddings"), 0)
        server.gate.set()
        eventually(lambda: self.pg.count("embedding_backlog") == 0, 30, "an empty backlog")
        self.check_vectors(20)
        self.assertGreater(proxy.edits, 0)

    def test_rows_from_before_a_restart(self):
        """Goal of this test: what the embedder owed when the daemon ended, the next start fills in,
        oldest first."""
        server = self.ollama()
        server.close()
        d = self.ollama_daemon(server)
        for n in range(30):
            self.store(d, [f"old {n:02}"])
        self.assertEqual(self.pg.count("embedding_backlog"), 30)
        self.assertEqual(d.stop(), 0)
        # One age for all, as if nothing had been tried since they were stored.
        self.pg.sql("update convstore.embedding_backlog b set attempts = 0, next_attempt_at = stored_at"
                    " from convstore.conversations c where c.user_id = b.user_id"
                    " and c.id = b.conversation_id")
        server.open()
        d.settings["embedding.request_inputs"] = 10
        d.settings["embedding.max_in_flight"] = 1
        d.start()
        self.waits_for_backlog(d)
        self.check_vectors(30)
        tens = [sorted(server.texts[n:n + 10]) for n in (0, 10, 20)]
        self.assertEqual(sum(tens, []), [f"{PREFIX}old {n:02}" for n in range(30)])

    def test_rows_that_another_daemon_left(self):
        """Goal of this test: two daemons share the backlog of a third that was killed; no text is
        embedded twice and none is left."""
        server = self.ollama()
        server.mode = "hang"
        d = self.ollama_daemon(server)
        self.store(d, [f"left {n}" for n in range(300)])
        d.kill()
        server.close()
        self.assertEqual(self.pg.count("embeddings"), 0)
        # The dead daemon's leases would run out in a minute.
        self.pg.sql("update convstore.embedding_backlog set next_attempt_at = now()")
        server.mode, server.delay = "ok", 0.05
        server.reset_counters()
        server.open()
        others = [self.ollama_daemon(server, name=name, embedding__request_inputs=16)
                  for name in ("one", "two")]
        for other in others:
            self.waits_for_backlog(other)
        self.check_vectors(300)
        self.assertEqual((server.inputs, len(set(server.texts))), (300, 300))

    def test_erased_conversations_leave_the_backlog(self):
        """Goal of this test: a backlog row whose conversation is gone is removed, and no vector is
        written for it."""
        server = self.ollama()
        server.close()
        d = self.ollama_daemon(server)
        ids = self.store(d, ["erased", "kept"])
        self.pg.sql("delete from convstore.conversations where id = %s", ids[0])
        server.open()
        self.waits_for_backlog(d)
        self.check_vectors(1)

    def test_no_vector_of_an_earlier_text(self):
        """Goal of this test: when a conversation changes while its text is being embedded, the vector
        is not stored and the row stays in the backlog."""
        server = self.ollama()
        server.gate.clear()
        d = self.ollama_daemon(server, embedding__timeout_ms=60000)
        self.store(d, ["first text"])
        eventually(lambda: self.pg.value("select attempts from convstore.embedding_backlog") == 1, 10,
                   "the row being claimed")
        self.pg.sql("update convstore.conversations set transcript = 'second text',"
                    " content_hash = decode(md5('second text'), 'hex')")
        server.gate.set()
        eventually(lambda: d.stats()["cache"]["entries"] == 1, 40, "the vector of the first text")
        time.sleep(0.5)
        self.assertEqual((self.pg.count("embeddings"), self.pg.count("embedding_backlog")), (0, 1))
        self.pg.sql("update convstore.embedding_backlog set next_attempt_at = now()")
        self.waits_for_backlog(d)
        self.check_vectors(1)

    def test_a_text_that_is_refused_waits_longer_each_time(self):
        """Goal of this test: a text that the model cannot embed keeps its row in the backlog with the
        reason, its tries are counted and get rarer; its neighbours have their vectors."""
        server = self.ollama()
        server.poison = ["poison"]
        d = self.ollama_daemon(server, embedding__deadline_ms=2000)
        self.store(d, ["good 1", "poison", "good 2"])
        eventually(lambda: self.pg.value("select attempts from convstore.embedding_backlog") == 2, 20,
                   "a second try")
        self.assertEqual(self.pg.count("embeddings"), 2)
        eventually(lambda: self.pg.value("select next_attempt_at > now() + interval '3.5 s'"
                                         " and next_attempt_at < now() + interval '10 s'"
                                         " from convstore.embedding_backlog"), 10, "a later try")
        error = self.pg.value("select last_error from convstore.embedding_backlog")
        self.assertIn("refuses the text", error)
        server.poison = []
        self.pg.sql("update convstore.embedding_backlog set next_attempt_at = now()")
        self.waits_for_backlog(d)
        self.check_vectors(3)

    def test_blank_texts_wait_for_nothing(self):
        """Goal of this test: there is nothing to embed in a text of blanks, so its row does not stay in
        the backlog."""
        server = self.ollama()
        d = self.ollama_daemon(server)
        self.store(d, [" \n\t", "text"])
        self.waits_for_backlog(d)
        self.assertEqual((self.pg.count(), self.pg.count("embeddings")), (2, 1))

    def test_each_distinct_text_is_sent_once(self):
        """Goal of this test: of 3,000 conversations half repeat earlier texts; the embedder sees each
        distinct text once, whatever came in time and whatever later."""
        server = self.ollama()
        server.delay = 0.05
        d = self.ollama_daemon(server, cache__embedding_cache_size=3000)
        texts = [f"text {n}" for n in range(1500)] * 2
        random.Random(7).shuffle(texts)
        with d.client(timeout=60) as client:
            asked = [client.send("store_many", [conversation(transcript=t) for t in texts[n:n + 100]])
                     for n in range(0, len(texts), 100)]
            for msgid in asked:
                error, answer = client.reply(msgid)
                self.assertEqual((error, answer["errors"]), (None, []))
        d.flush()
        self.waits_for_backlog(d, 60)
        self.check_vectors(3000)
        self.assertEqual((server.inputs, len(set(server.texts))), (1500, 1500))

    def test_chunks_of_a_transcript(self):
        """Goal of this test: embedding.source "both": the summary and each chunk of the transcript have
        a vector of their own text, in time or from the background; a chunk that is too long for the
        model is halved."""
        server = self.ollama()
        server.longest = 1500
        d = self.ollama_daemon(server, embedding__source="both", embedding__deadline_ms=2000)
        turns = "".join(f"User: question {n}, and what about émigrés?\nAI: answer {n} 🙂\n"
                        for n in range(200))
        self.store(d, [turns], summary="in short")
        self.store(d, ["User: Hi\nAI: Hello!"], summary="hello")
        self.waits_for_backlog(d)
        rows = self.pg.sql("select e.chunk, e.byte_start, e.byte_end, e.embedding::real[], c.transcript,"
                           " c.summary from convstore.embeddings e join convstore.conversations c"
                           " on c.user_id = e.user_id and c.id = e.conversation_id"
                           " order by length(c.transcript), e.chunk")
        self.assertGreater(len(rows), 2 + 1 + len(turns.encode()) // 2000)
        self.assertEqual([r[0] for r in rows[2:]], list(range(len(rows) - 2)))
        self.assertEqual(rows[-1][2], len(turns.encode()))
        reached = 0
        for chunk, start, end, numbers, transcript, summary in rows:
            text = transcript.encode()[start:end].decode() if end > 0 else summary
            self.assertEqual(chunk == 0, end == 0)
            if transcript == turns and end > 0:
                self.assertLessEqual(start, reached)
                self.assertTrue(text.startswith(("User: ", "AI: ")), text)
                reached = end
            expected = vector(PREFIX + text)
            self.assertLess(max(abs(a - b) for a, b in zip(numbers, expected, strict=True)), 1e-6, text)

    def test_rows_ahead_of_the_embedder_take_cached_vectors(self):
        """Goal of this test: where rows go first because the embedder does not keep up, those whose
        texts the cache knows have their vectors at once all the same."""
        server = self.ollama()
        d = self.ollama_daemon(server, embedding__deadline_ms=1000, embedding__timeout_ms=60000,
                               batch__batch_size=20, batch__max_concurrent_batches=2)
        known = [f"known {n}" for n in range(20)]
        self.store(d, known)
        eventually(lambda: self.pg.count("embeddings") == 20, 20, "vectors of the known texts")
        server.gate.clear()
        self.store(d, [text for n in range(400) for text in (f"new {n}", known[n % 20])])
        self.assertEqual((self.pg.count(), self.pg.count("embeddings")), (820, 420))
        server.gate.set()
        self.waits_for_backlog(d)
        self.check_vectors(820)
        self.assertEqual(server.inputs, 420)

    def test_the_embedder_is_kept_busy(self):
        """Goal of this test: where nobody else asks, the backlog gets as many requests at once as
        embedding.max_in_flight allows, and the embedder hardly ever waits for the database."""
        server = self.ollama()
        server.close()
        d = self.ollama_daemon(server, embedding__request_inputs=12, embedding__max_in_flight=2)
        self.store(d, [f"busy {n}" for n in range(600)])
        self.assertEqual(d.stop(), 0)
        self.pg.sql("update convstore.embedding_backlog set attempts = 0, next_attempt_at = now()")
        begun, ended = [], []
        begin, end = server.begin, server.end
        server.begin = lambda *request: (begun.append(time.monotonic()), begin(*request))[1]
        server.end = lambda: (ended.append(time.monotonic()), end())
        server.reset_counters()
        server.delay = 0.15
        server.open()
        d.start()
        eventually(lambda: self.pg.count("embedding_backlog") == 0, 40, "an empty backlog")
        self.check_vectors(600)
        self.assertEqual(server.most_in_flight, 2)
        begun, ended = begun[3:], ended[3:]  # a self-test, and the first round
        share = (sum(ended) - sum(begun)) / (2 * (ended[-1] - begun[0]))
        self.assertGreater(share, 0.75, "of the time of both")

    def test_a_slow_embedder_under_load(self):
        """Goal of this test: 150 ms a request and 1,000 conversations a second coming in: texts become
        rows within a second, and the vectors are all there soon after."""
        server = self.ollama()
        server.delay = 0.15
        d = self.ollama_daemon(server, embedding__deadline_ms=100, embedding__request_inputs=32,
                               embedding__max_in_flight=1, cache__embedding_cache_size=10000)
        count = 2000
        with d.client(timeout=60) as client:
            reader = threading.Thread(target=lambda: [client.reply(n + 1) for n in range(count)])
            started = time.monotonic()
            for n in range(count):
                client.send("store", conversation(transcript=f"load {n}"))
                if n == 0:
                    reader.start()
                time.sleep(max(0, started + n / 1000 - time.monotonic()))
            reader.join()
        d.flush()
        took = d.stats()["operations"]["end_to_end"]
        self.assertLess(took["p50_ms"], scaled(1000))
        self.assertLess(took["max_ms"], scaled(4000), "the embedder needs nine seconds for all of them")
        self.assertGreater(d.stats()["embedding_backlog"], 500)
        self.waits_for_backlog(d, 60)
        self.check_vectors(count)
        self.assertEqual(server.inputs, count)


if __name__ == "__main__":
    unittest.main()
