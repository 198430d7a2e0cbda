"""The campaigns of tests/campaign in short: the daemon killed at random and at every named point, and
an outage of PostgreSQL. `make campaign-kill` and its like run them at length."""
import pathlib
import re
import subprocess
import sys
import unittest

from harness import BUILD, Scenario, clean_environment, scaled

CAMPAIGNS = pathlib.Path(__file__).resolve().parents[1] / "campaign"


class Kill(Scenario):
    def campaign(self, name, *arguments, seconds=90):
        """Runs one of tests/campaign, and shows its line of counts."""
        env = clean_environment(TEST_BUILD=str(BUILD), TEST_DIR=str(self.directory),
                                PYTHONDONTWRITEBYTECODE="1")
        done = subprocess.run([sys.executable, str(CAMPAIGNS / name), *arguments], env=env, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=scaled(seconds), check=False)
        lines = done.stdout.strip().splitlines() or [""]
        self.assertEqual(done.returncode, 0, done.stdout)
        self.said = lines[-1]
        return lines

    def test_killed_at_random_under_load(self):
        """Goal of this test: 30 times SIGKILL in the middle of 20 clients that remember every ack, also
        during the replay and with PostgreSQL killed: 0 acked missing, 0 rows twice."""
        line = self.campaign("kill", "--rounds", "30")[-1]
        self.assertRegex(line, r"^kill: 30 rounds, \d{2,} kills, .* 0 missing, 0 twice")

    def test_killed_at_every_named_point(self):
        """Goal of this test: SIGKILL at each point of daemon/kill_point.h, and again there in the replay
        of a replay: every name is hit, 0 acked missing, 0 rows twice."""
        line = self.campaign("points", seconds=110)[-1]
        counts = re.match(r"^points: (\d+) of (\d+) points hit, (\d+) kills", line)
        self.assertEqual(counts[1], counts[2])
        self.assertGreaterEqual(int(counts[3]), int(counts[1]))

    def test_a_long_outage(self):
        """Goal of this test: 20,000 conversations stored while PostgreSQL is away, SIGKILL, SIGKILL again
        in the middle of the catch-up: memory under 100 MiB, all are rows, once each."""
        line = self.campaign("outage", "--count", "20000")[-1]
        self.assertRegex(line, r"20000 rows, 0 missing, 0 twice")
        self.faults = 1


if __name__ == "__main__":
    unittest.main()
