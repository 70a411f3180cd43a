"""Verification: accept rates clean and under attack, and how little the attacks take."""

from collections.abc import Sequence
from typing import Any, Literal

from holdfast.evaluation.result import Result
from holdfast.report.html.charts import LineChart, Point, Series, line_chart, look
from holdfast.report.html.sections.radii import unit_of
from holdfast.report.tables import format_radius
from holdfast.threats.verification import WORDS, Verification, verification_of
from holdfast.util.text import counted

WHEN: tuple[Literal["before", "after"], ...] = ("before", "after")


def fill(results: Sequence[Result]) -> dict[str, Any]:
    """What ``verification.html.j2`` shows: for each result of ``holdfast verify`` rates, a table and a figure."""
    shown = [_described(result, found) for result in results if (found := verification_of(result))]
    return {"results": shown} if shown else {}


def _described(result: Result, found: Verification) -> dict[str, Any]:
    rows = []
    for name, one in found["attacks"].items():
        shares = [f"{_number(one[when]['value'])} ({one[when]['kept']} of {one[when]['queries']})" for when in WHEN]
        rate = "TAR" if name == "dodging" else "FAR"
        words = WORDS.get(name, name)
        rows.append({"attack": words, "cells": [rate, *shares, _number(one["EER"]), _median(result, one["smallest"])]})
    pairs = f"{counted(found['genuine'], 'genuine pair')} and {counted(found['impostors'], 'impostor pair')}"
    rates = f"TAR {_number(found['TAR']['value'])} % at FAR {found['far']}, EER {_number(found['EER'])} %"
    return {
        "title": f"{result.name} on {result.dataset}",
        "clean": f"Clean, of {pairs}: {rates}. Accepted is what is nearer than {found['threshold']:.4f}.",
        "reach": format_radius(result.eps, result.norm),
        "rows": rows,
        "figure": _figure(result, found),
    }


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _median(result: Result, smallest: Any) -> str:
    median = smallest["quartiles"][1]
    return f"> {format_radius(result.eps, result.norm)}" if median is None else format_radius(median, result.norm)


def _figure(result: Result, found: Verification) -> LineChart:
    unit, label = unit_of(result.norm)
    series = [
        Series(
            WORDS.get(name, name).partition(":")[2].strip() or name,
            look(i),
            tuple(Point(unit * (radius or 0), right or 0) for radius, right in one["smallest"]["curve"]),
            marked=False,
        )
        for i, (name, one) in enumerate(found["attacks"].items())
    ]
    title = f"Pairs decided rightly by ε, {result.name}"
    medians = "; ".join(f"{name} {_median(result, one['smallest'])}" for name, one in found["attacks"].items())
    caption = f"From the smallest ε found that makes each decision wrong. Median: {medians}."
    return line_chart(title, caption, f"{title}; median: {medians}", series, x=label, y="%", left=0, low=0, high=100)
