"""Tables for narrow places: the columns that matter most come first, and stay."""

from collections.abc import Sequence

from rich.cells import cell_len

from holdfast.evaluation.result import ROBUST, RRS
from holdfast.report.tables import Header, Rows
from holdfast.util.text import shorten

IN_SIGHT = ("verdict", ROBUST, "ERS")
"""Beside the first column, the ones that are never left out."""
NEXT = ("R@1", RRS, "protocol", "ε", "data", "LTM", "GTM", "ES:R", "GTT", "steps", "mAP", "seeds")
"""Those that are left out last, from the end; before them all others, and first those that are the same everywhere."""
NARROWEST = {"verdict": 14, ROBUST: 10}
"""Characters that a column may be folded to."""
LEAST_NAME = 12
GAP = 3
"""Characters between two columns."""


def fit(header: Header, rows: Rows, width: int) -> tuple[Header, Rows, list[str]]:
    """A table whose lines have at most ``width`` characters, and the columns that were left out of it.

    Then the first column is shortened, unless two of its cells would become the same. Those of :data:`NARROWEST` fold.
    """
    natural = [max(_width(line[i]) for line in (header, *rows)) for i in range(len(header))]
    least = [min(natural[i], NARROWEST.get(name, natural[i])) for i, name in enumerate(header)]
    least[0] = min(natural[0], LEAST_NAME)
    ranked = [0, *sorted(range(1, len(header)), key=lambda i: _rank(header, rows, i))]
    always = sum(name in IN_SIGHT for name in header[1:]) + 1
    count = next((n for n in range(len(ranked), always, -1) if _total(least, ranked[:n]) <= width), always)
    kept = sorted(ranked[:count])
    room = max(LEAST_NAME, width - _total(least, kept) + least[0])
    names = [shorten(row[0], room) for row in rows]
    if len({*names}) < len({row[0] for row in rows}):
        names = [row[0] for row in rows]
    short = [[name, *(row[i] for i in kept[1:])] for name, row in zip(names, rows, strict=True)]
    return [header[i] for i in kept], short, [header[i] for i in sorted(ranked[count:])]


def foremost(header: Sequence[str]) -> list[int]:
    """The order of columns that brings those of :data:`IN_SIGHT` behind the first one."""
    first = [0, *(header.index(name) for name in IN_SIGHT if name in header)]
    return [*first, *(i for i in range(len(header)) if i not in first)]


def _rank(header: Header, rows: Rows, i: int) -> tuple[bool, int]:
    order, name = (*IN_SIGHT, *NEXT), header[i]
    alike = len(rows) > 1 and len({row[i] for row in rows}) == 1
    return alike and name not in IN_SIGHT, order.index(name) if name in order else len(order) + i


def _width(cell: str) -> int:
    return max(map(cell_len, cell.split("\n")))


def _total(widths: Sequence[int], kept: Sequence[int]) -> int:
    return sum(widths[i] + GAP for i in kept) + 1
