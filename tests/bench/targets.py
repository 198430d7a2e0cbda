"""The targets that `make bench` holds the figures against, and the tables that it prints.

A figure is named by the key of its runs and the path into their results (see Measurements.measure). What
was not measured is said to be so and is never counted as reached.
"""
import pathlib

MIB = 1024 * 1024
P50, P99, P999 = (("latency_us", q) for q in ("p50", "p99", "p99_9"))
RATE = ("per_second",)
ROWS = ("rows", "rows", "per_second")  # of all clients, those who only wait for an ack included


class Target:
    """ours / peer, or ours alone against a fixed limit. Without a limit it is a comparison only.
    or_at_least: ours alone reaches it, too, whatever the ratio is. in_noise: and so does what is no
    more than the largest of the peer's own runs, whose spread is shown."""

    def __init__(self, text, ours, peer=None, at_least=None, at_most=None, or_at_least=None,
                 in_noise=False, unit="", scale=1.0):
        self.text, self.ours, self.peer = text, ours, peer
        self.at_least, self.at_most, self.or_at_least = at_least, at_most, or_at_least
        self.in_noise, self.unit, self.scale = in_noise, unit, scale

    def judge(self, bench):
        ours = bench.figure(*self.ours)
        peer = bench.figure(*self.peer) if self.peer else None
        verdict = {"text": self.text, "ours": ours, "peer": peer, "ratio": None, "reached": None,
                   "target": self.target(), "unit": self.unit, "scale": self.scale}
        if ours is None or (self.peer and not peer):
            return verdict
        value = ours / peer if self.peer else ours / self.scale
        if self.peer:
            verdict["ratio"] = value
        if self.at_least is None and self.at_most is None:
            return verdict
        verdict["reached"] = ((self.at_least is None or value >= self.at_least)
                              and (self.at_most is None or value <= self.at_most))
        if self.or_at_least is not None and ours / self.scale >= self.or_at_least:
            verdict["reached"] = True
        if self.in_noise:
            runs = bench.values(*self.peer)
            verdict["noise"] = [min(runs), max(runs)]
            verdict["reached"] |= ours <= max(runs)
        return verdict

    def target(self):
        if self.at_least is None and self.at_most is None:
            return ""
        if self.at_least is not None and self.at_most is not None:
            return f"{self.at_least:g} to {self.at_most:g} ×"
        sign, limit = ("≥", self.at_least) if self.at_least is not None else ("≤", self.at_most)
        if not self.peer:
            return f"{sign} {limit:g} {self.unit}".strip()
        alone = f" or {self.or_at_least:g} {self.unit}" if self.or_at_least is not None else ""
        noise = " or ≤ the slowest beside it" if self.in_noise else ""
        return f"{sign} {limit:g} ×{alone}{noise}"


def ms(text, key, path, limit):
    return Target(text, (key, *path), at_most=limit, unit="ms", scale=1000.0)


