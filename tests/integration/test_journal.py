"""What an operator sees of the journal, and what journal.durability changes."""
import json
import pathlib
import re
import subprocess
import time
import unittest

import test_disk
from harness import BUILD, Scenario, conversation, eventually, scaled


class Journal(Scenario):
    def setUp(self):
        super().setUp()
        self.nowhere = f"host={self.directory}/nowhere"

    def store(self, daemon, count):
        with daemon.client() as client:
            for n in range(count):
                client.request("store", conversation(transcript=f"conversation {n:02}"))

    def told(self, daemon):
        """`convstorectl journal --json`."""
        done = daemon.ctl("journal", "--json", control=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return json.loads(done.stdout)

    def verify(self, directory):
        done = subprocess.run([str(BUILD / "convstorectl"), "journal", "verify", str(directory)],
                              capture_output=True, text=True, timeout=scaled(60), check=False)
        self.assertEqual(done.stderr, "")
        return done.returncode, done.stdout

    def files(self, directory):
        return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in directory.iterdir()}

    def damaged(self):
        """The journal of a killed daemon with ten conversations, the eighth of them damaged: the
        daemon, and where the damaged bytes are."""
        d = self.daemon(database__conninfo=self.nowhere)
        self.store(d, 10)
        d.kill()
        (path,) = [p for p in d.journal.glob("*.segment") if b"conversation 07" in p.read_bytes()]
        data = path.read_bytes()
        path.write_bytes(data.replace(b"conversation 07", b"conversation 47"))
        return d, path.name.removesuffix(".segment"), data.index(b"conversation 07")

    def test_a_running_daemons(self):
        """Goal of this test: `journal` tells of segments, bytes, what waits and for how long; `stats`
        says the same age."""
        d = self.daemon(database__conninfo=self.nowhere, journal__segment_bytes="1MiB",
                        journal__max_bytes="16MiB", listen__max_message_bytes="512KiB")
        empty = self.told(d)
        self.assertEqual((empty["segments"], empty["waiting"], empty["oldest_ms"]), (0, 0, 0))
        self.assertEqual((empty["directory"], empty["durability"]), (str(d.journal), "fsync"))
        self.assertTrue(0 < empty["sync_p50_ms_at_start"] <= empty["sync_p99_ms_at_start"])
        before = time.monotonic()
        self.store(d, 5)
        time.sleep(0.3)
        first = self.told(d)
        self.assertEqual((first["segments"], first["bytes"], first["max_bytes"]), (1, 1 << 20, 16 << 20))
        self.assertEqual((first["waiting"], first["records"], first["waiting_on_disk"]), (5, 5, 0))
        self.assertTrue(1 <= first["syncs"] <= 5)
        self.assertEqual((first["damages"], first["damage"]), (0, []))
        self.assertTrue(300 <= first["oldest_ms"] <= (time.monotonic() - before) * 1000, first["oldest_ms"])
        self.assertGreaterEqual(d.stats()["oldest_queued_ms"], first["oldest_ms"])
        page = d.ctl("journal", control=True).stdout
        for line in (r"waiting +5", r"segments +1", r"bytes +1,048,576 \(1\.0 MiB\)", r"damage +none"):
            self.assertRegex(page, rf"(?m)^{line}$")

    def test_verify_of_a_whole_one(self):
        """Goal of this test: `journal verify` of what a killed daemon left: what waits, exit status 0;
        nothing is touched."""
        d = self.daemon(database__conninfo=self.nowhere)
        self.store(d, 10)
        d.kill()
        before = self.files(d.journal)
        status, text = self.verify(d.journal)
        self.assertEqual(status, 0, text)
        self.assertRegex(text, r"(?m)^segment=0{15}1 size=\d+ used=\d+ records=10 waiting=10 state=whole$")
        self.assertTrue(text.endswith("segments=1 waiting=10 next_seq=11 damage=0\n"), text)
        self.assertEqual(self.files(d.journal), before)

    def test_verify_of_a_damaged_one(self):
        """Goal of this test: a damaged record is told with its place, exit status 1; nothing is
        touched."""
        d, segment, place = self.damaged()
        before = self.files(d.journal)
        status, text = self.verify(d.journal)
        self.assertEqual(status, 1, text)
        self.assertRegex(text, rf"(?m)^segment={segment} .* waiting=9 state=damaged$")
        (found,) = re.findall(rf"(?m)^damage=\w+ segment={segment} offset=(\d+) bytes=(\d+)$", text)
        self.assertTrue(int(found[0]) < place < int(found[0]) + int(found[1]), found)
        self.assertEqual(self.files(d.journal), before)

    def test_verify_of_nothing(self):
        """Goal of this test: a directory that is not there and one without segments are said to be so."""
        status, text = self.verify(self.directory / "missing")
        self.assertEqual((status, text), (1, f"cannot open {self.directory}/missing: No such file or directory\n"))
        empty = self.directory / "empty"
        empty.mkdir()
        self.assertEqual(self.verify(empty), (0, "segments=0 waiting=0 next_seq=1 damage=0\n"))

    def test_a_start_with_damage(self):
        """Goal of this test: the daemon says in its log and to the operator what was damaged, where, and
        which file keeps the bytes; the other nine wait."""
        d, segment, place = self.damaged()
        d.start()
        told = self.told(d)
        self.assertEqual((told["waiting"], told["recovered"], told["damages"]), (9, 9, 1))
        (damage,) = told["damage"]
        self.assertEqual(damage.keys(), {"kind", "segment", "offset", "bytes", "file"})
        self.assertTrue(damage["offset"] < place < damage["offset"] + damage["bytes"], damage)
        self.assertIn(b"conversation 47", (d.journal / damage["file"]).read_bytes())
        self.assertIn(damage["file"], d.ctl("journal", control=True).stdout)
        self.assertRegex(d.log(), rf"(?m) warning journal damage={damage['kind']} segment={segment} "
                                  rf"offset={damage['offset']} bytes={damage['bytes']} "
                                  rf"set_aside={re.escape(damage['file'])}$")

    def group_thread(self, daemon):
        """The id of the thread that writes groups; segments made ahead of use are another's."""
        tasks = pathlib.Path(f"/proc/{daemon.pid}/task").iterdir()
        (thread,) = [t.name for t in tasks if (t / "comm").read_text() == "journal-sync\n"]
        return thread

    def test_durability(self):
        """Goal of this test: with `os` no store is synced (with `fsync` each of these is), the daemon
        says so, and its death alone loses nothing."""
        for durability in ("fsync", "os"):
            with self.subTest(durability):
                pg = self.shared_postgres()
                d = test_disk.Disk.traced(self, None, "fdatasync", "delay_enter=1", name=durability,
                                          journal__durability=durability, database__conninfo=self.nowhere)
                with d.client() as client:
                    self.assertEqual(client.request("ping")["durability"], durability)
                thread = self.group_thread(d)
                self.store(d, 20)
                d.kill()
                lines = self.trace.read_text().splitlines()
                # One that another thread's line interrupts takes two: its end is called "resumed".
                synced = sum(line.split()[:1] == [thread] and " fdatasync(" in line for line in lines)
                # The tracer may not have come to the last line.
                self.assertIn(synced, (19, 20) if durability == "fsync" else (0,))
                d.wrapper, d.env = [], {}
                d.settings["database.conninfo"] = pg.conninfo
                d.start()
                d.flush()
                eventually(lambda: pg.count() == 20, 10, "20 rows")
                self.assertEqual(d.stop(), 0)


if __name__ == "__main__":
    unittest.main()
