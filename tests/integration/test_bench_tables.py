"""What `make bench` makes of its figures: which targets are reached, the tables, the plots, the plan; and
what a person sees while convstore-bench runs. From made-up results: nothing is measured."""
import importlib.machinery
import importlib.util
import json
import os
import pty
import re
import subprocess
import sys
import unittest
import xml.etree.ElementTree

from harness import BUILD, ROOT, Scenario, clean_environment, scaled

BENCH = ROOT / "tests" / "bench"
sys.path.insert(0, str(BENCH))
import plot  # noqa: E402
import targets  # noqa: E402

SVG = "{http://www.w3.org/2000/svg}"
ABOUT = {"processors": 2, "model": "a processor", "kernel": "6", "date": "2026-01-02", "seconds": 30,
         "sweep_seconds": 6, "rounds": 3, "durability": "fsync", "versions": {"postgresql": "15"}}


def load_run():
    """tests/bench/run as a module."""
    loader = importlib.machinery.SourceFileLoader("bench_run", str(BENCH / "run"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("bench_run", loader))
    loader.exec_module(module)
    return module


def measured(**runs):
    """A benchmark that has these runs: name (with _ for a space) = [result]."""
    bench = load_run().Bench(None, 30, 3)
    bench.runs = {name.replace("_", " "): results for name, results in runs.items()}
    return bench


def rates(*values):
    return [{"per_second": value} for value in values]


def latencies(*p99s, **more):
    return [{"latency_us": {"p99": p99}, **more} for p99 in p99s]


def run(*words):
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL, env=clean_environment(), timeout=scaled(60))