TARGETS = [
    Target("acks/s, 100 connections, database stopped : Redis", ("acks 100", *RATE),
           ("redis 100", *RATE), at_least=2),
    Target("its p99 : Redis's", ("acks 100", *P99), ("redis 100", *P99), at_most=1, unit="ms",
           scale=1000.0),
    Target("acks/s, 100 connections, database taking rows : Redis", ("load 100", *RATE),
           ("redis 100", *RATE), at_least=1),
    ms("its p99", "load 100", P99, 5),
    Target("rows/s meanwhile : rows/s when nothing comes in", ("load 100", "rows", "per_second"),
           ("load 100", "drain", "per_second"), at_least=0.5),
    Target("ack p50, one connection : overwrite + fdatasync", ("acks 1", *P50), ("raw", *P50),
           at_most=1.5, unit="ms", scale=1000.0),
    Target("ack p50, 100 connections, as the daemon tells it : as its clients see it",
           ("acks 100, by both clocks", "daemon_ack_us", "p50"), ("acks 100, by both clocks", *P50),
           at_least=0.95, at_most=1.05, unit="ms", scale=1000.0),
    Target("its p99, as the daemon tells it : as its clients see it",
           ("acks 100, by both clocks", "daemon_ack_us", "p99"), ("acks 100, by both clocks", *P99),
           at_least=0.95, at_most=1.05, unit="ms", scale=1000.0),
    Target("acks/s, one connection 64 deep : Redis", ("acks 64 deep", *RATE),
           ("redis 64 deep", *RATE), at_least=3),
    Target("acks/s, 100 connections : beanstalkd -f 0", ("acks 100", *RATE),
           ("beanstalkd 100", *RATE)),
    Target("rows/s, socket to row : one client's COPY", ROWS, ("copy 1", *RATE), at_least=1),
    ms("acks of others meanwhile, 1,000 a second: p99", "acks beside the rows", P99, 5),
    ms("open loop at the rate of that COPY: ack p99", "open at that COPY's rate", P99, 5),
    Target("its rows/s : that COPY", ("open at that COPY's rate", "rows", "per_second"),
           ("copy 1", *RATE)),
    Target("rows/s : autocommit INSERT, 100 connections", ROWS, ("insert 100", *RATE),
           at_least=2),
    Target("rows/s : Node, inline embed + INSERT, its embedder only hashes", ROWS,
           ("node inline", *RATE), at_least=20),
    Target("rows/s, both with an embedder of 150 ms, late vectors follow : Node, inline embed + INSERT",
           ("rows, embedder of 150 ms", *RATE), ("node inline, embedder of 150 ms", *RATE),
           at_least=20),
    Target("vectors/s that had followed when that ended : its rows/s, each with its vector",
           ("vectors, embedder of 150 ms", *RATE), ("node inline, embedder of 150 ms", *RATE)),
    Target("rows/s : Node, in-process queue + batch INSERT", ROWS, ("node queue", *RATE)),
    Target("rows/s : two clients' COPY (the limit)", ROWS, ("copy 2", *RATE)),
    ms("open loop at 70 % of that: ack p99", "open", P99, 5),
    ms("open loop at 70 % of that: ack p99.9", "open", P999, 20),
    Target("its p99 : overwrite + fdatasync of what is due, beside a COPY at that rate", ("open", *P99),
           ("raw at 70 % beside COPY", *P99), unit="ms", scale=1000.0),
    Target("its queue at the end, in seconds of its rate", ("open", "queued_seconds"), at_most=1,
           unit="s"),
    ms("100 at once: all acked, slowest of 20 rounds", "concurrent", ("all_acked_us", "max"), 50),
    ms("1,000 over 60 s: ack p99", "paced", P99, 5),
    ms("1,000 over 60 s: a row after, slowest", "paced, a row", ("latency_us", "max"), 1000),
    ms("batch of 10: rows committed, p50", "batch 10", P50, 3),
    Target("batches of 10 one after another, rows/s : autocommit one by one", ("batch 10", *RATE),
           ("insert one by one", *RATE), at_least=3),
    Target("batches of 10 at full load, rows/s : the same", ("batches of 10", *RATE),
           ("insert one by one", *RATE), at_least=3),
    Target("CPU for an ack, database stopped", ("acks 100", "server_cpu_us"), at_most=15,
           unit="µs"),
    Target("CPU for an ack, 10,000 connections : 100",
           ("acks 10000 connections", "server_cpu_us"), ("acks 100", "server_cpu_us"), at_most=1.3,
           unit="µs"),
    Target("high-throughput.conf, rows/s, 1,000 connections : default",
           ("high-throughput: rows, 1,000 connections", *RATE),
           ("default: rows, 1,000 connections", *RATE), at_least=1),
    Target("low-latency.conf, 500 a second, time to the row, p50 : default",
           ("low-latency: 500 a second, stored", *P50), ("default: 500 a second, stored", *P50),
           at_most=0.5, unit="ms", scale=1000.0),
    Target("low-latency.conf, 500 a second, ack p99 : default",
           ("low-latency: 500 a second, durable", *P99),
           ("default: 500 a second, durable", *P99), at_most=1.25, unit="ms", scale=1000.0),
    Target("rows/s, table of 5,000,000 : empty table", ("rows, full table", *RATE),
           ("rows, empty table", *RATE), at_least=0.7),
    Target("embedder of 150 ms, 32 texts a request: share of what it can give",
           ("embedder of 150 ms, 32 in a request", "ratio"), at_least=0.95),
    Target("the same, 100 texts a request (the default)",
           ("embedder of 150 ms, 100 in a request", "ratio"), at_least=0.95),
    Target("the same, 500 texts a request",
           ("embedder of 150 ms, 500 in a request", "ratio"), at_least=0.95),
    Target("CPU for embedding a conversation, Ollama's 768 numbers",
           ("ollama, 32 in a request", "cpu_us"), at_most=60, unit="µs"),
    Target("of it for parsing them", ("ollama, 32 in a request", "parse_us"), unit="µs"),
    Target("CPU for embedding a conversation, OpenAI's, as base64",
           ("openai, base64, 32 in a request", "cpu_us"), at_most=60, unit="µs"),
    Target("memory, idle", ("start", "rss_bytes"), at_most=15, unit="MiB", scale=MIB),
    Target("memory, 1,000,000 waiting", ("waiting", "rss_bytes"), at_most=100, unit="MiB",
           scale=MIB),
    Target("memory, 10,000 connections", ("acks 10000 connections", "server_rss_bytes"),
           at_most=200, unit="MiB", scale=MIB),
    Target("start to accepting, empty", ("start", "seconds"), at_most=50, unit="ms", scale=0.001),
    Target("ack p99 with a scraper at 10 Hz and top at 5 Hz : without", ("watched", *P99),
           ("alone", *P99), at_most=1.1, in_noise=True, unit="ms", scale=1000.0),
    Target("replay after a crash, nothing cached : plain read of the same files, nothing cached",
           ("replay", "mb_per_second"), ("plain read", "mb_per_second"), at_least=0.8,
           or_at_least=500, unit="MB/s"),
]


