"""store and store_many, from the wire to the rows: texts, metadata, times, ids, embeddings, resends."""
import datetime
import json
import time
import unittest
import uuid

import msgpack

from frames import Raw, store, timestamp32, timestamp64, timestamp96
from harness import RpcError, Scenario, conversation, eventually, pack, scaled

STORED = {"wait": "stored"}
# Batches that leave only when something asks for it: what a test then sees is the queue.
PATIENT = {"batch__batch_timeout_ms": 60000, "batch__batch_size": 5000}

TEXTS = {
    "english": "User: Hello\nAI: Hello, how can I help?",
    "german": "User: Grüße aus Köln – „schön“, ß und ẞ.",
    "russian": "User: Привет\nAI: Здравствуйте!",
    "greek": "User: Καλημέρα κόσμε, ΆΈΉ",
    "japanese": "User: こんにちは\nAI: はい、何でしょうか。カタカナ 漢字",
    "chinese": "User: 你好\nAI: 您好,請問需要什麼幫助?𠜎𠜱𠝹",
    "korean": "User: 안녕하세요 각",
    "thai": "User: สวัสดีครับ กำลัง",
    "tamil": "User: வணக்கம்",
    "hindi": "User: नमस्ते क्षत्रिय",
    "hebrew": "User: שלום! \u05d1\u05b0\u05bc AI: hello שלום 123",
    "arabic": "User: مرحبا \u0661\u0662\u0663 \u202eoverride\u202c \u200fRLM",
    "emoji": "🙂👩\u200d👩\u200d👧\u200d👦🏳\ufe0f\u200d🌈🇩🇪👍🏽\U0010ffff",
    "combining": "e\u0301 is not \u00e9; a\u0300\u0301\u0302\u0303\u0304; \ufeffBOM inside",
    "quotes": "it's \"quoted\" `so` $1 $$ %s %% {} ; -- /* */ E'\\x41' ''",
    "backslashes": "\\ \\\\ \\n \\u0041 \\000 C:\\temp\\ \\",
    "whitespace": " \t\n\r\n\v\f\u00a0\u2003\u2028\u2029\u0085 trailing  \n",
    "one space": " ",
    "controls": "".join(map(chr, range(1, 32))) + "\x7f\x80\x9f",
    "noncharacters": "\ufdd0\ufffe\uffff\ufffd\U0001fffe",
    "json": '{"user_id": "x", "a": [1, null, true]}\\"',
    "array literal": '{"a","b\\"",NULL,{}}',
    "60 KB": "User: eine lange Unterhaltung, 長い会話 🙂\n" * 1100,
    "a MiB": "x" * (1 << 20),
}

METADATA = {
    "empty": {},
    "flat": {"lang": "de", "turns": 12, "done": True, "open": False, "none": None},
    "nested": {"a": [1, [2, [3, {"b": {"c": []}}]]], "": {"": ""}},
    "integers": {"zero": 0, "min": -2**63, "max": 2**64 - 1, "big": 2**53 + 1, "small": -1},
    "floats": {"a": 0.1, "b": -2.5, "c": 1e300, "d": 2.2250738585072014e-308, "e": 1.7976931348623157e308, "f": 1.0,
               "g": 1 / 3},
    "texts": {name: text for name, text in TEXTS.items() if len(text) < 1000},
    "keys": {'quote"': 1, "back\\slash": 2, "new\nline": 3, "日本": 4, "🙂": 5, "a b": 6, "\x01": 7},
    "unsorted": {"zz": 1, "a": 2, "m": {"y": 1, "b": 2}, "B": 3},
    "many": {f"key {i}": i for i in range(2000)},
    "64 deep": json.loads('{"a":' * 63 + "{}" + "}" * 63),
}


def rows_by_id(postgres):
    """{id: (user_id, platform, transcript, summary) as the bytes that the server holds}."""
    rows = postgres.sql("select id::text, convert_to(user_id, 'UTF8'), convert_to(platform, 'UTF8'),"
                        " convert_to(transcript, 'UTF8'), convert_to(summary, 'UTF8')"
                        " from convstore.conversations")
    return {row[0]: tuple(None if f is None else bytes(f) for f in row[1:]) for row in rows}