class Targets(Scenario):
    def verdict(self, text, bench):
        found, = [v for v in targets.judge(bench) if v["text"].startswith(text)]
        return found

    def test_reached_by_the_median(self):
        """Goal of this test: a target is judged by the median of the rounds of both sides, a ratio at
        its limit is reached and one beyond is not."""
        acks = "acks/s, 100 connections, database stopped"
        for ours, reached in ((200, True), (199, False)):
            verdict = self.verdict(acks, measured(acks_100=rates(1000, ours, 1), redis_100=rates(90, 100, 900)))
            self.assertEqual((verdict["ours"], verdict["peer"], verdict["reached"]), (ours, 100, reached))
        for p99, reached in ((5000, True), (5001, False)):
            self.assertEqual(self.verdict("1,000 over 60 s: ack p99", measured(paced=latencies(p99)))["reached"],
                             reached)

    def test_what_is_missing_is_never_reached(self):
        """Goal of this test: without ours, without the peer's, or with a peer that did nothing there is
        no verdict, and the table says so and does not count it."""
        for runs in ({}, {"acks_100": rates(200)}, {"redis_100": rates(100)},
                     {"acks_100": rates(200), "redis_100": rates(0)},
                     {"acks_100": [{"latency_us": {}}], "redis_100": rates(100)}):
            bench = measured(**runs)
            verdict = self.verdict("acks/s, 100 connections, database stopped", bench)
            self.assertEqual((verdict["ratio"], verdict["reached"]), (None, None), runs)
            text = targets.table(ABOUT, targets.judge(bench), bench)
            self.assertRegex(text, r"database stopped : Redis .*≥ 2 × +not measured\n")
            self.assertIn("0 of 0 measured targets reached", text)
            bench.partial = True
            self.assertNotIn("database stopped : Redis", targets.table(ABOUT, targets.judge(bench), bench))

    def test_noise(self):
        """Goal of this test: beside runs of 1.0 to 3.0 ms a median of 2.5 is noise, one of 3.1 is not,
        and the spread stands in the table."""
        for ours, reached in ((1150, True), (2500, True), (3100, False)):
            bench = measured(alone=latencies(1000, 3000, 1100), watched=latencies(ours, ours, 9000))
            verdict = self.verdict("ack p99 with a scraper", bench)
            self.assertEqual((verdict["reached"], verdict["noise"]), (reached, [1000, 3000]))
            self.assertIn("(noise: 1 to 3 ms)", targets.table(ABOUT, [verdict], bench))
            self.assertEqual(verdict["target"], "≤ 1.1 × or ≤ the slowest beside it")

    def test_limits_on_both_sides_and_another_way_to_reach(self):
        """Goal of this test: the daemon's figures may be neither below nor above its clients'; a replay
        that is slow beside the disk is quick enough at 500 MB/s."""
        for own, reached in ((940, False), (960, True), (1040, True), (1060, False)):
            runs = [{"latency_us": {"p50": 1000}, "daemon_ack_us": {"p50": own}}]
            verdict = self.verdict("ack p50, 100 connections, as the daemon", measured(**{
                "acks 100, by both clocks": runs}))
            self.assertEqual((verdict["reached"], verdict["target"]), (reached, "0.95 to 1.05 ×"))
        for speed, reached in ((499, False), (500, True), (1000, True)):
            verdict = self.verdict("replay after a crash", measured(
                replay=[{"mb_per_second": speed}], plain_read=[{"mb_per_second": 1200}]))
            self.assertEqual(verdict["reached"], reached)

    def test_the_tables(self):
        """Goal of this test: the table counts what is reached and shows each run's cache hits; --table
        prints the same verdicts as Markdown from the file, and without a file says what to do."""
        cache = {"hits": 1, "misses": 3, "hit_rate": 0.25}
        bench = measured(acks_100=latencies(4000, per_second=300, cache=cache),
                         redis_100=latencies(2000, per_second=100), open=latencies(1, rate=10, queued_after=30))
        verdicts = targets.judge(bench)
        text = targets.table(ABOUT, verdicts, bench)
        self.assertRegex(text, r"acks 100 +300 .* 25.00 %\n")
        self.assertRegex(text, r"redis 100 +100 .* -\n")
        self.assertRegex(text, r"its queue at the end.* 3 s +- +≤ 1 s +NO\n")
        # The two of Redis and two of the open loop.
        self.assertIn("2 of 4 measured targets reached", text)
        (self.directory / "bench").mkdir()
        command = (BENCH / "run", "--build", self.directory, "--table")
        done = run(*command)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("run make bench first", done.stderr)
        (self.directory / "bench" / "results.json").write_text(json.dumps(
            {"about": ABOUT, "groups": ["acks"], "targets": verdicts, "runs": bench.runs}))
        done = run(*command)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        head, _, *rows = done.stdout.splitlines()
        self.assertIn("hit rate of the embedding cache at most 25.00 %", head)
        self.assertEqual({row.count("|") for row in rows}, {7})
        self.assertIn("| acks/s, 100 connections, database stopped : Redis | 300 | 100 | 3.00 × | ≥ 2 × | yes |",
                      rows)
        self.assertIn("| its p99 : Redis's | 4 ms | 2 ms | 2.00 × | ≤ 1 × | NO |", rows)

    def test_the_plan(self):
        """Goal of this test: the plan names each group with its minutes and adds them up, and starts
        nothing: it needs no directory."""
        done = run(BENCH / "run", "--build", self.directory / "none", "--plan")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        lines = [line.split() for line in done.stdout.splitlines()]
        self.assertEqual([line[0] for line in lines], [*load_run().GROUPS, "together"])
        minutes = [float(line[1]) for line in lines]
        self.assertAlmostEqual(sum(minutes[:-1]), minutes[-1], delta=1)
        self.assertGreater(min(minutes), 0.5)
        self.assertFalse((self.directory / "none").exists())
        self.assertEqual(run(BENCH / "run", "--plan", "hurry").returncode, 2)


