"""The ten scores, each before and after the attack."""

from collections import defaultdict
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from statistics import fmean

from holdfast.evaluation.result import Result
from holdfast.report.groups import Group
from holdfast.report.html.charts import Figure, Ranges, Row, brief, ranges
from holdfast.report.html.entries import Entry
from holdfast.report.html.words import HIGH, PERCENT, SCORES
from holdfast.report.tables import text
from holdfast.util.atomic import read_lines
from holdfast.util.errors import HoldfastError

LENGTH = 48
"""Characters that a row of a drawing has room for."""
RECALL = (
    "Hollow: how often the first result is of the query's class, of all queries. Solid: robust R@1, how often it is "
    "also when each of the attacked queries meets its worst attack. The bar is the 95 % interval."
)
SCORE = (
    "The mean of what the ten scores add to it, with its 95 % interval. A model that gives every image the same "
    "embedding scores high too: look at the verdict."
)


def before(result: Result) -> dict[str, float]:
    """Each reading of the attacked images before the attack, the mean, from ``records/`` beside the result file.

    Empty where there are no records, or none that can be read.
    """
    values: dict[str, list[float]] = defaultdict(list)
    try:
        for file in [] if result.path is None else _files(result.path):
            for record in read_lines(file):
                for name, value in record["before"].items():
                    values[name].append(float(value))
    except (HoldfastError, OSError, KeyError, TypeError, ValueError, AttributeError):
        return {}
    means = {name: fmean(known) for name, known in values.items()}
    return {name: mean for name, mean in means.items() if isfinite(mean)}


def panels(found: Sequence[Entry]) -> list[Figure[Ranges]]:
    """A figure for each score that was measured, with a row for each entry."""
    earlier = {entry.name: _mean([before(member) for member in entry.group.members]) for entry in found}
    drawn = []
    for name, score in SCORES.items():
        rows = [_row(entry, name, earlier[entry.name].get(name), entry.group.number(name)) for entry in found]
        rows = [row for row in rows if row.after is not None]
        if rows:
            drawing = ranges(_said(score.title, rows), rows, f"{score.unit}; {score.robust}", score.low, score.high)
            drawn.append(Figure(score.title, score.sentence, drawing))
    return drawn


def glance(found: Sequence[Entry]) -> list[Figure[Ranges]]:
    """R@1 as it is and under the worst attack, and ERS: figures with a row for each entry."""
    recalls = [_row(one, "robust R@1", one.group.number("R@1"), one.group.number("robust R@1")) for one in found]
    scores = [_row(one, "ERS", None, one.group.number("ERS")) for one in found]
    asked = (
        ("R@1, and what is left of it", RECALL, [row for row in recalls if row.text], PERCENT),
        ("Empirical Robustness Score (ERS)", SCORE, [row for row in scores if row.text], "0 to 100"),
    )
    return [
        Figure(title, sentence, ranges(_said(title, rows), rows, f"{unit}; {HIGH}", 0, 100))
        for title, sentence, rows, unit in asked
        if rows
    ]


def value(group: Group, name: str) -> str:
    """A number with its bounds, such as ``12.0 (11.0 to 13.0)``; a dash where it was not measured."""
    number, bounds = group.number(name), group.interval(name)
    if number is None:
        return "–"
    return text(name, number) + ("" if bounds is None else f" ({text(name, bounds[0])} to {text(name, bounds[1])})")


def _row(entry: Entry, name: str, first: float | None, last: float | None) -> Row:
    low, high = entry.group.interval(name) or (None, None)
    ends = [text(name, one) for one in (first, last) if one is not None]
    bounds = "" if low is None or high is None else f" ({text(name, low)} to {text(name, high)})"
    shown = " → ".join(ends) + bounds
    name = brief(entry.name, max(8, LENGTH - len(shown) - len(entry.flag))) + entry.flag
    return Row(name, entry.look, shown, first, last, low, high)


def _said(title: str, rows: Sequence[Row]) -> str:
    return f"{title}: " + "; ".join(f"{row.name} {row.text}" for row in rows)


def _mean(each: Sequence[dict[str, float]]) -> dict[str, float]:
    names = [name for name in each[0] if all(name in one for one in each)]
    return {name: fmean(one[name] for one in each) for name in names}


def _files(path: Path) -> list[Path]:
    return sorted((path.parent / "records").glob("*.jsonl"))
