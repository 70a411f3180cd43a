"""Results of one experiment under several training seeds, as one."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from holdfast.evaluation.result import Result
from holdfast.util.imports import CUSTOM

CONFIDENCE = 0.95

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Group:
    """Evaluations that differ only in the training seed; at least one, each seed once."""

    members: tuple[Result, ...]

    @property
    def first(self) -> Result:
        """The first member; it has what all members have in common."""
        return self.members[0]

    @property
    def name(self) -> str:
        """The name of the result; for several, that of the first without ``,seed=N``."""
        return self.first.name if len(self.members) == 1 else re.sub(r",seed=\d+", "", self.first.name)

    @property
    def eps(self) -> float | None:
        """:attr:`Result.eps` of the members."""
        return self.first.eps

    @property
    def norm(self) -> str | None:
        """:attr:`Result.norm` of the members."""
        return self.first.norm

    @property
    def verdict(self) -> str:
        """The verdict of all members, or the count of each: ``ok ×2, COLLAPSED ×1``."""
        counts = Counter(member.verdict for member in self.members)
        several = len(counts) > 1
        return ", ".join(f"{verdict} ×{count}" if several else verdict for verdict, count in counts.items())

    def number(self, column: str) -> float | None:
        """The mean of :meth:`Result.number` over the members; None where a member has none."""
        values = self._values(column)
        return fmean(values) if values else None

    def interval(self, column: str) -> tuple[float, float] | None:
        """The 95 % interval of the mean over seeds: Student's t with n - 1 degrees of freedom.

        For a single member: its own interval, over queries.
        """
        n, values = len(self.members), self._values(column)
        if n == 1 or not values:
            return self.first.interval(column) if n == 1 else None
        from scipy.special import stdtrit  # noqa: PLC0415 (imports numpy; needed for means only)

        half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * stdev(values) / n**0.5
        return fmean(values) - half, fmean(values) + half

    def arrived(self, column: str) -> bool | None:
        """:meth:`Result.arrived`, of all members; None where one does not know."""
        each = [member.arrived(column) for member in self.members]
        return None if None in each else all(each)

    def counts(self, column: str) -> tuple[int, int] | None:
        """:meth:`Result.counts` of a single member; None for several, which share their queries."""
        return self.first.counts(column) if len(self.members) == 1 else None

    def _values(self, column: str) -> list[float]:
        """A number of every member; none where one lacks it."""
        known = [value for member in self.members if (value := member.number(column)) is not None]
        return known if len(known) == len(self.members) else []


def grouped(results: Iterable[Result]) -> list[Group]:
    """Results by experiment, in the order of their first members.

    Results belong together if they have the same data, protocol, version and settings of the evaluation, and the same
    backbone, weights, recipe and training settings but the seed. A result that does not say how its model was trained,
    or was trained with an object of somebody's own, is alone. A seed that occurs again, as in a copy of a run, starts
    another group: it is no further evidence.
    """
    found: dict[tuple[str, int], list[Result]] = {}
    times: Counter[tuple[str, object]] = Counter()
    for i, result in enumerate(results):
        experiment = _experiment(result) or f"{i}"
        repeat = experiment, result.content["model"].get("seed")
        found.setdefault((experiment, times[repeat]), []).append(result)
        times[repeat] += 1
    return [Group(tuple(members)) for members in found.values()]


def conditions(result: Result) -> dict[str, Any]:
    """What evaluations that compare have in common: data that can be read, protocol and its version, settings, and the
    model whose gradients the attacks follow where it is another."""
    content = result.content
    return {
        "data": content["data"],
        "unreadable": content["benign"].get("unreadable"),
        "protocol": result.protocol,
        "protocol_version": content.get("protocol_version"),
        "settings": {name: value for name, value in content["settings"].items() if name != "protocol"},
        "surrogate": content["model"].get("surrogate"),
    }


def disagreements(one: Result, other: Result) -> list[str]:
    """Why two results do not compare: each of the :func:`conditions` that differ, in words; none if they do."""
    ours, theirs = (dict(flat(conditions(result))) for result in (one, other))
    names = [name for name in dict.fromkeys([*ours, *theirs]) if ours.get(name) != theirs.get(name)]
    return [f"{name} is {ours.get(name, 'not given')} and {theirs.get(name, 'not given')}" for name in names]


def flat(settings: Mapping[str, Any], above: str = "") -> Pairs:
    """Nested settings as pairs of dotted names and texts."""
    pairs: Pairs = []
    for name, value in settings.items():
        if isinstance(value, dict):
            pairs += flat(value, f"{above}{name}.")
        else:
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            pairs.append((f"{above}{name}", shown))
    return pairs


def _experiment(result: Result) -> str | None:
    """What the members of a group have in common, as text; None where the training is not known."""
    settings = result.training.get("settings")
    if settings is None or CUSTOM in (settings.get("recipe"), settings.get("model.backbone")):
        return None
    model = result.content["model"]
    if model.get("weights") != "best" and settings.get(
        "validation.on_test", True
    ):  # which trains the same last weights
        settings = {**settings, "validation.share": 0, "validation.on_test": False}
    return json.dumps(
        [
            conditions(result),
            *(model.get(key) for key in ("backbone", "weights", "recipe")),
            {key: value for key, value in settings.items() if key != "seed"},
        ],
        sort_keys=True,
    )
