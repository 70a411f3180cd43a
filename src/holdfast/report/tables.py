"""Results as a table, in Markdown, as CSV and as JSON."""

from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from math import isinf
from typing import NamedTuple

from holdfast.evaluation.result import BENIGN, CERTIFIED, COST, LEAST, MEDIAN, ROBUST, RRS, SAMPLE, Result
from holdfast.report.groups import Group
from holdfast.report.published import PUBLISHED
from holdfast.util.errors import unknown
from holdfast.util.text import counted, to_csv, to_json

Header = list[str]
Rows = list[list[str]]

DECIMALS = dict.fromkeys(("TMA", "ES:D"), 3)
"""Of these measures; of others one is shown."""
MEASURES = (*PUBLISHED, RRS, ROBUST, LEAST)
"""The columns of every table; :func:`measures_of` adds those that only some results have."""
SETTING = ("protocol", "data", "ε", "steps")
"""The columns of a :class:`Setting`."""
SUFFIXES = {"G": 1e9, "M": 1e6, "k": 1e3}


class Setting(NamedTuple):
    """What comparable evaluations have in common; what is not known is an empty text."""

    protocol: str
    dataset: str
    radius: str
    steps: str

    @property
    def attack(self) -> str:
        """Such as ``protocol strict, ε = 8/255, 32 steps``."""
        parts = f"protocol {self.protocol}", f"ε = {self.radius}", counted(int(self.steps or 0), "step")
        return ", ".join(part for part, known in zip(parts, self[:1] + self[2:], strict=True) if known)

    def __str__(self) -> str:
        return f"{self.dataset}: {self.attack}"


def setting_of(result: Result) -> Setting:
    """How a result was evaluated."""
    radius, steps = format_radius(result.eps, result.norm), result.steps
    return Setting(result.protocol, result.dataset, radius, "" if steps is None else f"{int(steps)}")


def measures_of(results: Sequence[Result]) -> list[str]:
    """:data:`MEASURES`, and those that only some results have, where one of these does."""
    extras = sorted({name for one in results for name in one.extras}, key=_place)
    return [
        *MEASURES[:-2],
        *(name for name in extras if name == SAMPLE),
        *MEASURES[-2:],
        *filter(SAMPLE.__ne__, extras),
    ]


def _place(name: str) -> tuple[bool, float]:
    """Where an extra column stands: certified R@1 by rising radius, minimal ε last."""
    return name == MEDIAN, float(name.removeprefix(CERTIFIED)) if name.startswith(CERTIFIED) else 0.0


def table(results: Sequence[Result]) -> tuple[Header, Rows]:
    """One row per result; neighbours that differ in ε only stand by rising ε.

    Percentages have one decimal, TMA and ES:D three; ERS is followed by its interval; the cost of training is in image
    passes (``1.23M``) and seconds; minimal ε is the median. A cell is empty where nothing was measured.
    """
    measures = measures_of(results)
    header = ["name", *SETTING, *measures, *COST, "verdict"]
    alike = groupby(results, lambda one: (one.name, setting_of(one)._replace(radius="")))
    ordered = [one for _, group in alike for one in sorted(group, key=lambda one: one.eps or 0.0)]
    return header, [[one.name, *setting_of(one), *texts(one, measures, ("ERS",)), one.verdict] for one in ordered]


def markdown_text(results: Sequence[Result], columns: Sequence[str] = ()) -> str:
    """The table in Markdown; with ``columns``, the name and those columns only."""
    return markdown(*select(table(results), columns))


def select(table: tuple[Header, Rows], columns: Sequence[str]) -> tuple[Header, Rows]:
    """The first column of a table, then ``columns`` in that order; all where none is named.

    Raises HoldfastError for an unknown column.
    """
    header, rows = table
    if not columns:
        return table
    for column in columns:
        if column not in header:
            raise unknown("column", column, header[1:])
    chosen = [0, *(header.index(column) for column in columns)]
    return [header[i] for i in chosen], [[row[i] for i in chosen] for row in rows]


