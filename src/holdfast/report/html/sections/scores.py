"""The ten scores, each before and after the attack."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import isfinite
from statistics import fmean
from typing import Any

from holdfast.evaluation.records import RecordLine
from holdfast.evaluation.result import SCORES, Result
from holdfast.evaluation.words import SCORE_WORDS
from holdfast.report.html.charts import DumbbellChart, dumbbell_chart
from holdfast.report.html.entries import Entry, rows
from holdfast.report.tables import Setting
from holdfast.util.errors import HoldfastError
from holdfast.util.validate import read_lines


def fill(settings: Mapping[Setting, Sequence[Entry]]) -> dict[str, Any]:
    """What ``scores.html.j2`` shows."""
    drawn = {str(setting): known for setting, alike in settings.items() if (known := figures(alike))}
    return drawn and {
        "settings": [
            {
                "title": title,
                "figures": known,
                "records": any(row.before is not None for one in known for row in one.rows),
            }
            for title, known in drawn.items()
        ]
    }


def figures(found: Sequence[Entry]) -> list[DumbbellChart]:
    """A figure for each score that was measured, with a row for each entry."""
    earlier = [_common_means([before(member) for member in entry.group.members]) for entry in found]
    drawn = []
    for name in SCORES:
        words, title = SCORE_WORDS[name], f"{name}, {SCORE_WORDS[name].title}"
        if known := [one for one in rows(found, name, [means.get(name) for means in earlier]) if one.after is not None]:
            drawn.append(dumbbell_chart(title, words.sentence, known, words))
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
