"""Scores against the radius of the attack, for models that were attacked at several radii."""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from holdfast.evaluation.result import LEAST, ROBUST
from holdfast.evaluation.words import SCORE_WORDS
from holdfast.report.html.charts import LineChart, Point, Series, line_chart
from holdfast.report.html.entries import Entry, by_radius, recall_measure
from holdfast.report.tables import format_bounded, format_radius
from holdfast.util.text import counted

MEASURES = ("ERS", "ES:R", "LTM", "GTM")


def fill(found: Sequence[Entry]) -> dict[str, Any]:
    """What ``radii.html.j2`` shows: for each attack its title, the models, each by one entry, and the figures."""
    several = [line for line in by_radius(found) if len(line) > 1 and line[0].eps is not None]
    groups = []
    for (dataset, protocol, _, steps), lines in groupby(sorted(several, key=_attack), key=_attack):
        models = list(lines)
        if figures := [
            one for name in (recall_measure(found), *MEASURES) if (one := _figure(models, name)) is not None
        ]:
            title = f"{dataset}: protocol {protocol}" + (f", {counted(int(steps), 'step')}" if steps else "")
            groups.append({"title": title, "entries": [line[0] for line in models], "figures": figures})
    return {"groups": groups} if groups else {}


def _attack(line: Sequence[Entry]) -> tuple[str, str, str, str]:
    first = line[0].group.first
    return first.dataset, first.protocol, str(first.norm), line[0].setting.steps


def _figure(models: Sequence[Sequence[Entry]], name: str) -> LineChart | None:
    norm = models[0][0].group.first.content["settings"].get("norm")
    unit, label = unit_of(norm)
    series = [Series(line[0].name, line[0].look, _points(line, name, unit)) for line in models]
    series = [one for one in series if len(one.points) > 1]
    if not series:
        return None
    text = f"{name} by attack radius: " + "; ".join(point.text for one in series for point in one.points)
    return line_chart(name, _caption(models), text, series, x=label, y=SCORE_WORDS[name].label, low=0, high=100)


def unit_of(norm: str | None) -> tuple[int, str]:
    """What a radius is multiplied by in figures, and the label of its axis."""
    return (255, "ε, in 1/255") if norm in (None, "linf") else (1, f"ε, {norm}")


def _caption(models: Sequence[Sequence[Entry]]) -> str:
    """What bars are, and how far the steps of the attack reach where that is less than the radius."""
    largest = models[0][-1]
    settings = largest.group.first.content["settings"]
    step, steps, norm = settings.get("step"), largest.group.first.steps, settings.get("norm")
    if steps is None or not isinstance(step, float | int) or step * steps >= (largest.eps or 0.0):
        return "Bars are 95 % intervals."
    reached = f"{counted(steps, 'step')} of {format_radius(step, norm)} can reach {format_radius(step * steps, norm)}"
    return f"Bars are 95 % intervals. {reached}: a larger radius is not fully used."


def _points(line: Sequence[Entry], name: str, unit: int) -> tuple[Point, ...]:
    """By rising radius. What breaks a query breaks it in every larger ball: R@1 never rises."""
    points, lowest = list[Point](), math.inf
    for entry in line:
        y = entry.group.number(name)
        if y is None or entry.eps is None:
            continue
        if name not in (ROBUST, LEAST) or y <= lowest:
            lowest, group = y, entry.group
        text = f"{entry.title}, ε = {entry.setting.radius}: {format_bounded(group, name)}"
        points.append(Point(unit * entry.eps, lowest, text, *(group.interval(name) or ())))
    return tuple(points)
