"""Training curves, thinned: what a run logged at each step, and what its validations saw."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from holdfast.report.html.charts import Chart, Figure, Point, Series, chart, look
from holdfast.runs.folder import Run

BINS = 100
"""Points of a thinned curve, at most."""


@dataclass(frozen=True)
class Panel:
    """Curves that are drawn together, by what they are called in the logs. high: of the axis, where it is known."""

    title: str
    sentence: str
    curves: Mapping[str, str]
    unit: str = ""
    high: float | None = None


STEPS = (
    Panel(
        "loss",
        "What training makes small.",
        {"loss": "the whole", "triplet_loss": "of the triplets", "structure_loss": "of the structure (ICS)"},
    ),
    Panel(
        "hardness",
        "How hard the triplets are: above 0 the wrong image is nearer than the right one.",
        {
            "source_hardness": "H_S, as drawn",
            "destination_hardness": "H_D, asked for",
            "hardness": "H̃_S, learnt from",
        },
    ),
    Panel("share of triplets moved", "How many triplets the attack had to change.", {"moved": "moved"}, high=1),
)
VALIDATIONS = (
    Panel(
        "R@1 at validations",
        "Recall of the test set, as it is and when queries are shifted by a short attack.",
        {"R@1": "as it is", "R@1 shifted": "under shift"},
        unit="%",
        high=100,
    ),
    Panel(
        "mean cosine",
        "A gauge of collapse: above 0.999 all embeddings are alike.",
        {"mean_cosine": "all pairs"},
        high=1,
    ),
    Panel("effective rank", "A gauge of collapse: below 1.5 all embeddings lie on a line.", {"effective_rank": "rank"}),
)


def panels(run: Run) -> list[Figure[Chart]]:
    """Figures of what a run logged. Raises HoldfastError where its logs are damaged."""
    steps, epochs = run.steps(), run.epochs()
    found = [*((panel, steps) for panel in STEPS), *((panel, epochs) for panel in VALIDATIONS)]
    return [one for panel, lines in found if (one := _figure(panel, lines)) is not None]


def thinned(points: Sequence[tuple[float, float]], bins: int = BINS) -> tuple[Point, ...]:
    """Means over at most ``bins`` runs of consecutive points (x, y), with the least and the greatest as bounds."""
    edges = np.linspace(0, len(points), min(bins, len(points)) + 1).round().astype(int).tolist()
    parts = [np.array(points[first:last], dtype=float) for first, last in pairwise(edges)]
    return tuple(
        Point(float(x.mean()), float(y.mean()), low=float(y.min()), high=float(y.max()))
        for x, y in (part.T for part in parts)
    )


def known(lines: Iterable[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """The finite numbers of a name with their steps, in the order of the lines."""
    pairs = ((_number(line.get("step")), _number(line.get(name))) for line in lines)
    return [(x, y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]


def _figure(panel: Panel, lines: Sequence[Mapping[str, Any]]) -> Figure[Chart] | None:
    series: list[Series] = []
    for i, (name, label) in enumerate(panel.curves.items()):
        if points := known(lines, name):
            curve, few = thinned(points), len(points) <= BINS // 4
            series.append(Series(label, look(i), curve, marked=few, banded=len(points) > len(curve)))
    series = [one for i, one in enumerate(series) if one.points not in [before.points for before in series[:i]]]
    if not series:
        return None
    ends = "; ".join(f"{one.name} from {one.points[0].y:.3g} to {one.points[-1].y:.3g}" for one in series)
    low, said = None if panel.high is None else 0, f"{panel.title} over training: {ends}"
    return Figure(
        panel.title, panel.sentence, chart(said, series, "step", panel.unit, left=0, low=low, high=panel.high)
    )


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan
