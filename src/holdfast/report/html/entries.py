"""The evaluations as the page compares them: by group over seeds, each with a name and a look of its own."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from holdfast.evaluation.result import LEAST, ROBUST, SAMPLE, Result
from holdfast.report.groups import Group, grouped
from holdfast.report.html.charts import Look, Row, look
from holdfast.report.tables import Setting, format_bounded, format_number, setting_of
from holdfast.util.text import shorten

DOUBTS = ("COLLAPSED", "UNTRUSTED", "CHOSEN ON TEST")
ROW_LENGTH = 48
"""Characters that fit in a row of a chart."""


def doubts(verdict: str) -> list[str]:
    """What of a verdict speaks against the numbers."""
    return [doubt for doubt in DOUBTS if doubt in verdict]


@dataclass(frozen=True)
class Entry:
    """Evaluations that differ only in the training seed. name: no other entry of its setting has it."""

    group: Group
    name: str
    look: Look

    @property
    def eps(self) -> float | None:
        """The radius of the attack, in units of its norm."""
        return self.group.eps

    @property
    def setting(self) -> Setting:
        return setting_of(self.group.first)

    @property
    def flag(self) -> str:
        """What speaks against the numbers, after a space; empty where nothing does."""
        found = doubts(self.group.verdict)
        return f" ⚠ {', '.join(found)}" if found else ""

    @property
    def title(self) -> str:
        """The name, the number of seeds if several, and the flag."""
        count = len(self.group.members)
        return self.name + (f" (mean of {count} seeds)" if count > 1 else "") + self.flag

    @property
    def curve(self) -> str:
        """A key that evaluations of one model at several radii share; they may have different attacks."""
        settings = self.group.first.content["settings"]
        eps, step = settings.get("eps"), settings.get("step")
        follows = settings.get("norm", "linf") != "linf" or (eps is not None and step in (eps, 2 * eps))
        free = ("eps", "step", "attacks") if follows else ("eps", "attacks")
        same = {key: value for key, value in settings.items() if key not in free}
        model = self.group.first.content["model"].get("hash") or self.name
        return json.dumps(
            [self.group.first.dataset, self.group.first.protocol, self.group.name, model, same], sort_keys=True
        )


def entries(results: Sequence[Result]) -> list[Entry]:
    """The evaluations by group, in order. Entries of one name have one look, whatever the attack.

    Parts that the names of all models of a data set share, such as ``seed=0`` in ``act-r,seed=0``, are left out.
    """
    groups = grouped(results)
    looks: dict[tuple[str, int], Look] = {}
    found: list[Entry] = []
    taken: Counter[tuple[str, Setting]] = Counter()
    for group in groups:
        beside = [one.name for one in groups if one.first.dataset == group.first.dataset]
        name = without_shared_parts(beside)[group.name]
        place = name, setting_of(group.first)
        taken[place] += 1
        own = looks.setdefault((group.name, taken[place]), look(len(looks)))
        found.append(Entry(group, name if taken[place] == 1 else f"{name} #{taken[place]}", own))
    return found


def without_shared_parts(names: Iterable[str]) -> dict[str, str]:
    """Each name without the comma-separated parts that all names have; unchanged where a name would be empty."""
    parts = {name: name.split(",") for name in names}
    common = set.intersection(*map(set, parts.values())) if len(parts) > 1 else set()
    short = {name: ",".join(part for part in own if part not in common) for name, own in parts.items()}
    return short if all(short.values()) and len(set(short.values())) == len(short) else {name: name for name in parts}


def rows(found: Sequence[Entry], name: str, before: Sequence[float | None]) -> list[Row]:
    """A row of a chart for each entry: a score before and after the attack; none where neither is known."""
    drawn = []
    for entry, first in zip(found, before, strict=True):
        ends = "" if first is None else format_number(name, first), format_bounded(entry.group, name)
        if text := " → ".join(filter(None, ends)):
            text += ", not arrived" if entry.group.arrived(name) is False else ""
            title = shorten(entry.name, max(8, ROW_LENGTH - len(text) - len(entry.flag))) + entry.flag
            bounds = entry.group.interval(name) or ()
            drawn.append(Row(title, entry.look, text, first, entry.group.number(name), *bounds))
    return drawn


def by_radius(found: Iterable[Entry]) -> list[list[Entry]]:
    """The entries of each model and attack by rising radius; of several at one radius, the one with most scores."""
    by_curve: dict[str, dict[float | None, Entry]] = {}
    for entry in sorted(found, key=lambda entry: -len(entry.group.first.content["columns"])):
        by_curve.setdefault(entry.curve, {}).setdefault(entry.eps, entry)
    return [sorted(one.values(), key=lambda entry: entry.eps or 0.0) for one in by_curve.values()]


def by_setting(found: Sequence[Entry]) -> dict[Setting, list[Entry]]:
    """One entry for each model and attack, by setting: at the radius that most models were attacked with, the largest
    of several such radii."""
    popular = Counter(entry.setting for entry in found)
    settings: dict[Setting, list[Entry]] = {}
    for line in by_radius(found):
        chosen = max(line, key=lambda entry: (popular[entry.setting], entry.eps or 0.0))
        settings.setdefault(chosen.setting, []).append(chosen)
    return settings


def clean_recall(entry: Entry) -> float | None:
    """R@1 without attack of the queries that were attacked; of all queries where that is not known."""
    sample = entry.group.number(SAMPLE)
    return entry.group.number("R@1") if sample is None else sample


def recall_measure(found: Iterable[Entry]) -> str:
    """The R@1 under attack that some entries have: the worst case, or, of older results, the least of three attacks."""
    return ROBUST if any(entry.group.number(ROBUST) is not None for entry in found) else LEAST
