"""The bracket: certified R@1, what an attack on the smoothed search leaves, and the truth between the two."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise, zip_longest
from typing import Any

from holdfast.evaluation.result import Result
from holdfast.report.html.charts import GREY, LineChart, Point, Series, line_chart, look
from holdfast.report.tables import format_half_width, format_number, format_radius

MEASURE = "R@1"


def fill(results: Sequence[Result]) -> dict[str, Any]:
    """What ``certified.html.j2`` shows: a figure and a table for each result that has a certificate."""
    shown = [_described(result, result.certified) for result in results if result.certified]
    return {"results": shown} if shown else {}


def _described(result: Result, found: Mapping[str, Any]) -> dict[str, Any]:
    rows = [
        {
            "radius": f"{one['radius']:g}",
            "linf": format_radius(one["linf"], "linf"),
            "certified": format_number(MEASURE, one["value"]) + format_half_width(MEASURE, one["low"], one["high"]),
            "attacked": format_number(MEASURE, one["attacked"]["value"]) if one["attacked"] else "–",
        }
        for one in found["radii"]
    ]
    return {"figure": _figure(result, found), "rows": rows, "name": result.name, "dataset": result.dataset}


def _figure(result: Result, found: Mapping[str, Any]) -> LineChart:
    """Steps: what is certified at a radius holds for all smaller ones, what an attack leaves for all larger ones."""
    radii, certified = ([float(one[name]) for one in found["radii"]] for name in ("radius", "value"))
    left = [float(one["attacked"]["value"]) for one in found["radii"] if one["attacked"]]
    across = [x for ends in pairwise(radii) for x in ends]
    low, high = ([y for y in heights for _ in range(2)] for heights in (certified[1:], left[:-1]))
    series = [Series("certified", look(0), _points(across, low), marked=False)]
    if len(left) == len(radii):
        truth = tuple(Point(x, y, low=below, high=y) for x, below, y in zip(across, low, high, strict=True))
        series.append(Series("left by an attack", look(1), _points(across, high), marked=False))
        series.append(Series("the truth", GREY, truth, marked=False, joined=False, banded=True))
    count = f"{found['queries']} queries, {found['draws']} noisy copies of each, which certify up to"
    caption = f"σ = {found['sigma']:g}; {count} {found['largest']:.2f}; abstained: {found['abstained']}."
    title, ends = f"{result.name}, smoothed", zip_longest(radii, certified, left)
    text = "; ".join(
        f"radius {x:g}: certified {y:.1f}" + ("" if above is None else f", left by an attack {above:.1f}")
        for x, y, above in ends
    )
    label = "L2 radius, of pixels in [0, 1]"
    return line_chart(title, caption, f"{title}: {text}", series, x=label, y="R@1, %", left=0, low=0, high=100)


def _points(across: Iterable[float], heights: Iterable[float]) -> tuple[Point, ...]:
    return tuple(Point(x, y) for x, y in zip(across, heights, strict=True))
