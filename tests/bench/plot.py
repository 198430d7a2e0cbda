#!/usr/bin/python3
"""Latency as an SVG: percentiles (logarithmic) over the rate, the connections or the size that open loops
went through.

    convstore-bench open --socket PATH --rate 1000,5000,20000 --json >load.json
    tests/bench/plot.py load.json >load.svg

`make bench` draws its own with it, and Redis's lines beside them. Nothing but text is written, so no
library is needed."""
import json
import math
import sys

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 150, 52, 50
# Told apart by dashes, too, for those who see no colours.
QUANTILES = (("p50", "p50", ""), ("p99", "p99", "7 3"), ("p99_9", "p99.9", "2 3"))
COLOURS = {"convstored": "#1b6ca8", "Redis": "#b8432f"}
# What a sweep goes through: the label of its axis.
FIELDS = {"rate": "conversations a second", "connections": "connections",
          "size": "bytes of a transcript"}
TITLE = "Time from the intended start to the acknowledgement (open loop)"


def lines_of(name, runs):
    """[(points, label, colour, dash)] of runs [(x, {quantile: microseconds})]."""
    found = []
    for quantile, label, dash in QUANTILES:
        points = sorted((x, latency[quantile] / 1000) for x, latency in runs if latency.get(quantile))
        if points:
            found.append((points, f"{name} {label}", COLOURS[name], dash))
    return found


class Scale:
    """From a value to a place on the paper."""

    def __init__(self, first, last):
        self.first, self.last = first, last

    def at(self, value):
        return self.first + self.share(value) * (self.last - self.first)


class Decades(Scale):
    """Logarithmic, in whole decades."""

    def __init__(self, values, first, last):
        super().__init__(first, last)
        self.low = math.floor(math.log10(min(values)))
        self.high = max(math.ceil(math.log10(max(values))), self.low + 1)

    def share(self, value):
        return (math.log10(value) - self.low) / (self.high - self.low)

    def ticks(self):
        return [10.0 ** exponent for exponent in range(self.low, self.high + 1)]


class FromZero(Scale):
    """Linear, in about five round steps."""

    def __init__(self, values, first, last):
        super().__init__(first, last)
        rough = max(values) / 5
        decade = 10 ** math.floor(math.log10(rough))
        self.step = decade * next(n for n in (1, 2, 5, 10) if n * decade >= rough)
        self.steps = math.ceil(max(values) / self.step)

    def share(self, value):
        return value / (self.step * self.steps)

    def ticks(self):
        return [self.step * i for i in range(self.steps + 1)]


def latency_by_load(bench):
    """The SVG's text of the runs "open NN %" and "redis open NN %", or None where there are none."""
    lines = []
    for name, kind in (("convstored", "open "), ("Redis", "redis open ")):
        runs = [(results[0]["rate"], {q: bench.figure(key, "latency_us", q) for q, _, _ in QUANTILES})
                for key, results in bench.runs.items()
                if key.startswith(kind) and key.endswith("%") and "rate" in results[0]]
        lines += lines_of(name, runs)
    return chart(lines, FromZero, FIELDS["rate"], "convstored while PostgreSQL takes the rows; Redis "
                 "Streams, appendfsync always, with no reader")


def sweep(results, note=""):
    """The SVG's text of one sweep's results, over the first field that differs; None where none does."""
    for field, label in FIELDS.items():
        if len({result.get(field) for result in results}) > 1:
            runs = [(result[field], result["latency_us"]) for result in results if field in result]
            return chart(lines_of("convstored", runs), FromZero if field == "rate" else Decades, label,
                         note)
    return None


def chart(lines, x_scale, x_label, note):
    if not lines:
        return None
    x = x_scale([p[0] for line in lines for p in line[0]], LEFT, WIDTH - RIGHT)
    y = Decades([p[1] for line in lines for p in line[0]], HEIGHT - BOTTOM, TOP)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
           'font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
           f'<text x="{LEFT}" y="22" font-size="15">{TITLE}</text>']
    if note:
        out.append(f'<text x="{LEFT}" y="37" fill="#666">{note}</text>')
    for value in x.ticks():
        at = x.at(value)
        out.append(f'<path d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#ddd"/>'
                   f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
                   f'{value:,.0f}</text>')
    for value in y.ticks():
        at = y.at(value)
        out.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>'
                   f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{value:g} ms</text>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">'
               f'{x_label}</text>')
    labels = place_labels([y.at(line[0][-1][1]) for line in lines])
    for (found, label, colour, dash), label_y in zip(lines, labels):
        path = " ".join(f"{x.at(value):.1f},{y.at(latency):.1f}" for value, latency in found)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" '
                   f'stroke-dasharray="{dash}"/>'
                   f'<text x="{x.at(found[-1][0]) + 8:.1f}" y="{label_y + 4:.1f}" '
                   f'fill="{colour}">{label}</text>')
    return "\n".join(out) + "\n</svg>\n"


def place_labels(wanted, distance=15):
    """Each as near to where its line ends as the others allow."""
    placed, last = {}, -math.inf
    for index in sorted(range(len(wanted)), key=lambda i: wanted[i]):
        last = placed[index] = max(wanted[index], last + distance)
    return [placed[i] for i in range(len(wanted))]


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: tests/bench/plot.py RESULTS.json >FILE.svg")
    try:
        with open(sys.argv[1], encoding="utf-8") as file:
            drawn = sweep(json.load(file)["results"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"plot: {sys.argv[1]}: {error!r}; it takes what convstore-bench open --json printed")
    if drawn is None:
        sys.exit(f"plot: {sys.argv[1]}: no two results differ in rate, connections or size; give "
                 "convstore-bench open a list")
    print(drawn, end="")


if __name__ == "__main__":
    main()
