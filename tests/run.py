#!/usr/bin/python3
"""Runs the tests: every cmocka binary BUILD/tests/test_*, then the scenarios of tests/integration.

    tests/run.py [--build BUILD] [--verbose] [--faults N] [NAME ...]

A NAME is a unit binary (test_scan), a scenario file (test_store), one test method, or file.method.
Each scenario file runs in a process of its own, two at a time, and beside those one of the files that
have the line `WAITS = True`, which sleep most of the time; a file that has the line `ALONE = True`
measures something and runs when the others are done. A crash, a hang or a test that
vanishes counts as failed. The last line is `N passed, N failed`, with `, N skipped` when there are
any; the exit status is 0 only when something passed and nothing failed. A run of all tests has failed,
too, when fewer than FAULTS_LEAST faults of PostgreSQL were made in them; --faults says how many.

The hard thing is to lose nothing when a test process dies: it reports each start and end of a test as
a line of JSON on a pipe, so this process knows which test was running, and everything a scenario
starts lies in one directory, from which harness.clean_up() ends it.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[1]
INTEGRATION = ROOT / "tests" / "integration"
UNIT_SECONDS = 120
SCENARIO_SECONDS = 120  # a class may say otherwise: time_limit = SECONDS
GRACE_SECONDS = 90  # for a scenario's own clean-up after its limit
SIDE_BY_SIDE = 2
FAULTS_LEAST = 200
TAIL_LINES = 40
TAP = re.compile(r"^(ok|not ok) \d+ (?:- |# (SKIP) )(.*)$")


class Interrupted(Exception):
    pass


class Running:
    """The test processes that live now, so that Ctrl-C can end them: each has a session of its own.
    Their clean-up then takes its usual way."""

    processes = set()
    interrupted = False

    @classmethod
    def start(cls, command, **options):
        if cls.interrupted:
            raise Interrupted
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT,
                                   start_new_session=True, **options)
        cls.processes.add(process)
        return process

    @classmethod
    def kill(cls, process):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        cls.processes.discard(process)

    @classmethod
    def on_signal(cls, *unused):
        cls.interrupted = True
        for process in list(cls.processes):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


class Test:
    """What became of one test: status is passed, failed or skipped."""

    def __init__(self, name, status, seconds=0.0, detail="", goal="", said="", faults=0):
        self.name, self.status, self.seconds = name, status, seconds
        self.detail, self.goal, self.said, self.faults = detail, goal, said, faults


def tail(text, lines=TAIL_LINES):
    return "\n".join(text.rstrip().splitlines()[-lines:])


def time_scale(build):
    """Sanitizers slow the daemon down; TEST_TIME_SCALE overrides the guess."""
    if "TEST_TIME_SCALE" in os.environ:
        return float(os.environ["TEST_TIME_SCALE"])
    try:
        program = (build / "convstored").read_bytes()
    except OSError:
        return 1.0
    return 8.0 if b"__tsan_init" in program else 4.0 if b"__asan_init" in program else 1.0


# Unit binaries

def run_unit(binary, scale):
    """The tests of one cmocka binary."""
    env = dict(os.environ, CMOCKA_MESSAGE_OUTPUT="TAP")
    started = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = Running.start([str(binary)], env=env, stdout=output)
        try:
            status = process.wait(UNIT_SECONDS * scale)
        except subprocess.TimeoutExpired:
            status = None
        Running.kill(process)
        output.seek(0)
        text = output.read().decode(errors="replace")
    seconds = time.monotonic() - started
    return judge_unit(binary.name, text, status, seconds)


def judge_unit(name, text, status, seconds):
    """Reads TAP. A failed test's message follows it as lines that begin with '#'."""
    tests = []
    for line in text.splitlines():
        found = TAP.match(line)
        if found:
            state = "skipped" if found[2] else "passed" if found[1] == "ok" else "failed"
            tests.append(Test(f"{name}.{found[3]}", state, detail=found[3] if found[2] else ""))
        elif line.startswith("#") and tests and tests[-1].status == "failed":
            tests[-1].detail += line + "\n"
    planned = sum(int(n) for n in re.findall(r"^1\.\.(\d+)", text, re.M))
    any_failed = any(test.status == "failed" for test in tests)
    problem = None
    if status is None:
        problem = f"hung: killed after {seconds:.0f} s"
    elif status < 0:
        problem = f"ended by signal {-status} ({signal.Signals(-status).name})"
    elif status != 0 and not any_failed:
        problem = f"exit status {status} though no test failed"
    elif not tests or len(tests) < planned:
        problem = f"reported {len(tests)} of {planned} tests"
    if problem:
        tests.append(Test(f"{name} (the whole program)", "failed", detail=f"{problem}\n{tail(text)}"))
    return tests, seconds


