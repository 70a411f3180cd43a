"""The ten scores, each before and after the attack."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import isfinite
from statistics import fmean
from typing import Any

from holdfast.evaluation.records import RecordLine
from holdfast.evaluation.result import SCORES, Result
from holdfast.evaluation.words import SCORE_WORDS
from holdfast.report.html.charts import DumbbellChart, Figure, dumbbell_chart
from holdfast.report.html.entries import Entry, Setting, row
from holdfast.util.errors import HoldfastError
from holdfast.util.validate import read_lines


def fill(settings: Mapping[Setting, Sequence[Entry]]) -> dict[str, Any]:
    """What ``scores.html.j2`` shows."""
    drawn = [(str(setting), figures(alike)) for setting, alike in settings.items()]
    return {
        "settings": [
            {
                "title": title,
                "figures": known,
                "records": any(one.before is not None for figure in known for one in figure.chart.rows),
            }
            for title, known in drawn
        ]
    }


def figures(found: Sequence[Entry]) -> list[Figure[DumbbellChart]]:
    """A figure for each score that was measured, with a row for each entry."""
    earlier = {entry.name: _common_means([before(member) for member in entry.group.members]) for entry in found}
    drawn = []
    for name in SCORES:
        words, title = SCORE_WORDS[name], f"{name}, {SCORE_WORDS[name].title}"
        rows = [row(entry, name, earlier[entry.name].get(name), entry.group.number(name)) for entry in found]
        if rows := [one for one in rows if one.after is not None]:
            chart = dumbbell_chart(title, rows, f"{words.short}; {words.better}", words.low, words.high)
            drawn.append(Figure(title, words.sentence, chart))
    return drawn


def before(result: Result) -> dict[str, float]:
    """The mean of each reading before the attack, from ``records/`` beside the result file.

    Empty where there are no records, or none that can be read.
    """
    values: dict[str, list[float]] = defaultdict(list)
    try:
        for file in [] if result.path is None else sorted((result.path.parent / "records").glob("*.jsonl")):
            for record in read_lines(RecordLine, file):
                for name, value in record["before"].items():
                    values[name].append(value)
    except HoldfastError:
        return {}
    means = {name: fmean(known) for name, known in values.items()}
    return {name: mean for name, mean in means.items() if isfinite(mean)}


def _common_means(each: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean over the members of a group, of what all of them have."""
    names = [name for name in each[0] if all(name in one for one in each)]
    return {name: fmean(one[name] for one in each) for name in names}
