"""The bracket: certified R@1, what an attack on the smoothed search leaves, and the truth between the two."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from holdfast.evaluation.records import RecordLine
from holdfast.evaluation.result import Result
from holdfast.report.html.charts import GREY, LineChart, Point, Series, line_chart, look
from holdfast.report.tables import format_interval, format_number, format_radius
from holdfast.util.errors import HoldfastError
from holdfast.util.text import counted
from holdfast.util.validate import read_lines

MEASURE = "R@1"
Steps = Sequence[tuple[float, float]]
"""A curve of steps: radius and R@1 where a step ends, or begins."""


def fill(results: Sequence[Result]) -> dict[str, Any]:
    """What ``certified.html.j2`` shows: a figure and a table for each result that has a certificate."""
    shown = [_described(result, result.certified) for result in results if result.certified]
    return {"results": shown} if shown else {}


def _described(result: Result, found: Mapping[str, Any]) -> dict[str, Any]:
    rows = [
        {
            "radius": f"{one['radius']:g}",
            "linf": format_radius(one["linf"], "linf"),
            "certified": _share(one),
            "attacked": _share(one["attacked"]) if one["attacked"] else "–",
        }
        for one in found["radii"]
    ]
    return {"figure": _figure(result, found), "rows": rows, "name": result.name, "dataset": result.dataset}


def _share(one: Mapping[str, float]) -> str:
    return format_number(MEASURE, one["value"]) + format_interval(MEASURE, one["value"], one["low"], one["high"])


def _figure(result: Result, found: Mapping[str, Any]) -> LineChart:
    """What is certified at a radius holds for all smaller ones, what an attack leaves for all larger ones.

    Of a result without records only the radii of the table are known.
    """
    table: Steps = [(float(one["radius"]), float(one["value"])) for one in found["radii"]]
    left: Steps = [(float(one["radius"]), float(one["attacked"]["value"])) for one in found["radii"] if one["attacked"]]
    exact = certified_curve(radii_of(result), [radius for radius, _ in table])
    curve, below = (exact, _as_before(exact)) if exact else (table, _as_after(table))
    series = [Series("certified", look(0), _points(curve, below), marked=False)]
    if len(left) == len(table):
        above = _as_before(left)
        edges = sorted({radius for radius, _ in (*curve, *left)})
        truth = [
            Point(x, high, low=below((one + other) / 2), high=high)
            for one, other in pairwise(edges)
            for x, high in ((one, above((one + other) / 2)), (other, above((one + other) / 2)))
        ]
        series.append(Series("left by an attack", look(1), _points(left, above), marked=False))
        series.append(Series("the truth lies here", GREY, tuple(truth), marked=False, joined=False, banded=True))
    copies = f"{counted(found['draws'], 'noisy copy')} of each, which can certify up to {found['largest']:.2f}"
    count = f"{counted(found['queries'], 'query')}, {copies}"
    caption = f"σ = {found['sigma']:g}; {count}; abstained: {found['abstained']}."
    title, attacked = f"{result.name}, smoothed", dict(left)
    text = "; ".join(
        f"radius {x:g}: certified {y:.1f}" + (f", left by an attack {attacked[x]:.1f}" if x in attacked else "")
        for x, y in table
    )
    label = "L2 radius, of pixels in [0, 1]"
    return line_chart(title, caption, f"{title}: {text}", series, x=label, y="R@1, %", left=0, low=0, high=100)


def radii_of(result: Result) -> list[float]:
    """The certified radius of each query, from ``records/`` beside the result file; none where there are no records."""
    if result.path is None:
        return []
    try:
        lines = read_lines(RecordLine, result.path.parent / "records" / "certified.jsonl")
        return [float(line["after"]["radius"]) for line in lines]
    except (HoldfastError, KeyError):
        return []


def certified_curve(radii: Sequence[float], ends: Sequence[float]) -> Steps:
    """Certified R@1 at each of the ``ends``, and at each radius of a query between them; none without queries."""
    if not radii:
        return []
    inside = {radius for radius in radii if ends[0] < radius < ends[-1]}
    return [(end, 100 * sum(radius > end for radius in radii) / len(radii)) for end in sorted({*ends, *inside})]


def _as_after(steps: Steps) -> Callable[[float], float]:
    """The height between the ends of steps, as at the next larger one: what is certified there is so before."""
    return lambda x: next(y for end, y in steps if end >= x)


def _as_before(steps: Steps) -> Callable[[float], float]:
    """The height between the ends of steps, as at the next smaller one: an attack leaves no more beyond it."""
    return lambda x: next(y for end, y in reversed(steps) if end <= x)


def _points(steps: Steps, between: Callable[[float], float]) -> tuple[Point, ...]:
    """The corners of steps: the height at each end, and at both sides of what lies between."""
    corners = [steps[0]]
    for (one, _), (other, height) in pairwise(steps):
        corners += [(one, between((one + other) / 2)), (other, between((one + other) / 2)), (other, height)]
    return tuple(Point(x, y) for x, y in dict.fromkeys(corners))
