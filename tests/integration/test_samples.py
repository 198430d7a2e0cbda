"""The project's sample conversations, as a file: what `make run` and many scenarios import."""
import collections
import json
import unicodedata
import unittest

from harness import ROOT

SAMPLES = ROOT / "tests" / "data" / "conversations.jsonl"
KEYS = {"user_id", "platform", "transcript", "summary", "metadata", "created_at", "id"}
SCRIPTS = ("LATIN", "CYRILLIC", "GREEK", "ARABIC", "HEBREW", "DEVANAGARI", "CJK", "HIRAGANA", "HANGUL",
           "THAI", "TAMIL")


def refuse_duplicates(pairs):
    keys = [key for key, _ in pairs]
    assert len(keys) == len(set(keys)), f"duplicate key in {keys}"
    return dict(pairs)


class Samples(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        # Split at newlines only: str.splitlines would also cut at U+2028 and its kind.
        lines = SAMPLES.read_bytes().decode("utf-8", "strict").split("\n")
        cls.last, cls.lines = lines[-1], lines[:-1]
        cls.rows = [json.loads(line, object_pairs_hook=refuse_duplicates) for line in cls.lines]

    def test_each_line_is_a_valid_conversation(self):
        """Goal of this test: every sample keeps the limits of the wire, so an import refuses none."""
        self.assertEqual(self.last, "", "the file ends with a newline")
        for number, row in enumerate(self.rows, 1):
            with self.subTest(line=number):
                self.assertLessEqual(set(row), KEYS)
                self.assertTrue(1 <= len(row["user_id"].encode()) <= 256)
                self.assertTrue(1 <= len(row["platform"].encode()) <= 64)
                self.assertTrue(row["transcript"].startswith("User: "))
                self.assertNotIn("\\u0000", self.lines[number - 1])
                self.assertIsInstance(row.get("metadata", {}), dict)
                self.assertIsInstance(row.get("created_at", 0), int)

    def test_they_are_many_and_varied(self):
        """Goal of this test: at least 200 conversations, many scripts, short and long, with and
        without the optional keys."""
        self.assertGreaterEqual(len(self.rows), 200)
        lengths = [len(row["transcript"].encode()) for row in self.rows]
        self.assertLess(min(lengths), 30)
        self.assertGreater(max(lengths), 50000)
        for key in ("summary", "metadata", "created_at"):
            having = sum(key in row for row in self.rows)
            self.assertTrue(10 <= having <= len(self.rows) - 10, f"{having} samples have {key}")
        self.assertGreaterEqual(len({row["platform"] for row in self.rows}), 8)

    def test_every_script_is_there(self):
        """Goal of this test: each script occurs in several samples, emoji and combining marks too."""
        seen = collections.Counter()
        for row in self.rows:
            characters = set(row["transcript"])
            names = {unicodedata.name(c, "").split(" ")[0] for c in characters}
            seen.update(names & set(SCRIPTS))
            seen["emoji"] += any(ord(c) > 0x1F000 for c in characters)
            seen["combining"] += any(unicodedata.combining(c) for c in characters)
        for what in (*SCRIPTS, "emoji", "combining"):
            self.assertGreaterEqual(seen[what], 2, f"samples with {what}")


if __name__ == "__main__":
    unittest.main()
