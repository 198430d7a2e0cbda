"""forget: erased everywhere, and it stays so whatever crashes or is promoted."""
import time
import unittest

from harness import RpcError, Scenario, conversation, eventually

STORED = {"wait": "stored"}
TABLES = ("conversations", "embeddings", "embedding_backlog", "dead_letters")


class Forget(Scenario):
    def setUp(self):
        super().setUp()
        self.pg = self.shared_postgres()

    def store(self, daemon, *items, options=STORED):
        with daemon.client(timeout=30) as client:
            answer = client.request("store_many", list(items), options)
        self.assertEqual(answer["errors"], [])
        return answer["ids"]

    def forget(self, daemon, **options):
        with daemon.control(timeout=40) as client:
            return client.request("forget", options)["removed"]

    def refused(self, daemon, options):
        with daemon.control() as client, self.assertRaises(RpcError) as raised:
            client.request("forget", options)
        return raised.exception

    def rows(self, user):
        return {t: self.pg.value(f"select count(*) from convstore.{t} where user_id = %s", user)
                for t in TABLES}

    def test_every_table_and_the_cache(self):
        """Goal of this test: one conversation, then all of a user, are gone from every table, the cache
        and its file; other users and later conversations stay."""
        cache = self.directory / "cache"
        d = self.daemon(self.pg, embedding__source="both", cache__file=cache)
        ids = self.store(d, *(conversation("ann", f"User: secret {n}", summary="s") for n in range(1000)))
        for _ in range(2):  # more than a slice
            self.store(d, *(conversation("ann", f"User: secret {n}") for n in range(1000)))
        other = self.store(d, conversation("bob", "User: other"), conversation("an", "User: other"))
        self.pg.sql("alter table convstore.conversations add constraint no_poison"
                    " check (platform <> 'poison')")
        with d.client() as client:
            client.request("store", conversation("ann", "User: bad", platform="poison"))
        d.flush()
        self.pg.sql("insert into convstore.embedding_backlog (user_id, conversation_id, model_id,"
                    " next_attempt_at) values ('ann', %s, 1, 'infinity'), ('bob', %s, 1, 'infinity')",
                    ids[0], other[0])
        self.assertEqual(self.forget(d, user_id="ann", id=ids[0]), 1)
        self.assertEqual(self.forget(d, user_id="ann", id=ids[0]), 0)
        self.assertEqual(self.rows("ann"), {"conversations": 2999, "embeddings": 999 * 2 + 2000,
                                            "embedding_backlog": 0, "dead_letters": 1})
        self.assertEqual(self.forget(d, user_id="ann"), 3000)
        self.assertEqual(set(self.rows("ann").values()), {0})
        self.assertEqual(self.rows("bob")["conversations"], 1)
        self.assertEqual(self.rows("bob")["embedding_backlog"], 1)
        self.assertEqual(self.rows("an")["conversations"], 1)
        self.assertEqual(d.stats()["cache"]["entries"], 0)
        eventually(lambda: cache.exists() and cache.stat().st_size < 200, 10, "an empty cache file")
        later = self.store(d, conversation("ann", "User: later"), conversation("ann", id=ids[0]))
        self.assertEqual(self.rows("ann")["conversations"], 2)
        self.assertEqual(d.stop(), 0)
        d.start()
        with d.client() as client:
            self.assertEqual(client.request("get", "ann", later[0])["transcript"], "User: later")

    def test_what_waits_in_memory_and_on_disk(self):
        """Goal of this test: what waits for the database, in memory and in the journal only, is never
        seen as a row after forget was answered; those who wait for it are answered; all else comes."""
        d = self.daemon(self.pg, queue__max_queue_size=20, batch__batch_size=20)
        self.pg.stop()
        self.addCleanup(lambda: self.pg.start())
        users = [("ann", "bob")[n % 2] for n in range(200)]
        self.store(d, *(conversation(u, f"User: {n}") for n, u in enumerate(users)), options=None)
        with d.client(timeout=40) as client, d.control(timeout=40) as control:
            waiting = client.send("store", conversation("ann", "User: waited for"), STORED)
            eventually(lambda: d.stats()["queued"] + d.stats()["processing"] == 201, 10, "all wait")
            self.assertGreater(d.stats()["journal"]["waiting_on_disk"], 100)
            forget = control.send("forget", {"user_id": "ann"})
            time.sleep(0.3)
            late = client.send("store", conversation("ann", "User: after it"), STORED)
            self.pg.start()
            error, result = control.reply(forget)
            self.assertIsNone(error)
            self.assertLessEqual(result["removed"], 40)
            self.assertEqual(client.reply(waiting)[0], None)
            self.assertEqual(client.reply(late)[0], None)
        d.flush()
        self.assertEqual(self.pg.sql("select transcript from convstore.conversations"
                                     " where user_id = 'ann'"), [("User: after it",)])
        self.assertEqual(self.rows("bob")["conversations"], 100)
        self.assertEqual(d.stop(), 0)

    def other_session(self, statement):
        """Has done this and goes on with its transaction."""
        other = self.pg.connect()
        self.addCleanup(other.close)
        other.autocommit = False
        other.cursor().execute(statement)
        return other

    def test_a_vector_that_is_being_written(self):
        """Goal of this test: a transaction that began before forget has written a vector and not ended:
        forget waits for it, and that vector is gone with the rest; others are stored meanwhile."""
        d = self.daemon(self.pg)
        self.store(d, conversation("ann", "User: hello"))
        other = self.other_session("insert into convstore.embeddings (user_id, conversation_id, model_id, chunk,"
                                   " byte_start, byte_end, embedding) select user_id, conversation_id, model_id, 7,"
                                   " byte_start, byte_end, embedding from convstore.embeddings")
        with d.control(timeout=40) as control:
            forget = control.send("forget", {"user_id": "ann"})
            eventually(lambda: self.rows("ann")["conversations"] == 0, 10, "the conversation is gone")
            self.store(d, conversation("bob", "User: meanwhile"))
            with self.assertRaises(TimeoutError):
                control.reply(forget, timeout=0.3)
            other.commit()
            self.assertEqual(control.reply(forget), (None, {"removed": 1}))
        self.assertEqual(set(self.rows("ann").values()), {0})

    def test_beside_an_index_that_is_built(self):
        """Goal of this test: what CREATE INDEX CONCURRENTLY and VACUUM hold for as long as they take
        (SHARE UPDATE EXCLUSIVE) holds neither forget up nor, behind it, those who store."""
        d = self.daemon(self.pg)
        self.store(d, conversation("ann", "User: hello"))
        other = self.other_session("lock table convstore.embeddings, convstore.embedding_backlog"
                                   " in share update exclusive mode")
        with d.control(timeout=40) as control:
            self.assertEqual(control.request("forget", {"user_id": "ann"}), {"removed": 1})
        self.assertEqual(set(self.rows("ann").values()), {0})
        other.rollback()

    def test_a_crash_brings_nothing_back(self):
        """Goal of this test: the daemon is killed while a forget waits for a database that is away:
        after its restart nothing of what was acknowledged before becomes a row."""
        d = self.daemon(self.pg)
        self.store(d, conversation("bob"))
        self.pg.stop()
        self.addCleanup(lambda: self.pg.start())
        ids = self.store(d, *(conversation("ann", f"User: {n}") for n in range(50)), options=None)
        self.store(d, *(conversation("bob", f"User: {n}") for n in range(50)), options=None)
        with d.control(timeout=40) as control:
            control.send("forget", {"user_id": "ann", "id": ids[7]})
            control.send("forget", {"user_id": "bob"})
            eventually(lambda: (d.journal / "forgotten").exists() and
                       (d.journal / "forgotten").stat().st_size > 600, 10, "it is remembered")
        d.kill()
        self.pg.start()
        d.start()
        d.flush()
        self.assertEqual(self.rows("ann")["conversations"], 49)
        self.assertEqual(self.rows("bob")["conversations"], 1)  # a row before: forget was not answered
        self.assertEqual(self.forget(d, user_id="bob"), 1)
        d.kill()
        with open(d.journal / "forgotten", "r+b") as file:
            file.seek(50)
            file.write(b"x")
        d.start(wait=False)
        self.assertNotEqual(d.wait_exit(), 0)
        self.assertIn("forgotten: damaged", d.log())

    def test_wrong_calls_and_convstorectl(self):
        """Goal of this test: services may not forget; what is wrong is named; convstorectl forgets."""
        d = self.daemon(self.pg)
        ids = self.store(d, conversation("ann"), conversation("ann"))
        with d.client() as client, self.assertRaises(RpcError) as raised:
            client.request("forget", {"user_id": "ann"})
        self.assertEqual(raised.exception.name, "PERMISSION_DENIED")
        for options, word in (({}, "user_id"), ({"user_id": ""}, "user_id"), ([], "map"),
                              ({"user_id": "a", "id": "x"}, "id"), ({"user_id": "a", "more": 1}, "more")):
            error = self.refused(d, options)
            self.assertEqual(error.name, "INVALID_ARGUMENT")
            self.assertIn(word, error.text)
        done = d.ctl("forget", "ann", ids[0])
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("1", done.stdout)
        self.assertEqual(self.rows("ann")["conversations"], 1)
        done = d.ctl("forget", "ann")
        self.assertEqual(done.returncode, 2, done.stdout)  # all of a user: only with --all
        done = d.ctl("--json", "forget", "ann", "--all")
        self.assertEqual((done.returncode, done.stdout.strip()), (0, '{"removed":1}'), done.stderr)
        self.assertNotEqual(d.ctl("forget").returncode, 0)


if __name__ == "__main__":
    unittest.main()