def cut(text, limit):
    """The first bytes of a text, at most limit, cut between two characters."""
    return text.encode()[:limit].decode(errors="ignore")


class Fields(Scenario):
    def setUp(self):
        super().setUp()
        self.pg = self.shared_postgres()
        self.d = self.daemon(self.pg)
        self.client = self.d.client()
        self.addCleanup(self.client.close)

    def store(self, **fields):
        return self.client.request("store", conversation(**fields))["id"]

    def test_every_text_byte_for_byte(self):
        """Goal of this test: each text field of each row holds exactly the bytes that were sent."""
        expected = {}
        for text in TEXTS.values():
            sent = {"user_id": cut(text, 256), "platform": cut(text, 64), "transcript": text,
                    "summary": text[::-1]}
            expected[self.store(**sent)] = tuple(value.encode() for value in sent.values())
        self.d.flush()
        rows = rows_by_id(self.pg)
        self.assertEqual(len(rows), len(TEXTS))
        for (name, text), (key, fields) in zip(TEXTS.items(), expected.items()):
            with self.subTest(text=name):
                self.assertIn(key, rows)
                for index, field in enumerate(("user_id", "platform", "transcript", "summary")):
                    self.assertTrue(rows[key][index] == fields[index], f"{field} of {name} differs")

    def test_each_str_encoding_and_the_longest_fields(self):
        """Goal of this test: fixstr, str 8, str 16 and str 32 are all text, however short; fields at
        their limits are taken, up to a message of listen.max_message_bytes."""
        text = b"User: Hi"
        expected = {}
        for number, head in enumerate((bytes([0xa0 | len(text)]), b"\xd9\x08", b"\xda\x00\x08",
                                       b"\xdb\x00\x00\x00\x08")):
            self.client.send_raw(store(number, user_id="u" * 256, platform="p" * 64,
                                       transcript=Raw(head + text)))
            error, result = self.client.reply(number)
            self.assertIsNone(error)
            expected[result["id"]] = (b"u" * 256, b"p" * 64, text, None)
        frame = len(pack([0, 9, "store", [conversation(transcript="")]])) + 4  # a str 32's length
        longest = "x" * (4 * 1024 * 1024 - frame)
        self.client.send("store", conversation(transcript=longest), msgid=9)
        error, result = self.client.reply(9)
        self.assertIsNone(error)
        expected[result["id"]] = (b"user-1", b"web", longest.encode(), None)
        self.d.flush()
        self.assertTrue(rows_by_id(self.pg) == expected, "a row differs from what was sent")

    def test_metadata_equals_as_jsonb(self):
        """Goal of this test: metadata is the same jsonb value as the JSON of what was sent, compared
        by PostgreSQL; without it (or with nil) the column is null."""
        ids = {name: self.store(metadata=value) for name, value in METADATA.items()}
        absent, nil = self.store(), self.store(metadata=None)
        self.client.send_raw(store(9999, metadata={"f": Raw(b"\xca\x3f\x00\x00\x00")}))
        error, result = self.client.reply(9999)
        self.assertIsNone(error)
        self.d.flush()
        for name, key in ids.items():
            with self.subTest(metadata=name):
                text = json.dumps(METADATA[name])
                found = self.pg.sql("select metadata = %s::jsonb, metadata::text"
                                    " from convstore.conversations where id = %s", text, key)
                self.assertEqual(len(found), 1)
                self.assertTrue(found[0][0], f"{found[0][1][:200]} is not {text[:200]}")
        nulls = self.pg.sql("select id::text from convstore.conversations where metadata is null")
        self.assertEqual({row[0] for row in nulls}, {absent, nil})
        self.assertEqual(self.pg.value("select metadata->>'f' from convstore.conversations"
                                       " where id = %s", result["id"]), "0.5")

    def test_every_form_of_created_at(self):
        """Goal of this test: milliseconds and all three timestamp forms become the same microsecond,
        cut down towards the past, over PostgreSQL's whole range."""
        forms = {  # what is sent -> microseconds since 1970
            "ms": (1700000000123, 1700000000123000),
            "ms 0": (0, 0),
            "ms before 1970": (-1, -1000),
            "ms first": (-210863520000000, -210863520000000000),
            "ms last": (9223371244799999, 9223371244799999000),
            "ext 32": (timestamp32(1700000000), 1700000000000000),
            "ext 32 last": (timestamp32(2**32 - 1), 4294967295000000),
            "ext 64": (timestamp64(1700000000, 123456789), 1700000000123456),
            "ext 64 last": (timestamp64(2**34 - 1, 999999999), (2**34 - 1) * 10**6 + 999999),
            "ext 96": (timestamp96(1700000000, 999), 1700000000000000),
            "ext 96 before 1970": (timestamp96(-1, 999999999), -1),
            "ext 96 first": (timestamp96(-210863520000, 0), -210863520000000000),
            "ext 96 last": (timestamp96(9223371244799, 999999999), 9223371244799999999),
            "msgpack.Timestamp": (msgpack.Timestamp(1234567890, 987654321), 1234567890987654),
            "datetime": (datetime.datetime(2024, 2, 29, 12, 0, 0, 5, datetime.timezone.utc),
                         1709208000000005),
        }
        ids = {}
        for number, (name, (sent, _)) in enumerate(forms.items()):
            self.client.send_raw(store(number, created_at=sent))
            error, result = self.client.reply(number)
            self.assertIsNone(error, name)
            ids[name] = result["id"]
        self.d.flush()
        rows = dict(self.pg.sql(
            "select id::text, (extract(epoch from created_at) * 1000000)::bigint"
            " from convstore.conversations"))
        self.assertEqual({name: rows.get(key) for name, key in ids.items()},
                         {name: expected for name, (_, expected) in forms.items()})

    def test_created_at_is_the_arrival_where_it_is_missing(self):
        """Goal of this test: without created_at (or with nil) a row has the time at which it came,
        not that of its insert."""
        self.d.stop()
        d = self.daemon(self.pg, name="slow", batch__batch_timeout_ms=1500,
                        batch__flush_interval_ms=10)
        with d.client() as client:
            before = time.time()
            ids = [client.request("store", conversation())["id"],
                   client.request("store", conversation(created_at=None))["id"]]
            after = time.time()
        eventually(lambda: self.pg.count() == 2, 10, "two rows")
        for key, created, stored in self.pg.sql(
                "select id::text, extract(epoch from created_at)::float8,"
                " extract(epoch from stored_at)::float8 from convstore.conversations"):
            self.assertIn(key, ids)
            self.assertTrue(before - 0.001 <= created <= after + 0.001, (before, created, after))
            self.assertGreater(stored, created + 1)

    def test_ids_in_every_form(self):
        """Goal of this test: an id as text of either case and as 16 bytes is that UUID, returned in
        lower case; where it is missing the daemon makes one of version 7 with the time of now."""
        given = [uuid.uuid4() for _ in range(3)]
        self.assertEqual(self.store(id=str(given[0])), str(given[0]))
        self.assertEqual(self.store(id=str(given[1]).upper()), str(given[1]))
        self.assertEqual(self.store(id=given[2].bytes), str(given[2]))
        before = time.time()
        made = [self.store() for _ in range(50)] + [self.store(id=None)]
        after = time.time()
        self.assertEqual(len(set(made)), 51)
        for text in made:
            key = uuid.UUID(text)
            self.assertEqual((str(key), key.version, key.variant), (text, 7, uuid.RFC_4122))
            self.assertTrue(before - 0.01 <= (key.int >> 80) / 1000 <= after + 0.01, text)
        self.d.flush()
        rows = {row[0] for row in self.pg.sql("select id::text from convstore.conversations")}
        self.assertEqual(rows, {str(key) for key in given} | set(made))

    def test_an_empty_summary_is_not_a_missing_one(self):
        """Goal of this test: summary "" is the empty text in its row; absent and nil are null."""
        empty, absent, nil = self.store(summary=""), self.store(), self.store(summary=None)
        self.d.flush()
        rows = dict(self.pg.sql("select id::text, summary from convstore.conversations"))
        self.assertEqual(rows, {empty: "", absent: None, nil: None})

    def test_each_conversation_has_its_embedding(self):
        """Goal of this test: one vector of 768 dimensions and length 1 for each conversation; the
        same text has the same one, and the nearest to a text is its own."""
        texts = [text for text in TEXTS.values() if len(text) < 1000]
        ids = [self.store(transcript=text) for text in texts]
        again = self.store(transcript="another", summary=texts[0])
        eventually(lambda: self.pg.count("embeddings") == len(texts) + 1, 20, "every vector")
        self.assertEqual(self.pg.count(), len(texts) + 1)
        odd = self.pg.sql("select conversation_id, vector_dims(embedding), vector_norm(embedding)"
                          " from convstore.embeddings where vector_dims(embedding) <> 768"
                          " or abs(vector_norm(embedding) - 1) > 1e-4 or chunk <> 0")
        self.assertEqual(odd, [])
        self.assertEqual(self.pg.sql("select provider, dimension, storage"
                                     " from convstore.embedding_models"), [("builtin", 768, "vector")])
        self.assertEqual(self.pg.value(
            "select count(*) from convstore.embeddings e join convstore.conversations c"
            " on c.user_id = e.user_id and c.id = e.conversation_id"), len(texts) + 1)
        self.assertTrue(self.pg.value(
            "select a.embedding = b.embedding from convstore.embeddings a, convstore.embeddings b"
            " where a.conversation_id = %s and b.conversation_id = %s", ids[0], again))
        english, russian = ids[0], ids[2]
        nearer = self.pg.sql(
            "select conversation_id::text from convstore.embeddings order by embedding <=>"
            " (select embedding from convstore.embeddings where conversation_id = %s) limit 2", english)
        self.assertEqual({row[0] for row in nearer}, {english, again})
        self.assertFalse(self.pg.value(
            "select a.embedding = b.embedding from convstore.embeddings a, convstore.embeddings b"
            " where a.conversation_id = %s and b.conversation_id = %s", english, russian))

    def test_stored_means_a_row(self):
        """Goal of this test: when wait "stored" is answered the row is there for everyone to see, for
        store and for store_many."""
        for number in range(8):
            key = self.client.request("store", conversation(f"u{number}"), STORED)["id"]
            self.assertEqual(self.pg.value("select user_id from convstore.conversations"
                                           " where id = %s", key), f"u{number}")
        items = [conversation(f"m{number}") for number in range(40)]
        answer = self.client.request("store_many", items, STORED)
        self.assertEqual(answer["errors"], [])
        rows = dict(self.pg.sql("select id::text, user_id from convstore.conversations"))
        self.assertEqual([rows.get(key) for key in answer["ids"]], [i["user_id"] for i in items])
        self.assertEqual(self.client.request("store", conversation(), {"wait": "durable"}).keys(),
                         {"id"})
        self.assertEqual(self.client.request("store", conversation(), None).keys(), {"id"})


