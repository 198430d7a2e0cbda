"""Reading back what was stored: status, get, list and search, and that it delays nothing else."""
import datetime
import json
import time
import unittest
import uuid

from harness import RpcError, Scenario, conversation, eventually, scaled
from msgpack import Timestamp

STORED = {"wait": "stored"}
DAY = datetime.datetime(2026, 3, 1, tzinfo=datetime.timezone.utc)


def day(n):
    return Timestamp.from_datetime(DAY + datetime.timedelta(days=n))


class Reads(Scenario):
    def setUp(self):
        super().setUp()
        self.pg = self.shared_postgres()

    def store(self, daemon, *items):
        with daemon.client(timeout=30) as client:
            answer = client.request("store_many", list(items), STORED)
        self.assertEqual(answer["errors"], [])
        return answer["ids"]

    def ask(self, daemon, method, *params):
        with daemon.client(timeout=30) as client:
            return client.request(method, *params)

    def refused(self, daemon, method, *params):
        with self.assertRaises(RpcError, msg=params) as raised:
            self.ask(daemon, method, *params)
        return raised.exception

    def search(self, daemon, query, **options):
        found = self.ask(daemon, "search", {"user_id": "ann", "query": query, **options})["results"]
        self.assertEqual(found, sorted(found, key=lambda hit: -hit["score"]))
        return found

    def test_get_gives_back_what_was_stored(self):
        """Goal of this test: get returns every field as it was stored, whatever JSON the metadata is;
        another user's id is NOT_FOUND."""
        d = self.daemon(self.pg)
        metadata = {"n": 1, "big": 2**64 - 1, "small": -2**63, "half": 0.5, "e": 1e300, "none": None,
                    "yes": True, "no": False, "text": "a\"\\/\b\f\n\r\t\x01\x1f é 漢 😀", "": [],
                    "list": [1, [2.25, {}], {"deep": {"er": ["x"]}}], "long": "y" * 70000}
        sent = conversation("ann", "user: grüß dich 😀\n", platform="web", summary="", metadata=metadata,
                            created_at=Timestamp(-1, 999999000))
        bare = conversation("ann", "user: bare")
        ids = self.store(d, sent, bare)
        got = self.ask(d, "get", "ann", ids[0])
        stored_at = got.pop("stored_at").to_datetime()
        now = datetime.datetime.now(datetime.timezone.utc)
        self.assertLess(abs((now - stored_at).total_seconds()), 60)
        big = got["metadata"].pop("e")
        self.assertEqual((big, metadata.pop("e")), (1e300, 1e300))
        self.assertEqual(got, {**sent, "id": ids[0]})
        got = self.ask(d, "get", "ann", ids[1].upper())
        self.assertEqual((got["summary"], got["metadata"], got["id"]), (None, None, ids[1]))
        self.assertEqual(self.ask(d, "get", "ann", uuid.UUID(ids[1]).bytes)["transcript"], "user: bare")
        self.assertEqual(self.refused(d, "get", "bob", ids[0]).name, "NOT_FOUND")
        self.assertEqual(self.refused(d, "get", "ann", str(uuid.uuid4())).name, "NOT_FOUND")

    def test_list_pages_without_a_gap(self):
        """Goal of this test: list gives a user's conversations newest first; following its cursor
        gives each once, though many are of the same moment and new ones come meanwhile."""
        d = self.daemon(self.pg)
        items = [conversation("ann", f"t {n}", created_at=day(n // 7)) for n in range(95)]
        ids = self.store(d, *items, conversation("bob", "not ann's"))[:95]
        expected = [i for _, i in sorted(zip([n // 7 for n in range(95)], ids, strict=True),
                                         key=lambda pair: (-pair[0], pair[1]))]
        seen, before = [], None
        while True:
            page = self.ask(d, "list", {"user_id": "ann", "limit": 10, "before": before})
            seen += [c["id"] for c in page["conversations"]]
            before = page["next"]
            if before is None:
                break
            self.store(d, conversation("ann", "newer", created_at=day(100)))
        self.assertEqual(seen, expected)
        self.assertEqual(len(self.ask(d, "list", {"user_id": "ann"})["conversations"]), 20)
        page = self.ask(d, "list", {"user_id": "ann", "before": day(1), "limit": 100})
        self.assertEqual([c["id"] for c in page["conversations"]], expected[-7:])
        self.assertEqual(page["conversations"][0].keys(), {
            "id", "platform", "created_at", "stored_at", "summary", "metadata", "transcript_bytes"})
        self.assertEqual(page["conversations"][0]["transcript_bytes"], 3)
        self.assertEqual(self.ask(d, "list", {"user_id": "nobody"}),
                         {"conversations": [], "next": None})

    def test_a_page_has_a_bound(self):
        """Goal of this test: a page of large rows ends early, says so, and the next goes on."""
        d = self.daemon(self.pg)
        blob = {"blob": "x" * 250_000}
        ids = self.store(d, *(conversation("ann", f"word {n}", metadata=blob, created_at=day(n))
                              for n in range(12)))
        seen, before, pages = [], None, 0
        while pages == 0 or before is not None:
            page = self.ask(d, "list", {"user_id": "ann", "limit": 100, "before": before})
            seen += [c["id"] for c in page["conversations"]]
            before, pages = page["next"], pages + 1
        self.assertEqual((seen, pages), (ids[::-1], 3))
        self.assertEqual(len(self.search(d, "word", mode="text", limit=100)), 5)

    def test_status_tells_where_it_is(self):
        """Goal of this test: status says queued while it waits (without the database), then stored,
        then embedded; failed with the reason for what the database refuses; else NOT_FOUND."""
        d = self.daemon(self.pg, batch__batch_timeout_ms=600000, batch__flush_interval_ms=600000)
        item = conversation("ann", "text", created_at=day(0))
        with d.client() as client:
            item["id"] = client.request("store", item)["id"]
        status = self.ask(d, "status", "ann", item["id"])
        self.assertEqual(status, {"state": "queued", "attempts": 0, "error": None,
                                  "created_at": day(0), "stored_at": None})
        self.assertEqual(self.refused(d, "status", "bob", item["id"]).name, "NOT_FOUND")
        d.flush()
        status = self.ask(d, "status", "ann", item["id"])
        self.assertEqual((status["state"], status["created_at"]), ("embedded", day(0)))
        self.assertIsNotNone(status["stored_at"])
        self.pg.sql("delete from convstore.embeddings")
        self.assertEqual(self.ask(d, "status", "ann", item["id"])["state"], "stored")
        self.pg.sql("insert into convstore.embedding_backlog (user_id, conversation_id, model_id,"
                    " attempts, next_attempt_at, last_error)"
                    " values ('ann', %s, 1, 7, 'infinity', 'too long')", item["id"])
        status = self.ask(d, "status", "ann", item["id"])
        self.assertEqual([status[k] for k in ("state", "attempts", "error")], ["stored", 7, "too long"])
        self.pg.sql("alter table convstore.conversations add constraint no_poison"
                    " check (platform <> 'poison')")
        bad = conversation("ann", "text", platform="poison", id=str(uuid.uuid4()))
        with d.client() as client:
            client.request("store", bad)
        d.flush()
        status = self.ask(d, "status", "ann", bad["id"])
        self.assertEqual(status["state"], "failed")
        self.assertRegex(status["error"], "^23514: .*no_poison")

    def test_search_by_words_by_meaning_and_both(self):
        """Goal of this test: each mode finds the user's own conversations, best first, with the passage
        that fits; platform and time narrow it; other users' are never found."""
        d = self.daemon(self.pg, embedding__source="both", search__language="english")
        filler = "\n".join(f"User: nothing of note in line {n}" for n in range(200))
        items = [conversation("ann", f"{filler}\nUser: my zebra escaped\nAgent: call the zoo\n{filler}",
                              summary="an animal", platform="web", created_at=day(1)),
                 conversation("ann", "User: the printer is broken", summary="printer trouble",
                              platform="phone", created_at=day(2), metadata={"k": [1]}),
                 conversation("ann", "User: printers, again printers", summary="printer printers",
                              platform="web", created_at=day(3)),
                 conversation("bob", "User: zebra printer", summary="zebra printer")]
        ids = self.store(d, *items)
        for mode in ("vector", "text", "hybrid", None):
            options = {"mode": mode} if mode else {}
            hits = self.search(d, "zebra escaped", **options)
            self.assertEqual(hits[0]["id"], ids[0], mode)
            self.assertIn("zebra", hits[0]["snippet"], mode)
            self.assertLess(len(hits[0]["snippet"]), 2001)
            hits = self.search(d, "printer", **options)
            self.assertEqual({hit["id"] for hit in hits[:2]}, set(ids[1:3]), mode)
            self.assertNotIn(ids[3], [hit["id"] for hit in hits])
            hits = self.search(d, "printer", platform="phone", **options)
            self.assertEqual([hit["id"] for hit in hits], ids[1:2], mode)
            self.assertEqual({k: hits[0][k] for k in ("platform", "created_at", "summary", "metadata")},
                             {"platform": "phone", "created_at": day(2), "summary": "printer trouble",
                              "metadata": {"k": [1]}})
            hits = self.search(d, "printer", since=day(3), **options)
            self.assertEqual([hit["id"] for hit in hits], ids[2:3], mode)
            hits = self.search(d, "printer", since=day(2), until=day(3), **options)
            self.assertEqual([hit["id"] for hit in hits], ids[1:2], mode)
            self.assertEqual(len(self.search(d, "printer", limit=1, **options)), 1)
        self.assertEqual(self.search(d, "printer -broken", mode="text")[0]["id"], ids[2])
        self.assertEqual(self.search(d, "giraffe", mode="text"), [])
        self.assertEqual(self.search(d, "the", mode="text"), [])  # a stop word
        self.assertEqual(self.ask(d, "search", {"user_id": "eve", "query": "zebra"}), {"results": []})

    def test_exact_distance_with_many_chunks(self):
        """Goal of this test: where one conversation has more near chunks than are looked at first, the
        others are still found; the scores are exact; an HNSW index does no harm."""
        d = self.daemon(self.pg, embedding__source="transcript")
        long = "\n".join(f"User: alpha beta gamma delta line {n}" for n in range(2000))
        texts = [f"User: alpha and topic {n} of {n * 7}" for n in range(30)]
        ids = self.store(d, conversation("ann", long), *(conversation("ann", t) for t in texts))
        hits = self.search(d, "alpha beta gamma delta", mode="vector", limit=3)
        self.assertEqual(hits[0]["id"], ids[0])
        self.assertEqual(len({hit["id"] for hit in hits}), 3)
        rows = self.pg.sql("select conversation_id::text, embedding::real[] from convstore.embeddings")
        query = dict(rows)[ids[5]]
        best = {}
        for i, numbers in rows:
            best[i] = max(best.get(i, -1), sum(a * b for a, b in zip(query, numbers, strict=True)))
        hits = self.search(d, texts[4], mode="vector", limit=10)
        self.assertEqual(hits[0]["id"], ids[5])
        for hit, score in zip(hits, sorted(best.values(), reverse=True)[:10], strict=True):
            self.assertAlmostEqual(hit["score"], score, places=5)
            self.assertAlmostEqual(hit["score"], best[hit["id"]], places=5)
        if self.pg.value("select 1 from pg_extension where extname = 'vector'"):
            self.pg.sql("create index on convstore.embeddings using hnsw"
                        " ((embedding::vector(768)) vector_cosine_ops) where model_id = 1")
            hits = self.search(d, texts[4], mode="vector", limit=10)
            self.assertEqual((hits[0]["id"], len(hits)), (ids[5], 10))

    def test_halfvec_and_no_pgvector(self):
        """Goal of this test: vectors that are stored as halfvec or real[] are searched as well."""
        d = self.daemon(self.pg, embedding__storage="halfvec")
        ids = self.store(d, conversation("ann", "User: zebra"), conversation("ann", "User: printer"))
        self.assertEqual([hit["id"] for hit in self.search(d, "zebra", mode="vector")], ids)
        self.assertGreater(self.search(d, "User: zebra", mode="vector")[0]["score"], 0.99)
        self.assertEqual(d.stop(), 0)
        self.pg.sql("drop schema convstore cascade")
        self.pg.sql("drop extension if exists vector")
        self.pg.sql("create schema convstore")
        self.pg.sql("create table convstore.embeddings (user_id text collate \"C\", conversation_id uuid,"
                    " model_id smallint, chunk integer, byte_start integer, byte_end integer,"
                    " made_at timestamptz default now(), embedding real[],"
                    " primary key (user_id, conversation_id, model_id, chunk))")
        d.start()
        ids = self.store(d, conversation("ann", "User: zebra"), conversation("ann", "User: printer"))
        for mode in ("vector", "hybrid"):
            self.assertEqual([hit["id"] for hit in self.search(d, "zebra", mode=mode)], ids)

    def test_without_an_embedder(self):
        """Goal of this test: without a provider search is by words; with one that is down mode vector
        is UNAVAILABLE, in time, and mode text answers; a query has its own prefix."""
        d = self.daemon(self.pg, embedding__provider="none")
        ids = self.store(d, conversation("ann", "User: zebra"))
        self.assertEqual([hit["id"] for hit in self.search(d, "zebra")], ids)
        self.assertIn("text", self.refused(d, "search", {"user_id": "ann", "query": "zebra",
                                                         "mode": "vector"}).text)
        self.assertEqual(self.ask(d, "status", "ann", ids[0])["state"], "stored")
        server = self.ollama()
        e = self.daemon(self.pg, name="e", embedding__provider="ollama", embedding__url=server.url,
                        search__timeout_ms=1000)
        self.store(e, conversation("ann", "User: horse"))
        self.assertEqual(len(self.search(e, "horse", mode="vector")), 1)
        self.assertIn("search_query: horse", server.texts)
        self.assertIn("search_document: User: horse", server.texts)
        sent = len(server.texts)
        self.search(e, "horse", mode="hybrid")
        self.assertEqual(len(server.texts), sent)  # from the cache
        server.mode = "failed"
        begin = time.monotonic()
        error = self.refused(e, "search", {"user_id": "ann", "query": "another"})
        self.assertEqual(error.name, "UNAVAILABLE")
        self.assertLess(time.monotonic() - begin, scaled(3))
        self.assertEqual([hit["id"] for hit in self.search(e, "zebra", mode="text")], ids)

    def test_a_query_that_hangs(self):
        """Goal of this test: the embedder never answers for one query: whoever asks hears of it in time,
        and other queries are answered all the while."""
        server = self.ollama()
        server.hangers = ["tar pit"]
        d = self.daemon(self.pg, embedding__provider="ollama", embedding__url=server.url,
                        embedding__timeout_ms=60000, search__timeout_ms=1000)
        self.store(d, conversation("ann", "User: horse"))
        for n in range(3):
            self.assertEqual(self.refused(d, "search", {"user_id": "ann", "query": "tar pit"}).name, "UNAVAILABLE")
            self.assertEqual(len(self.search(d, f"horse {n}", mode="vector")), 1)

    def test_a_database_that_is_away_or_slow(self):
        """Goal of this test: reads answer UNAVAILABLE in time when the database is away or does not
        answer; stores are acked and status says queued meanwhile; afterwards everything is read."""
        d = self.daemon(self.pg, search__timeout_ms=700)
        ids = self.store(d, conversation("ann", "User: zebra"))
        self.pg.sql("select 1")
        blocker = self.pg.connect()
        self.addCleanup(blocker.close)
        blocker.autocommit = False
        blocker.cursor().execute("lock table convstore.conversations in access exclusive mode")
        with d.client(timeout=30) as client:
            begin = time.monotonic()
            waiting = [client.send("get", "ann", ids[0]) for _ in range(300)]
            errors = [client.reply(n)[0][1] for n in waiting]
            self.assertEqual(set(errors), {"UNAVAILABLE"})
            self.assertLess(time.monotonic() - begin, scaled(3))
            late = client.request("store", conversation("ann", "User: late"))["id"]
            self.assertEqual(client.request("status", "ann", late)["state"], "queued")
            blocker.rollback()
            eventually(lambda: client.request("status", "ann", late)["state"] == "embedded", 20,
                       "it is a row")
            self.assertEqual(client.request("get", "ann", ids[0])["transcript"], "User: zebra")
        lost = self.daemon(name="lost", database__conninfo="host=/nonexistent dbname=none")
        with lost.client() as client:
            late = client.request("store", conversation("ann", "User: late"))["id"]
            for method, params in (("get", ["ann", late]), ("list", [{"user_id": "ann"}]),
                                   ("search", [{"user_id": "ann", "query": "x", "mode": "text"}]),
                                   ("status", ["ann", ids[0]])):
                self.assertEqual(self.refused(lost, method, *params).name, "UNAVAILABLE")
            self.assertEqual(client.request("status", "ann", late)["state"], "queued")

    def test_results_that_nobody_reads(self):
        """Goal of this test: clients that ask for large conversations and do not read the answers cost
        bounded memory; when they read, each question has its answer, and others are served meanwhile."""
        d = self.daemon(self.pg)
        large = conversation("ann", "x" * 4_000_000)
        large["id"] = self.store(d, large)[0]
        lazy = [d.client(timeout=60) for _ in range(3)]
        for client in lazy:
            self.addCleanup(client.close)
            waiting = [client.send("get", "ann", large["id"]) for _ in range(60)]
            # Answered in turn: this one behind all of them.
            self.assertEqual(len(self.ask(d, "get", "ann", large["id"])["transcript"]), 4_000_000)
        self.assertLess(d.memory()[1], 600e6)  # of 720 MB; a sanitizer keeps what is freed for a while
        for client in lazy:
            answers = [client.reply(msgid) for msgid in waiting]
            whole = [result for error, result in answers if error is None]
            self.assertLessEqual({error[1] for error, _ in answers if error}, {"UNAVAILABLE"})
            self.assertTrue(all(len(r["transcript"]) == 4_000_000 for r in whole))
            self.assertGreater(len(whole), 0)
            self.assertEqual(len(client.request("get", "ann", large["id"])["transcript"]), 4_000_000)

    def test_the_end_answers_who_waits(self):
        """Goal of this test: SIGTERM while reads wait: each is answered, and the daemon ends with 0."""
        d = self.daemon(self.pg, search__timeout_ms=2000)
        ids = self.store(d, conversation("ann", "User: zebra"))
        blocker = self.pg.connect()
        self.addCleanup(blocker.close)
        blocker.autocommit = False
        blocker.cursor().execute("lock table convstore.conversations in access exclusive mode")
        with d.client(timeout=30) as client:
            waiting = [client.send("get", "ann", ids[0]) for _ in range(5)]
            waiting += [client.send("search", {"user_id": "ann", "query": "q"}) for _ in range(5)]
            time.sleep(0.2)
            self.assertEqual(d.stop(), 0)
            for msgid in waiting:
                self.assertIn(client.reply(msgid)[0][1], ("UNAVAILABLE", "SHUTTING_DOWN"))

    def test_convstorectl(self):
        """Goal of this test: convstorectl status, get, list and search show what there is, page by page,
        as text without control characters or as JSON; what is wrong is said, with the exit status."""
        d = self.daemon(self.pg)
        ids = self.store(d, *(conversation("ann", f"User: zebra {n}\x1b[2J\nAgent: no", summary="animals",
                                           metadata={"n": n}, created_at=day(n)) for n in range(3)))

        def ctl(*words, status=0):
            done = d.ctl(*words)
            self.assertEqual(done.returncode, status, done.stdout + done.stderr)
            self.assertNotIn("\x1b", done.stdout)
            return done.stdout + done.stderr

        self.assertIn("embedded", ctl("status", "ann", ids[0]))
        page = ctl("get", "ann", ids[0])
        self.assertIn("transcript:\nUser: zebra 0", page)
        self.assertIn("2026-03-01T00:00:00", page)
        self.assertEqual(json.loads(ctl("--json", "get", "ann", ids[1]))["metadata"], {"n": 1})
        page = ctl("list", "ann", "--limit", "2")
        self.assertIn(ids[2], page)
        self.assertNotIn(ids[0], page)
        rest = json.loads(ctl("--json", "list", "ann", "--before", page.split("--before ")[1].strip()))
        self.assertEqual([c["id"] for c in rest["conversations"]], [ids[0]])
        self.assertIn("no conversations", ctl("list", "bob"))
        page = ctl("search", "ann", "zebra", "--since", "2026-03-02T00:00:00Z", "--mode", "text",
                   "--until", str(int(day(2).to_datetime().timestamp() * 1000)))
        self.assertIn(ids[1], page)
        self.assertIn("zebra 1", page)
        self.assertNotIn(ids[2], page)
        self.assertIn("nothing found", ctl("search", "ann", "zebra", "--platform", "fax"))
        self.assertIn("NOT_FOUND", ctl("get", "bob", ids[0], status=1))
        self.assertIn("options.mode", ctl("search", "ann", "zebra", "--mode", "magic", status=1))
        for words in (("get", "ann"), ("list",), ("search", "ann"), ("list", "ann", "--limit", "0"),
                      ("search", "ann", "q", "--since", "now"), ("get", "ann", ids[0], "more")):
            ctl(*words, status=2)

    def test_wrong_questions(self):
        """Goal of this test: what is wrong with a call is named."""
        d = self.daemon(self.pg)
        good = str(uuid.uuid4())
        key = [(("", good), "user_id"), ((1, good), "user_id"), (("a", "x"), "id"), (("a", None), "id"),
               (("a\0", good), "NUL"), (("a" * 257, good), "user_id")]
        wrong = [("get", *case) for case in key] + [("status", *case) for case in key]
        for method, more in (("list", {}), ("search", {"query": "q"})):
            wrong += [(method, ([],), "map"), (method, (more,), "user_id"),
                      (method, ({"user_id": "a", **more, "limit": 0},), "limit"),
                      (method, ({"user_id": "a", **more, "limit": 101},), "limit"),
                      (method, ({"user_id": "a", **more, "burn": 1},), "burn"),
                      (method, ({"user_id": None, **more},), "user_id"), (method, ({1: 2},), "keys")]
        wrong += [("list", ({"user_id": "a", "before": "x"},), "before"),
                  ("list", ({"user_id": "a", "before": "1/x"},), "before"),
                  ("list", ({"user_id": "a", "query": "x"},), "query"),
                  ("search", ({"user_id": "a"},), "query"),
                  ("search", ({"user_id": "a", "query": ""},), "query"),
                  ("search", ({"user_id": "a", "query": "x" * 4001},), "query"),
                  ("search", ({"user_id": "a", "query": "q", "mode": "magic"},), "mode"),
                  ("search", ({"user_id": "a", "query": "q", "since": "now"},), "since"),
                  ("search", ({"user_id": "a", "query": "q", "until": 0.5},), "until")]
        for method, params, word in wrong:
            error = self.refused(d, method, *params)
            self.assertIn(error.name, ("INVALID_ARGUMENT", "TOO_LARGE"), params)
            self.assertIn(word, error.text)
        d2 = self.daemon(self.pg, name="d2", search__language="klingon'")
        error = self.refused(d2, "search", {"user_id": "a", "query": "q", "mode": "text"})
        self.assertEqual(error.name, "UNAVAILABLE")
        self.assertIn("klingon", error.text)
        with d.client() as client:
            client.notify("get", "a", good)
            client.notify("get", 1)
            self.assertEqual(client.request("ping")["protocol"], 1)


if __name__ == "__main__":
    unittest.main()
