"""Draw robustness and recall against the cost of training, as in Figure 1 of the paper. Needs the extra ``plot``.

python examples/costs.py results/fashion --protocol strict --out costs.svg
"""

import re
import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby, product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast.config import resolve
from holdfast.errors import HoldfastError
from holdfast.extras import require
from holdfast.recipes import RECIPES, parse
from holdfast.report import Group, Result, find, grouped, markdown, published
from holdfast.report.comparison import AS_PUBLISHED
from holdfast.report.tables import radius

COSTS = {
    "nominal": "nominal cost η + 1, passes per step",
    "passes": "image passes done, millions",
    "seconds": "training time, seconds",
}
SCORES = {"ERS": "ERS under attack, 0 to 100", "R@1": "R@1 without attack, %"}
MAIN = ("none-r", "none-s", "est-r", "act-r", "act-s", "hm-r-m", "hm-s-m", "hm-s-lga", "hm-s-lga-ics")
COLOURS = ("#000000", "#777777", "#e69f00", "#0072b2", "#56b4e9", "#882255", "#009e73", "#cc79a7", "#d55e00")
MARKERS = "osD^vP*X"
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "holdfast", "font.sans-serif": ["DejaVu Sans"], "font.size": 9}
COMPASS = ((1, 0), (0, 1), (-1, 0), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
ACROSS = {-1: "right", 0: "center", 1: "left"}
ALONG = {-1: "top", 0: "center", 1: "bottom"}
NOT_THE_ATTACK = {"attacks", "max_queries", "seed"}

Published = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Point:
    """Runs of the same settings, one per seed. variant: what sets them apart within the recipe, besides η."""

    recipe: str
    variant: str
    group: Group

    @property
    def steps(self) -> int:
        """η, the PGD steps of training; 0 without an attack."""
        return _steps(self.group)

    @property
    def remark(self) -> str:
        """Such as ``α=12/255, collapsed``."""
        collapsed = any(run.content["collapsed"] for run in self.group.members)
        return ", ".join(filter(None, (self.variant, "collapsed" if collapsed else "")))

    @property
    def label(self) -> str:
        """Such as ``η=8, α=12/255``."""
        return ", ".join(filter(None, (f"η={self.steps}" if self.steps else "", self.remark)))

    def at(self, name: str, of: Group | Result | None = None) -> float:
        """A cost in the units of its axis, or a score; NaN where it was not measured. of: one run; None: the mean."""
        if name == "nominal":
            return self.steps + 1.0
        value = (of or self.group).number(name)
        return np.nan if value is None else value / (1e6 if name == "passes" else 1.0)


def gather(results: Iterable[Result], protocol: str) -> list[Point]:
    """The points of the results of one protocol that have a training cost, by recipe, variant and η.

    Raises HoldfastError where there are none, and where they cannot stand in one picture.
    """
    found = list(results)
    given = [result for result in found if result.content["protocol"] == protocol]
    if not given:
        others = ", ".join(sorted({str(result.content["protocol"]) for result in found}))
        raise HoldfastError(f"no result of protocol {protocol!r}; those found are of: {others}")
    costed = [result for result in given if all(result.training.get(key) for key in ("settings", "passes", "seconds"))]
    if not costed:
        raise HoldfastError(
            f"no training cost in the results of protocol {protocol!r}: 'training' (settings, passes, seconds) is "
            f"missing from 'model' in {given[0].path}; evaluate the run again: holdfast evaluate RUN"
        )
    _refuse_unlike(costed)
    by_recipe: dict[str, list[Group]] = {}
    for group in grouped(costed):
        by_recipe.setdefault(group.first.content["model"]["recipe"], []).append(group)
    points = [
        Point(recipe, variant, group)
        for recipe, groups in by_recipe.items()
        for variant, group in zip(_variants(groups), groups, strict=True)
    ]
    order = [*RECIPES, *sorted(by_recipe.keys() - RECIPES.keys())]
    return sorted(points, key=lambda point: (order.index(point.recipe), point.variant, point.steps))


def paper(points: Sequence[Point]) -> Published:
    """The published rows of the recipes, the data set and the backbone of the points: by recipe, in order of η.

    Raises HoldfastError where the points were not attacked as the published ones, or where there is no such row.
    """
    first = points[0].group.first
    if first.protocol not in AS_PUBLISHED:
        raise HoldfastError(f"--published goes with --protocol cvpr22, not {first.protocol!r}")
    backbone, settings = first.content["model"]["backbone"], first.content["settings"]
    rows = [
        row
        for row in published(first.dataset)
        if row["model"].replace("-", "").casefold() == backbone
        and row["steps"] == settings["steps"]
        and np.isclose(row["eps"], settings["eps"], rtol=1e-3)
    ]
    found: dict[str, list[dict[str, Any]]] = {}
    for recipe in dict.fromkeys(point.recipe for point in points):
        mine = [row for row in rows if row["defense"] == parse(recipe).notation]
        if mine:
            found[recipe] = sorted(mine, key=lambda row: row["eta"] or 0)
    if not found:
        raise HoldfastError(f"--published: no published row of these recipes on {first.dataset}, {backbone}, this ε")
    return found


def summary(points: Sequence[Point]) -> str:
    """The points as a table: means over the seeds."""
    header = ["recipe", "settings", "seeds", "η + 1", "passes, millions", "seconds"]
    header += [text for name in SCORES for text in (name, f"{name} interval")]
    rows = []
    for point in points:
        cells = [point.recipe, point.label, f"{len(point.group.members)}"]
        cells += [f"{point.at(name):.{digits}f}" for name, digits in zip(COSTS, (0, 3, 0), strict=True)]
        for name in SCORES:
            bounds = point.group.interval(name)
            cells.append("" if np.isnan(point.at(name)) else f"{point.at(name):.1f}")
            cells.append("" if bounds is None else f"{bounds[0]:.1f} to {bounds[1]:.1f}")
        rows.append(cells)
    return markdown(header, rows)


def draw(points: Sequence[Point], out: Path, rows: Published | None = None) -> None:
    """Six panels: means over seeds with their intervals, the single runs light behind them, published rows hollow."""
    pyplot = require("matplotlib.pyplot", extra="plot")
    looks = _looks(point.recipe for point in points)
    with pyplot.rc_context(STYLE):
        figure, grid = pyplot.subplots(2, 3, figsize=(10.5, 7), sharex="col", sharey="row", layout="constrained")
        panels = list(zip(grid.flat, product(SCORES, COSTS), strict=True))
        for axes, (score, cost) in panels:
            axes.grid(axis="y", color="#eeeeee")
            axes.margins(x=0.15)
            for (recipe, _), line in groupby(points, key=lambda point: (point.recipe, point.variant)):
                _draw_line(axes, list(line), cost, score, looks[recipe])
        for axes, score in zip(grid[:, 0], SCORES, strict=True):
            axes.set_ylabel(SCORES[score])
            for recipe, known in (rows or {}).items():
                costs = [(row["eta"] or 0) + 1 for row in known]
                axes.plot(costs, [row[score] for row in known], ":", markerfacecolor="white", **looks[recipe])
        _scale_costs(
            grid[1], sorted({int(cost) for axis in grid[:, 0] for line in axis.lines for cost in line.get_xdata()})
        )
        keys = [
            grid[0, 0].plot([], [], label=name, markeredgewidth=0, markersize=7, **look)[0]
            for name, look in looks.items()
        ]
        grey = {"color": "#777777", "linestyle": "", "marker": "o"}
        if any(len(point.group.members) > 1 for point in points):
            keys += grid[0, 0].plot([], [], label="single seed", markersize=3, **grey)
        if rows:
            keys += grid[0, 0].plot([], [], label="published", markerfacecolor="white", **grey)
        first = points[0].group.first
        figure.suptitle(
            f"{first.dataset}, {first.content['model']['backbone']}, protocol {first.protocol}", fontsize=10
        )
        figure.legend(handles=keys, loc="outside lower center", ncols=6, frameon=False)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for axes, (score, cost) in panels:
            _write_labels(axes, points, cost, score, looks)
        try:
            figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None)
            if out.suffix == ".svg":
                out.write_text(_compact(out.read_text(encoding="utf-8")), encoding="utf-8")
        except (OSError, ValueError) as error:
            raise HoldfastError(f"cannot write {out}: {error}") from error
        pyplot.close(figure)


