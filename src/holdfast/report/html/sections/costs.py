"""Robustness against the cost of training and against recall on clean images; published results are hollow."""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from holdfast.defense.recipes import parse_recipe
from holdfast.evaluation.words import SCORE_WORDS
from holdfast.report.beside import family, notation
from holdfast.report.html.charts import GREY, SHAPES, LineChart, Look, Point, Series, line_chart
from holdfast.report.html.entries import Entry, recall_measure
from holdfast.report.published import published
from holdfast.report.tables import Setting, format_bounded, format_radius
from holdfast.util.text import counted

STEPS, PASSES, RECALL = "passes per training step, η + 1", "image passes done in training", "R@1 without attack, %"
CAPTIONS = {
    STEPS: "The paper's cost of a training step: η + 1 passes with η steps of attack, 1 without attack.",
    PASSES: "Images passed forward in training, as counted: adversarial examples that finish early cost less.",
    RECALL: "What robustness costs when nobody attacks: R@1 of all queries.",
}

FRONTIER = Look(None, SHAPES[0], "")

Place = Callable[[Entry], float | None]
Printed = Callable[[Mapping[str, Any]], float]


def fill(settings: Mapping[Setting, Sequence[Entry]]) -> dict[str, Any]:
    """What ``costs.html.j2`` shows."""
    shown = []
    for setting, alike in settings.items():
        rows, drawn = counterparts(alike), figures(alike)
        lines = [series for one in drawn for series in one.series]
        joined, printed = any(one.look == FRONTIER for one in lines), any(one.hollow for one in lines)
        attack = f"{format_radius(rows[0]['eps'], 'linf')}, {counted(rows[0]['steps'], 'step')}" if printed else ""
        shown.append(
            {"title": str(setting), "entries": alike, "figures": drawn, "frontier": joined, "published": attack}
        )
    return {"settings": shown, "grey": GREY, "frontier": FRONTIER} if any(one["figures"] for one in shown) else {}


def figures(found: Sequence[Entry]) -> list[LineChart]:
    """Figure 1 of the paper and its relatives, of entries of one setting; one without a point is left out."""
    recall = recall_measure(found)
    drawn = [
        _figure(found, "ERS", STEPS, nominal, lambda row: (row["eta"] or 0) + 1.0),
        _figure(found, "ERS", PASSES, lambda entry: entry.group.number("passes")),
        _figure(found, recall, PASSES, lambda entry: entry.group.number("passes")),
        _figure(found, "ERS", RECALL, lambda entry: entry.group.number("R@1"), lambda row: row["R@1"]),
        _figure(found, recall, RECALL, lambda entry: entry.group.number("R@1")),
    ]
    return [one for one in drawn if one is not None]


def nominal(entry: Entry) -> float | None:
    """The paper's cost of a training step, in passes of the network: η + 1 with η steps of attack, 1 without attack."""
    model = entry.group.first.content["model"]
    if notation(model.get("recipe")) is None:
        return None
    eta = model.get("training_steps") if parse_recipe(model["recipe"]).perturbs else 0
    return eta + 1.0 if isinstance(eta, int) else None


def counterparts(found: Sequence[Entry]) -> list[dict[str, Any]]:
    """The published rows of the data set and the backbones of some entries."""
    backbones = {family(entry.group.first.content["model"].get("backbone")) for entry in found}
    return [row for row in published(found[0].group.first.dataset) if family(row["model"]) in backbones]


def _figure(
    found: Sequence[Entry], name: str, label: str, place: Place, printed: Printed | None = None
) -> LineChart | None:
    drawn = [(entry, series) for entry in found if (series := _ours(entry, name, place)) is not None]
    ours = [series for _, series in drawn]
    if not ours:
        return None
    log = cheaper = label != RECALL
    best = frontier([series.points[0] for entry, series in drawn if not entry.flag], cheaper=cheaper)
    theirs = [] if printed is None else _theirs(found, printed, joined=log)
    title = f"{name} against {label.partition(',')[0]}"
    text = f"{name} against {label}: " + "; ".join(series.points[0].text for series in ours)
    height = SCORE_WORDS[name].label
    return line_chart(title, CAPTIONS[label], text, [*theirs, *best, *ours], x=label, y=height, log=log, low=0, high=10)


def frontier(points: Sequence[Point], *, cheaper: bool) -> list[Series]:
    """The line through the points that no other beats in both; none where these are fewer than two.

    cheaper: the lesser x is the better one, else the greater.
    """
    sign = 1 if cheaper else -1
    best: list[Point] = []
    for point in sorted(points, key=lambda one: (sign * one.x, -one.y)):
        if not best or point.y > best[-1].y:
            best.append(point)
    return [Series("frontier", FRONTIER, tuple(best), marked=False)] if len(best) > 1 else []


def _ours(entry: Entry, name: str, place: Place) -> Series | None:
    x, y, bounds = place(entry), entry.group.number(name), entry.group.interval(name)
    if x is None or y is None:
        return None
    text = f"{entry.title}: {name} {format_bounded(entry.group, name)} at {x:,.{0 if x >= 1000 else 1}f}"
    return Series(entry.name, entry.look, (Point(x, y, text, *(bounds or ())),))


def _theirs(found: Sequence[Entry], x: Printed, joined: bool) -> list[Series]:
    looks = {notation(entry.group.first.content["model"].get("recipe")): entry.look for entry in reversed(found)}
    rows = sorted(counterparts(found), key=lambda row: (row["recipe"], row["defense"], row["eta"] or 0))
    series = []
    for defense, group in groupby(rows, key=lambda row: row["defense"]):
        known = list(group)
        points = [
            Point(x(row), row["ERS"], f"published, {defense}, η = {row['eta'] or 0}: ERS {row['ERS']}") for row in known
        ]
        series.append(Series(defense, looks.get(known[0]["recipe"], GREY), tuple(points), hollow=True, joined=joined))
    return series
