"""Results of one experiment repeated with other seeds, taken together."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, stdev

from holdfast.evaluation.result import Result
from holdfast.util.imports import CUSTOM

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Group:
    """Evaluations, alike in all but the seed of training; at least one, each seed once."""

    members: tuple[Result, ...]

    @property
    def first(self) -> Result:
        """The member that stands for what all have in common."""
        return self.members[0]

    @property
    def name(self) -> str:
        """The name of a result; of several, the first's without ``,seed=N``."""
        return self.first.name if len(self.members) == 1 else re.sub(r",seed=\d+", "", self.first.name)

    @property
    def verdict(self) -> str:
        """That of all members, or how often there is which: ``ok ×2, COLLAPSED ×1``."""
        counts = Counter(member.verdict for member in self.members)
        several = len(counts) > 1
        return ", ".join(f"{verdict} ×{count}" if several else verdict for verdict, count in counts.items())

    def number(self, column: str) -> float | None:
        """The mean over the members of :meth:`Result.number`; None where one has none."""
        values = self._values(column)
        return None if values is None else fmean(values)

    def interval(self, column: str) -> tuple[float, float] | None:
        """The bounds of the mean over seeds: Student's t interval at 95 %, n - 1 degrees of freedom.

        Of a single member its own bounds, over queries.
        """
        n, values = len(self.members), self._values(column)
        if n == 1 or values is None:
            return self.first.interval(column) if n == 1 else None
        from scipy.special import stdtrit  # noqa: PLC0415 (imports numpy; needed for means only)

        half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * stdev(values) / n**0.5
        return fmean(values) - half, fmean(values) + half

    def _values(self, column: str) -> list[float] | None:
        values = [member.number(column) for member in self.members]
        known = [value for value in values if value is not None]
        return known if len(known) == len(values) else None


def grouped(results: Iterable[Result]) -> list[Group]:
    """Results by experiment, in the order of their first members.

    Two belong together where data, protocol, its version and settings of the evaluation are the same, and backbone,
    weights, recipe and all settings of training but its seed. A result that does not tell how its model was trained
    stays alone, and so does one of a defense or network given as an object. A seed that comes again, as from a copy of
    a run, begins another group: it is no further evidence.
    """
    found: dict[tuple[str, int], list[Result]] = {}
    times: Counter[tuple[str, object]] = Counter()
    for i, result in enumerate(results):
        experiment = _experiment(result) or f"{i}"
        repeat = experiment, result.content["model"].get("seed")
        found.setdefault((experiment, times[repeat]), []).append(result)
        times[repeat] += 1
    return [Group(tuple(members)) for members in found.values()]


def _experiment(result: Result) -> str | None:
    """What the members of a group have in common, as text; None where it is not known."""
    settings = result.training.get("settings")
    if settings is None or CUSTOM in (settings.get("recipe"), settings.get("model.backbone")):
        return None
    content, model = result.content, result.content["model"]
    return json.dumps(
        [
            *(content["data"], result.protocol, content.get("protocol_version"), content["settings"]),
            *(model.get(key) for key in ("backbone", "weights", "recipe", "surrogate")),
            {key: value for key, value in settings.items() if key != "seed"},
        ],
        sort_keys=True,
    )