def judge(bench):
    for result in bench.runs.get("open", []):
        result["queued_seconds"] = result.get("queued_after", 0) / result["rate"]
    return [target.judge(bench) for target in TARGETS]


def cpu_model():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown"


def number(value, scale=1.0):
    if value is None:
        return "-"
    value /= scale
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def percent(share):
    return "-" if share is None else f"{100 * share:.2f} %"


def target_rows(verdicts, partial):
    """Where only some groups ran, what they do not measure is left out."""
    rows = [("figure", "convstored", "beside it", "ratio", "target", "reached")]
    for v in verdicts:
        measured = v["ratio"] is not None or v["reached"] is not None
        if partial and not measured:
            continue
        unit = f" {v['unit']}" if v["unit"] else ""
        spread = " to ".join(number(run, v["scale"]) for run in v.get("noise", ()))
        rows.append((v["text"] + (f" (noise: {spread}{unit})" if spread else ""),
                     number(v["ours"], v["scale"]) + (unit if v["ours"] else ""),
                     number(v["peer"], v["scale"]) + (unit if v["peer"] else ""),
                     f"{v['ratio']:.2f} ×" if v["ratio"] is not None else "", v["target"],
                     {True: "yes", False: "NO", None: "" if measured else "not measured"}[v["reached"]]))
    return rows


def run_rows(bench):
    rows = [("runs (medians)", "per second", "p50 ms", "p99 ms", "p99.9 ms", "p99.99 ms", "max ms",
             "CPU µs", "cache hits")]
    for key, results in bench.runs.items():
        if "latency_us" not in results[0]:
            continue
        row = [key, number(bench.figure(key, *RATE))]
        row += [number(bench.figure(key, "latency_us", q), 1000.0)
                for q in ("p50", "p99", "p99_9", "p99_99", "max")]
        rows.append((*row, number(bench.figure(key, "server_cpu_us")),
                     percent(bench.figure(key, "cache", "hit_rate"))))
    return rows


def aligned(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) if i == 0 else cell.rjust(w)
                               for i, (cell, w) in enumerate(zip(row, widths))) for row in rows)


def table(about, verdicts, bench):
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [f"{about['processors']} processors ({about['model']}), Linux {about['kernel']}; "
             f"{versions}; PostgreSQL's durability as it comes",
             f"runs of {about['seconds']:g} s, medians of {about['rounds']}; "
             f"durability of convstored: {about['durability']}", "",
             aligned(run_rows(bench)), "", aligned(target_rows(verdicts, bench.partial))]
    lines.append(f"\nSweeps, profiles, reads and peers without a target: {about['sweep_seconds']:g} s")
    if not bench.full:
        lines.append("\nA quick run: counts and the open loop's time are scaled down; for a look, not "
                     "for a claim.")
    for group, why in bench.skipped.items():
        lines.append(f"not run: {group} ({why})")
    reached = sum(v["reached"] is True for v in verdicts)
    measured = sum(v["reached"] is not None for v in verdicts)
    in_all = sum(v["target"] != "" for v in verdicts)
    lines.append(f"\n{reached} of {measured} measured targets reached, of {in_all} in all")
    return "\n".join(lines)


def markdown(results):
    """The table of targets for README."""
    about = results["about"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    hit_rates = [result["cache"]["hit_rate"] for runs in results["runs"].values() for result in runs
                 if result.get("cache", {}).get("hit_rate") is not None]
    hits = f"; hit rate of the embedding cache at most {percent(max(hit_rates))}" if hit_rates else ""
    lines = [f"Measured on {about['date']} with {about['processors']} processors ({about['model']}), "
             f"Linux {about['kernel']}, {versions}; runs of {about['seconds']:g} s, medians of "
             f"{about['rounds']}; groups: {', '.join(results['groups'])}{hits}.", ""]
    rows = target_rows(results["targets"], True)
    for i, row in enumerate(rows):
        lines.append("| " + " | ".join(row) + " |")
        if i == 0:
            lines.append("| --- " * len(row) + "|")
    return "\n".join(lines)
