"""Training curves: what a run logged at each step, and what its validations measured."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from holdfast.report.html.charts import LineChart, Point, Series, line_chart, look
from holdfast.report.html.checkpoints import Checkpoint
from holdfast.util.text import counted

MAX_POINTS = 100
"""Of a curve; longer ones are averaged over consecutive steps."""


@dataclass(frozen=True)
class Panel:
    """Curves drawn together: a label by the name in the logs. high: the end of the axis, where it is known."""

    title: str
    caption: str
    curves: Mapping[str, str]
    unit: str = ""
    high: float | None = None


STEPS = (
    Panel(
        "loss",
        "What training minimises.",
        {"loss": "total", "triplet_loss": "triplet loss", "structure_loss": "intra-class structure (ICS)"},
    ),
    Panel(
        "hardness",
        "How hard the triplets are: above 0 the negative is nearer than the positive.",
        {
            "source_hardness": "H_S, sampled",
            "destination_hardness": "H_D, destination",
            "hardness": "H̃_S, after the attack",
        },
    ),
    Panel(
        "share of triplets moved", "The share of triplets that the attack had to change.", {"moved": "moved"}, high=1
    ),
)
VALIDATIONS = (
    Panel(
        "R@1 at validations",
        "Recall on the validation split, or on the test set of a run without one, with clean queries and with queries "
        "under a short attack: an upper bound of robust R@1. Older runs shifted the embedding, a weaker attack.",
        {"R@1": "clean", "R@1 attacked": "attacked", "R@1 shifted": "under shift"},
        unit="%",
        high=100,
    ),
    Panel(
        "mean cosine",
        "A collapse gauge: above 0.999 all embeddings are alike.",
        {"mean_cosine": "all pairs"},
        high=1,
    ),
    Panel("effective rank", "A collapse gauge: below 1.5 all embeddings lie on a line.", {"effective_rank": "rank"}),
)


def fill(checkpoints: Sequence[Checkpoint]) -> dict[str, Any]:
    """What ``training.html.j2`` shows."""
    return {"runs": [_described(one) for one in checkpoints]} if checkpoints else {}


def _described(checkpoint: Checkpoint) -> dict[str, Any]:
    text, drawn = "No steps logged.", list[LineChart]()
    try:
        steps, epochs, cost = checkpoint.run.steps(), checkpoint.run.epochs(), checkpoint.run.cost()
        found = [*((panel, steps) for panel in STEPS), *((panel, epochs) for panel in VALIDATIONS)]
        drawn = [one for panel, lines in found if (one := _figure(panel, lines)) is not None]
        if cost.get("steps"):
            parts = {"step": cost["steps"], "image pass": cost["passes"], "second": cost["seconds"]}
            text = ", ".join(counted(round(number), noun) for noun, number in parts.items()) + "."
    except (ValueError, OSError, TypeError) as error:
        text = f"The logs cannot be read: {error}"
    return {"name": checkpoint.name, "figures": drawn, "cost": text}


def downsampled(points: Sequence[tuple[float, float]], count: int = MAX_POINTS) -> tuple[Point, ...]:
    """Means over at most ``count`` stretches of consecutive points (x, y), with the minimum and maximum as bounds."""
    edges = np.linspace(0, len(points), min(count, len(points)) + 1).round().astype(int).tolist()
    parts = [np.array(points[first:last], dtype=float) for first, last in pairwise(edges)]
    return tuple(
        Point(float(x.mean()), float(y.mean()), low=float(y.min()), high=float(y.max()))
        for x, y in (part.T for part in parts)
    )


def _figure(panel: Panel, lines: Sequence[Mapping[str, Any]]) -> LineChart | None:
    series: list[Series] = []
    for i, (name, label) in enumerate(panel.curves.items()):
        logged = [(float(line["step"]), float(line[name])) for line in lines if line.get(name) not in (None, "")]
        if points := [(x, y) for x, y in logged if math.isfinite(y)]:
            curve, few = downsampled(points), len(points) <= MAX_POINTS // 4
            series.append(Series(label, look(i), curve, marked=few, banded=len(points) > len(curve)))
    series = [one for i, one in enumerate(series) if one.points not in [before.points for before in series[:i]]]
    if not series:
        return None
    ends = "; ".join(f"{one.name} from {one.points[0].y:.3g} to {one.points[-1].y:.3g}" for one in series)
    text, low = f"{panel.title} over training: {ends}", None if panel.high is None else 0
    return line_chart(
        panel.title, panel.caption, text, series, x="step", y=panel.unit, left=0, low=low, high=panel.high
    )
