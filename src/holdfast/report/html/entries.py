"""What the page tells apart: evaluations with a name and a look of their own, sorted by what may be compared."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from holdfast.evaluation.result import Result
from holdfast.report.groups import Group, grouped
from holdfast.report.html.charts import Look, look
from holdfast.report.tables import format_radius

DOUBTS = ("COLLAPSED", "UNTRUSTED")


@dataclass(frozen=True)
class Setting:
    """What evaluations must have in common to be compared."""

    dataset: str
    protocol: str
    radius: str
    steps: int | None

    @property
    def attack(self) -> str:
        """Such as ``protocol strict, ε = 8/255, 32 steps``."""
        steps = "" if self.steps is None else f"{self.steps} steps"
        return ", ".join(filter(None, (f"protocol {self.protocol}", self.radius and f"ε = {self.radius}", steps)))

    def __str__(self) -> str:
        return f"{self.dataset}: {self.attack}"


def setting_of(result: Result) -> Setting:
    """The setting of an evaluation."""
    settings = result.content["settings"]
    reach = format_radius(settings.get("eps"), settings.get("norm"))
    return Setting(result.dataset, result.protocol, reach, settings.get("steps"))


@dataclass(frozen=True)
class Entry:
    """A group of evaluations, alike in all but the seed. name: no other entry of its setting has it."""

    group: Group
    name: str
    look: Look

    @property
    def result(self) -> Result:
        """The evaluation that stands for what all of them have in common."""
        return self.group.first

    @property
    def eps(self) -> float | None:
        """The radius, in the unit of its norm."""
        eps: float | None = self.result.content["settings"].get("eps")
        return eps

    @property
    def setting(self) -> Setting:
        """That of all its evaluations."""
        return setting_of(self.result)

    @property
    def flag(self) -> str:
        """What speaks against the numbers, after a space; empty where nothing was found."""
        doubts = [doubt for doubt in DOUBTS if doubt in self.group.verdict]
        return f" ⚠ {', '.join(doubts)}" if doubts else ""

    @property
    def title(self) -> str:
        """The name, the number of seeds where there are several, and the flag."""
        count = len(self.group.members)
        return self.name + (f" (mean of {count} seeds)" if count > 1 else "") + self.flag

    @property
    def curve(self) -> str:
        """What evaluations of one model at several radii have in common, as text; some may lack some attacks."""
        settings = self.result.content["settings"]
        loose = ("eps", "attacks") if settings.get("norm", "linf") == "linf" else ("eps", "step", "attacks")
        same = {key: value for key, value in settings.items() if key not in loose}
        model = self.result.content["model"].get("hash") or self.name
        return json.dumps([self.result.dataset, self.result.protocol, self.group.name, model, same], sort_keys=True)


def entries(results: Sequence[Result]) -> list[Entry]:
    """The evaluations by group, in order; those of one name look alike, whatever the attack.

    What the names of all models of a data set have in common, such as ``seed=0`` in ``act-r,seed=0``, is left out.
    """
    groups = grouped(results)
    looks: dict[tuple[str, int], Look] = {}
    names = {dataset: shortened(group.name for group in alike) for dataset, alike in _by_dataset(groups).items()}
    found: list[Entry] = []
    taken: Counter[tuple[str, Setting]] = Counter()
    for group in groups:
        name = names[group.first.dataset][group.name]
        place = name, setting_of(group.first)
        taken[place] += 1
        own = looks.setdefault((group.name, taken[place]), look(len(looks)))
        found.append(Entry(group, name if taken[place] == 1 else f"{name} #{taken[place]}", own))
    return found


def shortened(names: Iterable[str]) -> dict[str, str]:
    """Each name without the parts, between commas, that all have; whole where nothing would be left of one."""
    parts = {name: name.split(",") for name in names}
    common = set.intersection(*map(set, parts.values())) if len(parts) > 1 else set()
    short = {name: ",".join(part for part in own if part not in common) for name, own in parts.items()}
    return short if all(short.values()) and len(set(short.values())) == len(short) else {name: name for name in parts}


def _by_dataset(groups: Iterable[Group]) -> dict[str, list[Group]]:
    found: dict[str, list[Group]] = {}
    for group in groups:
        found.setdefault(group.first.dataset, []).append(group)
    return found


def by_radius(found: Iterable[Entry]) -> list[list[Entry]]:
    """The entries of each model and attack, by rising radius, each radius once: by the entry with the most scores."""
    by_curve: dict[str, dict[float | None, Entry]] = {}
    for entry in sorted(found, key=lambda entry: -len(entry.result.content["columns"])):
        by_curve.setdefault(entry.curve, {}).setdefault(entry.eps, entry)
    return [sorted(one.values(), key=lambda entry: entry.eps or 0.0) for one in by_curve.values()]


def by_setting(found: Sequence[Entry]) -> dict[Setting, list[Entry]]:
    """One entry of each model and attack, by setting: of several radii the one that most models were attacked with,
    the largest of those."""
    popular = Counter(entry.setting for entry in found)
    settings: dict[Setting, list[Entry]] = {}
    for line in by_radius(found):
        chosen = max(line, key=lambda entry: (popular[entry.setting], entry.eps or 0.0))
        settings.setdefault(chosen.setting, []).append(chosen)
    return settings
