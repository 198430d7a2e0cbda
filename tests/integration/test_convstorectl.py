"""convstorectl against the real daemon: what it prints, what it leaves in the database, how it exits."""
import json
import os
import pathlib
import pty
import re
import signal
import subprocess
import threading
import time
import unittest
import uuid

from harness import BUILD, Scenario, clean_environment, eventually
from limits import scaled

SAMPLES = pathlib.Path(__file__).resolve().parents[1] / "data" / "conversations.jsonl"
END = re.compile(r"^([\d,]+) read, ([\d,]+) acked, ([\d,]+) refused in [\d.]+ s: [\d,]+/s, "
                 r"ack p50 [\d.]+ ms, p99 [\d.]+ ms(, [\d,]+ reconnects)?$")


def number(text):
    return int(text.replace(",", ""))


def line(**fields):
    return json.dumps({"user_id": "u1", "platform": "web", "transcript": "User: hello", **fields}) + "\n"


def start_import(daemon, *arguments, **options):
    """convstorectl import, running, with pipes."""
    return subprocess.Popen(
        [str(BUILD / "convstorectl"), "--socket", str(daemon.socket), "import", *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=clean_environment(), **options)


def read_terminal(master, shown):
    """What the other side writes, until it is closed (which is EIO here)."""
    try:
        while data := os.read(master, 4096):
            shown += data
    except OSError:
        pass


class Convstorectl(Scenario):
    def check_end(self, text, read, acked, refused):
        found = END.match(text.splitlines()[-1])
        self.assertIsNotNone(found, text)
        self.assertEqual([number(n) for n in found.groups()[:3]], [read, acked, refused])

    def check_row(self, postgres, row, fields):
        """A row of conversations equals a line of the import."""
        metadata = None
        if fields.get("metadata") is not None:
            metadata = json.dumps(fields["metadata"])
        differs = postgres.value(
            "select metadata is distinct from %s::jsonb from convstore.conversations where id = %s",
            metadata, row[0])
        self.assertFalse(differs, f"metadata of {row[0]}")
        self.assertEqual(row[1], fields["transcript"])
        self.assertEqual(row[2], fields.get("summary"))

    def test_import_stores_every_line_as_it_was(self):
        """Goal of this test: all samples over four connections become rows, texts equal to the
        character and metadata equal as jsonb; the end line counts them."""
        postgres = self.postgres()
        daemon = self.daemon(postgres)
        rows = [json.loads(text) for text in SAMPLES.read_text(encoding="utf-8").split("\n") if text]
        for row in rows:
            row.setdefault("id", str(uuid.uuid4()))
        done = daemon.ctl("import", "--connections", 4, "-",
                          stdin="".join(json.dumps(row) + "\n" for row in rows))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.check_end(done.stdout, len(rows), len(rows), 0)
        flushed = daemon.ctl("flush")
        self.assertEqual(flushed.returncode, 0, flushed.stderr)
        stored = {str(row[0]): row for row in postgres.sql(
            "select id::text, transcript, summary from convstore.conversations")}
        self.assertEqual(len(stored), len(rows))
        for row in rows:
            self.check_row(postgres, stored[row["id"]], row)

    def test_import_again_stores_nothing_twice(self):
        """Goal of this test: a file whose lines carry ids may be imported a second time."""
        postgres = self.postgres()
        daemon = self.daemon(postgres)
        text = "".join(line(id=str(uuid.uuid4())) for _ in range(50))
        for _ in range(2):
            self.assertEqual(daemon.ctl("import", "-", stdin=text).returncode, 0)
        daemon.flush()
        self.assertEqual(postgres.count(), 50)

    def test_bad_lines_are_named_and_the_rest_goes_on(self):
        """Goal of this test: each wrong line is reported with its number and why, the good ones are
        stored, and the exit status is 1."""
        postgres = self.postgres()
        daemon = self.daemon(postgres)
        lines = [
            line(), "not json\n", line(transcript=5), "\n", line(transcript="a\0b"), line(extra=1),
            line(id="no"), line(created_at="2023-02-29T00:00:00Z"), "[1]\n", line(user_id=""),
            '{"user_id": "u", "user_id": "u"}\n', line(metadata={"n": 10**30}), line(metadata=[]),
            line(created_at="2024-02-29T12:00:00.123456+01:00"),
        ]
        done = daemon.ctl("import", "-", stdin="".join(lines))
        self.assertEqual(done.returncode, 1)
        self.check_end(done.stdout, 13, 2, 11)
        reported = dict(re.findall(r"^line (\d+): (.*)$", done.stderr, re.M))
        self.assertEqual(sorted(map(int, reported)), [2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13])
        self.assertIn("transcript", reported["5"])
        self.assertIn("INVALID_ARGUMENT", reported["5"])
        self.assertIn('"extra"', reported["6"])
        self.assertIn("created_at", reported["8"])
        self.assertIn("user_id", reported["10"])
        daemon.flush()
        self.assertEqual(postgres.value(
            "select count(*) from convstore.conversations where created_at = "
            "'2024-02-29 11:00:00.123456+00'"), 1)

    def test_import_rides_over_a_restart(self):
        """Goal of this test: a daemon that goes and comes back in mid-import costs time, and every
        line is a row once."""
        postgres = self.postgres()
        daemon = self.daemon(postgres)
        ids = [str(uuid.uuid4()) for _ in range(4000)]
        process = start_import(daemon, "--connections", "2", "-")
        stopped = threading.Event()

        def feed():
            for at, identity in enumerate(ids):
                process.stdin.write(line(id=identity))
                if at % 100 == 0:
                    process.stdin.flush()
                    time.sleep(0.02)
                if at == 3000:
                    stopped.wait()  # so that some are left for after it
            process.stdin.close()

        feeder = threading.Thread(target=feed)
        feeder.start()
        eventually(lambda: daemon.stats()["operations"]["queue"]["count"] >= 500, 20, "an import under way")
        self.assertEqual(daemon.stop(), 0)
        stopped.set()
        time.sleep(0.3)
        daemon.start()
        feeder.join()
        out, err = process.stdout.read(), process.stderr.read()
        self.assertEqual(process.wait(scaled(60)), 0, err)
        process.stdout.close()
        process.stderr.close()
        self.check_end(out, 4000, 4000, 0)
        self.assertIn("reconnects", out)
        daemon.flush()
        self.assertEqual(postgres.count(), 4000)

    def test_import_gives_up_when_the_daemon_stays_away(self):
        """Goal of this test: after --timeout the import ends with status 3 and says from which line on
        nothing is acked."""
        postgres = self.postgres()
        daemon = self.daemon(postgres)
        process = start_import(daemon, "--timeout", "1", "-")
        process.stdin.write(line() * 10)
        process.stdin.flush()
        eventually(lambda: daemon.stats()["operations"]["queue"]["count"] >= 10)
        time.sleep(0.2)  # the acks are on their way
        self.assertEqual(daemon.stop(), 0)
        out, err = process.communicate(line() * 5, timeout=scaled(30))
        self.assertEqual(process.returncode, 3, err)
        self.check_end(out, 15, 10, 0)
        self.assertIn("gave up", err)
        self.assertIn("the first is line 11", err)

    def test_interrupt_waits_for_what_is_in_flight(self):
        """Goal of this test: SIGINT ends the reading; what was read is acked and counted."""
        postgres = self.postgres()
        daemon = self.daemon(postgres)
        process = start_import(daemon, "-")
        process.stdin.write(line() * 20)
        process.stdin.flush()
        eventually(lambda: daemon.stats()["operations"]["queue"]["count"] >= 20)
        process.send_signal(signal.SIGINT)
        out, err = process.stdout.read(), process.stderr.read()
        self.assertEqual(process.wait(scaled(30)), 1)
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()
        self.check_end(out, 20, 20, 0)
        self.assertIn("interrupted", err)

    def test_bar_on_a_terminal_only(self):
        """Goal of this test: a terminal gets a bar that moves, a pipe gets no control characters."""
        postgres = self.postgres()
        daemon = self.daemon(postgres)
        path = self.directory / "lines.jsonl"
        path.write_text(line() * 3000)
        master, slave = pty.openpty()
        process = subprocess.Popen(
            [str(BUILD / "convstorectl"), "--socket", str(daemon.socket), "import", "--window", "1",
             str(path)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=slave, text=True,
            env=clean_environment())
        os.close(slave)
        shown = bytearray()
        reader = threading.Thread(target=read_terminal, args=(master, shown))
        reader.start()  # a terminal that nobody reads stops who writes to it
        out = process.communicate(timeout=scaled(120))[0]
        reader.join()
        os.close(master)
        shown = shown.decode()
        self.assertRegex(shown, r"\[#*\.*\] +\d+%  [\d,]+ acked")
        self.assertNotIn("\x1b", out)
        self.check_end(out, 3000, 3000, 0)

    def test_store_prints_the_id(self):
        """Goal of this test: store takes every field, from arguments, files and standard input."""
        postgres = self.postgres()
        daemon = self.daemon(postgres)
        text = self.directory / "chat.txt"
        text.write_text("User: from a file\nAI: ü")
        done = daemon.ctl("store", "--user", "u1", "--platform", "web", "--transcript", f"@{text}",
                          "--summary", "-", "--metadata", '{"n": 1, "r": 1.0, "deep": [null, true]}',
                          "--created-at", "1700000000123", "--wait", stdin="a summary")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(postgres.sql(
            "select transcript, summary, metadata, extract(epoch from created_at)::text "
            "from convstore.conversations where id = %s", done.stdout.strip()),
            [("User: from a file\nAI: ü", "a summary", {"n": 1, "r": 1.0, "deep": [None, True]},
              "1700000000.123000")])
        identity = str(uuid.uuid4())
        again = daemon.ctl("--json", "store", "--user", "u1", "--platform", "web", "--transcript", "x",
                           "--id", identity.upper())
        self.assertEqual(json.loads(again.stdout), {"id": identity})

    def test_exit_codes(self):
        """Goal of this test: 1 for a refusal, 2 for a wrong command line, 3 without a daemon, each
        with one clear line."""
        daemon = self.daemon(self.postgres())
        store = ("store", "--user", "u1", "--platform", "web")
        for status, arguments in [
                (1, (*store, "--transcript", "")), (2, store), (2, ("bogus",)), (2, ("--bogus",)),
                (2, ("ping", "extra")), (2, ("--timeout", "x", "ping")), (2, ()),
                (2, (*store, "--transcript", "x", "--metadata", "{")),
                (2, ("import", "/nonexistent/file")), (3, ("--socket", "/nonexistent/s", "ping"))]:
            with self.subTest(arguments=arguments):
                done = daemon.ctl(*arguments)
                self.assertEqual(done.returncode, status, done.stderr)
                self.assertRegex(done.stderr, r"\Aconvstorectl: [^\n]+\n\Z")
                self.assertEqual(done.stdout, "")

    def test_help_stands_everywhere(self):
        """Goal of this test: every command of the list has a help with an example and the exit codes."""
        daemon = self.daemon(start=False)
        top = daemon.ctl("--help")
        self.assertEqual(top.returncode, 0)
        self.assertIn("(default: 5; 30 for", top.stdout)
        commands = re.findall(r"^  ([a-z-]+) +[a-z]", top.stdout.split("\nOptions")[0], re.M)
        self.assertLessEqual({"store", "import", "stats", "ping", "flush"}, set(commands))
        for command in commands:
            text = daemon.ctl(command, "--help").stdout
            for part in (f"Usage: convstorectl {command}", "Examples:", "--socket PATH", "Exit status:"):
                self.assertIn(part, text, command)

    def test_stats_ping_flush(self):
        """Goal of this test: the page and the JSON of stats show the same counters; flush finds the
        control socket beside the socket, and the ordinary socket refuses it."""
        daemon = self.daemon(self.postgres())
        self.assertEqual(daemon.ctl("import", "-", stdin=line() * 7).returncode, 0)
        self.assertEqual(daemon.ctl("flush").returncode, 0)
        stats = json.loads(daemon.ctl("--json", "stats").stdout)
        self.assertEqual(stats["completed"], 7)
        page = daemon.ctl("stats").stdout
        self.assertRegex(page, r"(?m)^stored +completed +7 ")
        self.assertRegex(page, r"(?m)^batch_insert +\w+")
        ping = daemon.ctl("ping")
        self.assertRegex(ping.stdout, r"^convstored [\d.]+, protocol 1, durability \w+: answered in ")
        refused = daemon.ctl("--control", daemon.socket, "flush")
        self.assertEqual(refused.returncode, 1)
        self.assertIn("PERMISSION_DENIED", refused.stderr)


if __name__ == "__main__":
    unittest.main()