def _looks(recipes: Iterable[str]) -> dict[str, dict[str, str]]:
    """Colour and marker of each recipe; those of the main ones are the same in all pictures."""
    names = list(dict.fromkeys(recipes))
    places = [*MAIN, *(name for name in names if name not in MAIN)]
    looks = {name: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(places)}
    return {name: {"color": looks[name][0], "marker": looks[name][1]} for name in names}


def _draw_line(axes: Any, line: Sequence[Point], cost: str, score: str, look: Mapping[str, str]) -> None:
    seeds = [(p.at(cost, run), p.at(score, run)) for p in line if len(p.group.members) > 1 for run in p.group.members]
    if seeds:
        axes.plot(*zip(*seeds, strict=True), linestyle="", markersize=3.5, markeredgewidth=0, alpha=0.5, **look)
    bars = [(point.at(cost), bound) for point in line for bound in (*(point.group.interval(score) or ()), np.nan)]
    axes.plot(*zip(*bars, strict=True), linewidth=1, color=look["color"])
    means = sorted((point.at(cost), point.at(score)) for point in line)
    axes.plot(*zip(*means, strict=True), linewidth=1, markeredgewidth=0, markersize=7, **look)


def _scale_costs(row: Iterable[Any], nominal: Sequence[int]) -> None:
    """Logarithmic, with round numbers; the nominal costs with their η."""
    ticker = require("matplotlib.ticker", extra="plot")
    for axes, (name, text) in zip(row, COSTS.items(), strict=True):
        axes.set(xscale="log", xlabel=text)
        if name == "nominal":
            axes.set_xticks(nominal, [f"{cost}\nη={cost - 1}" if cost > 1 else "1\nplain" for cost in nominal])
        else:
            axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 3, 5, 7)))
            axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axes.xaxis.set_minor_locator(ticker.NullLocator())