class Many(Scenario):
    def setUp(self):
        super().setUp()
        self.pg = self.shared_postgres()

    def test_good_and_bad_items(self):
        """Goal of this test: in one store_many every good item is stored and every bad one named by
        its index, field and reason; ids stand where the input stood."""
        d = self.daemon(self.pg)
        items = [conversation(transcript=f"number {n}") for n in range(20)]
        items[0]["transcript"] = ""
        del items[3]["user_id"]
        items[7]["platform"] = b"web"
        items[11]["color"] = "red"
        items[12] = "no map"
        items[19]["metadata"] = {"a": float("nan")}
        bad = {0: (1, "INVALID_ARGUMENT", "conversations[0].transcript: "),
               3: (1, "INVALID_ARGUMENT", "conversations[3].user_id: missing"),
               7: (1, "INVALID_ARGUMENT", "conversations[7].platform: "),
               11: (1, "INVALID_ARGUMENT", 'conversations[11]: unknown key "color"'),
               12: (1, "INVALID_ARGUMENT", "conversations[12]: must be a map"),
               19: (1, "INVALID_ARGUMENT", 'conversations[19].metadata["a"]: ')}
        with d.client() as client:
            answer = client.request("store_many", items, STORED)
        self.assertEqual(answer.keys(), {"ids", "errors"})
        self.assertEqual([index for index, _ in answer["errors"]], sorted(bad))
        for index, (code, name, text, retry) in answer["errors"]:
            self.assertEqual((code, name, retry), (*bad[index][:2], None))
            self.assertTrue(text.startswith(bad[index][2]), text)
        self.assertEqual([n for n, key in enumerate(answer["ids"]) if key is None], sorted(bad))
        rows = dict(self.pg.sql("select id::text, transcript from convstore.conversations"))
        self.assertEqual(rows, {answer["ids"][n]: f"number {n}" for n in range(20) if n not in bad})
        self.assertEqual(d.stats()["rejected"], len(bad))

    def test_lists_that_are_refused_whole(self):
        """Goal of this test: a list that is empty, too long or none, and wrong options, store
        nothing; 1,000 items are taken."""
        d = self.daemon(self.pg, **PATIENT)
        good = [conversation()]
        refused = {
            "empty": ([[]], "conversations: "),
            "1,001": ([good * 1001], "conversations: "),
            "a map": ([conversation()], "conversations: must be an array"),
            "nil": ([None], "conversations: must be an array"),
            "wait": ([good, {"wait": "soon"}], "options.wait: "),
            "timeout 0": ([good, {"wait": "stored", "timeout_ms": 0}], "options.timeout_ms: "),
            "timeout long": ([good, {"timeout_ms": 86400001}], "options.timeout_ms: "),
            "timeout text": ([good, {"timeout_ms": "1"}], "options.timeout_ms: "),
            "options": ([good, []], "options: must be a map"),
            "option": ([good, {"retry": 1}], 'options: unknown key "retry"'),
            "none": ([], "store_many: takes 1 to 2 parameters, got 0"),
            "three": ([good, None, None], "store_many: takes 1 to 2 parameters, got 3"),
        }
        with d.client() as client:
            for name, (params, text) in refused.items():
                with self.subTest(name), self.assertRaises(RpcError) as raised:
                    client.request("store_many", *params)
                self.assertEqual((raised.exception.code, raised.exception.name),
                                 (1, "INVALID_ARGUMENT"), name)
                self.assertTrue(raised.exception.text.startswith(text), raised.exception.text)
            self.assertEqual(d.stats()["queued"], 0)
            answer = client.request("store_many", good * 1000)
        self.assertEqual((len(set(answer["ids"])), answer["errors"]), (1000, []))
        d.flush()
        self.assertEqual(self.pg.count(), 1000)

    def test_a_full_journal_refuses_and_recovers(self):
        """Goal of this test: at journal.max_bytes the answer is QUEUE_FULL with a time to try again,
        for store_many before its first item; after a flush it goes on, and nothing is lost."""
        d = self.daemon(self.pg, journal__max_bytes="2MiB", journal__segment_bytes="512KiB",
                        listen__max_message_bytes="400KiB", **PATIENT)
        ids = []
        with d.client() as client:
            with self.assertRaises(RpcError) as raised:
                for _ in range(100):
                    ids.append(client.request("store", conversation(transcript="x" * 100000))["id"])
            self.assert_full(raised.exception)
            self.assertTrue(10 <= len(ids) <= 20, len(ids))
            with self.assertRaises(RpcError) as raised:
                client.request("store_many", [conversation(transcript="y" * 100000)] * 3)
            self.assert_full(raised.exception)
            self.assertEqual(d.stats()["queued"], len(ids))
            d.flush()
            ids.append(eventually(lambda: self.try_to_store(client), 10, "room again"))
            d.flush()
        rows = {row[0] for row in self.pg.sql("select id::text from convstore.conversations")}
        self.assertEqual(rows, set(ids))

    def try_to_store(self, client):
        try:
            return client.request("store", conversation(transcript="x" * 100000))["id"]
        except RpcError as error:
            self.assert_full(error)
            return None

    def test_the_queue_in_memory_is_bounded(self):
        """Goal of this test: beyond queue.max_queue_size and queue.max_queue_bytes conversations are
        acked all the same and wait in the journal; all of them become rows."""
        for settings in ({"queue__max_queue_size": 10, "batch__batch_size": 10},
                         {"queue__max_queue_bytes": "1MiB", "listen__max_message_bytes": "512KiB"}):
            with self.subTest(**settings):
                pg = self.shared_postgres()
                d = self.daemon(pg, name="d" + "".join(settings)[:12], batch__batch_timeout_ms=10, **settings)
                with d.client() as client, pg.connect() as other:
                    ids = [client.request("store", conversation(), {"wait": "stored"})["id"]]
                    other.autocommit = False
                    other.cursor().execute("lock table convstore.conversations")
                    ids += [client.request("store", conversation(transcript="x" * 20000))["id"]
                            for _ in range(150)]
                    stats = d.stats()
                    self.assertEqual(stats["queued"] + stats["processing"], 150)
                    self.assertGreaterEqual(stats["journal"]["waiting_on_disk"], 90)
                    other.rollback()
                d.flush()
                rows = {row[0] for row in pg.sql("select id::text from convstore.conversations")}
                self.assertEqual(rows, set(ids))
                self.assertEqual(d.stats()["journal"]["waiting_on_disk"], 0)
                self.assertEqual(d.stop(), 0)

    def assert_full(self, error):
        self.assertEqual((error.code, error.name), (3, "QUEUE_FULL"))
        self.assertIsInstance(error.retry_after_ms, int)
        self.assertTrue(1 <= error.retry_after_ms <= 60000, error.retry_after_ms)


