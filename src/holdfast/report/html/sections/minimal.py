"""R@1 against the radius, by the smallest ε that breaks each query, for models of which that was searched for."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from holdfast.evaluation.result import MEDIAN, ROBUST
from holdfast.evaluation.words import SCORE_WORDS
from holdfast.report.html.charts import LineChart, Point, Series, line_chart
from holdfast.report.html.entries import Entry
from holdfast.report.html.sections.radii import unit_of
from holdfast.report.tables import format_value

FLAT = "Flat at the right: nothing that was tried breaks these."


def fill(found: Sequence[Entry]) -> dict[str, Any]:
    """What ``minimal.html.j2`` shows: for each data set and norm the models, and a figure of their curves."""
    searched = sorted((entry for entry in found if entry.group.first.minimal_eps), key=_place)
    groups = []
    for (dataset, _), some in groupby(searched, key=_place):
        models = list(some)
        groups.append({"title": dataset, "entries": models, "figure": _figure(models)})
    return {"groups": groups} if groups else {}


def _place(entry: Entry) -> tuple[str, str]:
    return entry.group.first.dataset, _norm(entry)


def _norm(entry: Entry) -> str:
    return str(entry.group.first.content["settings"].get("norm") or "linf")


def _figure(models: Sequence[Entry]) -> LineChart:
    unit, label = unit_of(_norm(models[0]))
    series = []
    for entry in models:
        minimal = entry.group.first.minimal_eps or {}
        points = tuple(Point(unit * radius, recall) for radius, recall in minimal["curve"])
        series.append(Series(entry.name, entry.look, points, marked=False))
    medians = "; ".join(f"{entry.name} {format_value(entry.group, MEDIAN)}" for entry in models)
    caption = f"Median minimal ε, which breaks half of the queries: {medians}. {FLAT}"
    text = f"R@1 by ε, from the smallest that breaks each query; median: {medians}"
    words = SCORE_WORDS[ROBUST]
    return line_chart("R@1 by ε", caption, text, series, x=label, y=words.short, left=0, low=0, high=100)
