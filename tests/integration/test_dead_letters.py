"""Rows that PostgreSQL refuses for good: kept whole, looked at, retried, dropped."""
import json
import unittest
import uuid

from harness import RpcError, Scenario, conversation, eventually

STORED = {"wait": "stored"}
NO_POISON = ("alter table convstore.conversations add constraint no_poison"
             " check (platform <> 'poison')")
YES_POISON = "alter table convstore.conversations drop constraint no_poison"


class DeadLetters(Scenario):
    def setUp(self):
        super().setUp()
        self.pg = self.shared_postgres()

    def refusing_daemon(self, **settings):
        d = self.daemon(self.pg, **settings)
        with d.client() as client:
            client.request("store", conversation("first"), STORED)
        self.pg.sql(NO_POISON)
        return d

    @staticmethod
    def ask(d, action, **more):
        with d.control(timeout=60) as control:
            return control.request("dead_letters", {"action": action, **more})

    def dead_letters_in_stats(self, d, count):
        eventually(lambda: d.stats()["dead_letters"] == count, 10, f"{count} dead letters in stats")

    def test_five_of_five_hundred(self):
        """Goal of this test: of a batch of 500 with 5 rows that only the server can refuse 495 are
        stored and 5 are dead letters with SQLSTATE and reason; a retry is refused again; when the
        constraint is gone the retry makes them rows, whole, and removes the letters."""
        d = self.refusing_daemon(batch__batch_size=500, batch__batch_timeout_ms=500)
        items = [conversation(transcript=f"t{n}", platform="poison" if n % 100 == 42 else "web",
                              summary=f"S{n}", metadata={"n": n}, created_at=1_600_000_000_000 + n,
                              id=str(uuid.uuid4())) for n in range(500)]
        with d.client(timeout=60) as client:
            answer = client.request("store_many", items, STORED)
        self.assertEqual([index for index, _ in answer["errors"]], [42, 142, 242, 342, 442])
        self.assertEqual((self.pg.count(), self.pg.count("dead_letters")), (496, 5))
        self.dead_letters_in_stats(d, 5)

        listed = self.ask(d, "list")
        self.assertFalse(listed["more"])
        letters = listed["dead_letters"]
        self.assertEqual({letter["conversation_id"] for letter in letters},
                         {items[n]["id"] for n in (42, 142, 242, 342, 442)})
        for letter in letters:
            self.assertEqual((letter["sqlstate"], letter["platform"], letter["user_id"]),
                             ("23514", "poison", "user-1"))
            self.assertIn("no_poison", letter["reason"])
        two = self.ask(d, "list", limit=2)
        self.assertEqual((two["dead_letters"], two["more"]), (letters[:2], True))
        self.assertEqual(self.ask(d, "list", after=letters[1]["id"])["dead_letters"], letters[2:])
        shown = self.ask(d, "show", id=letters[0]["id"])
        item = next(i for i in items if i["id"] == shown["conversation_id"])
        self.assertEqual((shown["transcript"], shown["summary"], json.loads(shown["metadata"]),
                          shown["created_at_us"]),
                         (item["transcript"], item["summary"], item["metadata"],
                          item["created_at"] * 1000))

        again = self.ask(d, "retry")
        self.assertEqual((again["stored"], again["refused"]), (0, 5))
        self.assertEqual([r["sqlstate"] for r in again["refusals"]], ["23514"] * 5)
        self.assertEqual(self.pg.count("dead_letters"), 5)
        self.pg.sql(YES_POISON)
        self.assertEqual(self.ask(d, "retry"), {"stored": 5, "refused": 0, "refusals": []})
        self.assertEqual((self.pg.count(), self.pg.count("dead_letters")), (501, 0))
        rows = {row[0]: row[1:] for row in self.pg.sql(
            "select id::text, transcript, summary, metadata->>'n', created_at ="
            " to_timestamp(1600000000) + (metadata->>'n')::int * interval '1 ms'"
            " from convstore.conversations where user_id = 'user-1'")}
        self.assertEqual(rows, {item["id"]: (f"t{n}", f"S{n}", str(n), True)
                                for n, item in enumerate(items)})
        # Sent again it is a duplicate like any other: the content's hash has come through too.
        with d.client() as client:
            client.request("store", items[42], STORED)
        stats = d.stats()
        self.assertEqual((stats["failed"], stats["completed"], stats["duplicates"]), (5, 502, 1))
        self.dead_letters_in_stats(d, 0)
        vectors = self.pg.count("embeddings") + self.pg.count("embedding_backlog")
        self.assertGreaterEqual(vectors, 501)

    def test_the_same_id_again(self):
        """Goal of this test: the same id with the same content is counted as a duplicate, with other
        content it is a dead letter that names the reason, under another user a row of its own."""
        d = self.daemon(self.pg)
        key = str(uuid.uuid4())
        with d.client() as client:
            client.request("store", conversation("ann", "one", id=key), STORED)
            client.request("store", conversation("ann", "one", id=key), STORED)
            client.request("store", conversation("bob", "two", id=key), STORED)
            with self.assertRaises(RpcError) as raised:
                client.request("store", conversation("ann", "other", id=key), STORED)
            self.assertIn("dead_letters", raised.exception.text)
            stats = client.request("stats")
        self.assertEqual((stats["completed"], stats["duplicates"], stats["failed"]), (3, 1, 1))
        self.assertEqual(self.pg.sql("select user_id, transcript from convstore.conversations"
                                     " order by user_id"), [("ann", "one"), ("bob", "two")])
        letter, = self.ask(d, "list")["dead_letters"]
        self.assertEqual(letter["sqlstate"], "ID_REUSED")
        self.assertEqual(self.ask(d, "show", id=letter["id"])["transcript"], "other")
        again = self.ask(d, "retry", id=letter["id"])
        self.assertEqual([r["sqlstate"] for r in again["refusals"]], ["ID_REUSED"])
        self.assertEqual(self.pg.value("select transcript from convstore.conversations"
                                       " where user_id = 'ann'"), "one")
        self.assertEqual(self.ask(d, "drop", id=letter["id"]), {"dropped": 1})
        for action in ("show", "retry", "drop"):
            with self.assertRaises(RpcError) as raised:
                self.ask(d, action, id=letter["id"])
            self.assertEqual((raised.exception.code, raised.exception.name), (6, "NOT_FOUND"))

    def test_a_row_that_a_trigger_drops(self):
        """Goal of this test: a row that a trigger drops in silence is not tried for ever: after
        batch.max_attempts it is a dead letter NOT_STORED; its neighbours are rows."""
        d = self.daemon(self.pg, batch__max_attempts=3)
        with d.client(timeout=30) as client:
            client.request("store", conversation("first"), STORED)
            self.pg.sql("create function convstore.f() returns trigger language plpgsql as $$ begin"
                        " if new.platform = 'poison' then return null; end if; return new; end $$;"
                        " create trigger t before insert on convstore.conversations"
                        " for each row execute function convstore.f()")
            answer = client.request("store_many", [
                conversation(transcript=f"t{n}", platform="poison" if n == 3 else "web")
                for n in range(10)], STORED)
        self.assertEqual([index for index, _ in answer["errors"]], [3])
        self.assertEqual(self.pg.count(), 10)
        letter, = self.ask(d, "list")["dead_letters"]
        self.assertEqual(letter["sqlstate"], "NOT_STORED")
        self.assertEqual(self.ask(d, "retry")["refusals"][0]["sqlstate"], "NOT_STORED")
        self.pg.sql("drop function convstore.f cascade")
        self.assertEqual(self.ask(d, "retry")["stored"], 1)
        self.assertEqual(self.pg.count(), 11)

    def test_very_many(self):
        """Goal of this test: a retry of more than one slice, with a refused one in each, and a drop
        of all that is left; other questions get their turn."""
        d = self.refusing_daemon()
        with d.client(timeout=60) as client:
            answer = client.request("store_many", [
                conversation(transcript="stays" if n % 50 == 7 else "goes", platform="poison")
                for n in range(350)], STORED)
        self.assertEqual(len(answer["errors"]), 350)
        self.dead_letters_in_stats(d, 350)
        self.pg.sql(YES_POISON)
        self.pg.sql("alter table convstore.conversations add constraint none"
                    " check (transcript <> 'stays')")
        with d.control(timeout=60) as control:
            asked = [control.send("dead_letters", {"action": action})
                     for action in ("retry", "list", "list")]
            answers = [control.reply(msgid) for msgid in asked]
        self.assertEqual([error for error, _ in answers], [None] * 3)
        self.assertEqual((answers[0][1]["stored"], answers[0][1]["refused"]), (343, 7))
        self.assertEqual(self.pg.count(), 344)
        self.dead_letters_in_stats(d, 7)
        self.assertEqual(self.ask(d, "drop"), {"dropped": 7})
        self.assertEqual(self.ask(d, "drop"), {"dropped": 0})
        self.assertEqual(self.ask(d, "retry"), {"stored": 0, "refused": 0, "refusals": []})
        self.dead_letters_in_stats(d, 0)

    def test_wrong_questions(self):
        """Goal of this test: what is wrong with a call is named; services may not call it; without a
        database it is UNAVAILABLE and nothing waits for it."""
        d = self.refusing_daemon()
        with d.control() as control:
            for params, what in (({}, "action"), ({"action": "burn"}, "action"), ({"action": 1}, "action"),
                                 ({"action": "show"}, "id"), ({"action": "show", "id": 0}, "id"),
                                 ({"action": "list", "limit": 1001}, "limit"),
                                 ({"action": "list", "after": -1}, "after"),
                                 ({"action": "list", "more": 1}, "more"), ([], "map"), (None, "map")):
                with self.assertRaises(RpcError, msg=params) as raised:
                    control.request("dead_letters", params)
                self.assertEqual(raised.exception.name, "INVALID_ARGUMENT")
                self.assertIn(what, raised.exception.text)
        with d.client() as client, self.assertRaises(RpcError) as raised:
            client.request("dead_letters", {"action": "list"})
        self.assertEqual(raised.exception.name, "PERMISSION_DENIED")
        lost = self.daemon(name="lost", database__conninfo="host=/nonexistent dbname=none")
        with self.assertRaises(RpcError) as raised:
            self.ask(lost, "list")
        self.assertEqual(raised.exception.name, "UNAVAILABLE")

    def test_convstorectl(self):
        """Goal of this test: an operator lists, shows, retries and drops with convstorectl, and the
        exit status says whether some were refused again."""
        d = self.refusing_daemon()

        def ctl(*words, status=0):
            done = d.ctl(*words)
            self.assertEqual(done.returncode, status, done.stderr)
            return done.stdout + done.stderr

        self.assertIn("no dead letters", ctl("dead-letters", "list"))
        with d.client() as client:
            client.request("store_many", [conversation("ann", f"line one\nline {n}\x1b[2J",
                                                       platform="poison", summary="a summary")
                                          for n in range(3)], STORED)
        letters = json.loads(ctl("--json", "dead-letters", "list", "--limit", "2"))
        self.assertEqual((len(letters["dead_letters"]), letters["more"]), (2, True))
        first = str(letters["dead_letters"][0]["id"])
        table = ctl("dead-letters", "list")
        for part in ("ann", "23514", "no_poison", first):
            self.assertIn(part, table)
        page = ctl("dead-letters", "show", first)
        self.assertIn("transcript:\nline one\nline ", page)
        self.assertIn("a summary", page)
        self.assertNotIn("\x1b", page)
        self.assertIn("refused", ctl("dead-letters", "retry", status=1))
        self.assertIn("1", ctl("dead-letters", "drop", first))
        self.pg.sql(YES_POISON)
        self.assertEqual(json.loads(ctl("--json", "dead-letters", "retry"))["stored"], 2)
        self.assertIn("NOT_FOUND", ctl("dead-letters", "show", first, status=1))
        for words in (("burn",), (), ("show",), ("show", "x"), ("list", "--limit", "0")):
            ctl("dead-letters", *words, status=2)


