"""Results as a table, in Markdown, as CSV and as JSON."""

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from holdfast.evaluation.result import COST, LEAST, MEASURED, ROBUST, RRS, SCORES, Result
from holdfast.report.groups import Group
from holdfast.report.published import PUBLISHED
from holdfast.util.errors import unknown
from holdfast.util.text import to_csv, to_json

Header = list[str]
Rows = list[list[str]]

DECIMALS = dict.fromkeys(("TMA", "ES:D"), 3)
"""Of these measures; of others one is shown."""
MEASURES = (*PUBLISHED, RRS, ROBUST, LEAST)
SETTING = ("protocol", "data", "ε", "steps")
"""The columns of a :class:`Setting`."""
BOUNDED = (*SCORES, *MEASURED)
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
        words = {"protocol {}": self.protocol, "ε = {}": self.radius, "{} steps": self.steps}
        return ", ".join(text.format(value) for text, value in words.items() if value)

    def __str__(self) -> str:
        return f"{self.dataset}: {self.attack}"


def setting_of(result: Result) -> Setting:
    """How a result was evaluated."""
    norm, eps, steps = (result.content["settings"].get(name) for name in ("norm", "eps", "steps"))
    return Setting(result.protocol, result.dataset, format_radius(eps, norm), "" if steps is None else f"{steps}")


def table(results: Sequence[Result]) -> tuple[Header, Rows]:
    """One row per result.

    Percentages have one decimal, TMA and ES:D three; ERS is followed by half the width of its interval; the cost of
    training is in image passes (``1.23M``) and seconds. A cell is empty where nothing was measured.
    """
    header = ["name", *SETTING, *MEASURES, *COST, "verdict"]
    return header, [[one.name, *setting_of(one), *texts(one, ("ERS",)), one.verdict] for one in results]


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
    header = ["name", *SETTING, *headings(BOUNDED), "verdict", "source"]
    lines = ([one.name, *setting_of(one), *numbers(one, BOUNDED), one.verdict, one.path] for one in results)
    return to_csv([header, *lines])


def json_text(results: Sequence[Result]) -> str:
    """A list of the contents of the result files, each with its ``file``."""
    return to_json([{"file": str(result.path), **result.content} for result in results])


def texts(one: Result | Group, bounded: Collection[str]) -> Iterator[str]:
    """All numbers as cells; those in ``bounded`` with half the width of their interval, robust R@1 with its counts."""
    for name in MEASURES:
        value, bounds = one.number(name), one.interval(name) if name in bounded else None
        shown = "" if value is None else format_number(name, value)
        shown += "" if value is None or bounds is None else format_half_width(name, *bounds)
        yield shown + (format_counts(one.counts(name)) if name in (ROBUST, LEAST) else "")
    for name in COST:
        value = one.number(name)
        yield "" if value is None else format_count(value) if name == "passes" else f"{value:.0f}"


def headings(bounded: Collection[str]) -> list[str]:
    """The columns of :func:`numbers`."""
    ends = {True: ("", " low", " high"), False: ("",)}
    return [f"{name}{end}" for name in (*MEASURES, *COST) for end in ends[name in bounded]]


def numbers(one: Result | Group, bounded: Collection[str]) -> Iterator[float | None]:
    """All numbers, unrounded; those named in ``bounded`` are followed by their bounds."""
    for name in (*MEASURES, *COST):
        yield one.number(name)
        if name in bounded:
            yield from one.interval(name) or (None, None)


def format_number(name: str, value: float) -> str:
    """A number with the decimals of its measure."""
    return f"{value:.{DECIMALS.get(name, 1)}f}"


def format_half_width(name: str, low: float, high: float) -> str:
    """Half the width of an interval, after a space: `` ±0.8``."""
    return f" ±{format_number(name, (high - low) / 2)}"


def format_bounded(one: Result | Group, name: str) -> str:
    """A number with its interval, if it has one: ``12.0 (11.0 to 13.0)``; empty where nothing was measured."""
    value, bounds = one.number(name), one.interval(name)
    shown = "" if value is None else format_number(name, value)
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