def markdown(header: Header, rows: Rows) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def csv_text(results: Sequence[Result]) -> str:
    """The table as CSV: unrounded numbers, the bounds of every score in columns of their own, the source file."""
    measures = measures_of(results)
    bounded = {*measures} - {*BENIGN, MEDIAN}
    header = ["name", *SETTING, *headings(measures, bounded), "verdict", "source"]
    lines = ([one.name, *setting_of(one), *numbers(one, measures, bounded), one.verdict, one.path] for one in results)
    return to_csv([header, *lines])


def json_text(results: Sequence[Result]) -> str:
    """A list of the contents of the result files, each with its ``file``."""
    return to_json([{"file": str(result.path), **result.content} for result in results])


def texts(one: Result | Group, measures: Sequence[str], bounded: Collection[str]) -> Iterator[str]:
    """Numbers as cells; those in ``bounded`` with their interval, shares of the attacked queries with their counts."""
    for name in measures:
        value, bounds = one.number(name), one.interval(name) if name in bounded else None
        shown = format_value(one, name)
        shown += "" if value is None or bounds is None else format_interval(name, value, *bounds)
        yield shown + (format_counts(one.counts(name)) if name in (ROBUST, LEAST, SAMPLE) else "")
    for name in COST:
        value = one.number(name)
        yield "" if value is None else format_count(value) if name == "passes" else f"{value:.0f}"


def headings(measures: Sequence[str], bounded: Collection[str]) -> list[str]:
    """The columns of :func:`numbers`."""
    ends = {True: ("", " low", " high"), False: ("",)}
    return [f"{name}{end}" for name in (*measures, *COST) for end in ends[name in bounded]]


def numbers(one: Result | Group, measures: Sequence[str], bounded: Collection[str]) -> Iterator[float | None]:
    """All numbers, unrounded; those named in ``bounded`` are followed by their bounds."""
    for name in (*measures, *COST):
        yield one.number(name)
        if name in bounded:
            yield from one.interval(name) or (None, None)


def format_number(name: str, value: float) -> str:
    """A number with the decimals of its measure."""
    return f"{value:.{DECIMALS.get(name, 1)}f}"


def format_value(one: Result | Group, name: str) -> str:
    """A number of a result, empty where it was not measured; minimal ε as a radius, ``> 8/255`` beyond the largest."""
    value = one.number(name)
    if value is None or name != MEDIAN:
        return "" if value is None else format_number(name, value)
    return f"> {format_radius(one.eps, one.norm)}" if isinf(value) else format_radius(value, one.norm)


def format_interval(name: str, value: float, low: float, high: float, sign: str = "") -> str:
    """An interval after a space: `` ±0.8``, or `` (0.0 to 1.4)`` where it is lopsided by a unit of the last digit.

    sign: ``"+"`` for the bounds of a difference.
    """
    digits = DECIMALS.get(name, 1)
    if abs(low + high - 2 * value) < 2 * 10**-digits:
        return f" ±{format_number(name, (high - low) / 2)}"
    low, high = (round(bound, digits) + 0.0 for bound in (low, high))  # no -0.0
    return f" ({low:{sign}.{digits}f} to {high:{sign}.{digits}f})"


def format_bounded(one: Result | Group, name: str) -> str:
    """A number with its interval, if it has one: ``12.0 (11.0 to 13.0)``; empty where nothing was measured."""
    shown, bounds = format_value(one, name), one.interval(name)
    return f"{shown} ({' to '.join(format_number(name, bound) for bound in bounds)})" if bounds else shown


def format_counts(counts: tuple[int, int] | None) -> str:
    """How many of how many queries, after a comma: ``, 12 of 64``; empty where it is not known."""
    return "" if counts is None else f", {counts[0]} of {counts[1]}"


def format_radius(eps: float | None, norm: str | None) -> str:
    """A radius as tables show it: ``8/255``, ``0.5 (l2)``; empty where it is not known."""
    if eps is None:
        return ""
    return f"{eps * 255:.4g}/255" if norm in (None, "linf") else f"{eps:.4g} ({norm})"


def format_count(count: float) -> str:
    """A count in three digits: ``945``, ``23.5k``, ``1.23M``."""
    suffix, unit = next(((suffix, unit) for suffix, unit in SUFFIXES.items() if count >= 0.9995 * unit), ("", 1.0))
    return f"{count / unit:.3g}{suffix}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")
