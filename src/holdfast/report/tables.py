"""Results as a table, in Markdown, as CSV and as JSON."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.errors import HoldfastError
from holdfast.report.figures import BENIGN, FIGURES, SCORES, published
from holdfast.report.files import MEASURED, Result

Header = list[str]
Rows = list[list[str]]
Published = Sequence[Mapping[str, Any]]

THREE_DECIMALS = frozenset(("TMA", "ES:D"))
MEASURES = (*FIGURES, "robust R@1")
BOUNDED = (*SCORES, *MEASURED)


def table(results: Sequence[Result], published: Published = ()) -> tuple[Header, Rows]:
    """One row per result, then one per published row; these bring a last column with the source of each row.

    Numbers in percent with one decimal, TMA and ES:D with three; ERS with half the width of its interval. A cell is
    empty where nothing was measured.
    """
    header = ["name", "protocol", "data", "ε", "steps", *MEASURES, "verdict"]
    rows = []
    for result in results:
        numbers = {name: _text(name, result.number(name)) for name in MEASURES}
        numbers["ERS"] += _half_width(result)
        rows.append([*_setting(result), *numbers.values(), result.verdict])
    rows += [[*_published_setting(row), *(_text(name, row.get(name)) for name in MEASURES), ""] for row in published]
    if published:
        sources = [*(str(result.path) for result in results), *(row["source"] for row in published)]
        return [*header, "source"], [[*row, source] for row, source in zip(rows, sources, strict=True)]
    return header, rows


def compare(result: Result) -> tuple[Header, Rows]:
    """A result beside the published rows of its data set, by the same 15 numbers.

    Rows of the same recipe come first, each followed by the differences, ours minus published; those of the scores
    under attack only where protocol, ε and steps are the published ones.
    """
    rows = published(result.dataset)
    notation = _notation(result.content["model"].get("recipe"))
    same = sorted((row for row in rows if row["defense"] == notation), key=lambda row: row["eta"] or 0)
    header = ["name", "protocol", "ε", "steps", *FIGURES, "verdict", "source"]
    name, protocol, _, *setting = _setting(result)
    numbers = {figure: result.number(figure) for figure in FIGURES}
    shown = [[name, protocol, *setting, *(_text(*item) for item in numbers.items()), result.verdict, str(result.path)]]
    for row in (*same, *(row for row in rows if row["defense"] != notation)):
        name, protocol, _, *setting = _published_setting(row)
        shown.append([name, protocol, *setting, *(_text(figure, row[figure]) for figure in FIGURES), "", row["source"]])
        if row["defense"] == notation:
            alike = FIGURES if _as_published(result, row) else BENIGN
            differences = (
                _difference(figure, value, row[figure]) if figure in alike else "" for figure, value in numbers.items()
            )
            shown.append(["ours - published", "", "", "", *differences, "", ""])
    return header, shown


def markdown(header: Header, rows: Rows) -> str:
    """A table of :func:`table` or :func:`compare` in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def csv_text(results: Sequence[Result], published: Published = ()) -> str:
    """The table as CSV: numbers in full, the bounds of every score in columns of their own, the source always."""
    measures = [
        f"{name}{bound}" for name in MEASURES for bound in (("", " low", " high") if name in BOUNDED else ("",))
    ]
    lines: list[list[object]] = [["name", "protocol", "data", "ε", "steps", *measures, "verdict", "source"]]
    for result in results:
        line: list[object] = list(_setting(result))
        for name in MEASURES:
            line.append(result.number(name))
            line += (result.interval(name) or (None, None)) if name in BOUNDED else ()
        lines.append([*line, result.verdict, result.path])
    for row in published:
        numbers = [row.get(name) for name in measures]
        lines.append([*_published_setting(row), *numbers, "", row["source"]])
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()


def json_text(results: Sequence[Result], published: Published = ()) -> str:
    """A list of all that stands in the result files, each with its ``file``, and of the published rows."""
    found = [{"file": str(result.path), **result.content} for result in results]
    rows = [{"protocol": "published", **row} for row in published]
    return json.dumps([*found, *rows], indent=2, ensure_ascii=False) + "\n"


def _setting(result: Result) -> list[str]:
    settings = result.content["settings"]
    steps = settings.get("steps")
    return [
        *(result.name, result.protocol, result.dataset),
        radius(settings.get("eps"), settings.get("norm")),
        "" if steps is None else f"{steps}",
    ]


def _published_setting(row: Mapping[str, Any]) -> list[str]:
    trained = "" if row["eta"] is None else f", η={row['eta']}"
    return [
        *(f"{row['defense']}, {row['model']}{trained}", "published", row["dataset"]),
        *(radius(row["eps"], "linf"), f"{row['steps']}"),
    ]


def _as_published(result: Result, row: Mapping[str, Any]) -> bool:
    settings = result.content["settings"]
    return (
        result.protocol == "cvpr22"
        and settings.get("norm") in (None, "linf")
        and settings.get("steps") == row["steps"]
        and math.isclose(settings.get("eps") or 0, row["eps"], rel_tol=1e-3)
    )


def radius(eps: float | None, norm: str | None) -> str:
    """A radius as tables show it: ``8/255``, ``0.5 (l2)``."""
    if eps is None:
        return ""
    return f"{eps * 255:.4g}/255" if norm in (None, "linf") else f"{eps:.4g} ({norm})"


def _text(name: str, value: float | None) -> str:
    return "" if value is None else f"{value:.{_decimals(name)}f}"


def _difference(name: str, ours: float | None, theirs: float) -> str:
    decimals = _decimals(name)
    return "" if ours is None else f"{round(ours - theirs, decimals) + 0.0:+.{decimals}f}"


def _decimals(name: str) -> int:
    return 3 if name in THREE_DECIMALS else 1


def _half_width(result: Result) -> str:
    bounds = result.interval("ERS")
    return "" if bounds is None or result.number("ERS") is None else f" ±{(bounds[1] - bounds[0]) / 2:.1f}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")


def _notation(recipe: object) -> str | None:
    from holdfast.recipes import parse  # noqa: PLC0415

    try:
        return parse(recipe).notation if isinstance(recipe, str) else None
    except HoldfastError:
        return None
