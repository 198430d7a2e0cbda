"""Latency by load as an SVG: the open loop's percentiles (logarithmic) over the rate that it was asked
for, and Redis's beside them. Nothing but text is written, so no library is needed."""
import math

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 150, 52, 50
# Told apart by dashes, too, for those who see no colours.
LINES = (
    ("open", "p50", "convstored p50", "#1b6ca8", ""),
    ("open", "p99", "convstored p99", "#1b6ca8", "7 3"),
    ("open", "p99_9", "convstored p99.9", "#1b6ca8", "2 3"),
    ("redis open", "p50", "Redis p50", "#b8432f", ""),
    ("redis open", "p99", "Redis p99", "#b8432f", "7 3"),
    ("redis open", "p99_9", "Redis p99.9", "#b8432f", "2 3"),
)


def points(bench, kind, quantile):
    """[(rate, milliseconds)] of the runs "KIND NN %"."""
    found = []
    for key, results in bench.runs.items():
        if key.startswith(kind + " ") and key.endswith("%") and "rate" in results[0]:
            latency = bench.figure(key, "latency_us", quantile)
            if latency:
                found.append((results[0]["rate"], latency / 1000))
    return sorted(found)


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
    """The SVG's text, or None where no open loop was measured."""
    lines = [(points(bench, kind, quantile), label, colour, dash)
             for kind, quantile, label, colour, dash in LINES]
    lines = [line for line in lines if line[0]]
    if not lines:
        return None
    x = FromZero([p[0] for line in lines for p in line[0]], LEFT, WIDTH - RIGHT)
    y = Decades([p[1] for line in lines for p in line[0]], HEIGHT - BOTTOM, TOP)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
           'font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
           f'<text x="{LEFT}" y="22" font-size="15">Time from the intended start to the '
           'acknowledgement, by load (open loop)</text>',
           f'<text x="{LEFT}" y="37" fill="#666">convstored while PostgreSQL takes the rows; Redis '
           'Streams, appendfsync always, with no reader</text>']
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
               'conversations a second</text>')
    labels = place_labels([y.at(line[0][-1][1]) for line in lines])
    for (found, label, colour, dash), label_y in zip(lines, labels):
        path = " ".join(f"{x.at(rate):.1f},{y.at(latency):.1f}" for rate, latency in found)
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
