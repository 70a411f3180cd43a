"""Charts: from data to the coordinates that the macros in ``templates/charts.html.j2`` write as SVG.

A unit is about a pixel of a phone's screen; a chart is as wide as the smallest phone.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from holdfast.evaluation.words import ScoreWords
from holdfast.report.tables import format_count

WIDTH, HEIGHT = 344, 240
LEFT, RIGHT, TOP, BOTTOM = 38, 12, 24, 40
COLOURS = 7
SHAPES = (
    "M-4.4 0a4.4 4.4 0 1 0 8.8 0a4.4 4.4 0 1 0-8.8 0z",
    "M-4-4h8v8h-8z",
    "M0-5.2L5 3.6H-5z",
    "M0-5.6L5.2 0 0 5.6-5.2 0z",
    "M0 5.2L5-3.6H-5z",
    "M-1.8-5h3.6v3.2h3.2v3.6h-3.2v3.2h-3.6v-3.2h-3.2v-3.6h3.2z",
    "M0-5.4L1.6-1.8 5.4-1.6 2.4.9 3.4 4.8 0 2.6-3.4 4.8-2.4.9-5.4-1.6-1.6-1.8z",
    "M-2.2-5h4.4L5-2.2v4.4L2.2 5h-4.4L-5 2.2v-4.4z",
)
"""Marks as paths around the origin, of about the same size."""
DASHES = ("", "6 3", "2 2", "8 3 2 3", "10 4")


@dataclass(frozen=True)
class Look:
    """A colour, and what tells a series apart without it: a shape and a dash. colour: an index; None is grey."""

    colour: int | None
    shape: str
    dash: str


GREY = Look(None, SHAPES[0], "2 3")


def look(i: int) -> Look:
    """Of the series at place ``i``."""
    return Look(i % COLOURS, SHAPES[i % len(SHAPES)], DASHES[i % len(DASHES)])


@dataclass(frozen=True)
class Point:
    """A value ``y`` at ``x``, a sentence that says so, and the bounds of the value where it has some."""

    x: float
    y: float
    text: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """Points of one look. marked, joined, banded: drawn with marks, a line, the band of bounds. hollow: in outline."""

    name: str
    look: Look
    points: tuple[Point, ...]
    hollow: bool = False
    marked: bool = True
    joined: bool = True
    banded: bool = False


@dataclass(frozen=True)
class Axis:
    """Values from ``low`` to ``high``, drawn from ``begin`` to ``end``."""

    label: str
    low: float
    high: float
    begin: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The coordinate of a value; a value beyond an end is drawn at that end."""
        low, high, value = (math.log(one) if self.log else one for one in (self.low, self.high, value))
        share = min(1.0, max(0.0, (value - low) / (high - low)))
        return round(self.begin + share * (self.end - self.begin), 1)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Coordinates and texts of three to seven round values."""
        found = _round_powers(self.low, self.high) if self.log else _round_steps(self.low, self.high)
        return [(self.at(value), format_count(value) if abs(value) >= 1e4 else f"{value:.12g}") for value in found]


def axis(
    label: str,
    values: Iterable[float],
    begin: float,
    end: float,
    *,
    log: bool = False,
    low: float | None = None,
    high: float | None = None,
) -> Axis:
    """An axis that holds all values; ``low`` and ``high`` are its ends unless a value is beyond."""
    known = list(values) or [1.0]
    least, most = min(known), max(known)
    if log:
        return Axis(label, least / 1.35, most * 1.35, begin, end, log=True)
    room = 0.07 * (most - least) or 0.1 * abs(most) or 1.0
    first = low if low is not None and low <= least else least - room
    last = high if high is not None and high >= most else most + room
    return Axis(label, first, last, begin, end)


@dataclass(frozen=True)
class LineChart:
    """Series over two axes, under a title and above a caption. text: what it shows, in a sentence."""

    title: str
    caption: str
    text: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    width: int = WIDTH
    height: int = HEIGHT

    def line(self, series: Series) -> str:
        return _path((self.x.at(point.x), self.y.at(point.y)) for point in series.points)

    def band(self, series: Series) -> str:
        """The outline of the band between the bounds of a series."""
        known = [(self.x.at(p.x), p.low, p.high) for p in series.points if p.low is not None and p.high is not None]
        there, back = [(x, self.y.at(high)) for x, _, high in known], [(x, self.y.at(low)) for x, low, _ in known]
        return _path([*there, *reversed(back)]) + "z" if known else ""


def line_chart(
    title: str,
    caption: str,
    text: str,
    series: Sequence[Series],
    *,
    x: str,
    y: str,
    log: bool = False,
    left: float | None = None,
    low: float | None = None,
    high: float | None = None,
) -> LineChart:
    """A chart of ``series`` with axes that hold all points.

    log: a logarithmic x axis; points that are not positive are left out. left: start of the x axis. low, high: ends of
    the y axis.
    """
    shown = tuple(replace(one, points=tuple(p for p in one.points if p.x > 0 or not log)) for one in series)
    points = [point for one in shown for point in one.points]
    heights = [value for p in points for value in (p.y, p.low, p.high) if value is not None]
    across = axis(x, [point.x for point in points], LEFT, WIDTH - RIGHT, log=log, low=left)
    up = axis(y, heights, HEIGHT - BOTTOM, TOP, low=low, high=high)
    return LineChart(title, caption, text, across, up, shown)


@dataclass(frozen=True)
class Row:
    """A value before and after an attack, with the bounds of the latter; what is not known is None."""

    name: str
    look: Look
    text: str
    before: float | None = None
    after: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class DumbbellChart:
    """As :class:`LineChart`, rows below each other over one axis: a mark before, one after, a line between."""

    title: str
    caption: str
    text: str
    x: Axis
    rows: tuple[Row, ...]
    width: int = WIDTH


def dumbbell_chart(title: str, caption: str, rows: Sequence[Row], words: ScoreWords) -> DumbbellChart:
    """Rows over the axis of a score, or a wider one where a value is beyond."""
    text = f"{title}: " + "; ".join(f"{row.name} {row.text}" for row in rows)
    values = [value for row in rows for value in (row.before, row.after, row.low, row.high) if value is not None]
    across = axis(f"{words.short}; {words.better}", values, 10, WIDTH - 10, low=words.low, high=words.high)
    return DumbbellChart(title, caption, text, across, tuple(rows))


def _path(points: Iterable[tuple[float, float]]) -> str:
    return "".join(f"{'L' if i else 'M'}{x:g} {y:g}" for i, (x, y) in enumerate(points))


def _round_steps(low: float, high: float) -> list[float]:
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(size * power for size in (1, 2, 2.5, 5, 10) if size * power >= 0.999 * rough)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _round_powers(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        found = [digit * 10.0**power for power in powers for digit in digits if low <= digit * 10.0**power <= high]
        if len(found) >= 3:
            break
    return found
