"""`make run` itself: tests/setup/run in a directory of the test's own."""
import pathlib
import re
import signal
import subprocess
import time

from harness import BUILD, PG, ROOT, Scenario, clean_environment, eventually, scaled

SAMPLES = ROOT / "tests" / "data" / "conversations.jsonl"
READY = "Ctrl-C drains"


class MakeRun(Scenario):
    time_limit = 180

    def setUp(self):
        super().setUp()
        self.where = self.directory / "run"
        self.command = [str(ROOT / "tests" / "setup" / "run"), str(BUILD), str(self.where)]
        self.samples = SAMPLES.read_bytes().count(b"\n")
        self.runs = []
        self.addCleanup(self.end_everything)

    def run_until_ready(self):
        """Starts it and waits for its last line; (process, what it printed)."""
        output = self.directory / f"output-{len(self.runs)}"
        with open(output, "wb") as sink:
            process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=sink,
                                       stderr=sink, env=clean_environment())
        self.runs.append(process)
        eventually(lambda: READY in output.read_text() or process.poll() is not None, 60, "make run")
        self.assertIsNone(process.poll(), output.read_text())
        return process, output

    def end(self, process, number):
        process.send_signal(number)
        return process.wait(scaled(60))

    def daemon_pid(self):
        return int((self.where / "convstored.pid").read_text())

    def postgres_runs(self):
        return subprocess.run([str(PG), "status", str(self.where / "pg")], check=False).returncode == 0

    def end_everything(self):
        for process in self.runs:
            if process.poll() is None:
                process.terminate()
                process.wait(scaled(60))
        if (self.where / "convstored.pid").exists():
            subprocess.run(["kill", "-KILL", str(self.daemon_pid())], check=False)
        subprocess.run([str(PG), "drop", str(self.where / "pg")], check=False)

    def test_imports_shows_and_ends(self):
        """Goal of this test: every sample becomes a row with an embedding, Ctrl-C ends all that was
        started, and a second run finds the rows of the first."""
        process, output = self.run_until_ready()
        pid = self.daemon_pid()
        text = output.read_text()
        found = re.search(r"now holds (\d+) conversations \((\d+) of them new\) and (\d+) emb", text)
        self.assertEqual([int(found[1]), int(found[2])], [self.samples, self.samples])
        # A long text may have more than one.
        self.assertGreaterEqual(int(found[3]), self.samples)
        self.assertRegex(text, r"embedding +\[-?\d\.\d{4}, .*768 dimensions")
        self.assertEqual(self.end(process, signal.SIGINT), 0, output.read_text())
        self.assertFalse(pathlib.Path(f"/proc/{pid}").exists(), "the daemon is still there")
        self.assertFalse(self.postgres_runs())

        started = time.monotonic()
        process, output = self.run_until_ready()
        self.assertLess(time.monotonic() - started, scaled(10), "a second run takes seconds")
        self.assertIn(f"now holds {2 * self.samples} conversations ({self.samples} of them new)",
                      output.read_text())
        self.assertEqual(self.end(process, signal.SIGTERM), 0, output.read_text())

    def test_a_killed_run_is_no_obstacle(self):
        """Goal of this test: after SIGKILL the next run ends the orphaned daemon and works; while it
        lives, a further one refuses."""
        process, _ = self.run_until_ready()
        orphan = self.daemon_pid()
        self.end(process, signal.SIGKILL)
        process, output = self.run_until_ready()
        self.assertIn(f"process {orphan}", output.read_text())
        refused = subprocess.run(self.command, stdin=subprocess.DEVNULL, capture_output=True,
                                 text=True, timeout=scaled(30), check=False)
        self.assertEqual(refused.returncode, 1)
        self.assertIn(f"process {process.pid}", refused.stderr)
        self.assertEqual(self.end(process, signal.SIGINT), 0, output.read_text())
