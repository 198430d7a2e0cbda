"""The journal's disk fails, fills up or stalls under the running daemon, by means of strace and of a
file system that is small on purpose.

strace -D leaves the daemon a child of the test: its process id and exit status are its own. Faults
are counted for each of its threads apart; the thread that syncs groups passes the hundredth sync long
before the others do.
"""
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import unittest

from harness import ROOT, SCALE, RpcError, Scenario, conversation, eventually, scaled

sys.path.insert(0, str(ROOT / "tests" / "campaign"))
from swarm import Book, Swarm, flush  # noqa: E402

KIB = 1 << 10
MIB = 1 << 20
LOAD_SECONDS = 60  # at most: hundreds of syncs, on a slow disk
LIMITS = {"batch__flush_interval_ms": 5, "batch__batch_timeout_ms": 10, "embedding__provider": "none"}


def can_trace():
    return shutil.which("strace") and subprocess.run(
        ["strace", "-D", "-f", "-o", "/dev/null", "true"], stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, check=False).returncode == 0


class Disk(Scenario):
    def setUp(self):
        super().setUp()
        self.seed = random.SystemRandom().randrange(2**32)
        self.book = Book(self.seed)
        self.swarm = Swarm(self.book, random.Random(self.seed))
        self.swarm.many_one_in = 0
        self.addCleanup(self.swarm.disconnect)

    def traced(self, postgres, call, fault, **settings):
        """A daemon in which a system call meets a fault (see strace, -e inject)."""
        if not can_trace():
            self.skipTest("strace is not there or not allowed")
        self.trace = self.directory / "trace"
        wrapper = ["strace", "-D", "-f", "-qq", "--seccomp-bpf", "-o", str(self.trace),
                   "-e", f"trace={call}", "-e", f"inject={call}:{fault}"]
        # The leak check at the end cannot run beside a tracer.
        options = ":".join(filter(None, [os.environ.get("ASAN_OPTIONS"), "detect_leaks=0"]))
        return self.daemon(postgres, wrapper=wrapper, env={"ASAN_OPTIONS": options},
                           **LIMITS, **settings)

    def load(self, daemon, until=None):
        """Until that is true, or the daemon is gone."""
        self.assertTrue(self.swarm.connect(daemon.socket))
        self.swarm.run(scaled(LOAD_SECONDS), until)

    def check_restart(self, daemon, postgres):
        """Without the fault everything acked becomes a row."""
        daemon.wrapper, daemon.env = [], {}
        daemon.start()
        flush(daemon)
        self.book.check(postgres)

    def check_lost_disk(self, call, fault, step, error, before=()):
        """The disk fails once under load. Who waits hears STORAGE_FAILED or the end, nobody is acked
        afterwards, and the daemon says why it ends. before: what they may hear until then."""
        pg = self.shared_postgres()
        # Without a database every group holds records, for which somebody waits.
        d = self.traced(None, call, fault, journal__segment_bytes="1MiB",
                        listen__max_message_bytes="512KiB",
                        database__conninfo=f"host={self.directory}/nowhere")
        self.load(d)
        self.assertEqual(self.swarm.connections, [], "the daemon went on after its disk failed")
        self.assertEqual(d.wait_exit(), 1)
        self.assertRegex(d.log(), rf'error journal\.failed error="{error}" what="journal: {step} failed')
        self.assertGreater(self.swarm.errors.get("STORAGE_FAILED", 0), 0)
        self.assertLessEqual(set(self.swarm.errors), {"STORAGE_FAILED", *before})
        self.assertGreater(self.book.acked(), 50)
        self.check_trace(call)
        acked = self.book.acked()
        d.settings["database.conninfo"] = pg.conninfo
        self.check_restart(d, pg)
        self.said = (f"{acked} acked before, {self.swarm.errors['STORAGE_FAILED']} STORAGE_FAILED, "
                     f"0 acked missing after the restart")

    def check_trace(self, call):
        """A fault (a spare's making may have met one too), after which its thread asked no more."""
        calls = [line.split(maxsplit=1) for line in self.trace.read_text().splitlines()]
        failed = [n for n, words in enumerate(calls) if "(INJECTED)" in words[1]]
        self.assertNotEqual(failed, [])
        thread = calls[failed[-1]][0]
        again = [words for words in calls[failed[-1] + 1:] if words[0] == thread and call in words[1]]
        self.assertEqual(again, [], "the sync was tried again")

    def test_a_sync_fails(self):
        """Goal of this test: EIO from an fdatasync under load: STORAGE_FAILED, no later ack, exit
        status 1 with the reason; the sync is not tried again and the restart has all that was acked."""
        self.check_lost_disk("fdatasync", f"error=EIO:when={random.randint(100, 300)}", "fdatasync",
                             "Input/output error")

    def test_a_write_fails(self):
        """Goal of this test: the same for a write, and for a disk that turned read-only, whichever
        thread meets it first."""
        self.check_lost_disk("pwrite64", f"error=EROFS:when={random.randint(150, 300)}",
                             "(write|write a header|make a new segment)", "Read-only file system")

    def test_a_group_finds_no_space(self):
        """Goal of this test: ENOSPC in the middle of a group, as a copy-on-write file system has it,
        is a failed write like any other. Where a segment's making meets it first, the journal is full
        for a moment."""
        self.check_lost_disk("pwrite64", f"error=ENOSPC:when={random.randint(150, 300)}", "write",
                             "No space left on device", before=("QUEUE_FULL",))

    def test_a_slow_sync(self):
        """Goal of this test: a sync that takes 2 s: the daemon stops reading at
        journal.max_unsynced_bytes, its memory stays small, and then everything goes on, nothing lost."""
        pg = self.shared_postgres()
        self.book.text_bytes = 2000
        d = self.traced(pg, "fdatasync", "delay_enter=2000000:when=100",
                        journal__max_unsynced_bytes="256KiB")
        self.swarm.depth = 200  # 20 x 200 x 2 KB: far more than the limit and the sockets' buffers
        before = d.memory()[1]
        stall = {}

        def stalled():
            if self.swarm.acks and not stall and time.monotonic() - self.swarm.last_ack > 1.0:
                told = json.loads(d.ctl("journal", "--json", control=True).stdout)
                stall.update(acks=self.swarm.acks, unsynced=told["unsynced_bytes"])
            return bool(stall) and self.swarm.acks > stall["acks"] + 1000

        self.load(d, stalled)
        self.assertTrue(stall, "no stall was seen")
        self.assertGreater(self.swarm.acks, stall["acks"] + 1000, "it did not go on")
        if SCALE == 1:
            self.assertLess(d.memory()[1] - before, 32 * MIB)
        # Eight megabytes are on their way. What one reading brings may pass the limit.
        self.assertGreater(stall["unsynced"], 256 * KIB)
        self.assertLess(stall["unsynced"], MIB)
        self.swarm.limit = 0
        self.swarm.run(scaled(LOAD_SECONDS), self.swarm.idle)
        self.assertEqual((self.swarm.errors, self.book.acked()), ({}, len(self.book)))
        flush(d)
        self.assertEqual(self.book.check(pg), len(self.book))
        self.said = f"{stall['unsynced']} bytes unsynced during the stall of 2 s, {len(self.book)} rows"

    def test_journal_at_its_limit(self):
        """Goal of this test: with PostgreSQL away the journal fills to journal.max_bytes: QUEUE_FULL
        with retry_after_ms, what was acked stays; with PostgreSQL back it drains and takes more."""
        pg = self.postgres()
        d = self.daemon(pg, journal__segment_bytes="1MiB", journal__max_bytes="4MiB",
                        listen__max_message_bytes="512KiB", **LIMITS)
        flush(d)
        pg.stop()
        self.load(d, lambda: self.swarm.errors.get("QUEUE_FULL", 0) > 100)
        self.assertGreater(self.swarm.errors.get("QUEUE_FULL", 0), 100)
        with d.client() as client, self.assertRaises(RpcError) as raised:
            client.request("store", conversation())
        self.assertEqual((raised.exception.name, raised.exception.retry_after_ms), ("QUEUE_FULL", 1000))
        self.assertIn("journal.max_bytes", raised.exception.text)
        self.assertIn("journal_full", [alert["name"] for alert in d.stats()["alerts"]])
        used = sum(p.stat().st_size for p in d.journal.glob("*.segment"))
        self.assertLessEqual(used, 6 * MIB, "max_bytes and the two segments in reserve")
        full_at = self.book.acked()
        pg.start()
        self.swarm.run(scaled(LOAD_SECONDS), lambda: self.book.acked() > 3 * full_at)
        self.assertGreater(self.book.acked(), 3 * full_at)
        self.finish(d, pg)
        self.said = f"full at {full_at}, {self.swarm.errors['QUEUE_FULL']} QUEUE_FULL, then {self.rows} rows"

    def finish(self, daemon, postgres):
        """Sends what is left, and compares."""
        self.swarm.limit = 0
        self.swarm.run(scaled(LOAD_SECONDS), self.swarm.idle)
        flush(daemon)
        self.rows = self.book.check(postgres)
        self.assertEqual(self.rows, self.book.acked())

    def small_disk(self, size):
        """A file system of that size in a mount namespace of its own: (wrapper for the daemon, its
        directory as it is seen from there, and from here)."""
        inside = self.directory / "small"
        inside.mkdir()
        script = f"mount -t tmpfs -o size={size} small {inside} && echo ready && exec sleep 600"
        holder = subprocess.Popen(["unshare", "-m", "sh", "-c", script], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.addCleanup(holder.wait)
        self.addCleanup(holder.kill)
        self.addCleanup(holder.stdout.close)
        if holder.stdout.readline() != "ready\n":
            self.skipTest("no mount namespace without root")
        wrapper = ["nsenter", "-m", "-t", str(holder.pid), "--"]
        return wrapper, inside, f"/proc/{holder.pid}/root{inside}"

    def test_a_lowered_limit(self):
        """Goal of this test: a journal that holds more than a lowered journal.max_bytes drains first,
        and then the daemon accepts again."""
        pg = self.shared_postgres()
        d = self.daemon(journal__segment_bytes="4MiB", journal__max_bytes="32MiB", **LIMITS,
                        listen__max_message_bytes="60KiB",
                        database__conninfo=f"host={self.directory}/nowhere")
        self.load(d, lambda: self.book.acked() > 3000)
        self.swarm.disconnect()
        d.kill()
        d.settings.update({"journal.segment_bytes": "128KiB", "journal.max_bytes": "1536KiB",
                           "database.conninfo": pg.conninfo})
        d.start()
        flush(d)
        before = self.book.acked()
        self.load(d, lambda: self.book.acked() > before + 100)
        self.assertGreater(self.book.acked(), before + 100, d.stats())
        self.finish(d, pg)

    def test_a_full_disk(self):
        """Goal of this test: no room for another segment: QUEUE_FULL, what was acked stays and becomes
        rows; with room again it takes more. A daemon that starts on the full disk drains it."""
        pg = self.postgres()
        wrapper, inside, outside = self.small_disk("12m")
        d = self.daemon(pg, wrapper=wrapper, journal__directory=inside / "journal",
                        journal__segment_bytes="1MiB", listen__max_message_bytes="512KiB", **LIMITS)
        flush(d)
        pg.stop()
        filler = os.path.join(outside, "filler")
        with open(filler, "wb") as file:
            file.write(b"x" * (4 * MIB))
        self.load(d, lambda: self.swarm.errors.get("QUEUE_FULL", 0) > 100)
        self.assertGreater(self.swarm.errors.get("QUEUE_FULL", 0), 100, d.log_tail())
        with d.client() as client, self.assertRaises(RpcError) as raised:
            client.request("store", conversation())
        self.assertEqual((raised.exception.name, raised.exception.retry_after_ms), ("QUEUE_FULL", 1000))
        self.assertIn("disk is full", raised.exception.text)
        full_at = self.book.acked()
        os.unlink(filler)
        self.swarm.run(scaled(LOAD_SECONDS), lambda: self.book.acked() > full_at + 1000)
        self.assertGreater(self.book.acked(), full_at + 1000, "room came back and was not used")
        self.swarm.disconnect()
        d.kill()
        free = os.statvfs(outside)
        with open(filler, "wb") as file:
            file.write(b"x" * (free.f_bavail * free.f_frsize))
        d.start()
        pg.start()
        self.load(d, lambda: self.book.acked() > 2 * full_at + 1000)
        self.assertGreater(self.book.acked(), 2 * full_at + 1000)
        self.finish(d, pg)
        self.said = f"full at {full_at}, {self.swarm.errors['QUEUE_FULL']} QUEUE_FULL, then {self.rows} rows"

    def test_a_read_only_file_system(self):
        """Goal of this test: a journal on a read-only file system: the daemon says so and ends."""
        wrapper, inside, _ = self.small_disk("4m")
        subprocess.run([*wrapper, "mount", "-o", "remount,ro", str(inside)], check=True)
        d = self.daemon(wrapper=wrapper, start=False, journal__directory=inside / "journal")
        d.start(wait=False)
        self.assertNotEqual(d.wait_exit(), 0)
        self.assertRegex(d.log(), r"cannot open journal\.directory \S+: ")

    def test_a_second_daemon(self):
        """Goal of this test: a second daemon on the same journal names the one that holds it and ends;
        the first goes on; once it is dead the journal is free."""
        pg = self.shared_postgres()
        first = self.daemon(pg, name="first")
        second = self.daemon(pg, name="second", start=False, journal__directory=first.journal)
        second.start(wait=False)
        self.assertNotEqual(second.wait_exit(), 0)
        self.assertIn(f"{first.journal} is held by pid {first.pid}", second.log())
        with first.client() as client:
            kept = client.request("store", conversation())["id"]
        first.signal(signal.SIGKILL)
        self.assertEqual(first.wait_exit(), -signal.SIGKILL)
        second.start()
        flush(second)
        eventually(lambda: pg.sql("select id::text from convstore.conversations") == [(kept,)])
        self.assertFalse(re.search("held by", second.log().split("server.start")[-1]))


if __name__ == "__main__":
    unittest.main()
