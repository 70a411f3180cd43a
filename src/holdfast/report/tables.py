"""Results as a table, in Markdown, as CSV and as JSON."""

import csv
import io
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Protocol

from holdfast.evaluation.result import COST, MEASURED, SCORES, Result
from holdfast.report.figures import FIGURES
from holdfast.util.errors import unknown

Header = list[str]
Rows = list[list[str]]

THREE_DECIMALS = frozenset(("TMA", "ES:D"))
MEASURES = (*FIGURES, "robust R@1")
BOUNDED = (*SCORES, *MEASURED)
SUFFIXES = {"G": 1e9, "M": 1e6, "k": 1e3}


class Measured(Protocol):
    """What has numbers by name, and the bounds of some: a result, a group of them."""

    def number(self, column: str) -> float | None: ...
    def interval(self, column: str) -> tuple[float, float] | None: ...


def table(results: Sequence[Result]) -> tuple[Header, Rows]:
    """One row per result.

    Numbers in percent with one decimal, TMA and ES:D with three; ERS with half the width of its interval; what the
    training cost in image passes (``1.23M``) and seconds. A cell is empty where nothing was measured.
    """
    header = ["name", "protocol", "data", "ε", "steps", *MEASURES, *COST, "verdict"]
    return header, [[*setting(result), *texts(result, ("ERS",)), result.verdict] for result in results]


def markdown_text(results: Sequence[Result], columns: Sequence[str] = ()) -> str:
    """The table in Markdown, or the ``name`` and ``columns`` of it."""
    return markdown(*select(table(results), columns))


def select(table: tuple[Header, Rows], columns: Sequence[str]) -> tuple[Header, Rows]:
    """The first column of a table and ``columns``, in that order; none means all. HoldfastError for an unknown one."""
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
    """The table as CSV: numbers in full, the bounds of every score in columns of their own, the file as source."""
    header = ["name", "protocol", "data", "ε", "steps", *headings(BOUNDED), "verdict", "source"]
    lines = ([*setting(result), *numbers(result, BOUNDED), result.verdict, result.path] for result in results)
    return csv_of([header, *lines])


def json_text(results: Sequence[Result]) -> str:
    """A list of all that stands in the result files, each with its ``file``."""
    return json_of([{"file": str(result.path), **result.content} for result in results])


def setting(result: Result) -> list[str]:
    """Name, protocol, data, ε and steps."""
    settings = result.content["settings"]
    steps = settings.get("steps")
    return [
        *(result.name, result.protocol, result.dataset),
        radius(settings.get("eps"), settings.get("norm")),
        "" if steps is None else f"{steps}",
    ]


def radius(eps: float | None, norm: str | None) -> str:
    """A radius as tables show it: ``8/255``, ``0.5 (l2)``."""
    if eps is None:
        return ""
    return f"{eps * 255:.4g}/255" if norm in (None, "linf") else f"{eps:.4g} ({norm})"


def texts(measured: Measured, bounded: Collection[str]) -> Iterator[str]:
    """All numbers as cells, those of ``bounded`` with half the width of their interval."""
    for name in MEASURES:
        value, bounds = measured.number(name), measured.interval(name) if name in bounded else None
        yield "" if value is None else text(name, value) + ("" if bounds is None else half_width(name, *bounds))
    for name in COST:
        value = measured.number(name)
        yield "" if value is None else short(value) if name == "passes" else f"{value:.0f}"


def text(name: str, value: float) -> str:
    """A number with the decimals of its measure."""
    return f"{value:.{decimals(name)}f}"


def half_width(name: str, low: float, high: float) -> str:
    """Half the width of an interval, as ``±0.8`` after a space."""
    return f" ±{text(name, (high - low) / 2)}"


def decimals(name: str) -> int:
    """How many decimals of a measure are shown."""
    return 3 if name in THREE_DECIMALS else 1


def headings(bounded: Collection[str]) -> list[str]:
    """The columns of :func:`numbers`."""
    return [
        f"{name}{bound}"
        for name in (*MEASURES, *COST)
        for bound in (("", " low", " high") if name in bounded else ("",))
    ]


def numbers(measured: Measured, bounded: Collection[str]) -> Iterator[float | None]:
    """All numbers in full, those of ``bounded`` followed by their bounds."""
    for name in (*MEASURES, *COST):
        yield measured.number(name)
        if name in bounded:
            yield from measured.interval(name) or (None, None)


def csv_of(lines: Iterable[Iterable[object]]) -> str:
    """Lines as CSV."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()


def json_of(value: object) -> str:
    """A value as JSON, indented."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def short(count: float) -> str:
    """A count in three digits: ``945``, ``23.5k``, ``1.23M``."""
    suffix, unit = next(((suffix, unit) for suffix, unit in SUFFIXES.items() if count >= 0.9995 * unit), ("", 1.0))
    return f"{count / unit:.3g}{suffix}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")