# Scenarios: the parent's side

def run_scenarios(path, methods, options):
    """The tests of one scenario file, from its process's reports."""
    if Running.interrupted:
        raise Interrupted
    directory = pathlib.Path(tempfile.mkdtemp(prefix="cst-", dir="/tmp"))
    directory.chmod(0o711)
    reading, writing = os.pipe()
    env = dict(os.environ, TEST_BUILD=str(options.build), TEST_DIR=str(directory),
               TEST_TIME_SCALE=str(options.scale), PYTHONPATH=str(INTEGRATION),
               PYTHONDONTWRITEBYTECODE="1")
    command = [sys.executable, __file__, "--child", str(path), "--report", str(writing), *methods]
    with open(directory / "output", "w+b") as output:
        process = Running.start(command, env=env, stdout=output, pass_fds=[writing])
        os.close(writing)
        try:
            return watch_scenarios(path.stem, process, reading, output, options)
        finally:
            os.close(reading)
            Running.kill(process)
            end_leftovers(directory)


def watch_scenarios(stem, process, reading, output, options):
    """Collects reports until the pipe ends or nothing has come for longer than any test may take."""
    tests, current, buffered, limit = [], None, b"", SCENARIO_SECONDS
    hung = False
    while True:
        ready, _, _ = select.select([reading], [], [], limit * options.scale + GRACE_SECONDS)
        data = os.read(reading, 65536) if ready else b""
        if not data:
            hung = not ready
            break
        *lines, buffered = (buffered + data).split(b"\n")
        for line in lines:
            report = json.loads(line)
            if report["event"] == "start":
                current, limit = report, report["limit"]
            else:
                tests.append(Test(f"{stem}.{report['name']}", report["status"], report["seconds"],
                                  report["detail"], report["goal"], report["said"],
                                  report["faults"]))
                current = None
                options.show(tests[-1])
    if hung:
        os.killpg(process.pid, signal.SIGKILL)
    status = process.wait()
    if hung or current or status != 0:
        problem = "hung and was killed" if hung else f"its process ended with status {status}"
        problem += "; what follows it in its file did not run"
        name = f"{stem}.{current['name']}" if current else f"{stem} (the whole file)"
        output.seek(current["output"] if current else 0)
        text = output.read().decode(errors="replace")
        tests.append(Test(name, "failed", detail=f"{problem}\n{tail(text)}"))
        options.show(tests[-1])
    return tests


def end_leftovers(directory):
    """Ends what the scenarios of a killed process had running."""
    if list(directory.glob("convstore-*")) and not os.environ.get("TEST_KEEP"):
        subprocess.run([sys.executable, "-c", "import sys, harness; harness.clean_up(sys.argv[1])",
                        str(directory)], check=False,
                       env=dict(os.environ, PYTHONPATH=str(INTEGRATION), PYTHONDONTWRITEBYTECODE="1"))
    elif not os.environ.get("TEST_KEEP"):
        shutil.rmtree(directory, ignore_errors=True)


# Scenarios: the child's side

class TimeLimit(AssertionError):
    pass