class Plots(Scenario):
    def check(self, text, labels, points):
        """Well-formed, with these lines of so many points each, all of them on the paper."""
        root = xml.etree.ElementTree.fromstring(text)
        self.assertEqual(root.tag, f"{SVG}svg")
        told = [element.text for element in root.iter(f"{SVG}text")]
        self.assertEqual([label for label in told if re.search(r" p\d", label)], labels)
        lines = [[tuple(map(float, point.split(","))) for point in line.get("points").split()]
                 for line in root.iter(f"{SVG}polyline")]
        self.assertEqual([len(line) for line in lines], [points] * len(labels))
        for line in lines:
            self.assertEqual(line, sorted(line))
            for x, y in line:
                self.assertTrue(plot.LEFT <= x <= plot.WIDTH - plot.RIGHT, line)
                self.assertTrue(plot.TOP <= y <= plot.HEIGHT - plot.BOTTOM, line)
        return lines, told

    @staticmethod
    def result(scale, **more):
        return {"latency_us": {"p50": 100 * scale, "p99": 1000 * scale, "p99_9": 5000 * scale}, **more}

    def test_latency_by_load(self):
        """Goal of this test: convstored's three percentiles and Redis's are drawn over the rate, slower
        is higher, and without an open loop nothing is drawn."""
        runs = {f"{kind}open {share} %": [self.result(share * more, rate=share * 100)]
                for kind, more in (("", 1), ("redis ", 2)) for share in (90, 10, 50)}
        bench = measured(**runs, open=[self.result(1, rate=7)], acks_100=[self.result(1)])
        lines, _ = self.check(plot.latency_by_load(bench),
                              [f"{name} {q}" for name in ("convstored", "Redis") for q in ("p50", "p99", "p99.9")],
                              3)
        for line in lines:  # On paper, up is less.
            self.assertEqual([y for _, y in line], sorted((y for _, y in line), reverse=True))
        for ours, redis in zip(lines[:3], lines[3:], strict=True):
            for (_, below), (_, above) in zip(ours, redis, strict=True):
                self.assertLess(above, below)
        self.assertIsNone(plot.latency_by_load(measured(acks_100=[self.result(1)])))

    def test_what_an_open_loop_went_through(self):
        """Goal of this test: plot.py draws what convstore-bench open --json printed over what differs,
        and says what is wrong with anything else."""
        file = self.directory / "open.json"
        for field, label in plot.FIELDS.items():
            same = {other: 100 for other in plot.FIELDS if other != field}
            results = [self.result(n, **same, **{field: n}) for n in (1, 10, 1000)]
            file.write_text(json.dumps({"results": results}))
            done = run(BENCH / "plot.py", file)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            _, told = self.check(done.stdout, ["convstored p50", "convstored p99", "convstored p99.9"], 3)
            self.assertIn(label, told)
        for text, why in ((json.dumps({"results": results[:1]}), "no two results differ"),
                          ("[]", "what convstore-bench open --json printed"), ("{", "open --json")):
            file.write_text(text)
            done = run(BENCH / "plot.py", file)
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertIn(why, done.stderr)


class Progress(Scenario):
    def watch(self, *options):
        """What a run of more than a second shows on a terminal, and its stdout."""
        terminal, side = pty.openpty()
        with subprocess.Popen([str(BUILD / "convstore-bench"), "raw", "--dir", str(self.directory),
                               "--seconds", "1.3", "--warmup", "0", "--json", *options], text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=side,
                              env=clean_environment()) as process:
            os.close(side)
            stdout, _ = process.communicate(timeout=scaled(60))
        shown = b""
        try:
            while data := os.read(terminal, 65536):
                shown += data
        except OSError:
            pass  # the other side is closed and all is read
        os.close(terminal)
        self.assertEqual(process.returncode, 0, shown)
        return shown.decode(), json.loads(stdout)

    def test_a_line_that_renews_itself(self):
        """Goal of this test: on a terminal one line is renewed with the time, the rate and the count,
        and is gone at the end; stdout holds the results alone."""
        shown, report = self.watch()
        looks = re.findall(r"\rraw: +\d of 1 s +(\d+)/s +(\d+) in all\033\[K", shown)
        self.assertGreaterEqual(len(looks), 2, shown)
        counts = [int(count) for _, count in looks]
        self.assertEqual(counts, sorted(set(counts)))
        self.assertLessEqual(counts[-1], report["results"][0]["acked"])
        self.assertTrue(shown.endswith("\r\033[K"), shown)
        self.assertNotIn("\n", shown)

    def test_quiet(self):
        """Goal of this test: with --quiet a terminal shows nothing."""
        self.assertEqual(self.watch("--quiet")[0], "")


if __name__ == "__main__":
    unittest.main()
