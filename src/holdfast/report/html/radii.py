"""Scores against the radius of the attack, of models that were attacked with several."""

from collections.abc import Sequence
from itertools import groupby

from holdfast.report.html.charts import Chart, Figure, Point, Series, chart
from holdfast.report.html.entries import Entry, by_radius
from holdfast.report.html.scores import value
from holdfast.report.tables import format_radius

MEASURES = {
    "robust R@1": "R@1 when each query meets its worst attack, %",
    "ERS": "0 to 100",
    "ES:R": "R@1 of queries moved far off, %",
    "LTM": "R@1 of queries pushed to wrong classes, %",
    "GTM": "R@1 of queries pulled onto a wrong image, %",
}
"""What is drawn, and how its axis is called."""


def radii(found: Sequence[Entry]) -> list[tuple[str, list[Entry], list[Figure[Chart]]]]:
    """For each attack with several radii its title, the models that met it, each by one entry, and its figures."""
    several = [line for line in by_radius(found) if len(line) > 1 and line[0].eps is not None]
    drawn = []
    for attack, lines in groupby(sorted(several, key=_attack), key=_attack):
        models = list(lines)
        figures = [one for name in MEASURES if (one := _figure(models, name)) is not None]
        if figures:
            drawn.append((_title(*attack), [line[0] for line in models], figures))
    return drawn


def _title(dataset: str, protocol: str, norm: str, steps: str) -> str:
    return f"{dataset}: protocol {protocol}, {steps} steps"


def _attack(line: Sequence[Entry]) -> tuple[str, ...]:
    settings = line[0].result.content["settings"]
    return line[0].result.dataset, line[0].result.protocol, str(settings.get("norm")), str(settings.get("steps"))


def _figure(models: Sequence[Sequence[Entry]], name: str) -> Figure[Chart] | None:
    norm = models[0][0].result.content["settings"].get("norm")
    unit, label = (255, "ε, in 1/255") if norm in (None, "linf") else (1, f"ε, {norm}")
    series = [Series(line[0].name, line[0].look, _points(line, name, unit)) for line in models]
    series = [one for one in series if len(one.points) > 1]
    if not series:
        return None
    title = f"{name} by the radius of the attack: " + "; ".join(point.text for one in series for point in one.points)
    return Figure(name, _reach(models), chart(title, series, label, MEASURES[name], low=0, high=100))


def _reach(models: Sequence[Sequence[Entry]]) -> str:
    """How far the attack can go, where that is less than its radius."""
    largest = models[0][-1]
    settings = largest.result.content["settings"]
    step, steps, norm = settings.get("step"), settings.get("steps"), settings.get("norm")
    known = isinstance(step, float | int) and isinstance(steps, float | int)
    if not known or step * steps >= (largest.eps or 0.0):
        return "Bars are 95 % intervals."
    reached = f"{steps} steps of {format_radius(step, norm)} reach {format_radius(step * steps, norm)}"
    return f"Bars are 95 % intervals. {reached}: larger radii are not used up."


def _points(line: Sequence[Entry], name: str, unit: int) -> tuple[Point, ...]:
    points = []
    for entry in line:
        y, bounds = entry.group.number(name), entry.group.interval(name) or (None, None)
        if y is not None and entry.eps is not None:
            said = f"{entry.title}, ε = {entry.setting.radius}: {value(entry.group, name)}"
            points.append(Point(unit * entry.eps, y, said, *bounds))
    return tuple(points)
