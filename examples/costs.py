"""Draw robustness and recall against the cost of training, as in Figure 1 of the paper. Needs the extra ``plot``.

python examples/costs.py results/fashion-quarter --protocol strict --out docs/fashion-costs.svg
"""

import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from math import isclose, nan
from pathlib import Path
from typing import Any

from holdfast.defense.recipes import parse
from holdfast.report import Group, Result, find, grouped, markdown, published
from holdfast.report.tables import radius
from holdfast.runs.config import resolve
from holdfast.util.errors import HoldfastError
from holdfast.util.extras import require

COSTS = {
    "nominal": "nominal cost, η + 1 passes per step",
    "passes": "image passes done, millions",
    "seconds": "training time, seconds",
}
SCORES = {"ERS": "ERS under attack, 0 to 100", "R@1": "R@1 without attack, %"}
LOOKS = {
    "none-r": ("#000000", "o"),
    "none-s": ("#777777", "o"),
    "est-r": ("#e69f00", "s"),
    "act-r": ("#0072b2", "D"),
    "act-s": ("#56b4e9", "D"),
    "hm-r-m": ("#882255", "^"),
    "hm-s-m": ("#009e73", "^"),
    "hm-s-lga": ("#cc79a7", "v"),
    "hm-s-lga-ics": ("#d55e00", "P"),
}
"""Colour, apart for the colour-blind too, and marker of the recipes that can be drawn."""
ATTACK = ("eps", "steps", "norm", "restarts")
"""Settings of the evaluations in one picture that are the same."""
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "holdfast", "font.size": 9}


@dataclass(frozen=True)
class Point:
    """Runs of the same settings, one per seed. step: α where it is not the default, such as ``α=12/255``."""

    recipe: str
    step: str
    group: Group

    @property
    def eta(self) -> int:
        """Steps of the attack in training; 0 without one."""
        return int(self.group.first.content["model"]["training_steps"]) if parse(self.recipe).perturbs else 0

    @property
    def label(self) -> str:
        """Such as ``η=8, α=12/255``."""
        return ", ".join(filter(None, (f"η={self.eta}" if self.eta else "", self.step)))

    def at(self, name: str, of: Group | Result | None = None) -> float:
        """A cost or a score, of one run or of the mean; NaN where it was not measured."""
        if name == "nominal":
            return self.eta + 1.0
        value = (of or self.group).number(name)
        return nan if value is None else value / (1e6 if name == "passes" else 1.0)


def gather(results: Iterable[Result], protocol: str) -> list[Point]:
    """The points of the results of one protocol that have an ERS and tell what training cost, by recipe, α and η.

    Transferred and square attacks are another protocol, half precision is not. Raises HoldfastError where there are
    none, where they are on several data sets or of unlike attacks, and for a recipe without a colour.
    """
    known = [one for one in results if one.protocol.replace(", bfloat16", "") == protocol]
    known = [one for one in known if one.training and one.number("ERS") is not None]
    if not known:
        raise HoldfastError(
            f"no result of protocol {protocol!r} has an ERS and says what training cost; "
            "make one: holdfast evaluate RUN"
        )
    if len(datasets := sorted({one.dataset for one in known})) > 1:
        raise HoldfastError(f"the results are on several data sets: {', '.join(datasets)}; give those on one")
    for name in ATTACK:
        if len(values := sorted({str(one.content["settings"].get(name)) for one in known})) > 1:
            raise HoldfastError(f"the results differ in {name} of the attack: {', '.join(values)}; give those of one")
    points = [Point(group.first.content["model"]["recipe"], _step(group), group) for group in grouped(known)]
    for point in points:
        if point.recipe not in LOOKS:
            raise HoldfastError(f"recipe {point.recipe!r} has no colour here (those that have: {', '.join(LOOKS)})")
    return sorted(points, key=lambda point: (list(LOOKS).index(point.recipe), point.step, point.eta))


def _step(group: Group) -> str:
    settings, usual = group.first.training["settings"], resolve({"data.name": group.first.dataset}).pgd.step
    width = settings["pgd.step"]
    plain = not parse(group.first.content["model"]["recipe"]).perturbs or isclose(width, usual, rel_tol=1e-3)
    return "" if plain else f"α={radius(width, settings['pgd.norm'])}"