class Reporter(unittest.TestResult):
    """Reports every test on the pipe and ends one that takes too long, so that its clean-up runs."""

    def __init__(self, pipe):
        super().__init__()
        self.pipe = pipe
        signal.signal(signal.SIGALRM, self._on_alarm)

    def _send(self, **fields):
        os.write(self.pipe, json.dumps(fields).encode() + b"\n")

    @staticmethod
    def _name(test):
        return getattr(test, "_testMethodName", None) or str(test)

    def _on_alarm(self, *unused):
        raise TimeLimit(f"took longer than {self.limit:.0f} s")

    def startTest(self, test):
        super().startTest(test)
        self.status, self.detail = "passed", ""
        self.limit = getattr(test, "time_limit", SCENARIO_SECONDS)
        self.limit *= float(os.environ["TEST_TIME_SCALE"])
        sys.stdout.flush()
        self.output_from = os.lseek(1, 0, os.SEEK_END)
        self._send(event="start", name=self._name(test), limit=self.limit, output=self.output_from)
        self.started = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, self.limit)

    def stopTest(self, test):
        signal.setitimer(signal.ITIMER_REAL, 0)
        seconds = time.monotonic() - self.started
        super().stopTest(test)
        if self.status == "failed":
            sys.stdout.flush()
            end = os.lseek(1, 0, os.SEEK_END)
            said = os.pread(1, end - self.output_from, self.output_from).decode(errors="replace")
            self.detail += tail(said, 3 * TAIL_LINES)
        self._send(event="end", name=self._name(test), status=self.status, seconds=seconds,
                   detail=self.detail, goal=test._testMethodDoc or "",
                   said=getattr(test, "said", ""), faults=getattr(test, "faults", 0))

    def _failed(self, test, err):
        text = self._exc_info_to_string(err, test)
        if hasattr(test, "_testMethodName"):
            self.status = "failed"
            self.detail += text
        else:  # setUpClass or the module: no startTest came before it
            self._send(event="end", name=str(test), status="failed", seconds=0, detail=text, goal="",
                       said="", faults=0)

    def addError(self, test, err):
        super().addError(test, err)
        self._failed(test, err)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self._failed(test, err)

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.status = "failed"
            self.detail += f"{subtest}\n{self._exc_info_to_string(err, test)}"

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        if self.status == "passed":
            self.status, self.detail = "skipped", reason

    def addUnexpectedSuccess(self, test):
        super().addUnexpectedSuccess(test)
        self.status, self.detail = "failed", "passed, though it is marked as failing"


def flatten(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from flatten(item)
        else:
            yield item


def child(path, report, methods):
    sys.path.insert(0, str(INTEGRATION))
    suite = unittest.defaultTestLoader.discover(str(INTEGRATION), pattern=pathlib.Path(path).name)
    tests = [t for t in flatten(suite) if not methods or Reporter._name(t) in methods]
    # Through a suite of its own, so that setUpClass and tearDownClass run.
    unittest.TestSuite(tests).run(Reporter(report))
    return 0


# All of it

class Options:
    def __init__(self, args):
        self.build = args.build.resolve()
        self.verbose = args.verbose
        self.scale = time_scale(self.build)

    def show(self, test):
        """One line for a test as it ends; what it said where it failed."""
        state = {"passed": "ok", "failed": "FAILED", "skipped": "skipped"}[test.status]
        line = f"{state:8}{test.name:66} {test.seconds:7.2f} s"
        if test.status == "skipped":
            line += f"  ({test.detail})"
        if test.said:
            line += "\n        " + test.said
        if self.verbose and test.goal:
            line += "\n        " + " ".join(test.goal.split())
        if test.status == "failed":
            line += "\n" + "\n".join("    " + part for part in test.detail.splitlines())
        print(line, flush=True)

    def show_unit(self, name, tests, seconds):
        failed = [t for t in tests if t.status == "failed"]
        state = "FAILED" if failed else "ok"
        label = f"{name}, {len(tests)} test{'s' if len(tests) != 1 else ''}"
        print(f"{state:8}{label:66} {seconds:7.2f} s", flush=True)
        for test in tests if self.verbose else [t for t in tests if t.status != "passed"]:
            self.show(test)


def find_units(build):
    """One binary for each source: what an earlier build left of a removed test is not run."""
    names = sorted(path.stem for path in (ROOT / "tests" / "unit").glob("test_*.c"))
    return [build / "tests" / name for name in names]


def select_scenarios(names):
    """[(file, methods)]: an empty list of methods means all of them."""
    chosen = []
    for path in sorted(INTEGRATION.glob("test_*.py")):
        methods = re.findall(r"^    def (test_\w+)", path.read_text(), re.M)
        wanted = [m for m in methods if m in names or f"{path.stem}.{m}" in names]
        if not names or path.stem in names:
            chosen.append((path, []))
        elif wanted:
            chosen.append((path, wanted))
    return chosen


def run_units(units, options):
    """Two at a time; shown in order."""
    tests = []
    with concurrent.futures.ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        futures = [(u, pool.submit(run_unit, u, options.scale) if u.exists() else None) for u in units]
        for unit, future in futures:
            if future is None:
                found, seconds = [Test(unit.name, "failed", detail="not built; run make")], 0.0
            else:
                found, seconds = future.result()
            options.show_unit(unit.name, found, seconds)
            tests += found
    return tests


def run_all_scenarios(scenarios, options):
    kinds = {"": [], "WAITS": [], "ALONE": []}
    for path, methods in scenarios:
        found = re.search(r"^(WAITS|ALONE) = True", path.read_text(), re.M)
        kinds[found[1] if found else ""].append((path, methods))
    tests = []
    with (concurrent.futures.ThreadPoolExecutor(SIDE_BY_SIDE) as pool,
          concurrent.futures.ThreadPoolExecutor(1) as waiting):
        futures = [executor.submit(run_scenarios, path, methods, options)
                   for kind, executor in (("WAITS", waiting), ("", pool))
                   for path, methods in kinds[kind]]
        for future in futures:
            tests += future.result()
    for path, methods in kinds["ALONE"]:
        tests += run_scenarios(path, methods, options)
    return tests


def main():
    parser = argparse.ArgumentParser(description="Runs unit tests and scenarios.")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build", metavar="DIR")
    parser.add_argument("-v", "--verbose", action="store_true", help="each unit test, each goal")
    parser.add_argument("--faults", type=int, metavar="N", help="fail where fewer were made")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--report", type=int, help=argparse.SUPPRESS)
    parser.add_argument("names", nargs="*", metavar="NAME")
    args = parser.parse_args()
    if args.child:
        return child(args.child, args.report, args.names)
    options = Options(args)
    names = set(args.names)
    units = [u for u in find_units(options.build) if not names or u.name in names]
    scenarios = select_scenarios(names)
    found = {u.name for u in units}
    for path, methods in scenarios:
        found |= {path.stem, *methods, *(f"{path.stem}.{m}" for m in methods)}
    if names - found or not (units or scenarios):
        print(f"no test is named {' or '.join(sorted(names - found))}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGINT, Running.on_signal)
    signal.signal(signal.SIGTERM, Running.on_signal)
    try:
        tests = run_units(units, options) + run_all_scenarios(scenarios, options)
    except Interrupted:
        tests = []
    if Running.interrupted:
        print("interrupted; what the tests had started is ended")
        return 130
    states = ("passed", "failed", "skipped")
    counts = {state: sum(t.status == state for t in tests) for state in states}
    faults = sum(t.faults for t in tests if t.status == "passed")
    least = args.faults if args.faults is not None else 0 if names else FAULTS_LEAST
    if faults:
        print(f"{faults} faults of PostgreSQL made under load: none of them lost or doubled a conversation")
    if faults < least:
        print(f"too few faults of PostgreSQL: {faults} of {least}")
    if counts["failed"]:
        print("failed: " + ", ".join(t.name for t in tests if t.status == "failed"))
    print(f"{counts['passed']} passed, {counts['failed']} failed" +
          (f", {counts['skipped']} skipped" if counts["skipped"] else ""))
    return 0 if counts["passed"] and not counts["failed"] and faults >= least else 1


if __name__ == "__main__":
    sys.exit(main())
