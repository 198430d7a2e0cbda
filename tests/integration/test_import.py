"""convstorectl import at its real job: a file of conversations, to the last byte.

CONVSTORE_DATASET=FILE takes another file of JSON lines than the project's samples, of any size; its
rate is printed (see with --verbose or run this file by itself).
"""
import json
import os
import pathlib
import signal
import subprocess
import time
import unittest
import uuid

from harness import BUILD, ROOT, Scenario, clean_environment, conversation, eventually, scaled

SAMPLES = pathlib.Path(os.environ.get("CONVSTORE_DATASET") or ROOT / "tests" / "data" / "conversations.jsonl")
CONNECTIONS = 100


def key_of(fields):
    """What makes a line recognisable in the table: its texts as bytes."""
    return tuple(None if fields.get(name) is None else fields[name].encode()
                 for name in ("user_id", "platform", "transcript", "summary"))


class Import(Scenario):
    time_limit = 600

    def setUp(self):
        super().setUp()
        self.pg = self.shared_postgres()
        # Split at newlines only: str.splitlines would also cut at U+2028 and its kind.
        lines = SAMPLES.read_bytes().decode().split("\n")
        self.lines = [json.loads(line) for line in lines if line.strip()]
        self.assertGreaterEqual(len(self.lines), 200)

    def end_of(self, done):
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        end = json.loads(done.stdout)
        self.assertEqual({key: end[key] for key in ("read", "acked", "refused", "bad_lines", "unanswered")},
                         {"read": len(self.lines), "acked": len(self.lines), "refused": 0, "bad_lines": 0,
                          "unanswered": 0})
        return end

    def check_rows(self):
        """The table holds exactly these lines: texts byte for byte, metadata equal as jsonb and
        created_at to the millisecond, both compared by the server."""
        self.pg.sql("drop table if exists public.lines")
        self.pg.sql("create table public.lines (user_id bytea, platform bytea, transcript bytea,"
                    " summary bytea, metadata jsonb, created_at bigint)")
        self.addCleanup(self.pg.sql, "drop table if exists public.lines")
        for fields in self.lines:
            metadata = fields.get("metadata")
            self.pg.sql("insert into public.lines values (%s, %s, %s, %s, %s::jsonb, %s)", *key_of(fields),
                        None if metadata is None else json.dumps(metadata), fields.get("created_at"))
        both = ("select convert_to(user_id, 'UTF8'), convert_to(platform, 'UTF8'),"
                " convert_to(transcript, 'UTF8'), convert_to(summary, 'UTF8'), metadata"
                " from convstore.conversations",
                "select user_id, platform, transcript, summary, metadata from public.lines")
        for one, other, what in ((*both, "rows that no line has"), (*reversed(both), "lines without a row")):
            self.assertEqual(self.pg.value(f"select count(*) from ({one} except all {other}) d"), 0, what)
        self.assertEqual(self.pg.count(), len(self.lines))
        self.assertEqual(self.pg.value(
            "select count(*) from public.lines l where l.created_at is not null and not exists ("
            " select from convstore.conversations c where c.user_id = convert_from(l.user_id, 'UTF8')"
            " and convert_to(c.transcript, 'UTF8') = l.transcript"
            " and c.created_at = to_timestamp(0) + l.created_at * interval '1 ms')"), 0, "created_at")

    def check_embeddings(self):
        """One vector for each row: at once, or, on a machine that is too slow, as a note for later."""
        waiting = self.pg.count("embedding_backlog")
        self.assertEqual(self.pg.count("embeddings") + waiting, len(self.lines))
        self.assertLessEqual(waiting, len(self.lines) // 10)
        self.assertEqual(self.pg.value("select count(*) from convstore.embeddings where vector_dims(embedding)"
                                       " <> 768 or abs(vector_norm(embedding) - 1) > 1e-4"), 0)

    def test_a_file(self):
        """Goal of this test: every line of the file is a row, to the byte, and has its embedding; the
        end line says how many and how fast."""
        d = self.daemon(self.pg, embedding__deadline_ms=5000)
        started = time.monotonic()
        end = self.end_of(d.ctl("--json", "import", SAMPLES, seconds=300))
        d.flush(300)
        took = time.monotonic() - started
        print(f"{len(self.lines)} lines: {end['per_second']:.0f}/s acked, ack p50 {end['ack_p50_ms']:.2f} ms,"
              f" p99 {end['ack_p99_ms']:.2f} ms, {len(self.lines) / took:.0f} rows/s end to end")
        self.check_rows()
        self.check_embeddings()
        stats = d.stats()
        self.assertEqual((stats["completed"], stats["failed"], stats["duplicates"], stats["rejected"]),
                         (len(self.lines), 0, 0, 0))

    def start_import(self, d, *arguments):
        """convstorectl import of what the test writes to its standard input."""
        process = subprocess.Popen(
            [str(BUILD / "convstorectl"), "--socket", str(d.socket), "--json", "import", *map(str, arguments), "-"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
            env=clean_environment())
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def test_100_connections(self):
        """Goal of this test: the same over 100 connections of one import; the daemon had them all at
        once."""
        d = self.daemon(self.pg, embedding__deadline_ms=5000)
        with SAMPLES.open(encoding="utf-8", newline="\n") as file:
            lines = list(file)
        process = self.start_import(d, "--connections", CONNECTIONS)
        process.stdin.writelines(lines[:CONNECTIONS])
        process.stdin.flush()
        eventually(lambda: d.stats()["connections"] == CONNECTIONS + 1, 30, "all connections and this one")
        out, err = process.communicate("".join(lines[CONNECTIONS:]), timeout=scaled(300))
        self.end_of(subprocess.CompletedProcess(process.args, process.returncode, out, err))
        d.flush(300)
        self.check_rows()
        self.check_embeddings()

    def test_100_clients_at_once(self):
        """Goal of this test: 100 clients, each with its own part of the file, half of the requests as
        store_many, wait for their rows at the same time."""
        d = self.daemon(self.pg, embedding__deadline_ms=5000)
        clients = [d.client(timeout=120) for _ in range(CONNECTIONS)]
        asked = []
        for number, client in enumerate(clients):
            part = self.lines[number::CONNECTIONS]
            if number % 2:
                asked += [(client, client.send("store", item, {"wait": "stored"})) for item in part]
            else:
                asked.append((client, client.send("store_many", part, {"wait": "stored"})))
        for client, msgid in asked:
            error, result = client.reply(msgid)
            self.assertIsNone(error)
            self.assertEqual(result.get("errors", []), [])
        for client in clients:
            client.close()
        self.check_rows()
        self.check_embeddings()

    def test_two_crashes_in_the_middle(self):
        """Goal of this test: a daemon killed with SIGKILL in mid-import and started again is reconnected
        to and the import goes on; with --wait every line is a row, once, whatever the crash took."""
        d = self.daemon(self.pg, batch__batch_timeout_ms=5, batch__flush_interval_ms=5)
        count = 1500
        lines = [json.dumps(conversation(transcript=f"t{n}", id=str(uuid.uuid4()))) + "\n" for n in range(count)]
        process = self.start_import(d, "--wait", "--window", 16, "--connections", 2)
        for wanted, given in ((200, lines[:700]), (700, lines[700:1200])):
            process.stdin.writelines(given)
            process.stdin.flush()
            eventually(lambda: self.pg.count() >= wanted, 60, f"{wanted} rows")
            d.signal(signal.SIGKILL)
            self.assertEqual(d.wait_exit(), -signal.SIGKILL)
            d.start()
        out, err = process.communicate("".join(lines[1200:]), timeout=scaled(120))
        self.assertEqual(process.returncode, 0, err)
        end = json.loads(out)
        self.assertEqual((end["read"], end["acked"], end["refused"]), (count, count, 0))
        self.assertGreaterEqual(end["reconnects"], 2)
        rows = self.pg.sql("select transcript from convstore.conversations")
        self.assertEqual(sorted(rows), sorted((f"t{n}",) for n in range(count)))
        self.assertEqual(self.pg.count("dead_letters"), 0)


if __name__ == "__main__":
    unittest.main()
