"""PostgreSQL down, gone, back, refusing: conversations wait, and none is lost or stored twice."""
import time
import unittest

from harness import Postgres, RpcError, Scenario, conversation, eventually
from load import Load

STORED = {"wait": "stored"}


class Database(Scenario):
    def load(self, daemon, clients=3):
        return [Load(daemon, f"user {n}", self) for n in range(clients)]

    def check_rows(self, pg, daemon, loads):
        """All that was acked is there, once, and nothing else; nothing went aside."""
        acked = {}
        for load in loads:
            load.end()
            self.assertIsNone(load.trouble)
            acked.update(load.acked)
        daemon.flush(60)
        rows = dict(pg.sql("select id::text, transcript from convstore.conversations"))
        self.assertEqual((len(rows), sorted(acked.items() - rows.items())), (len(acked), []))
        self.assertEqual(pg.count("dead_letters"), 0)
        stats = daemon.stats()
        self.assertEqual((stats["completed"], stats["duplicates"], stats["failed"], stats["queued"]),
                         (len(acked), 0, 0, 0))
        self.assertEqual((stats["database"]["state"], stats["database"]["last_error"]), ("up", ""))
        self.assertNotIn("database_down", [a["name"] for a in stats["alerts"]])
        return acked

    def test_down_at_the_start(self):
        """Goal of this test: with no database the daemon starts, accepts, says so in stats and log,
        and stores all of it, embeddings too, when the database comes."""
        pg = Postgres(self.directory / "pg")
        self.addCleanup(pg.drop)
        d = self.daemon(pg)
        with d.client() as client:
            ids = [client.request("store", conversation(transcript=f"early {n}"))["id"]
                   for n in range(100)]
            stats = eventually(lambda: (s := client.request("stats"))["database"]["state"] == "down"
                               and s, 10, "stats says down")
            self.assertEqual(stats["health"], "critical")
            self.assertIn(("database_down", "critical"),
                          [(a["name"], a["severity"]) for a in stats["alerts"]])
            self.assertNotEqual(stats["database"]["last_error"], "")
            self.assertEqual(stats["queued"] + stats["processing"], 100)
            with self.assertRaises(RpcError) as raised:
                client.request("store", conversation(transcript="early 100"),
                               {"wait": "stored", "timeout_ms": 200})
            self.assertEqual((raised.exception.code, raised.exception.name), (5, "UNAVAILABLE"))
            self.assertRegex(d.log(), r"warning database\.down error=.* advice=")
            pg.start()
            eventually(lambda: pg.count() == 101, 20, "the rows")
            rows = dict(pg.sql("select id::text, transcript from convstore.conversations"))
            self.assertEqual([rows.get(key) for key in ids], [f"early {n}" for n in range(100)])
            self.assertEqual(pg.count("embeddings"), 101)
            stats = eventually(lambda: (s := client.request("stats"))["database"]["state"] == "up" and s,
                               5, "stats says up")
            self.assertNotIn("database_down", [a["name"] for a in stats["alerts"]])
        self.assertIn("info database.up", d.log())
        self.assertLess(d.log().count("database.down"), 3, "said once, not at every try")

    def check_restarts(self, end):
        pg = self.postgres()
        d = self.daemon(pg, batch__batch_timeout_ms=10, batch__flush_interval_ms=5)
        loads = self.load(d)
        for _ in range(2):
            # More rows than now, so that it is cut while there is work under way.
            before = d.stats()["completed"]
            eventually(lambda: d.stats()["completed"] > before + 100, 20, "rows again")
            end(pg)
            eventually(lambda: d.stats()["database"]["state"] == "down", 10, "stats says down")
            pg.start()
        acked = self.check_rows(pg, d, loads)
        self.assertGreater(len(acked), 300)

    def test_fast_shutdown_in_the_middle(self):
        """Goal of this test: a server that is stopped and started twice under load costs time only."""
        self.check_restarts(lambda pg: pg.stop())

    def test_crash_in_the_middle(self):
        """Goal of this test: the same with the whole server killed by SIGKILL, as a crash is."""
        self.check_restarts(lambda pg: pg.kill())

    def test_connections_killed_under_load(self):
        """Goal of this test: connections that are terminated again and again, wherever they are in
        their transaction: nothing lost, nothing twice."""
        pg = self.shared_postgres()
        d = self.daemon(pg, batch__batch_timeout_ms=10, batch__flush_interval_ms=5)
        loads = self.load(d)
        eventually(lambda: d.stats()["completed"] > 50, 20, "the first rows")
        killed, until = 0, time.monotonic() + 3
        while killed < 6 or time.monotonic() < until:
            killed += len(pg.sql("select pg_terminate_backend(pid) from pg_stat_activity"
                                 " where backend_type = 'client backend' and pid <> pg_backend_pid()"))
            time.sleep(0.01)
        self.check_rows(pg, d, loads)

    def test_a_database_that_refuses(self):
        """Goal of this test: a database that is not there is no reason to end: the daemon accepts, says
        what is wrong, and stores when somebody has made it."""
        pg = self.shared_postgres()
        pg.sql("drop database if exists late")
        self.addCleanup(pg.sql, "drop database if exists late")
        d = self.daemon(pg, database__conninfo=pg.conninfo.replace("dbname=postgres", "dbname=late"))
        with d.client() as client:
            waiting = client.send("store", conversation(), STORED)
            stats = eventually(lambda: (s := client.request("stats"))["database"]["state"] == "stopped"
                               and s, 10, "stats says stopped")
            self.assertEqual(stats["health"], "critical")
            self.assertIn("database_stopped", [a["name"] for a in stats["alerts"]])
            self.assertIn("late", stats["database"]["last_error"])
            pg.sql("create database late")
            error, result = client.reply(waiting, timeout=20)
            self.assertIsNone(error)
        with pg.connect("late") as late, late.cursor() as cursor:
            cursor.execute("select id::text from convstore.conversations")
            self.assertEqual(cursor.fetchall(), [(result["id"],)])
        late.close()
        d.stop()

    def test_rows_that_the_database_refuses(self):
        """Goal of this test: a row that PostgreSQL refuses goes to dead_letters, whole, with its
        SQLSTATE and reason; its neighbours in the batch are stored; who waits is told."""
        pg = self.shared_postgres()
        d = self.daemon(pg)
        with d.client() as client:
            client.request("store", conversation("first"), STORED)
            pg.sql("alter table convstore.conversations add constraint no_poison"
                   " check (platform <> 'poison')")
            items = [conversation(transcript=f"t{n}", platform="poison" if n % 20 == 7 else "web",
                                  summary="S", metadata={"n": n}) for n in range(60)]
            answer = client.request("store_many", items, STORED)
            self.assertEqual([index for index, _ in answer["errors"]], [7, 27, 47])
            for _, error in answer["errors"]:
                self.assertEqual(error[:2], [1, "INVALID_ARGUMENT"])
                self.assertIn("dead_letters", error[2])
            stats = client.request("stats")
        self.assertEqual((stats["completed"], stats["failed"]), (58, 3))
        dead = pg.sql("select sqlstate, platform, transcript, summary, metadata::jsonb->>'n', user_id"
                      " from convstore.dead_letters order by transcript")
        self.assertEqual(dead, [("23514", "poison", f"t{n}", "S", str(n), "user-1") for n in (27, 47, 7)])
        self.assertIn("no_poison", pg.value("select reason from convstore.dead_letters"))
        rows = {row[0] for row in pg.sql("select transcript from convstore.conversations"
                                         " where user_id = 'user-1'")}
        self.assertEqual(rows, {f"t{n}" for n in range(60)} - {"t7", "t27", "t47"})

    def test_two_daemons_on_an_empty_database(self):
        """Goal of this test: two daemons that start at once make one schema and both store."""
        pg = self.shared_postgres()
        daemons = [self.daemon(pg, name=f"d{n}") for n in range(2)]
        clients = [d.client() for d in daemons]
        asked = [c.send("store", conversation(f"of {n}"), STORED) for n, c in enumerate(clients)]
        for client, msgid in zip(clients, asked):
            self.assertIsNone(client.reply(msgid)[0])
            client.close()
        self.assertEqual(sorted(pg.sql("select user_id from convstore.conversations")),
                         [("of 0",), ("of 1",)])
        self.assertEqual(pg.sql("select version from convstore.schema_version order by 1"),
                         [(1,), (2,)])
        self.assertEqual(pg.count("embedding_models"), 1)

    def test_without_pgvector(self):
        """Goal of this test: where the embeddings are real[] instead of pgvector's type, everything
        still works, with vectors of the same length."""
        pg = self.shared_postgres()
        pg.sql("drop extension if exists vector")
        pg.sql("create schema convstore")
        pg.sql('create table convstore.embeddings (user_id text collate "C" not null,'
               " conversation_id uuid not null, model_id smallint not null, chunk integer not null,"
               " byte_start integer not null, byte_end integer not null,"
               " made_at timestamptz not null default now(), embedding real[] not null,"
               " primary key (user_id, conversation_id, model_id, chunk))")
        d = self.daemon(pg)
        with d.client() as client:
            answer = client.request("store_many", [conversation(transcript=f"number {n}")
                                                   for n in range(20)], STORED)
        self.assertEqual(answer["errors"], [])
        self.assertEqual((pg.count(), pg.count("embeddings")), (20, 20))
        self.assertEqual(pg.sql("select storage, dimension from convstore.embedding_models"),
                         [("real", 768)])
        self.assertEqual(pg.sql("select count(*) from convstore.embeddings where"
                                " array_length(embedding, 1) = 768 and abs(1 -"
                                " (select sum(x * x) from unnest(embedding) x)) < 1e-4"), [(20,)])


if __name__ == "__main__":
    unittest.main()
