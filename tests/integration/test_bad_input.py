"""Input that is wrong in every way: each gets its error, costs bounded memory, and a witness on
another connection stores all the while and notices nothing."""
import os
import random
import threading
import time
import unittest

from frames import Raw, encode, extension, request, store, timestamp64, timestamp96
from harness import SCALE, Scenario, conversation, eventually, pack, scaled

MIB = 1 << 20
MAX_MESSAGE = 4 * MIB
SLOWEST_SECONDS = 3  # for the witness, on a busy machine


class Witness(threading.Thread):
    """Stores and waits for the row, again and again; what it notices is in `trouble`."""

    def __init__(self, daemon):
        super().__init__(daemon=True)
        self.client = daemon.client()
        self.ids, self.trouble, self.slowest = [], [], 0.0
        self.ending = threading.Event()
        self.start()

    def run(self):
        try:
            while not self.ending.is_set():
                started = time.monotonic()
                sent = conversation("witness", f"number {len(self.ids)}")
                self.ids.append(self.client.request("store", sent)["id"])
                self.slowest = max(self.slowest, time.monotonic() - started)
                time.sleep(0.002)
        except Exception as error:  # whatever it is, the test must hear of it
            self.trouble.append(error)

    def end(self):
        self.ending.set()
        self.join(scaled(10))
        self.client.close()


