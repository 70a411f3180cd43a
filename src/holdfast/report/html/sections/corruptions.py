"""Retrieval of naturally corrupted images: R@1 by severity, and by kind."""

from collections.abc import Sequence
from typing import Any

from holdfast.evaluation.result import Result
from holdfast.report.html.charts import LineChart, Point, Series, line_chart, look
from holdfast.threats.corruption import SIDES, Cell, Corruptions, corruptions_of, mean_of
from holdfast.util.text import counted

MEASURE = "R@1"


def fill(results: Sequence[Result]) -> dict[str, Any]:
    """What ``corruptions.html.j2`` shows: for each result of ``holdfast corrupt`` a reading, a figure and a table."""
    shown = [_described(result, found) for result in results if (found := corruptions_of(result)) and found["cells"]]
    return {"results": shown} if shown else {}


def _described(result: Result, found: Corruptions) -> dict[str, Any]:
    sides = [side for side in SIDES if any(cell["side"] == side for cell in found["cells"])]
    by_side = {side: [cell for cell in found["cells"] if cell["side"] == side] for side in sides}
    kinds = [*dict.fromkeys(cell["kind"] for cell in found["cells"])]
    rows = [
        {
            "kind": kind.replace("_", " "),
            "cells": [_cell([one for one in cells if one["kind"] == kind]) for cells in by_side.values()],
        }
        for kind in kinds
    ]
    return {
        "title": f"{result.name} on {result.dataset}",
        "reading": [_reading(side, cells) for side, cells in by_side.items()],
        "figure": _figure(result, found, by_side),
        "sides": [SIDES[side] for side in sides],
        "rows": rows,
        "mean": [_cell(cells) for cells in by_side.values()],
    }


def _cell(cells: Sequence[Cell]) -> str:
    """The mean R@1 over severities, and its share of the clean one."""
    value, ratio = mean_of(cells, "values", MEASURE), mean_of(cells, "ratios", MEASURE)
    return "–" if value is None else f"{value:.1f}" + ("" if ratio is None else f" ({100 * ratio:.0f} %)")


def _reading(side: str, cells: Sequence[Cell]) -> str:
    """A sentence: what is left on the average, and of which kind least."""
    by_kind = {
        kind: mean_of([cell for cell in cells if cell["kind"] == kind], "ratios", MEASURE)
        for kind in dict.fromkeys(cell["kind"] for cell in cells)
    }
    known = {kind: ratio for kind, ratio in by_kind.items() if ratio is not None}
    left = mean_of(cells, "ratios", MEASURE)
    if left is None or not known:
        return f"{SIDES[side]}: nothing is found without corruption either."
    worst = min(known, key=lambda kind: known[kind])
    least = f"least under {worst.replace('_', ' ')}, {100 * known[worst]:.0f} %"
    return f"{SIDES[side]}: {100 * left:.0f} % of the clean R@1 is left; {least}."


def _figure(result: Result, found: Corruptions, by_side: dict[str, list[Cell]]) -> LineChart:
    """R@1 by severity, the mean over the kinds; severity 0 is clean."""
    clean, series, told = found["clean"]["R@1"], list[Series](), list[str]()
    for i, (side, cells) in enumerate(by_side.items()):
        points = [] if clean is None else [Point(0, clean, f"clean: {clean:.1f}")]
        for severity in sorted({cell["severity"] for cell in cells}):
            mean = mean_of([cell for cell in cells if cell["severity"] == severity], "values", MEASURE)
            if mean is not None:
                points.append(Point(severity, mean, f"{SIDES[side]}, severity {severity}: {mean:.1f}"))
        series.append(Series(SIDES[side], look(i), tuple(points)))
        told += [point.text for point in points]
    size = f"{counted(found['queries'], 'query')}, {found['gallery']:,} in the gallery"
    caption = f"The mean over the kinds; 0 is clean. {size}."
    title = f"R@1 by severity, {result.name}"
    text = f"{title}: {'; '.join(told)}"
    return line_chart(title, caption, text, series, x="severity", y="R@1, %", left=0, low=0, high=100)
