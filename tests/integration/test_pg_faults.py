"""PostgreSQL cut off, killed, locked, full, refusing, again and again, at its own default durability:
what was acked is a row, once. TEST_CAMPAIGN=1 (make campaign-pg) makes ten times as many faults."""
import os
import pathlib
import re
import shutil
import signal
import subprocess
import threading
import time
import unittest
import uuid

import psycopg2
import psycopg2.errors

from harness import RpcError, Scenario, clean_environment, conversation, eventually, scaled, unpacked
from load import Load, check_loads
from pg_proxy import CommitCutter

CAMPAIGN = 10 if os.environ.get("TEST_CAMPAIGN") else 1
STORED = {"wait": "stored"}
WORKERS = "from pg_stat_activity where application_name = 'convstored' and pid <> pg_backend_pid()"
# From its second statement on a session ends each that takes longer than 300 ms; one that stores a
# conversation on the platform "slow" does.
TIMED = ("create function convstore.timed() returns trigger language plpgsql as $$ begin"
         " perform set_config('statement_timeout', '300', false);"
         " if new.platform = 'slow' or exists (select from convstore.all_slow) then perform pg_sleep(2); end if;"
         " return new; end $$;"
         " create table convstore.all_slow ();"
         " create trigger timed before insert on convstore.conversations"
         " for each row execute function convstore.timed()")
NO_FAXES = ("create function convstore.f() returns trigger language plpgsql as $$ begin"
            " if new.platform = 'fax' then raise 'no faxes' using errcode = '42501'; end if; return new; end $$;"
            " create trigger t before insert on convstore.conversations"
            " for each row execute function convstore.f()")
TIMED_OUT = "canceling statement due to statement timeout"
# Small batches, so that many are under way when something happens.
QUICK = {"batch__batch_timeout_ms": 10, "batch__flush_interval_ms": 5, "batch__batch_size": 50}


