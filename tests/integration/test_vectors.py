"""How vectors are stored: real[] without pgvector, and over to vector and halfvec while daemons work."""
import json
import threading
import unittest

from harness import Scenario, conversation, eventually

STORED = {"wait": "stored"}
WITHOUT_PGVECTOR = """
    CREATE SCHEMA convstore;
    CREATE TABLE convstore.embeddings (
        user_id text COLLATE "C" NOT NULL, conversation_id uuid NOT NULL, model_id smallint NOT NULL,
        chunk integer NOT NULL, byte_start integer NOT NULL, byte_end integer NOT NULL,
        made_at timestamptz NOT NULL DEFAULT now(), embedding real[] NOT NULL,
        PRIMARY KEY (user_id, conversation_id, model_id, chunk))"""


class Writer(threading.Thread):
    """Stores conversations one after another until it is stopped."""

    def __init__(self, daemon, name):
        super().__init__()
        self.daemon_under_test, self.label = daemon, name
        self.stopping, self.count, self.error = threading.Event(), 0, None

    def run(self):
        try:
            with self.daemon_under_test.client(timeout=30) as client:
                while not self.stopping.is_set():
                    client.request("store", conversation(transcript=f"{self.label} {self.count}"), STORED)
                    self.count += 1
        except Exception as error:  # the test tells it
            self.error = error

    def stop(self):
        self.stopping.set()
        self.join()


class Vectors(Scenario):
    def setUp(self):
        super().setUp()
        self.pg = self.shared_postgres()
        self.pg.sql("drop extension if exists vector cascade")
        if not self.pg.value("select count(*) from pg_available_extensions where name = 'vector'"):
            self.skipTest("no pgvector here")

    def store(self, daemon, count):
        with daemon.client(timeout=30) as client:
            for n in range(0, count, 500):
                answer = client.request("store_many", [conversation(transcript=f"early {n + i}")
                                                       for i in range(min(500, count - n))], STORED)
                self.assertEqual(answer["errors"], [])

    def migrate(self, daemon):
        done = daemon.ctl("--json", "migrate-vectors", seconds=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("looked at", done.stderr)
        return json.loads(done.stdout)

    def models(self, daemon):
        with daemon.control(timeout=20) as client:
            return {m["storage"]: m for m in client.request("embeddings")["models"]}

    def test_pgvector_appears(self):
        """Goal of this test: while two daemons write, pgvector appears; they say so and go on with
        real[]; migrate-vectors moves all over, what the second daemon writes before it notices
        included, and the backlog; nobody's store fails and each conversation has one vector."""
        self.pg.sql(WITHOUT_PGVECTOR)
        one = self.daemon(self.pg, name="one")
        two = self.daemon(self.pg, name="two")
        self.store(one, 5000)
        self.assertEqual(one.ctl("migrate-vectors").returncode, 1)
        self.assertIn("CREATE EXTENSION vector", one.ctl("migrate-vectors").stderr)
        before = self.pg.sql("select conversation_id, embedding from convstore.embeddings"
                             " order by conversation_id limit 50")
        writers = [Writer(one, "one"), Writer(two, "two")]
        for writer in writers:
            writer.start()
            self.addCleanup(writer.stop)
        self.pg.sql("create extension vector")
        eventually(lambda: one.stats()["embedding"]["movable"] and two.stats()["embedding"]["movable"])
        self.assertEqual(one.stats()["embedding"]["storage"], "real")
        self.assertIn("vectors.movable", two.log())
        self.pg.sql("with one as (delete from convstore.embeddings where conversation_id = %s"
                    " returning user_id, conversation_id, model_id)"
                    " insert into convstore.embedding_backlog select *, 0, now() + interval '2 s'"
                    " from one", before[0][0])

        moved = self.migrate(one)
        for writer in writers:
            writer.stop()
            self.assertIsNone(writer.error)
            self.assertGreater(writer.count, 10)
        self.assertGreater(moved["moved"], 5000, "nothing that was written meanwhile was moved")
        total = 5000 + sum(writer.count for writer in writers)
        eventually(lambda: self.pg.count("embedding_backlog") == 0)
        models = self.models(two)
        self.assertEqual((models["real"]["vectors"], models["vector"]["vectors"]), (0, total))
        self.assertTrue(models["vector"]["current"])
        self.assertEqual(self.pg.count("conversations"), total)
        for number, numbers in before:
            self.assertEqual(self.pg.sql("select embedding is null, embedding_vector::real[] from"
                                         " convstore.embeddings where conversation_id = %s", number),
                             [(True, numbers)])
        self.assertEqual(self.migrate(two), {"moved": 0, "backlog_moved": 0})
        eventually(lambda: not one.stats()["embedding"]["movable"])
        self.assertEqual(two.stats()["embedding"]["storage"], "vector")
        self.said = f"{moved['moved']} moved while {sum(w.count for w in writers)} came in"

    def test_from_vector_to_halfvec(self):
        """Goal of this test: with embedding.storage = halfvec new vectors are halves beside the old
        ones, migrate-vectors moves those, and a daemon that may not change tables says what to do."""
        d = self.daemon(self.pg)
        self.store(d, 100)
        self.assertEqual(d.stop(), 0)
        d.settings["embedding.storage"] = "halfvec"
        d.start()
        self.store(d, 100)
        models = self.models(d)
        self.assertEqual((models["vector"]["vectors"], models["halfvec"]["vectors"]), (100, 100))
        self.assertFalse(d.stats()["embedding"]["movable"])
        # One whose conversation is being erased stays where it is.
        self.pg.sql("delete from convstore.conversations c using convstore.embeddings e where"
                    " e.conversation_id = c.id and e.embedding is not null and c.transcript = 'early 7'")
        self.assertEqual(self.migrate(d), {"moved": 99, "backlog_moved": 0})
        self.assertEqual(self.pg.sql("select count(embedding), count(embedding_halfvec),"
                                     " min(pg_column_size(embedding_halfvec))"
                                     " from convstore.embeddings"), [(1, 199, 1544)])
        self.assertEqual(self.pg.value(
            "select count(*) from convstore.embeddings a join convstore.conversations c"
            " on c.id = a.conversation_id join convstore.conversations same using (transcript)"
            " join convstore.embeddings b on b.conversation_id = same.id"
            " where a.embedding_halfvec <=> b.embedding_halfvec > 1e-3"), 0)
        self.assertEqual(d.ctl("embeddings", "drop", models["vector"]["model_id"]).returncode, 0)
        self.assertEqual(set(self.models(d)), {"halfvec"})

        self.pg.sql("alter table convstore.embeddings drop column embedding_halfvec")
        self.assertEqual(d.stop(), 0)
        d.settings["database.auto_migrate"] = "false"
        d.start()
        done = d.ctl("migrate-vectors")
        self.assertEqual(done.returncode, 1)
        self.assertIn("convstorectl schema", done.stderr)


if __name__ == "__main__":
    unittest.main()
