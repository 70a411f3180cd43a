"""Robustness against what training cost and against recall without attack: ours, and hollow the published figures."""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from holdfast.report.comparison import family, notation
from holdfast.report.html.charts import GREY, Chart, Figure, Point, Series, chart
from holdfast.report.html.entries import Entry
from holdfast.report.html.scores import value
from holdfast.report.published import published

ERS, ROBUST, BENIGN = "ERS", "robust R@1", "R@1"
STEPS, PASSES, RECALL = "passes per training step, η + 1", "image passes done in training", "R@1 without attack, %"
SENTENCES = {
    STEPS: "The paper's cost of a training step: η + 1 passes with η steps of attack, 1 without attack.",
    PASSES: "Images passed forward in training, as counted: adversarial examples that are finished early cost less.",
    RECALL: "What robustness goes with when nobody attacks.",
}
HEIGHTS = {ERS: "ERS, 0 to 100", ROBUST: "robust R@1, %"}

Place = Callable[[Entry], float | None]
Printed = Callable[[Mapping[str, Any]], float]


def nominal(entry: Entry) -> float | None:
    """The paper's cost of a training step, in passes of the network: η + 1 with η steps of attack, 1 without attack."""
    from holdfast.defense.recipes import parse  # noqa: PLC0415 (imports torch)

    model = entry.result.content["model"]
    if notation(model.get("recipe")) is None:
        return None
    eta = model.get("training_steps") if parse(model["recipe"]).perturbs else 0
    return eta + 1.0 if isinstance(eta, int) else None


def tradeoffs(found: Sequence[Entry]) -> list[Figure[Chart]]:
    """Figure 1 of the paper and its relatives, of entries of one setting; one without a point is left out."""
    figures = [
        _figure(found, ERS, STEPS, nominal, lambda row: (row["eta"] or 0) + 1.0),
        _figure(found, ERS, PASSES, lambda entry: entry.group.number("passes")),
        _figure(found, ROBUST, PASSES, lambda entry: entry.group.number("passes")),
        _figure(found, ERS, RECALL, lambda entry: entry.group.number(BENIGN), lambda row: row[BENIGN]),
        _figure(found, ROBUST, RECALL, lambda entry: entry.group.number(BENIGN)),
    ]
    return [one for one in figures if one is not None]


def counterparts(found: Sequence[Entry]) -> list[dict[str, Any]]:
    """The published rows of the data set and the backbones of some entries."""
    backbones = {family(entry.result.content["model"].get("backbone")) for entry in found}
    return [row for row in published(found[0].result.dataset) if family(row["model"]) in backbones]


def _figure(
    found: Sequence[Entry], name: str, label: str, place: Place, printed: Printed | None = None
) -> Figure[Chart] | None:
    ours = [series for entry in found if (series := _ours(entry, name, place)) is not None]
    if not ours:
        return None
    log = label != RECALL
    theirs = [] if printed is None else _theirs(found, printed, joined=log)
    said = f"{name} against {label}: " + "; ".join(series.points[0].text for series in ours)
    drawing = chart(said, [*theirs, *ours], label, HEIGHTS[name], log=log, low=0, high=10)
    return Figure(f"{name} against {label.partition(',')[0]}", SENTENCES[label], drawing)


def _ours(entry: Entry, name: str, place: Place) -> Series | None:
    x, y, bounds = place(entry), entry.group.number(name), entry.group.interval(name) or (None, None)
    if x is None or y is None:
        return None
    said = f"{entry.title}: {name} {value(entry.group, name)} at {x:,.{0 if x >= 1000 else 1}f}"
    return Series(entry.name, entry.look, (Point(x, y, said, *bounds),))


def _theirs(found: Sequence[Entry], x: Printed, joined: bool) -> list[Series]:
    looks = {notation(entry.result.content["model"].get("recipe")): entry.look for entry in reversed(found)}
    rows = sorted(counterparts(found), key=lambda row: (row["recipe"], row["defense"], row["eta"] or 0))
    series = []
    for defense, group in groupby(rows, key=lambda row: row["defense"]):
        known = list(group)
        points = [
            Point(x(row), row[ERS], f"published, {defense}, η = {row['eta'] or 0}: ERS {row[ERS]}") for row in known
        ]
        series.append(Series(defense, looks.get(known[0]["recipe"], GREY), tuple(points), hollow=True, joined=joined))
    return series