def summary(points: Sequence[Point]) -> str:
    """The points as a table: means over the seeds, and the intervals of the scores."""
    rows = []
    for point in points:
        cells = [point.recipe, point.label, f"{len(point.group.members)}"]
        cells += [f"{point.at(name):.{digits}f}" for name, digits in zip(COSTS, (0, 2, 0), strict=True)]
        for name in SCORES:
            bounds = point.group.interval(name)
            cells += [f"{point.at(name):.1f}", f"{bounds[0]:.1f} to {bounds[1]:.1f}" if bounds else ""]
        rows.append(cells)
    scores = [text for name in SCORES for text in (name, "95 % interval")]
    return markdown(["recipe", "settings", "seeds", "η + 1", "passes, millions", "seconds", *scores], rows)


def draw(points: Sequence[Point], out: Path, paper: bool = False) -> None:
    """Six panels: means over seeds with their intervals, single runs small, published rows (``paper``) hollow."""
    pyplot = require("matplotlib.pyplot", extra="plot")
    first = points[0].group.first
    with pyplot.rc_context(STYLE):
        figure, grid = pyplot.subplots(2, 3, figsize=(10.5, 7), sharex="col", sharey="row", layout="constrained")
        for axes, (score, cost) in zip(grid.flat, product(SCORES, COSTS), strict=True):
            for (recipe, _), line in groupby(points, key=lambda point: (point.recipe, point.step)):
                _draw_line(axes, list(line), cost, score, LOOKS[recipe])
            if paper and cost == "nominal":
                _draw_published(axes, points, score)
            axes.grid(axis="y", color="#eeeeee")
            axes.margins(x=0.4, y=0.1)
            axes.set(ylabel=SCORES[score] if cost == "nominal" else "")
            if score == "R@1":
                axes.set_xlabel(COSTS[cost])
        used = [recipe for recipe in LOOKS if any(point.recipe == recipe for point in points)]
        handles = [grid[0, 0].plot([], [], label=recipe, **_look(LOOKS[recipe]))[0] for recipe in used]
        if paper:
            handles += grid[0, 0].plot([], [], "o", color="#777777", markerfacecolor="white", label="published")
        figure.suptitle(
            f"{first.dataset}, {first.content['model']['backbone']}, protocol {first.protocol}", fontsize=10
        )
        figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False)
        try:
            figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None)
        except (OSError, ValueError) as error:
            raise HoldfastError(f"cannot write {out}: {error}") from error
        pyplot.close(figure)


def _draw_line(axes: Any, line: Sequence[Point], cost: str, score: str, look: tuple[str, str]) -> None:
    """The points of one recipe and one α, joined in the order of their cost."""
    line = sorted(line, key=lambda point: point.at(cost))
    axes.plot([point.at(cost) for point in line], [point.at(score) for point in line], linewidth=1, **_look(look))
    for point in line:
        if bounds := point.group.interval(score):
            axes.vlines(point.at(cost), *bounds, color=look[0], linewidth=1)
        if len(point.group.members) > 1:
            seeds = [(point.at(cost, run), point.at(score, run)) for run in point.group.members]
            axes.plot(*zip(*seeds, strict=True), linestyle="", markersize=3, alpha=0.5, **_look(look))
        if score == "ERS":
            where = (point.at(cost), point.at(score))
            axes.annotate(point.label, where, (6, 4), textcoords="offset points", fontsize=7, color=look[0])


def _draw_published(axes: Any, points: Sequence[Point], score: str) -> None:
    for recipe in dict.fromkeys(point.recipe for point in points):
        rows = [row for row in published(points[0].group.first.dataset) if row["recipe"] == parse(recipe).notation]
        rows = sorted((row for row in rows if not row["training"]), key=lambda row: row["eta"] or 0)
        costs = [(row["eta"] or 0) + 1 for row in rows]
        axes.plot(costs, [row[score] for row in rows], ":", markerfacecolor="white", **_look(LOOKS[recipe]))


def _look(look: tuple[str, str]) -> dict[str, str]:
    return {"color": look[0], "marker": look[1]}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = ArgumentParser(description="Draw robustness and recall against the cost of training.")
    parser.add_argument("results", nargs="+", type=Path, help="result.json files, or folders with some in them")
    parser.add_argument("--protocol", default="strict", help="of the evaluations")
    parser.add_argument("--out", type=Path, required=True, help="the picture, such as costs.svg")
    parser.add_argument("--published", action="store_true", help="the paper's points too")
    given = parser.parse_args(arguments)
    points = gather(find(given.results), given.protocol)
    if given.published and given.protocol != "cvpr22":
        parser.error("--published goes with --protocol cvpr22")
    draw(points, given.out, given.published)
    print(f"{given.out}\n\n{summary(points)}", end="")


if __name__ == "__main__":
    try:
        main()
    except HoldfastError as error:
        sys.exit(f"costs.py: {error}")
