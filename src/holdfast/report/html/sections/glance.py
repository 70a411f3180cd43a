"""R@1, clean and under attack, and ERS."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.evaluation.result import Result
from holdfast.evaluation.words import SCORE_WORDS, verdict_words
from holdfast.report.html.charts import DumbbellChart, dumbbell_chart
from holdfast.report.html.entries import Entry, clean_recall, recall_measure, rows
from holdfast.report.tables import Setting

HOLLOW = "Hollow: R@1 without attack, of the attacked queries where that is known, else of all."
RECALL = ("R@1, clean and under attack", HOLLOW)
ERS = (
    "Empirical Robustness Score (ERS)",
    "A model that gives every image the same embedding scores high too: look at the verdict.",
)
"""A title, and what the caption adds to the words for the score."""
CLEAN = ("R@1 without attack", "How often a query's first result is of its class, images as they are.")
"""The same where no attack was made, or none on R@1."""


def fill(results: Sequence[Result], settings: Mapping[Setting, Sequence[Entry]]) -> dict[str, Any]:
    """What ``glance.html.j2`` shows."""
    verdicts = Counter(result.verdict for result in results)
    return {
        "settings": [
            {
                "title": str(setting),
                "figures": figures(alike),
                "unchecked": [entry.name for entry in alike if "unchecked" in entry.group.verdict],
            }
            for setting, alike in settings.items()
        ],
        "verdicts": ", ".join(f"{verdict} ×{count}" for verdict, count in verdicts.items()),
        "doubts": verdict_words(", ".join(verdicts)),
    }


def figures(found: Sequence[Entry]) -> list[DumbbellChart]:
    """R@1 and robust R@1 in one figure, ERS in another, with a row for each entry."""
    drawn = []
    for name, (title, remark) in {recall_measure(found): RECALL, "ERS": ERS}.items():
        words = SCORE_WORDS[name]
        before = [None if name == "ERS" else clean_recall(entry) for entry in found]
        if known := rows(found, name, before):
            made = title, f"{words.sentence} The bar is the 95 % interval. {remark}"
            if all(row.after is None for row in known):
                made = CLEAN
            drawn.append(dumbbell_chart(*made, known, words))
    return drawn
