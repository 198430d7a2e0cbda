"""Which server, encoding and pgvector the daemon takes, and what the tables are made of."""
import contextlib
import socket
import time
import unittest

import psycopg2

from harness import Postgres, Scenario, conversation, eventually, scaled
from pg_proxy import OldServer

STORED = {"wait": "stored"}


class Versions(Scenario):
    def database(self, pg, name, options=""):
        """A connection to a database of its own, and the conninfo of it."""
        pg.sql(f"create database {name} {options}")
        connection = pg.connect(name)
        self.addCleanup(connection.close)
        return connection.cursor(), pg.conninfo.replace("dbname=postgres", f"dbname={name}")

    def check_stopped(self, d, *words):
        """The daemon accepts, writes nothing, and says what is wrong and what to do."""
        with d.client() as client:
            client.request("store", conversation())
            stats = eventually(lambda: (s := client.request("stats"))["database"]["state"] == "stopped"
                               and s, 10, "stats says stopped")
        text = next(a["text"] for a in stats["alerts"] if a["name"] == "database_stopped")
        for word in words:
            self.assertIn(word, text)
            self.assertRegex(d.log(), rf'warning database\.stopped error="[^"]*{word}')

    def test_a_server_that_is_too_old(self):
        """Goal of this test: PostgreSQL 13 is refused with its version and the one that is needed; what
        was accepted meanwhile is stored when it has been upgraded."""
        pg = self.shared_postgres()
        proxy = OldServer(self.directory / "proxy", pg)
        self.addCleanup(proxy.close)
        d = self.daemon(database__conninfo=proxy.conninfo)
        self.check_stopped(d, "PostgreSQL 13", "14 or newer is needed: upgrade it")
        self.assertIsNone(pg.value("select to_regnamespace('convstore')"), "nothing is made there")
        proxy.edit = lambda data: (data, False)
        eventually(lambda: pg.count() == 1, 20, "the row")

    def test_another_encoding(self):
        """Goal of this test: a database in LATIN1 is refused by its name and encoding."""
        _, conninfo = self.database(self.shared_postgres(), "latin", "encoding 'LATIN1' lc_collate 'C'"
                                    " lc_ctype 'C' template template0")
        self.check_stopped(self.daemon(database__conninfo=conninfo), "database latin", "LATIN1",
                           "make one with ENCODING 'UTF8'")

    def test_pgvector_that_is_too_old(self):
        """Goal of this test: with pgvector before 0.7 vectors are real[], and an alert in stats and log
        says so and what to do, until it is newer; where there is no pgvector at all none does."""
        pg = self.shared_postgres()
        cursor, conninfo = self.database(pg, "vectors")
        cursor.execute("insert into pg_extension (oid, extname, extowner, extnamespace, extrelocatable,"
                       " extversion) values (99999, 'vector', 10, 2200, false, '0.6.2')")
        d = self.daemon(database__conninfo=conninfo, alerts__raise_after_ms=0)

        def alerts():
            with d.client() as client:
                client.request("store", conversation(), STORED)
            stats = d.stats()
            self.version = stats["database"]["pgvector"]
            return {a["name"]: a for a in stats["alerts"]}

        alert = eventually(lambda: alerts().get("pgvector_old"), 10, "the alert")
        self.assertEqual((alert["severity"], self.version), ("warning", "0.6.2"))
        self.assertIn("older than 0.7: vectors are stored as real[]", alert["text"])
        self.assertIn("ALTER EXTENSION vector UPDATE", alert["action"])
        self.assertRegex(d.log(), r'warning alert\.raised name=pgvector_old .*text="pgvector is older')
        cursor.execute("select distinct pg_typeof(embedding)::text from convstore.embeddings")
        self.assertEqual(cursor.fetchall(), [("real[]",)])
        for version in "'0.7.0'", "'0.10.1'":
            cursor.execute(f"update pg_extension set extversion = {version}")
            eventually(lambda: "pgvector_old" not in alerts() and f"'{self.version}'" == version, 10,
                       "its end")
        cursor.execute("delete from pg_extension where extname = 'vector'")
        eventually(lambda: "pgvector_old" not in alerts() and self.version == "", 10, "none")

    def test_found_at_the_start(self):
        """Goal of this test: with nothing stored yet stats and log tell the database: first that it is
        down, and soon after it has started what it is; that is no write in the figures."""
        pg = Postgres(self.directory / "pg")
        self.addCleanup(pg.drop)
        d = self.daemon(pg, embedding__provider="none")
        eventually(lambda: d.stats()["database"]["state"] == "down", 10, "stats says down")
        self.assertRegex(d.log(), r"warning database\.down error=")
        eventually(lambda: "database_down" in [a["name"] for a in d.stats()["alerts"]], 5, "the alert")
        pg.start()
        stats = eventually(lambda: (s := d.stats())["database"]["state"] == "up" and s, 30, "up")
        self.assertEqual(stats["database"]["server_version"],
                         int(pg.value("select current_setting('server_version_num')")))
        self.assertRegex(d.log(), r"info database\.up server_version=\d+ pgvector=\S+ fsync=off timeline=1")
        self.assertEqual(stats["operations"]["batch_insert"]["count"], 0)
        time.sleep(1)
        self.assertLessEqual(pg.value("select count(*) from pg_stat_activity where backend_type ="
                                      " 'client backend' and pid <> pg_backend_pid()"), 2,
                             "one that writes, and one that counts dead letters for stats")

    def test_an_end_while_the_first_connection_hangs(self):
        """Goal of this test: a daemon with nothing to store does not wait for a database that never
        answers when it is told to end."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            d = self.daemon(database__conninfo=f"host=127.0.0.1 port={silent.getsockname()[1]} user=x")
            silent.settimeout(scaled(10))
            connection, _ = silent.accept()
            began = time.monotonic()
            self.assertEqual(d.stop(), 0)
            self.assertLess(time.monotonic() - began, scaled(6), "connect_timeout is 10 s")
            connection.close()

    def test_who_may_create_the_extension(self):
        """Goal of this test: schema --grants says who may CREATE EXTENSION vector; a role that owns the
        database may where it is trusted, and else may not, as it says."""
        pg = self.shared_postgres()
        d = self.daemon(pg)
        text = " ".join(d.ctl("schema", "--grants").stdout.replace("--", "").split())
        self.assertIn("Who may CREATE EXTENSION vector: a superuser; or any role with CREATE on the database"
                      " where pgvector's control file calls it trusted", text)
        d.stop()
        trusted = pg.value("select coalesce((select trusted from pg_available_extension_versions"
                           " where name = 'vector' limit 1), false)")
        pg.sql("create role owner_of_vectors")
        pg.sql("create database owned owner owner_of_vectors")
        with contextlib.closing(psycopg2.connect(pg.conninfo.replace("dbname=postgres", "dbname=owned"))) as c:
            c.autocommit = True
            cursor = c.cursor()
            cursor.execute("set role owner_of_vectors")
            try:
                cursor.execute("create extension vector")
            except psycopg2.Error:
                self.assertFalse(trusted)
            else:
                self.assertTrue(trusted)

    def test_a_user_by_time(self):
        """Goal of this test: with thousands of rows a user's conversations are read by time from the
        index that is there for it, without sorting, by the daemon too."""
        pg = self.shared_postgres()
        d = self.daemon(pg)
        with d.client() as client:
            client.request("store", conversation("user 7"), STORED)
            pg.sql("insert into convstore.conversations (user_id, id, created_at, content_hash, platform,"
                   " transcript) select 'user ' || n % 20, gen_random_uuid(), now() - n * interval '1 min',"
                   " '', 'web', repeat('x', 500) from generate_series(1, 8000) n")
            pg.sql("analyze convstore.conversations")
            plan = "\n".join(row[0] for row in pg.sql(
                "explain select id from convstore.conversations where user_id = 'user 7'"
                " order by created_at desc, id limit 50"))
            self.assertIn("using conversations_by_time", plan)
            self.assertNotIn("Sort", plan)

            def scans():
                client.request("list", {"user_id": "user 7"})
                return pg.value("select idx_scan from pg_stat_all_indexes"
                                " where indexrelname = 'conversations_by_time'")
            before = pg.value("select idx_scan from pg_stat_all_indexes"
                              " where indexrelname = 'conversations_by_time'")
            eventually(lambda: scans() > before, 20, "a scan of the index by the daemon")

    def test_how_columns_are_kept(self):
        """Goal of this test: long texts are compressed by lz4 where the server has it, and vectors stay
        in their rows."""
        pg = self.shared_postgres()
        with self.daemon(pg).client() as client:
            client.request("store", conversation(), STORED)
        lz4 = pg.value("select 'lz4' = any(enumvals) from pg_settings"
                       " where name = 'default_toast_compression'")
        self.assertEqual(pg.sql("select attname, attcompression::text from pg_attribute where attrelid ="
                                " 'convstore.conversations'::regclass and attname in"
                                " ('transcript', 'summary', 'metadata') order by 1"),
                         [(name, "l" if lz4 else "") for name in ("metadata", "summary", "transcript")])
        self.assertEqual(pg.sql("select distinct attstorage::text from pg_attribute where attrelid ="
                                " 'convstore.embeddings'::regclass and attname like 'embedding%'"
                                " and not attisdropped"), [("m",)])


if __name__ == "__main__":
    unittest.main()