def _write_labels(axes: Any, points: Iterable[Point], cost: str, score: str, looks: Mapping[str, Any]) -> None:
    """Each beside its point, on the side where it covers the fewest marks, lines and other labels.

    η is on the axis of the nominal cost already.
    """
    to_rgb = require("matplotlib.colors", extra="plot").to_rgb
    paths = [axes.transData.transform(line.get_xydata()) for line in axes.lines if len(line.get_xydata())]
    taken = np.concatenate([_sampled(path) for path in paths])
    frame = axes.get_window_extent()
    for point in points:
        text, place = point.remark if cost == "nominal" else point.label, (point.at(cost), point.at(score))
        if not text or np.isnan(place).any():
            continue
        dark = [0.6 * channel for channel in to_rgb(looks[point.recipe]["color"])]
        note = axes.annotate(text, place, (0, 0), textcoords="offset points", fontsize=8, color=dark)
        tried: list[tuple[int, int, tuple[int, int], str, str, Any]] = []
        for far, (dx, dy) in product((6, 12), COMPASS):
            position, ha, va = (far * dx, far * dy), ACROSS[dx], ALONG[dy]
            note.set(position=position, ha=ha, va=va)
            box = note.get_window_extent()
            covered = int(((taken > box.min - 2) & (taken < box.max + 2)).all(axis=1).sum())
            covered += 0 if frame.contains(*box.min) and frame.contains(*box.max) else len(taken)
            tried.append((covered, len(tried), position, ha, va, box))
        _, _, position, ha, va, box = min(tried, key=lambda one: one[:2])
        note.set(position=position, ha=ha, va=va)
        taken = np.concatenate([taken, list(product(*np.linspace(box.min, box.max, 9).T))])


