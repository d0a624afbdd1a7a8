"""Two plain charts in one SVG: ratios to the floor as bars, and look-up time against size as lines.

Written by hand, so that nothing needs installing. Colours follow the reader's light or dark scheme; the
background is the page's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from .floors import BARE_JOIN
from .measure import Row, Section
from .report import Report, environment_lines, number, quantity

WIDTH = 860
MARGIN = 16
LABELS = 280
"""Where the charts begin: the names stand to the left."""
RIGHT = WIDTH - 150
"""Where they end: figures and names of lines stand to the right."""
BAR = 22
"""The height of a bar with its gap."""
PLOT = 300
"""The height of the second chart."""
LINE = 15
"""The least distance of two lines of text."""

COLOURS = (
    ("#0969da", "#58a6ff"),
    ("#1a7f37", "#3fb950"),
    ("#bf5700", "#f0883e"),
    ("#8250df", "#bc8cff"),
    ("#cf222e", "#ff7b72"),
    ("#57606a", "#8b949e"),
)
"""For light and for dark pages, told apart in both."""


def drawing(report: Report) -> str:
    """The whole document."""
    parts: list[str] = []
    top = 30.0
    for chart in (_ratios, _sizes):
        height, lines = chart(report, top)
        parts += lines
        top += height + 40
    for words in environment_lines(report.environment, width=135):
        parts.append(text(MARGIN, top, words, "small"))
        top += LINE
    shades = "".join(
        f".c{i} {{ stroke: {light} }} .f{i} {{ fill: {light} }} " for i, (light, _) in enumerate(COLOURS)
    )
    dark = "".join(
        f".c{i} {{ stroke: {dark} }} .f{i} {{ fill: {dark} }} " for i, (_, dark) in enumerate(COLOURS)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}"'
        ' role="img" aria-label="Benchmarks of tinyauthstore">\n<style>\n'
        "text { font: 12px system-ui, sans-serif; fill: #24292f } .small { font-size: 11px; fill: #57606a }\n"
        ".title { font-size: 15px; font-weight: 600 } .ours { font-weight: 600 } .end { text-anchor: end }\n"
        ".middle { text-anchor: middle }\n"
        "line { stroke: #8b949e; stroke-opacity: .35 } .one { stroke-opacity: 1 }\n"
        f"polyline {{ fill: none; stroke-width: 2 }}\n{shades}\n"
        "@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .small { fill: #9198a1 }\n"
        f"{dark}}}\n</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def text(x: float, y: float, words: str, style: str = "") -> str:
    """Words at a place, escaped."""
    return f'<text x="{x:.1f}" y="{y:.1f}"{_class(style)}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, style: str = "") -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"{_class(style)}/>'


def _class(style: str) -> str:
    return f' class="{style}"' if style else ""


class Axis:
    """A logarithmic axis over whole powers of ten."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        self.low, self.high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        self.high = max(self.high, self.low + 1)
        self.start, self.end = start, end

    def at(self, value: float) -> float:
        """The place of a value."""
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def powers(self) -> Iterator[tuple[float, float]]:
        """The powers of ten on the axis, with their places."""
        for power in range(self.low, self.high + 1):
            yield 10.0**power, self.at(10.0**power)


# --- ratios -----------------------------------------------------------------------------------