class Resends(Scenario):
    def setUp(self):
        super().setUp()
        self.pg = self.shared_postgres()

    def test_the_same_again_is_stored_once(self):
        """Goal of this test: one conversation sent many times, on several connections, in one list,
        before and after it is a row, is one row; every try succeeds and the repeats are counted."""
        d = self.daemon(self.pg)
        key = "0190ABCD-0000-7000-8000-00000000ABCD"
        sent = conversation(id=key, metadata={"a": 1, "b": [2]}, summary="Hi", created_at=1700000000000)
        turned = dict(sent, id=uuid.UUID(key).bytes, metadata={"b": [2], "a": 1})
        clients = [d.client() for _ in range(4)]
        asked = [client.send("store", item) for client in clients for item in (sent, turned)]
        answers = [client.reply(m) for client, m in zip([c for c in clients for _ in range(2)], asked)]
        answer = clients[0].request("store_many", [sent, turned, sent], STORED)
        self.assertEqual(answers, [(None, {"id": key.lower()})] * 8)
        self.assertEqual(answer, {"ids": [key.lower()] * 3, "errors": []})
        self.assertEqual(clients[1].request("store", turned, STORED), {"id": key.lower()})
        d.flush()
        self.assertEqual(self.pg.count(), 1)
        self.assertEqual(self.pg.count("dead_letters"), 0)
        stats = clients[0].request("stats")
        self.assertEqual((stats["duplicates"], stats["replayed"], stats["completed"]), (11, 0, 12))
        for client in clients:
            client.close()

    def test_a_resend_without_created_at_is_the_same(self):
        """Goal of this test: the time of arrival is no part of the content where the client named
        none, so a resend a moment later is a duplicate and the first arrival stays."""
        d = self.daemon(self.pg)
        sent = conversation(id=str(uuid.uuid4()))
        with d.client() as client:
            client.request("store", sent, STORED)
            first = self.pg.value("select created_at from convstore.conversations")
            time.sleep(0.01)
            client.request("store", sent, STORED)
            self.assertEqual(client.request("stats")["duplicates"], 1)
        self.assertEqual(self.pg.sql("select created_at from convstore.conversations"), [(first,)])

    def test_another_content_under_the_same_id_is_kept_aside(self):
        """Goal of this test: the same id with any other field is refused as ID_REUSED, lies whole in
        dead_letters, and the first row stays as it was; its neighbours are stored."""
        d = self.daemon(self.pg)
        key = str(uuid.uuid4())
        first = conversation(id=key, summary="S", metadata={"a": 1}, created_at=1700000000000)
        others = [dict(first, transcript="User: another"), dict(first, platform="sms"),
                  dict(first, summary="T"), dict(first, metadata={"a": 2}), dict(first, metadata={}),
                  dict(first, created_at=1700000000001), dict(first, summary=None)]
        with d.client() as client:
            client.request("store", first, STORED)
            answer = client.request("store_many", [*others, conversation("neighbour")], STORED)
            with self.assertRaises(RpcError) as raised:
                client.request("store", others[0], STORED)
            stats = client.request("stats")
        self.assertEqual([index for index, _ in answer["errors"]], list(range(7)))
        for error in (*[e for _, e in answer["errors"]], [raised.exception.code, raised.exception.name,
                                                          raised.exception.text, None]):
            self.assertEqual(error[:2], [1, "INVALID_ARGUMENT"])
            self.assertIn("dead_letters", error[2])
        self.assertEqual(answer["ids"][:7], [None] * 7)
        self.assertEqual(stats["failed"], 8)
        self.assertEqual(stats["completed"], 2)
        self.assertEqual(self.pg.sql("select platform, transcript, summary, metadata"
                                     " from convstore.conversations where id = %s", key),
                         [("web", first["transcript"], "S", {"a": 1})])
        self.assertEqual(self.pg.value("select count(*) from convstore.conversations"
                                       " where user_id = 'neighbour'"), 1)
        kept = self.pg.sql("select sqlstate, user_id, conversation_id::text, platform, transcript,"
                           " summary, metadata::jsonb, created_at_us from convstore.dead_letters")
        expected = [("ID_REUSED", "user-1", key, o["platform"], o["transcript"], o["summary"],
                     o["metadata"], o["created_at"] * 1000) for o in others]
        self.assertEqual(sorted(map(repr, kept)), sorted(map(repr, expected)))

    def test_two_contents_of_one_id_at_once(self):
        """Goal of this test: two contents under one id in the same batch: one is the row, the other
        is kept aside, neither is lost."""
        d = self.daemon(self.pg, **PATIENT)
        key = str(uuid.uuid4())
        with d.client() as client:
            answer = client.request("store_many", [conversation(id=key, transcript="first"),
                                                   conversation(id=key, transcript="second")])
        self.assertEqual(answer, {"ids": [key, key], "errors": []})
        d.flush()
        kept = (self.pg.sql("select transcript from convstore.conversations")
                + self.pg.sql("select transcript from convstore.dead_letters"))
        self.assertEqual(sorted(kept), [("first",), ("second",)])
        self.assertEqual((self.pg.count(), self.pg.count("dead_letters")), (1, 1))

    def test_the_same_id_under_another_user(self):
        """Goal of this test: an id is a user's own: under another user it is another row."""
        d = self.daemon(self.pg)
        key = str(uuid.uuid4())
        users = ["anna", "ben", "ANNA", "anna "]
        with d.client() as client:
            for user in users:
                client.request("store", conversation(user, f"of {user}", id=key), STORED)
            self.assertEqual(client.request("stats")["duplicates"], 0)
        self.assertEqual(sorted(self.pg.sql("select user_id, transcript from convstore.conversations"
                                            " where id = %s", key)),
                         sorted((user, f"of {user}") for user in users))
        self.assertEqual(self.pg.count("embeddings"), 4)

    def test_timeout_ms_ends_the_waiting_not_the_work(self):
        """Goal of this test: wait "stored" with timeout_ms answers UNAVAILABLE when the time is up;
        the conversation is stored all the same, and a resend waits on."""
        d = self.daemon(self.pg, **PATIENT)
        sent = conversation(id=str(uuid.uuid4()))
        options = {"wait": "stored", "timeout_ms": 200}
        with d.client() as client:
            for method, params in (("store", sent), ("store_many", [sent, sent])):
                started = time.monotonic()
                with self.assertRaises(RpcError) as raised:
                    client.request(method, params, options)
                took = time.monotonic() - started
                self.assertEqual((raised.exception.code, raised.exception.name), (5, "UNAVAILABLE"))
                self.assertIn("200 ms", raised.exception.text)
                self.assertTrue(0.19 <= took <= scaled(2), took)
            self.assertEqual(self.pg.count(), 0)
            waiting = client.send("store", sent, dict(options, timeout_ms=60000))
            client.receive_nothing(0.1)
            d.flush()
            self.assertEqual(client.reply(waiting), (None, {"id": sent["id"]}))
            # Durable does not wait for the table: a sync takes no 30 s.
            client.request("store", conversation(), {"wait": "durable", "timeout_ms": 30000})
        self.assertEqual(self.pg.sql("select id::text from convstore.conversations"), [(sent["id"],)])


if __name__ == "__main__":
    unittest.main()