def _sampled(path: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The corners of a path, and eleven places on each of its segments."""
    corners = np.arange(len(path))
    places = np.linspace(0, len(path) - 1, 12 * (len(path) - 1) + 1)
    return np.stack([np.interp(places, corners, axis) for axis in path.T], axis=1)


def _compact(svg: str) -> str:
    """Places to a hundredth of a point, and no indentation: a fifth smaller."""
    rounded = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\.\d\d)\d+", r"\1", tag[0]), svg)
    return re.sub(r"\n\s+", "\n", rounded)


def _steps(group: Group) -> int:
    model = group.first.content["model"]
    return int(model["training_steps"]) if parse(model["recipe"]).perturbs else 0


def _variants(groups: Sequence[Group]) -> list[str]:
    """Of groups of one recipe: α where it is not the default; where that and η are alike, the settings that differ."""
    widths = [_width(group) for group in groups]
    settings = [
        {**group.first.training["settings"], "weights": group.first.content["model"].get("weights"), "seed": None}
        for group in groups
    ]
    unlike: set[str] = set()
    for i, j in combinations(range(len(groups)), 2):
        if (widths[i], _steps(groups[i])) == (widths[j], _steps(groups[j])):
            one, other = settings[i], settings[j]
            differing = {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}
            if not differing:
                paths = " and ".join(str(groups[k].first.path) for k in (i, j))
                raise HoldfastError(f"{paths} are of the same training; give one, or other seeds evaluated alike")
            unlike |= differing
    others = [[f"{key.rpartition('.')[2]}={known.get(key)}" for key in sorted(unlike)] for known in settings]
    return [", ".join(filter(None, (width, *more))) for width, more in zip(widths, others, strict=True)]


def _width(group: Group) -> str:
    """α, the step of the attack in training, where it is not the default of the data set."""
    settings = group.first.training["settings"]
    width, usual = settings.get("pgd.step"), resolve({"data.name": group.first.dataset}).pgd.step
    if not _steps(group) or width is None or np.isclose(width, usual, rtol=1e-3):
        return ""
    return f"α={radius(width, settings.get('pgd.norm'))}"


def _refuse_unlike(runs: Sequence[Result]) -> None:
    """Refuse results on several data sets or backbones, or of attacks that differ in more than their number."""
    setups = []
    for run in runs:
        about = {key: run.content["model"].get(key) for key in ("backbone", "surrogate")}
        setups.append({"data": run.dataset, **about, **run.content["settings"]})
    for run, setup in zip(runs, setups, strict=True):
        for key in setup.keys() - NOT_THE_ATTACK:
            if setup[key] != setups[0].get(key):
                raise HoldfastError(
                    f"{runs[0].path} and {run.path} do not compare: {key} is {setups[0].get(key)!r} and "
                    f"{setup[key]!r}; give results on one data set, attacked alike"
                )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = ArgumentParser(description="Draw robustness and recall against the cost of training.")
    parser.add_argument("results", nargs="+", type=Path, help="result.json files, or folders with some in them")
    parser.add_argument("--protocol", default="strict", help="of the evaluations")
    parser.add_argument("--out", type=Path, required=True, help="the picture, such as costs.svg")
    parser.add_argument("--published", action="store_true", help="the paper's points too; with --protocol cvpr22")
    given = parser.parse_args(arguments)
    points = gather(find(given.results), given.protocol)
    draw(points, given.out, paper(points) if given.published else None)
    print(f"{given.out}\n\n{summary(points)}", end="")


if __name__ == "__main__":
    try:
        main()
    except HoldfastError as error:
        sys.exit(f"error: {error}")