def _ratios(report: Report, top: float) -> tuple[float, list[str]]:
    """Bars from 1, the bare SELECT: to the left what is faster, to the right what is slower."""
    parts = [
        text(
            MARGIN,
            top,
            "Session by token: time, as a multiple of the bare SELECT ... JOIN on a file",
            "title",
        )
    ]
    bars = list(_bars([section for section in report.sections if section.chart == "ratios"]))
    if not bars:
        return 40, [*parts, text(MARGIN, top + 24, "Not measured in this run.", "small")]
    axis = Axis([ratio for _, ratio in bars] + [1], LABELS, RIGHT)
    bottom = top + 20 + len(bars) * BAR
    for power, x in axis.powers():
        parts.append(line(x, top + 16, x, bottom + 4, "one" if power == 1 else ""))
        parts.append(text(x, bottom + 18, f"{power:g}", "small middle"))
    for place, (row, ratio) in enumerate(bars):
        y = top + 20 + place * BAR
        left, right = sorted((axis.at(ratio), axis.at(1)))
        parts.append(text(LABELS - 10, y + 15, row.name, "ours end" if row.ours else "end"))
        parts.append(
            f'<rect x="{left:.1f}" y="{y + 4}" width="{max(right - left, 1):.1f}" height="{BAR - 8}" rx="2"'
            f' class="f{0 if row.ours else 5}"/>'
        )
        parts.append(text(RIGHT + 12, y + 15, f"{number(ratio)}  ({quantity(row.figure)})"))
    parts.append(text(axis.at(1) - 12, bottom + 34, "faster", "small end"))
    parts.append(text(axis.at(1) + 12, bottom + 34, "slower", "small"))
    return bottom + 34 - top, parts


def _bars(sections: Sequence[Section]) -> Iterator[tuple[Row, float]]:
    """Each row once, with its ratio to the bare SELECT, fastest first."""
    found: dict[str, tuple[Row, float]] = {}
    for section in sections:
        bare = next((row for row in section.rows if row.name == BARE_JOIN and row.figures), None)
        for row in section.rows:
            if bare is not None and row.figures and row is not bare:
                # Where something else is the floor, both stand in a ratio to that.
                ratio = (row.ratio or 1) / (bare.ratio or 1)
                found.setdefault(row.name, (row, ratio))
    yield from sorted(found.values(), key=lambda bar: bar[1])


# --- sizes ------------------------------------------------------------------------------------


def _sizes(report: Report, top: float) -> tuple[float, list[str]]:
    """A line for each series, named at its right end."""
    parts = [text(MARGIN, top, "Session by token: time for each look-up, by the number of sessions", "title")]
    series = {
        section.label: [(row.size, row.figure) for row in section.rows if row.figures]
        for section in report.sections
        if section.chart == "sizes"
    }
    series = {label: points for label, points in series.items() if points}
    if not series:
        return 40, [*parts, text(MARGIN, top + 24, "Not measured in this run.", "small")]
    everything = [point for points in series.values() for point in points]
    left, right, bottom = MARGIN + 60, RIGHT - 90, top + 20 + PLOT
    across = Axis([size for size, _ in everything], left, right)
    upward = Axis([figure for _, figure in everything], bottom, top + 20)
    for power, x in across.powers():
        parts.append(line(x, top + 20, x, bottom))
        parts.append(text(x, bottom + 16, f"{power:,.0f}", "small middle"))
    for power, y in upward.powers():
        parts.append(line(left, y, right, y))
        parts.append(text(left - 8, y + 4, quantity(power, round=True), "small end"))
    ends = sorted(((upward.at(points[-1][1]), label) for label, points in series.items()))
    places = dict(zip([label for _, label in ends], _apart([y for y, _ in ends])))
    for i, (label, points) in enumerate(series.items()):
        corners = " ".join(f"{across.at(size):.1f},{upward.at(figure):.1f}" for size, figure in points)
        shade = i % len(COLOURS)
        parts.append(f'<polyline points="{corners}" class="c{shade}"/>')
        for size, figure in points:
            parts.append(
                f'<circle cx="{across.at(size):.1f}" cy="{upward.at(figure):.1f}" r="3" class="f{shade}"/>'
            )
        parts.append(text(across.at(points[-1][0]) + 12, places[label] + 4, label, f"f{shade}"))
    return bottom + 16 - top, parts


def _apart(places: Sequence[float]) -> list[float]:
    """Places from top to bottom, moved down where two would stand in each other's way."""
    result: list[float] = []
    for place in places:
        result.append(max(place, result[-1] + LINE) if result else place)
    return result