class BadInput(Scenario):
    def setUp(self):
        super().setUp()
        self.pg = self.shared_postgres()
        self.d = self.daemon(self.pg)
        self.before, _ = self.d.memory()
        self.witness = Witness(self.d)
        self.addCleanup(self.witness.end)

    def tearDown(self):
        """The witness saw no trouble, its rows are all there, and nothing else is."""
        eventually(lambda: len(self.witness.ids) > 5, 5, "the witness stores")
        self.witness.end()
        self.assertEqual(self.witness.trouble, [])
        self.assertLess(self.witness.slowest, scaled(SLOWEST_SECONDS))
        self.d.flush()
        rows = self.pg.sql("select user_id, id::text from convstore.conversations")
        self.assertEqual(sorted(rows), sorted(("witness", key) for key in self.witness.ids))

    def refused(self, message, msgid, code, name, *texts):
        """Sends it: exactly this error, and the session goes on."""
        with self.d.client() as client:
            client.send_raw(message)
            self.assert_error(client.receive(), msgid, code, name, *texts)
            self.assertEqual(client.request("ping")["server"], "convstored")

    def closed(self, data, msgid, code, name, *texts):
        """Sends it behind a good request: that one's answer, then this error, then the end."""
        with self.d.client() as client:
            client.send("ping", msgid=77)
            self.send_what_it_takes(client, data)
            messages = client.wait_closed()
        self.assertEqual([m[1] for m in messages[:1]], [77], "the earlier answer comes first")
        self.assertEqual(len(messages), 2, messages)
        self.assert_error(messages[1], msgid, code, name, *texts)

    def send_what_it_takes(self, client, data):
        try:
            client.send_raw(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it closed in the middle, which is the point

    def assert_error(self, message, msgid, code, name, *texts):
        self.assertEqual((message[0], message[1], message[3]), (1, msgid, None), message)
        self.assertEqual(message[2][:2], [code, name], message)
        self.assertIsNone(message[2][3])
        self.assertLessEqual(len(message[2][2].encode()), 239)
        for text in texts:
            self.assertIn(text, message[2][2])

    def assert_memory(self, more):
        """The most that the daemon ever held, over what it began with. A sanitizer's own memory is
        no measure of the daemon's."""
        if SCALE == 1:
            _, most = self.d.memory()
            self.assertLess(most - self.before, more, "memory")

    def test_fields(self):
        """Goal of this test: each field that is missing, of the wrong type, too short, too long or no
        text is refused by name with the reason, and nothing is stored."""
        bad_utf8 = "ab\udcffcd"
        wrong = {}
        for field in ("user_id", "platform", "transcript"):
            wrong[field] = [(None, "nil"), (1, "integer"), (b"bin", "bin"), (["a"], "array"), ({}, "map"),
                            (True, "bool"), (1.5, "float"), ("", "0 bytes"), (bad_utf8, "UTF-8 at byte 2"),
                            ("a\0b", "NUL at byte 1"), (extension(5, b"x"), "ext")]
        wrong["summary"] = [(1, ""), (b"bin", "bin"), ([], "array"), (bad_utf8, "UTF-8 at byte 2"),
                            ("\0", "NUL at byte 0")]
        wrong["metadata"] = [("{}", ""), (b"", "bin"), ([], "array"), (1, ""), ({"a": bad_utf8}, '["a"]')]
        wrong["id"] = [("x" * 36, "UUID"), ("", "UUID"), (b"x" * 15, "UUID"), (b"x" * 17, "UUID"), (5, "UUID"),
                       ("0190abcd00007000800000000000abcd", "UUID"),
                       ("{0190abcd-0000-7000-8000-00000000abcd}", "UUID"),
                       ("0190abcd-0000-7000-8000-00000000abcg", "UUID")]
        wrong["created_at"] = [("2024-01-01", ""), (1.5, ""), (b"", "bin"), (True, ""), ([], "array"),
                               (2**63, "4713"), (-210863520000001, "4713"), (9223371244800000, "294246"),
                               (extension(5, b"1234"), "extension 5"), (extension(0xff, b"1"), "4, 8 or 12"),
                               (timestamp64(0, 10**9), "nanoseconds"), (timestamp96(0, 2**32 - 1), "nanosec"),
                               (timestamp96(2**62, 0), "4713"), (timestamp96(-2**63, 0), "4713")]
        for field, values in wrong.items():
            for value, why in values:
                with self.subTest(field=field, value=repr(value)[:40]):
                    self.refused(store(5, **{field: value}), 5, 1, "INVALID_ARGUMENT",
                                 f"conversation.{field}", why)
        for field in ("user_id", "platform", "transcript"):
            fields = conversation()
            del fields[field]
            self.refused(request(6, "store", fields), 6, 1, "INVALID_ARGUMENT",
                         f"conversation.{field}: missing")
        for field, limit in (("user_id", 256), ("platform", 64)):
            for text in ("x" * (limit + 1), "é" * (limit // 2 + 1), "x" * 100000):
                self.refused(store(7, **{field: text}), 7, 2, "TOO_LARGE", f"conversation.{field}",
                             str(limit), str(len(text.encode())))
        refused = sum(map(len, wrong.values())) + 3 + 6
        self.assertEqual(self.d.stats()["rejected"], refused)

    def test_the_kinds_of_bad_utf8(self):
        """Goal of this test: truncated, overlong, surrogate and too high sequences are refused in every
        field with the byte where they begin."""
        sequences = {"continuation": b"\x80", "cut 2": b"\xc3", "cut 3": b"\xe2\x82", "cut 4": b"\xf0\x9f\x99",
                     "overlong 2": b"\xc0\xaf", "overlong 3": b"\xe0\x80\xaf", "overlong NUL": b"\xc0\x80",
                     "surrogate": b"\xed\xa0\x80", "over U+10FFFF": b"\xf4\x90\x80\x80", "0xff": b"\xff",
                     "5 bytes": b"\xf8\x88\x80\x80\x80"}
        for name, data in sequences.items():
            text = b"good " + data
            raw = Raw(b"\xd9" + bytes([len(text)]) + text)
            for field in ("user_id", "platform", "transcript", "summary"):
                with self.subTest(name, field=field):
                    self.refused(store(1, **{field: raw}), 1, 1, "INVALID_ARGUMENT",
                                 f"conversation.{field}: invalid UTF-8 at byte 5")
            with self.subTest(name, field="metadata"):
                for value in ({"k": raw}, {raw: 1}):
                    pairs = b"".join(encode(k) + encode(v) for k, v in value.items())
                    self.refused(store(1, metadata=Raw(b"\x81" + pairs)), 1, 1, "INVALID_ARGUMENT",
                                 "conversation.metadata")

    def test_keys(self):
        """Goal of this test: unknown keys, keys that stand twice and keys that are no text are named."""
        fields = pack(conversation())[1:]
        self.refused(store(1, colour="red"), 1, 1, "INVALID_ARGUMENT", 'conversation: unknown key "colour"')
        self.refused(store(1, User_id="x"), 1, 1, "INVALID_ARGUMENT", 'unknown key "User_id"')
        self.refused(store(1, **{"": 1}), 1, 1, "INVALID_ARGUMENT", 'unknown key ""')
        long = "k" * 100000
        self.refused(store(1, **{long: 1}), 1, 1, "INVALID_ARGUMENT", 'unknown key "kkkk', '..."')
        self.refused(store(1, **{"a\nb\udcff": 1}), 1, 1, "INVALID_ARGUMENT", 'unknown key "a\\x0ab\\xff"')
        twice = Raw(b"\x84" + fields + pack("platform") + pack("sms"))
        self.refused(request(1, "store", twice), 1, 1, "INVALID_ARGUMENT", 'duplicate key "platform"')
        for key in (1, None, b"platform", ["a"]):
            odd = Raw(b"\x84" + fields + pack(key) + pack("sms"))
            self.refused(request(1, "store", odd), 1, 1, "INVALID_ARGUMENT", "keys must be strings")
        for value in ("text", 5, None, [conversation()], b""):
            self.refused(request(1, "store", value), 1, 1, "INVALID_ARGUMENT", "conversation: must be a map")

    def test_metadata_that_json_cannot_hold(self):
        """Goal of this test: NaN, infinities, bin, ext, keys that are no text or stand twice, NUL, and
        more than 64 levels are refused under the nearest key; 64 levels are taken."""
        def nested(depth, kind):
            value = Raw(b"\x80")
            for level in range(depth - 1):
                inner = encode(value)
                value = Raw(b"\x81\xa1d" + inner if kind == "map" or level == depth - 2 else b"\x91" + inner)
            return value

        bad = {"NaN": (float("nan"), "NaN"), "Inf": (float("inf"), "infinity"),
               "-Inf": (float("-inf"), "infinity"), "NaN 32": (Raw(b"\xca\x7f\xc0\x00\x00"), "NaN"),
               "bin": (b"x", "bin"), "ext": (extension(5, b"x"), "ext"),
               "timestamp": (timestamp64(1, 0), "ext"), "NUL": ("a\0b", "NUL"),
               "NaN below": ([1, [2, {"deep": float("nan")}]], "NaN"),
               "int key": ({1: 2}, "key"), "nil key": ({None: 2}, "key"), "bin key": ({b"a": 2}, "key"),
               "duplicate": (Raw(b"\x82\xa1a\x01\xa1a\x02"), '"a"'),
               "duplicate apart": (Raw(b"\x83\xa1a\x01\xa1b\x02\xa1a\x03"), '"a"'),
               "NUL key": ({"a\0": 1}, "NUL")}
        for name, (value, why) in bad.items():
            with self.subTest(name):
                self.refused(store(3, metadata={"here": value}), 3, 1, "INVALID_ARGUMENT",
                             "conversation.metadata", why)
        for kind in ("map", "array"):
            self.refused(store(3, metadata=nested(65, kind)), 3, 1, "INVALID_ARGUMENT",
                         "conversation.metadata", "64")
            self.refused(store(3, metadata={"a": [1, nested(63, kind)]}), 3, 1, "INVALID_ARGUMENT",
                         "conversation.metadata", "64")
        self.refused(store(3, metadata={"k": "x" * 262144}), 3, 2, "TOO_LARGE", "conversation.metadata",
                     "262144")
        self.refused(store(3, metadata={str(n): "\x01" * 60 for n in range(1000)}), 3, 2, "TOO_LARGE",
                     "conversation.metadata")
        with self.d.client() as client:
            for number, kind in enumerate(("map", "array")):
                client.send_raw(store(number, user_id="witness", metadata=nested(64, kind)))
                error, result = client.reply(number)
                self.assertIsNone(error, kind)
                self.witness.ids.append(result["id"])

    def test_calls(self):
        """Goal of this test: unknown methods and wrong parameters are errors of the call, not of the
        session."""
        self.refused(request(1, "Store", conversation()), 1, 8, "UNKNOWN_METHOD")
        self.refused(request(1, "", conversation()), 1, 8, "UNKNOWN_METHOD")
        self.refused(request(1, "x" * 100000), 1, 8, "UNKNOWN_METHOD")
        self.refused(request(1, "store\0"), 1, 8, "UNKNOWN_METHOD")
        self.refused(request(1, "store"), 1, 1, "INVALID_ARGUMENT", "store: takes 1 to 2 parameters, got 0")
        self.refused(request(1, "store", conversation(), None, None), 1, 1, "INVALID_ARGUMENT", "got 3")
        self.refused(request(1, "ping", 1), 1, 1, "INVALID_ARGUMENT", "ping: takes", "got 1")
        self.refused(request(1, "stats", {}), 1, 1, "INVALID_ARGUMENT", "stats: takes", "got 1")
        for options, text in (({"wait": "row"}, "options.wait"), ({"wait": True}, "options.wait"),
                              ({"timeout_ms": -1}, "options.timeout_ms"), ([], "options: must be a map"),
                              ({"timeout_ms": 1.5}, "options.timeout_ms"), ({1: 2}, "keys must be strings"),
                              ({"user_id": "x"}, 'options: unknown key "user_id"'),
                              (Raw(b"\x82\xa4wait\xc0\xa4wait\xc0"), 'duplicate key "wait"')):
            self.refused(request(1, "store", conversation(), options), 1, 1, "INVALID_ARGUMENT", text)

    def test_messages_of_the_wrong_form(self):
        """Goal of this test: whatever is no request or notification ends the session with an error that
        says what it is, after the answers to earlier messages."""
        invalid = (1, "INVALID_ARGUMENT")
        for value in (5, "text", None, {}, {"a": 1}, [], [3, 1, "ping", []], [-1, 1, "ping", []],
                      ["0", 1, "ping", []], [0.0, 1, "ping", []], b"bin", 1.5, True):
            with self.subTest(value=value):
                self.closed(pack(value), None, *invalid, "message")
        self.closed(pack([1, 5, None, None]), None, *invalid, "may not send responses")
        self.closed(request(5, "ping")[:-1] + b"\x80", 5, *invalid, "params must be an array")
        self.closed(pack([0, 5, "ping", None]), 5, *invalid, "params must be an array")
        self.closed(pack([0, 5, b"ping", []]), 5, *invalid, "method must be a string")
        self.closed(pack([0, 5, "ping"]), 5, *invalid, "4 elements, got 3")
        self.closed(pack([0, 5, "ping", [], 1]), 5, *invalid, "4 elements, got 5")
        self.closed(pack([2, "ping"]), None, *invalid, "3 elements, got 2")
        self.closed(pack([2, "ping", [], 1]), None, *invalid, "3 elements, got 4")
        self.closed(b"\xc1", None, *invalid, "0xc1")
        self.closed(b"\x94\x00\x05\xc1", None, *invalid)
        self.closed(b"GET / HTTP/1.1\r\n\r\n", None, *invalid)
        self.closed(b'{"method": "store"}\n', None, *invalid)
        self.closed(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), None, *invalid)

    def test_answers_come_before_the_error(self):
        """Goal of this test: garbage behind stores that wait for their rows: all the acks come, then the
        error with msgid nil, then the end; what stands behind the garbage is not looked at."""
        stream = b"".join(request(n, "store", conversation("witness", f"before {n}"), {"wait": "stored"})
                          for n in range(100))
        with self.d.client() as client:
            client.send_raw(stream + b"\xc1" + store(500, transcript="behind"))
            messages = client.wait_closed()
        self.assertEqual(sorted(m[1] for m in messages[:-1]), list(range(100)))
        self.assertEqual([m[2] for m in messages[:-1]], [None] * 100)
        self.assert_error(messages[-1], None, 1, "INVALID_ARGUMENT")
        self.witness.ids += [m[3]["id"] for m in messages[:-1]]

    def test_messages_that_are_too_large(self):
        """Goal of this test: a message over listen.max_message_bytes is TOO_LARGE under its msgid as soon
        as its headers say so, and memory does not grow with it."""
        self.closed(store(5, transcript="x" * (10 * MIB)), 5, 2, "TOO_LARGE", "listen.max_message_bytes",
                    str(MAX_MESSAGE))
        # Its header is enough: nothing of the text has been sent.
        head = store(6, transcript="")[:-1]
        self.closed(head + b"\xdb\xff\xff\xff\xff", 6, 2, "TOO_LARGE")
        self.closed(head + b"\xdb\x00\x40\x00\x00", 6, 2, "TOO_LARGE")
        self.closed(head + b"\xc6\xff\xff\xff\xff", 6, 2, "TOO_LARGE")
        self.closed(head + b"\xc9\xff\xff\xff\xff\x05", 6, 2, "TOO_LARGE")
        # Slowly: many small values that add up.
        self.closed(b"\x94\x00\x07\xa5store\x91\xdc\xff\xff" + (b"\xd9\xff" + b"x" * 255) * 20000, 7, 2,
                    "TOO_LARGE")
        self.assert_memory(40 * MIB)

    def test_headers_that_lie(self):
        """Goal of this test: containers that claim 2^32 elements are refused at once or cost no more than
        what was sent."""
        many = b"\xff\xff\xff\xff"
        self.closed(b"\xdd" + many, None, 2, "TOO_LARGE", "1048576")
        self.closed(b"\xdf" + many, None, 2, "TOO_LARGE", "1048576")
        for head in (b"\xdd", b"\xdf"):
            self.closed(b"\x94\x00\x05\xa5store\x91" + head + many, 5, 2, "TOO_LARGE")
            self.closed(b"\x94\x00\x05\xaastore_many\x91" + head + many, 5, 2, "TOO_LARGE")
        # Each claims what may be claimed, and together it is too much.
        nested = b"\x94\x00\x05\xa5store\x91" + b"\xdd\x00\x0f\x00\x00" * 5
        self.closed(nested, 5, 2, "TOO_LARGE")
        # A million elements that are really there, in 1 MiB: bounded by their number.
        self.closed(b"\x94\x00\x05\xa5store\x91\xdd\x00\x10\x00\x00" + b"\xc0" * MIB, 5, 2, "TOO_LARGE")
        for _ in range(20):
            self.refused(b"\x94\x00\x05\xa5store\x91\xdd\x00\x0f\xff\x00" + b"\xc0" * 0xfff00, 5, 1,
                         "INVALID_ARGUMENT", "conversation: must be a map, got an array")
        self.assert_memory(40 * MIB)

    def test_nesting(self):
        """Goal of this test: 10,000 levels, of arrays, maps or both, whole or cut off, end the session
        with an error and not the daemon."""
        head = b"\x94\x00\x05\xa5store\x91"
        for level in (b"\x91", b"\x81\xa1k", b"\x81\x91\x81"):
            self.closed(head + level * 10000 + b"\xc0" * 10000, 5, 1, "INVALID_ARGUMENT", "nested deeper")
            self.closed(head + level * 100, 5, 1, "INVALID_ARGUMENT", "nested deeper")
        self.closed(b"\x91" * 10000, None, 1, "INVALID_ARGUMENT")
        self.closed(b"\x81" * 1000000, None, 1, "INVALID_ARGUMENT")

    def test_half_a_message_and_a_hang_up(self):
        """Goal of this test: connections that end or are reset anywhere in a message leave nothing
        behind: no row, no connection, no memory."""
        message = store(1, transcript="x" * 200000)
        for cut in (1, 2, 5, 20, 300, 100000, len(message) - 1):
            with self.d.client() as client:
                client.send_raw(message[:cut])
            with self.d.client() as client:
                client.send_raw(message[:cut])
                client.half_close()
                self.assertEqual(client.wait_closed(), [])
        clients = [self.d.client() for _ in range(100)]
        for client in clients:
            client.send_raw(message[:-1])
        for client in clients:
            client.close()
        eventually(lambda: self.d.stats()["connections"] == 2, 5, "only the witness and the asker")
        self.assert_memory(60 * MIB)

    def test_garbage(self):
        """Goal of this test: hundreds of connections that send random bytes, or a good message with some
        bytes changed, get an error or silence; the daemon and the witness live on."""
        seed = int(os.environ.get("TEST_SEED", time.time_ns() % 2**32))
        print(f"TEST_SEED={seed}")
        chance = random.Random(seed)
        good = store(1, user_id="witness", transcript="changed", metadata={"a": [1, {"b": None}]})
        for number in range(300):
            if number % 2:
                data = chance.randbytes(chance.randrange(1, 2000))
            else:
                data = bytearray(good * 3)
                for _ in range(chance.randrange(1, 6)):
                    data[chance.randrange(len(data))] = chance.randrange(256)
            with self.d.client() as client:
                self.send_what_it_takes(client, bytes(data))
                try:
                    client.half_close()
                except OSError:
                    pass
                for message in client.wait_closed():
                    self.assertEqual((message[0], len(message)), (1, 4))
        # A changed message may be a good one: what is not the witness's own is left out of account.
        self.witness.end()
        self.d.flush()
        self.pg.sql("delete from convstore.conversations where user_id <> 'witness'"
                    " or transcript not like 'number %'")


if __name__ == "__main__":
    unittest.main()
