"""What the groups of `make bench` measure with, and where it is kept: one run of a program after
another, each from the same start, its results under a key, and of all rounds the median.
"""
import json
import os
import platform
import statistics
import subprocess
import sys
import time

import plot
import servers
import targets
from servers import Convstored, Failed, Postgres

SETTLE_SECONDS = 0.5
FULL_SECONDS = 30     # runs of at least so long are full
SWEEP_SECONDS = 6     # at most, where no target of the table's first part asks for a full run
LIMIT_SECONDS = 3600  # for one measurement, so that a hang ends


class Measurements:
    """All runs of one `make bench` and what they gave; place None: for a plan only."""

    def __init__(self, place, seconds, rounds):
        self.place, self.seconds, self.rounds = place, seconds, rounds
        self.full = seconds >= FULL_SECONDS
        self.sweep = min(seconds, SWEEP_SECONDS)
        self.about, self.done = None, []
        self.postgres = None
        self.durability = None
        self.runs = {}     # key -> [result]
        self.skipped = {}  # group -> why
        self.partial = False  # some groups only
        self.started = time.monotonic()

    def measure(self, key, command, *arguments, seconds=None):
        """One run of convstore-bench; its results are kept under key. Returns the first."""
        return self.run_program(key, [self.place.build / "convstore-bench", command, "--json",
                                      "--quiet", "--seconds", seconds or self.seconds, *arguments])

    def run_program(self, key, words):
        os.sync()
        time.sleep(SETTLE_SECONDS)
        self.say(f"{key}: {' '.join(str(w) for w in words[1:])}")
        done = subprocess.run([str(w) for w in words], stdin=subprocess.DEVNULL, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                              env=servers.environment(), timeout=LIMIT_SECONDS,
                              preexec_fn=servers.die_with_parent)
        if not done.stdout:
            raise Failed(f"{key}: {done.stderr.strip()}")
        report = json.loads(done.stdout)
        if done.returncode != 0 or not report["results"]:
            raise Failed(f"{key}: {done.stderr.strip()}")
        self.runs.setdefault(key, []).extend(report["results"][:1])
        for more in report["results"][1:]:
            self.runs.setdefault(more["name"], []).append(more)
        return report["results"][0]

    def values(self, key, *path):
        """What each round gave."""
        values = []
        for result in self.runs.get(key, []):
            for step in path:
                result = result.get(step) if isinstance(result, dict) else None
            if result is not None:
                values.append(result)
        return values

    def figure(self, key, *path):
        """The median over the rounds; None where it was not measured."""
        values = self.values(key, *path)
        return statistics.median(values) if values else None

    def note(self, key, **figures):
        self.runs.setdefault(key, []).append(figures)

    def say(self, text):
        print(f"{time.monotonic() - self.started:7.1f} s  {text}", file=sys.stderr, flush=True)

    def daemon(self, database=False, clear=True, **settings):
        """A new convstored; without the database it can only take in."""
        if database and clear:
            self.postgres.clear()
        return Convstored(self.place, self.postgres.conninfo if database else None, **settings)

    def with_server(self, server, key, command, *arguments, seconds=None):
        try:
            return self.measure(key, command, *server.arguments, *arguments, seconds=seconds)
        finally:
            server.end()

    def with_peer(self, make, name, key, *arguments, seconds=None):
        if name in self.place.peers:
            self.with_server(make(self.place), key, *arguments, seconds=seconds)

    def prepare(self):
        self.place.find_peers()
        self.postgres = Postgres(self.place)
        self.postgres.begin()
        daemon = Convstored(self.place)
        try:
            done = subprocess.run([str(self.place.build / "convstorectl"), "--socket",
                                   str(daemon.socket), "ping", "--json"], text=True, check=False,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  env=servers.environment())
            self.durability = json.loads(done.stdout)["durability"]
        except (json.JSONDecodeError, KeyError) as error:
            raise Failed(f"ping: {done.stdout.strip()}") from error
        finally:
            daemon.end()

    def describe(self):
        versions = {"postgresql": self.postgres.version()}
        for name in self.place.peers:
            versions[name] = self.place.version(name)
        return {"machine": platform.machine(), "processors": os.cpu_count(),
                "model": targets.cpu_model(), "kernel": platform.release(),
                "date": time.strftime("%Y-%m-%d"), "seconds": self.seconds, "sweep_seconds": self.sweep,
                "rounds": self.rounds, "durability": self.durability,
                "versions": versions, "postgresql_settings": self.postgres.settings()}

    def keep(self):
        """What is measured until now: for whoever computes it again, and as a table. Returns that."""
        verdicts = targets.judge(self)
        results = {"about": self.about, "groups": self.done, "targets": verdicts, "runs": self.runs,
                   "skipped": self.skipped}
        partial = self.place.data / "results.json.new"
        partial.write_text(json.dumps(results, indent=1) + "\n")
        partial.rename(self.place.data / "results.json")
        drawn = plot.latency_by_load(self)
        if drawn:
            (self.place.data / "latency.svg").write_text(drawn)
        text = targets.table(self.about, verdicts, self)
        (self.place.data / "table.txt").write_text(text + "\n")
        return text