class Schema(Scenario):
    def test_a_site_that_applies_it_by_hand(self):
        """Goal of this test: with database.auto_migrate = false and a role that owns nothing the
        daemon says what is missing and accepts; the printed migrations and grants are all it needs,
        dead letters and vectors included; it can do no more than that."""
        pg = self.shared_postgres()
        pg.sql("drop role if exists convstore")
        pg.sql("create role convstore login")
        pg.sql("create database locked")
        pg.sql("revoke create on database locked from public")
        self.addCleanup(pg.sql, "drop role convstore")
        self.addCleanup(pg.sql, "drop database locked with (force)")
        conninfo = pg.conninfo.replace("user=postgres", "user=convstore").replace(
            "dbname=postgres", "dbname=locked")
        d = self.daemon(database__conninfo=conninfo, database__auto_migrate="false")
        owner = pg.connect("locked")
        self.addCleanup(owner.close)
        with d.client(timeout=30) as client:
            waiting = client.send("store", conversation(), STORED)
            stats = eventually(lambda: (s := client.request("stats"))["database"]["state"] == "stopped"
                               and s, 10, "stats says stopped")
            self.assertIn("convstorectl schema", stats["database"]["last_error"])
            with owner.cursor() as cursor:
                for words in (["schema"], ["schema"], ["schema", "--grants"]):
                    printed = d.ctl(*words)
                    self.assertEqual(printed.returncode, 0, printed.stderr)
                    cursor.execute(printed.stdout)
                self.assertIsNone(client.reply(waiting, timeout=30)[0])
                cursor.execute(NO_POISON)
                with self.assertRaises(RpcError):
                    client.request("store", conversation(platform="poison"), STORED)
                cursor.execute(YES_POISON)
                with d.control() as control:
                    self.assertEqual(control.request("dead_letters", {"action": "retry"})["stored"], 1)
                cursor.execute("select count(*), (select count(*) from convstore.embeddings) +"
                               " (select count(*) from convstore.embedding_backlog)"
                               " from convstore.conversations")
                self.assertEqual(cursor.fetchall(), [(2, 2)])
                cursor.execute("select has_schema_privilege('convstore', 'convstore', 'create') or"
                               " has_table_privilege('convstore', 'convstore.conversations', 'update')")
                self.assertEqual(cursor.fetchall(), [(False,)])
        d.stop()
        self.assertEqual(d.ctl("schema", "--from", "1").stdout.count("CREATE TABLE"), 0)
        self.assertEqual(d.ctl("schema", "--from", "99").returncode, 2)


if __name__ == "__main__":
    unittest.main()
