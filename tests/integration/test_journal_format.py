"""proto/JOURNAL.md against what the journal writes, through a reader that knows only that document."""
import pathlib
import subprocess
import tempfile
import unittest

from harness import BUILD
from journal_reader import DATA, Journal


class Format(unittest.TestCase):
    def write(self, directory, *arguments):
        command = [BUILD / "bench_journal", "--directory", directory, "--bytes", "40", *arguments]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
        self.assertEqual(result.returncode, 0, result.stdout)

    def test_a_reader_from_the_document(self):
        """Goal of this test: a reader written from the document finds every record that was stored, with
        its text, and knows which ones are done; and a byte that is flipped costs it one record."""
        with tempfile.TemporaryDirectory() as directory:
            self.write(directory, "--seconds", "0.01", "--keep")
            journal = Journal(directory)
            last = max(journal.waiting)
            self.assertGreater(last, 100)
            self.assertEqual(sorted(journal.waiting), list(range(1, last + 1)))
            for conversation in journal.waiting.values():
                self.assertEqual(conversation["transcript"], "abcdefghijklmnopqrstuvwxyzabcdefghijklmn")
                self.assertEqual((conversation["user_id"], conversation["platform"]), ("user-1", "bench"))
                self.assertIsNone(conversation["summary"])
            self.assertTrue(all(s.closed and not s.gaps for s in journal.segments))
            # The youngest may be one that was made ahead of use, before the last records came.
            self.assertEqual(max(segment.end_seq for segment in journal.segments), last + 1)

            path = pathlib.Path(directory) / f"{journal.segments[0].index:016x}.segment"
            data = bytearray(path.read_bytes())
            data[DATA + 100] ^= 1
            path.write_bytes(data)
            journal = Journal(directory)
            self.assertEqual(len(journal.waiting), last - 1)
            self.assertEqual(len(journal.segments[0].gaps), 1)

    def test_done_records(self):
        """Goal of this test: what the journal has noted as done, the reader takes as done."""
        with tempfile.TemporaryDirectory() as directory:
            self.write(directory, "--recovery", "300")
            journal = Journal(directory)
            self.assertGreaterEqual(len(journal.stored), 300)
            self.assertEqual(journal.waiting, {})


if __name__ == "__main__":
    unittest.main()