class PgFaults(Scenario):
    time_limit = 120 * CAMPAIGN
    durable = True

    def durable_postgres(self, options=""):
        return self.postgres(durable=True, options=options)

    def pgbouncer(self, pg):
        """PgBouncer in session mode before that server; its conninfo."""
        program, environment = unpacked("pgbouncer", "pgbouncer", "libc-ares2", "libevent-2.1-7")
        home = re.search(r"host=(\S+)", pg.conninfo)[1]
        place = self.directory / "bouncer"
        place.mkdir(mode=0o777)
        place.chmod(0o777)
        config = self.directory / "pgbouncer.ini"
        config.write_text(f"[databases]\npostgres = host={home} user=postgres\n"
                          f"[pgbouncer]\nunix_socket_dir = {place}\n"
                          "listen_addr =\nauth_type = any\nauth_file =\npool_mode = session\n"
                          f"{'user = postgres' if os.getuid() == 0 else ''}\n"
                          "default_pool_size = 10\nserver_login_retry = 1\n"
                          "ignore_startup_parameters = extra_float_digits\n")
        config.chmod(0o644)
        bouncer = subprocess.Popen([program, str(config)], env=environment,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(bouncer.wait)
        self.addCleanup(bouncer.kill)
        eventually(lambda: list(place.glob(".s.PGSQL.*")), 10, "PgBouncer's socket")
        return f"host={place} port=6432 dbname=postgres user=postgres"

    def loads(self, daemon, clients=3):
        loads = [Load(daemon, f"user {n}", self, pause=0.02) for n in range(clients)]
        eventually(lambda: daemon.stats()["completed"] > 50, 20, "the first rows")
        return loads

    def check(self, pg, daemons, loads):
        """Nothing lost, nothing twice; the line of figures."""
        self.assertGreater(self.faults, 0)
        acked = check_loads(self, pg, daemons, loads, 60)
        self.said = f"{self.faults} faults, {len(acked)} acked: 0 missing, 0 twice"
        for daemon in daemons:
            self.assertEqual(daemon.stats()["failed"], 0)
        return acked

    def progress(self, daemon, rows=30):
        before = daemon.stats()["completed"]
        eventually(lambda: daemon.stats()["completed"] >= before + rows, 30, "rows again")


class Connections(PgFaults):
    def test_all_workers_terminated_every_50_ms(self):
        """Goal of this test: pg_terminate_backend on every connection of the daemon each 50 ms."""
        pg = self.durable_postgres()
        d = self.daemon(pg, **QUICK)
        loads = self.loads(d)
        until = time.monotonic() + 15 * CAMPAIGN
        # On a slow machine connections come back more slowly than they are ended.
        while self.faults < 50 * CAMPAIGN or (self.faults < 100 * CAMPAIGN and time.monotonic() < until):
            self.faults += len(pg.sql(f"select pg_terminate_backend(pid) {WORKERS}"))
            time.sleep(0.05)
        self.check(pg, [d], loads)

    def test_statements_cancelled(self):
        """Goal of this test: statements that are cancelled as a time-out does it (57014), under load."""
        pg = self.durable_postgres()
        d = self.daemon(pg, **QUICK)
        loads = self.loads(d)
        while self.faults < 50 * CAMPAIGN:
            self.faults += len(pg.sql(f"select pg_cancel_backend(pid) {WORKERS} and state = 'active'"))
            time.sleep(0.01)
        self.check(pg, [d], loads)

    def test_cut_between_commit_and_its_answer(self):
        """Goal of this test: the connection is cut when the server has committed and before the daemon
        hears of it, at every second batch: all of it is tried again, nothing is there twice."""
        pg = self.durable_postgres()
        proxy = CommitCutter(self.directory / "proxy", pg)
        self.addCleanup(proxy.close)
        d = self.daemon(database__conninfo=proxy.conninfo, **QUICK)
        loads = self.loads(d)
        proxy.cutting = True
        eventually(lambda: proxy.cuts >= 60 * CAMPAIGN, 60 * CAMPAIGN, "cuts")
        proxy.cutting = False
        self.faults = proxy.cuts
        self.check(pg, [d], loads)
        stats = d.stats()
        self.assertGreater(stats["replayed"], 40)
        self.assertEqual(stats["duplicates"], 0)

    def test_two_daemons_on_partitioned_tables(self):
        """Goal of this test: tables that are hash-partitioned by user_id are taken as they are, and two
        daemons write into them at once while their connections are terminated."""
        pg = self.durable_postgres()
        schema = subprocess.run([str(pathlib.Path(os.environ["TEST_BUILD"]) / "convstorectl"), "schema"],
                                capture_output=True, text=True, check=True).stdout
        pg.sql(schema)
        for table, columns in (("conversations", "id"), ("embeddings", "conversation_id")):
            pg.sql(f"alter table convstore.{table} rename to plain")
            pg.sql(f"create table convstore.{table} (like convstore.plain including defaults)"
                   " partition by hash (user_id)")
            more = ", model_id, chunk" if table == "embeddings" else ""
            pg.sql(f"alter table convstore.{table} add primary key (user_id, {columns}{more})")
            for n in range(4):
                pg.sql(f"create table convstore.{table}_{n} partition of convstore.{table}"
                       f" for values with (modulus 4, remainder {n})")
            pg.sql("drop table convstore.plain")
        daemons = [self.daemon(pg, name=f"d{n}", **QUICK) for n in range(2)]
        loads = [Load(d, f"{d.directory.name} user {n}", self, pause=0.02)
                 for d in daemons for n in range(4)]
        for d in daemons:
            eventually(lambda: d.stats()["completed"] > 50, 20, "rows of each")
        while self.faults < 30 * CAMPAIGN:
            self.faults += len(pg.sql(f"select pg_terminate_backend(pid) {WORKERS}"))
            time.sleep(0.1)
        self.check(pg, daemons, loads)
        used = pg.sql("select distinct tableoid::regclass::text from convstore.conversations")
        self.assertGreater(len(used), 1)
        missing = pg.value("select count(*) from convstore.conversations c where not exists (select from"
                           " convstore.embeddings e where e.user_id = c.user_id and"
                           " e.conversation_id = c.id) and not exists (select from"
                           " convstore.embedding_backlog b where b.user_id = c.user_id and"
                           " b.conversation_id = c.id)")
        self.assertEqual(missing, 0)

    def test_pgbouncer_in_session_mode(self):
        """Goal of this test: the daemon through PgBouncer in session mode, whose server connections
        are terminated under load."""
        pg = self.durable_postgres()
        d = self.daemon(database__conninfo=self.pgbouncer(pg), **QUICK)
        loads = self.loads(d)
        while self.faults < 20 * CAMPAIGN:
            self.faults += len(pg.sql("select pg_terminate_backend(pid) from pg_stat_activity where"
                                      " backend_type = 'client backend' and pid <> pg_backend_pid()"))
            time.sleep(0.1)
        self.check(pg, [d], loads)


class Server(PgFaults):
    def start_again(self, pg):
        """Backends may outlive a killed postmaster for a moment, and hold its memory."""
        def started():
            try:
                return pg.start()
            except RuntimeError:
                return None
        eventually(started, 30, "a server again")

    def test_immediate_shutdowns(self):
        """Goal of this test: the server is shut down at once, without a checkpoint, and started again,
        several times under load."""
        pg = self.durable_postgres()
        d = self.daemon(pg, **QUICK)
        loads = self.loads(d)
        for _ in range(3 * CAMPAIGN):
            pg.crash()
            pg.start()
            self.faults += 1
            self.progress(d)
        self.check(pg, [d], loads)

    def test_the_postmaster_is_killed(self):
        """Goal of this test: SIGKILL to the postmaster, whose backends live on for a moment."""
        pg = self.durable_postgres()
        d = self.daemon(pg, **QUICK)
        loads = self.loads(d)
        for _ in range(2 * CAMPAIGN):
            home = pathlib.Path(re.search(r"host=(\S+)", pg.conninfo)[1])
            pg.disconnect()
            os.kill(int((home / "data" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
            self.start_again(pg)
            self.faults += 1
            self.progress(d)
        self.check(pg, [d], loads)

    def check_crashing_row(self, pg, conninfo, count):
        """Of so many rows of one batch the last but 20 kills its backend, each time."""
        d = self.daemon(database__conninfo=conninfo, batch__batch_size=200)
        with d.client(timeout=90) as client:
            client.request("store", conversation("first"), STORED)
            pg.sql("create function convstore.f() returns trigger language plpgsql as $$ begin"
                   " if new.platform = 'poison' then execute format('copy (select) to program %L',"
                   " 'kill -9 ' || pg_backend_pid()); end if; return new; end $$;"
                   " create trigger t before insert on convstore.conversations"
                   " for each row execute function convstore.f()")
            answer = client.request("store_many", [
                conversation(transcript=f"t{n}", platform="poison" if n == count - 20 else "web")
                for n in range(count)], STORED, timeout=90)
        self.assertEqual([index for index, _ in answer["errors"]], [count - 20])
        pg.disconnect()
        self.assertEqual(pg.count(), count)
        self.assertEqual(pg.sql("select transcript, sqlstate from convstore.dead_letters"),
                         [(f"t{count - 20}", "57P02")])
        crashes = pg.log().count("terminated by signal 9")
        self.said = f"{crashes} crashes until the row was set aside"
        self.assertLessEqual(crashes, 8)

    def test_a_row_that_crashes_its_backend(self):
        """Goal of this test: a row that kills its backend with SIGKILL, and the whole server with it,
        each time: it becomes a dead letter after few crashes, all others are rows."""
        pg = self.durable_postgres()
        self.check_crashing_row(pg, pg.conninfo, 200)

    def test_a_row_that_crashes_its_backend_behind_pgbouncer(self):
        """Goal of this test: the same through PgBouncer, which tells of the crash in words of its own;
        a batch that goes by COPY."""
        pg = self.durable_postgres()
        self.check_crashing_row(pg, self.pgbouncer(pg), 200)

    def test_a_small_batch_that_crashes_its_backend_behind_pgbouncer(self):
        """Goal of this test: the same with a batch that goes as statements."""
        pg = self.durable_postgres()
        self.check_crashing_row(pg, self.pgbouncer(pg), 40)


class Refusals(PgFaults):
    def setUp(self):
        super().setUp()
        self.pg = self.shared_postgres()

    def stored_after(self, d, client, state, what, mend):
        """Under this trouble stores are acked and stats says what it is; mended, it all goes on."""
        waiting = client.send("store", conversation("waits"), STORED)
        stats = eventually(lambda: (s := client.request("stats"))["database"]["state"] == state and
                           what in s["database"]["last_error"] and s, 20, f"stats says {state}: {what}")
        client.request("store", conversation("accepted"))
        self.assertEqual(self.pg.count("dead_letters"), 0)
        mend()
        error, _ = client.reply(waiting, timeout=40)
        self.assertIsNone(error)
        d.flush()
        return stats

    def test_a_table_locked_for_10_s(self):
        """Goal of this test: LOCK TABLE … ACCESS EXCLUSIVE for 10 s, longer than a batch waits for a
        lock: stores are acked in a moment meanwhile, and all become rows."""
        d = self.daemon(self.pg, **QUICK)
        loads = self.loads(d)
        with self.pg.connect() as holder, holder.cursor() as cursor:
            cursor.execute("lock table convstore.conversations in access exclusive mode")
            before = d.stats()["completed"]
            acked = sum(len(load.acked) for load in loads)
            time.sleep(10)
            self.assertLessEqual(d.stats()["completed"], before + 2 * 500)
            self.assertGreater(sum(len(load.acked) for load in loads), acked + 500)
            self.assertIn("55P03", d.stats()["database"]["last_error"])
            cursor.execute("rollback")
        holder.close()
        self.faults = 1
        self.check(self.pg, [d], loads)

    def test_deadlocks(self):
        """Goal of this test: another session locks the rows of a batch in the other order; the daemon
        is the victim each time, tries again, and stores both."""
        d = self.daemon(self.pg)
        with d.client(timeout=30) as client:
            client.request("store", conversation("first"), STORED)
            rounds = 0
            while self.faults < 5:
                rounds += 1
                low, high = sorted(str(uuid.uuid4()) for _ in range(2))
                insert = ("insert into convstore.conversations (user_id, id, created_at, content_hash,"
                          " platform, transcript) values ('ann', %s, now(), '', 'x', 'theirs')")
                other = self.pg.connect()
                self.addCleanup(other.close)
                other.autocommit = False
                cursor = other.cursor()
                cursor.execute("set deadlock_timeout = '20s'")
                cursor.execute(insert, (high,))
                asked = client.send("store_many", [conversation("ann", f"{rounds} {key}", id=key)
                                                   for key in (low, high)], STORED)
                eventually(lambda: self.pg.value("select count(*) from pg_locks where not granted"), 10,
                           "the batch waits for the other session")
                try:
                    cursor.execute(insert, (low,))  # closes the circle; the daemon's session gives way
                    self.faults += 1
                except psycopg2.errors.DeadlockDetected:
                    pass  # too late for that: the daemon's looks once, after a second
                other.rollback()
                error, result = client.reply(asked)
                self.assertEqual((error, result["errors"]), (None, []))
        self.assertEqual(self.pg.count(), 1 + 2 * rounds)
        self.assertEqual(self.pg.count("dead_letters"), 0)
        self.assertGreaterEqual(self.pg.log().count("deadlock detected"), 5)

    def timed_daemon(self, **settings):
        """Its one writing session has a statement_timeout of 300 ms. And how often that has struck."""
        d = self.daemon(self.pg, database__max_connections=4, **settings)
        with d.client() as client:
            client.request("store", conversation("first"), STORED)
            self.pg.sql(TIMED)
            client.request("store", conversation("second"), STORED)
        before = self.pg.log().count(TIMED_OUT)
        return d, lambda: self.pg.log().count(TIMED_OUT) - before

    def test_a_row_that_runs_into_the_statement_timeout(self):
        """Goal of this test: the server ends the statement of one row each time (statement_timeout):
        after batch.max_attempts it is a dead letter with 57014, the others of its batch are rows, and a
        retry stores it when it is no longer slow."""
        d, timeouts = self.timed_daemon(batch__max_attempts=3)
        items = [conversation(transcript=f"t{n}", platform="slow" if n == 7 else "web") for n in range(20)]
        with d.client() as client:
            answer = client.request("store_many", items, STORED)
        self.assertEqual([index for index, _ in answer["errors"]], [7])
        self.assertGreaterEqual(timeouts(), 3)
        self.assertEqual(self.pg.sql("select transcript, sqlstate from convstore.dead_letters"), [("t7", "57014")])
        self.assertEqual(self.pg.count(), 21)
        self.pg.sql("drop trigger timed on convstore.conversations")
        with d.control() as control:
            retried = control.request("dead_letters", {"action": "retry"})
        self.assertEqual(retried, {"stored": 1, "refused": 0, "refusals": []})
        self.assertEqual({row[0] for row in self.pg.sql("select transcript from convstore.conversations"
                                                        " where user_id = 'user-1'")}, {f"t{n}" for n in range(20)})

    def test_a_server_too_slow_for_the_statement_timeout(self):
        """Goal of this test: for a while every statement runs into it, under load: acks go on, whole
        batches are tried again, and when the server is quick again all of it is a row."""
        d, timeouts = self.timed_daemon(**QUICK)
        loads = self.loads(d)
        self.pg.sql("insert into convstore.all_slow default values")
        eventually(lambda: timeouts() >= 3, 20, "three statements that were ended")
        self.assertRegex(d.stats()["database"]["last_error"], "57014")
        acked = sum(len(load.acked) for load in loads)
        eventually(lambda: sum(len(load.acked) for load in loads) > acked + 100, 20, "acks go on")
        self.pg.sql("delete from convstore.all_slow")
        self.faults = timeouts()
        self.pg.sql("delete from convstore.conversations where user_id in ('first', 'second')")
        self.check(self.pg, [d], loads)

    def test_the_databases_own_statement_timeout(self):
        """Goal of this test: ALTER DATABASE … SET statement_timeout, with a lock held for longer than
        that: the writers' sessions have their own, so that a batch waits and is not ended."""
        d = self.daemon(self.pg, start=False)
        self.pg.sql(d.ctl("schema").stdout)
        before = self.pg.log().count(TIMED_OUT)
        with self.pg.connect() as holder, holder.cursor() as cursor:
            self.pg.sql("alter database postgres set statement_timeout = '500ms'")
            self.addCleanup(self.pg.sql, "alter database postgres reset statement_timeout")
            d.start()
            cursor.execute("lock table convstore.conversations in access exclusive mode")
            with d.client() as client:
                waiting = client.send("store", conversation(), STORED)
                eventually(lambda: self.pg.value("select count(*) from pg_locks where not granted"), 10,
                           "the batch waits for the lock")
                time.sleep(1.5)
                cursor.execute("rollback")
                self.assertIsNone(client.reply(waiting)[0])
        holder.close()
        self.assertEqual((self.pg.count(), self.pg.log().count(TIMED_OUT)), (1, before))

    def test_a_database_that_turns_read_only(self):
        """Goal of this test: a database that takes no writes (as after a failover to a standby) is
        waited for; its connections are not used."""
        d = self.daemon(self.pg)
        self.addCleanup(self.pg.sql, "alter database postgres reset default_transaction_read_only")
        with d.client(timeout=40) as client:
            client.request("store", conversation("first"), STORED)
            self.pg.sql("alter database postgres set default_transaction_read_only = on")
            self.pg.sql(f"select pg_terminate_backend(pid) {WORKERS}")
            self.stored_after(d, client, "down", "read-only", lambda: (
                self.pg.sql("set default_transaction_read_only = off"),
                self.pg.sql("alter database postgres reset default_transaction_read_only")))
        self.assertEqual(self.pg.count(), 3)

    def test_a_table_that_is_dropped(self):
        """Goal of this test: the table is gone: writing stops, stores are acked, the alert says what to
        do; made again with `convstorectl schema`, all that was accepted since is stored."""
        d = self.daemon(self.pg)
        with d.client(timeout=40) as client:
            client.request("store", conversation("first"), STORED)
            self.pg.sql("drop table convstore.conversations")
            stats = self.stored_after(d, client, "stopped", "42P01",
                                      lambda: self.pg.sql(d.ctl("schema").stdout))
        self.assertIn("database_stopped", [alert["name"] for alert in stats["alerts"]])
        self.assertEqual(self.pg.count(), 2)

    def test_a_revoked_right(self):
        """Goal of this test: INSERT is revoked: writing stops, nothing becomes a dead letter, and when
        it is granted again all that was accepted is stored."""
        d = self.daemon(self.pg)
        with d.client() as client:
            client.request("store", conversation("first"), STORED)
        d.stop()
        self.pg.sql("drop role if exists convstore")
        self.pg.sql("create role convstore login")
        self.pg.sql(d.ctl("schema", "--grants").stdout)
        self.addCleanup(self.pg.sql, "drop owned by convstore; drop role convstore")
        d.settings["database.conninfo"] = self.pg.conninfo.replace("user=postgres", "user=convstore")
        d.start()
        with d.client(timeout=40) as client:
            client.request("store", conversation("second"), STORED)
            self.pg.sql("revoke insert on convstore.conversations from convstore")
            self.stored_after(d, client, "stopped", "42501", lambda: self.pg.sql(
                "grant insert on convstore.conversations to convstore"))
        self.assertEqual(self.pg.count(), 4)

    def test_a_right_that_one_row_lacks(self):
        """Goal of this test: a trigger refuses one platform with 42501, which else stops all writing: its
        rows hold nobody up, however they come, and become dead letters when others were stored beside
        them; a retry stores them when the trigger is gone."""
        d = self.daemon(self.pg, batch__max_attempts=3, **QUICK)
        with d.client() as client:
            client.request("store", conversation("first"), STORED)
            self.pg.sql(NO_FAXES)
            client.request("store", conversation(transcript="alone", platform="fax"))
            many = client.send("store_many", [conversation(transcript=f"t{n}", platform="fax" if n == 7 else "web")
                                              for n in range(60)], STORED)
            stored = 0
            while self.pg.count("dead_letters") < 2 and stored < 1000:
                client.request("store", conversation("web"), STORED)
                stored += 1
                time.sleep(0.02)
            error, answer = client.reply(many)
            self.assertEqual((error, [index for index, _ in answer["errors"]]), (None, [7]))
            self.assertEqual(self.pg.sql("select transcript, sqlstate, reason from convstore.dead_letters order by 1"),
                             [("alone", "42501", "no faxes"), ("t7", "42501", "no faxes")])
            self.assertEqual((self.pg.count(), d.stats()["database"]["state"]), (60 + stored, "up"))
        self.pg.sql("drop trigger t on convstore.conversations")
        with d.control() as control:
            self.assertEqual(control.request("dead_letters", {"action": "retry"})["stored"], 2)

    def test_a_right_that_one_vector_lacks(self):
        """Goal of this test: 42501 for the vectors of one user costs those vectors and no text."""
        d = self.daemon(self.pg, batch__max_attempts=3, **QUICK)
        with d.client() as client:
            client.request("store", conversation("first"), STORED)
            self.pg.sql("create function convstore.f() returns trigger language plpgsql as $$ begin"
                        " if new.user_id = 'ann' then raise 'not hers' using errcode = '42501'; end if;"
                        " return new; end $$;"
                        " create trigger t before insert on convstore.embeddings"
                        " for each row execute function convstore.f()")
            hers = client.send("store", conversation("ann", "User: hello"), STORED)
            for n in range(200):
                client.request("store", conversation("bob", f"{n}"), STORED)
                if self.pg.value("select count(*) from convstore.conversations where user_id = 'ann'"):
                    break
                time.sleep(0.02)
            self.assertIsNone(client.reply(hers)[0])
        self.assertEqual(self.pg.count("dead_letters"), 0)
        self.assertEqual(self.pg.sql("select user_id, last_error from convstore.embedding_backlog"),
                         [("ann", "not hers")])

    def test_a_drain_with_a_row_that_lacks_a_right(self):
        """Goal of this test: SIGTERM while one row is refused so: all others are stored before the end."""
        d = self.daemon(self.pg, batch__drain_timeout_ms=5000, **QUICK)
        with d.client() as client:
            client.request("store", conversation("first"), STORED)
            self.pg.sql(NO_FAXES)
            client.request("store_many", [conversation(transcript=f"t{n}", platform="fax" if n == 0 else "web")
                                          for n in range(1000)])
            d.signal(signal.SIGTERM)
            self.assertEqual(d.wait_exit(), 0)
        self.assertEqual(self.pg.count(), 1000)
        self.assertRegex(d.log(), r"server\.end .*left_in_journal=[01]\b")

    def test_keys_that_another_session_locks(self):
        """Goal of this test: another session has inserted five of the ids that are stored, and does not end
        its transaction: they and nobody else wait for it."""
        d = self.daemon(self.pg, **QUICK)
        other = self.pg.connect()
        self.addCleanup(other.close)
        other.autocommit = False
        with d.client() as client:
            client.request("store", conversation("first"), STORED)
            ids = [str(uuid.uuid4()) for _ in range(5)]
            for key in ids:
                other.cursor().execute("insert into convstore.conversations (user_id, id, created_at, content_hash,"
                                       " platform, transcript) values ('ann', %s, now(), '', 'x', 'theirs')", (key,))
            locked = []
            for key in ids:  # each in a batch of its own, one of them among others
                locked.append(client.send("store", conversation("ann", key, id=key), STORED))
                time.sleep(0.05)
            for n in range(100):
                client.request("store", conversation("bob", f"{n}"), STORED, timeout=60)
            self.assertEqual(self.pg.count(), 101)
            self.assertGreaterEqual(self.pg.log().count("canceling statement due to lock timeout"), 5)
            other.rollback()
            for asked in locked:
                self.assertIsNone(client.reply(asked, timeout=30)[0])
        self.assertEqual((self.pg.count(), self.pg.count("dead_letters")), (106, 0))

    def test_a_full_tablespace(self):
        """Goal of this test: the tablespace runs full (53100): nothing is lost or set aside, stores are
        acked; when there is room all of it is stored."""
        if os.getuid() != 0:
            self.skipTest("mounting a small file system needs root")
        place = self.directory / "small"
        place.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=6m,mode=0777", "none", str(place)]
        if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            self.skipTest("mount is not allowed here")
        self.addCleanup(subprocess.run, ["umount", "-l", str(place)], check=True)
        shutil.chown(place, pathlib.Path(f"/proc/{self.pg.value('select pg_backend_pid()')}").owner())
        d = self.daemon(self.pg)
        with d.client(timeout=40) as client:
            client.request("store", conversation("first"), STORED)
            self.pg.sql(f"create tablespace small location '{place}'")
            self.addCleanup(self.pg.sql, "drop tablespace small")
            self.addCleanup(self.pg.sql, "drop schema convstore cascade")
            self.pg.sql("alter table convstore.conversations set tablespace small")
            text = os.urandom(20000).hex()
            items = [conversation(transcript=f"{n} {text}") for n in range(50)]
            asked = [client.send("store_many", items, STORED) for _ in range(5)]
            eventually(lambda: "53100" in client.request("stats")["database"]["last_error"], 30,
                       "stats says 53100")
            client.request("store", conversation("accepted"))
            subprocess.run(["mount", "-o", "remount,size=200m", str(place)], check=True)
            for msgid in asked:
                error, result = client.reply(msgid)
                self.assertEqual((error, result["errors"]), (None, []))
            d.flush()
        self.assertEqual((self.pg.count(), self.pg.count("dead_letters")), (252, 0))
        d.stop()


if __name__ == "__main__":
    unittest.main()
