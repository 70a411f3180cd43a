"""Two models on the same queries: the drop of a score, its interval, and whether it can be chance."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from holdfast.evaluation.scores import RESAMPLES, Values, interval
from holdfast.gate.values import Each
from holdfast.util.errors import HoldfastError
from holdfast.util.text import counted

LEVEL = 0.025
"""The chance of a drop that is none, at most: the sign test is one-sided, as is each end of the interval of 95 %."""


@dataclass(frozen=True)
class Drop:
    """How much worse a score is: what was seen, the ends of its 95 % interval, the p of the sign test.

    worse, better: on how many queries. queries: how many there are. scale: the range of the score.
    """

    seen: float
    low: float
    high: float
    p: float
    worse: int
    better: int
    queries: int
    scale: float

    @property
    def shown(self) -> bool:
        """Whether there is a drop that is not chance: the whole interval is above 0, and the sign test agrees."""
        return self.low > 0 and self.p <= LEVEL


def drop_between(old: Mapping[str, Each], new: Mapping[str, Each], lower: bool = False, seed: int = 0) -> Drop:
    """How far a score drops, by the columns that it is made of; ``lower``: how far one rises of which less is better.

    The interval is the percentile interval of the bootstrap over queries, the two models resampled together. Two
    queries are added, one that the new model loses wholly and one that it gains, as Bonett & Price add them for paired
    shares (J. Educ. Behav. Stat. 37, 2012): without them a few queries that all agree would give an interval of no
    width. The sign test is exact: of the queries whose values differ, how many are worse.

    Raises HoldfastError where queries or drawn images are not the same.
    """
    sign = 1.0 if lower else -1.0
    drops = {name: sign * _differences(name, old[name], each) for name, each in new.items()}
    ranges = {name: each.high - each.low for name, each in new.items()}
    low, high = resampled(drops, {name: (-wide, wide) for name, wide in ranges.items()}, seed)
    worse, better = signs(drops)
    return Drop(
        seen=sum(float(values.mean()) for values in drops.values()) + 0.0,
        low=low,
        high=high,
        p=sign_test(worse, better),
        worse=worse,
        better=better,
        queries=max(len(values) for values in drops.values()),
        scale=sum(ranges.values()),
    )


def _differences(name: str, old: Each, new: Each) -> Values:
    """New value minus old, query by query; those without a record are 0 in both."""
    if len(old.values) != len(new.values):
        raise HoldfastError(f"{name}: {counted(len(new.values), 'query')} here, {len(old.values)} in the baseline")
    if -1 not in (*old.ids, *new.ids) and old.ids != new.ids:
        raise HoldfastError(f"{name}: the queries are not those of the baseline")
    if moved := [one for one, ours, theirs in zip(new.ids, new.chosen, old.chosen, strict=False) if ours != theirs]:
        raise HoldfastError(f"{name}: query {moved[0]} was attacked toward another image than in the baseline")
    if old.ids == new.ids:
        found: Values = new.values - old.values
        return found
    before, after = ({i: v for i, v in zip(one.ids, one.values.tolist(), strict=True) if i >= 0} for one in (old, new))
    known = sorted({*before, *after})
    if len(known) > len(new.values):
        raise HoldfastError(f"{name}: the queries are not those of the baseline")
    found = np.zeros(len(new.values))
    found[: len(known)] = [after.get(i, 0.0) - before.get(i, 0.0) for i in known]
    return found


def resampled(
    values: Mapping[str, Values], ends: Mapping[str, tuple[float, float]], seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of the sum of the means of columns, two made-up images added, one at either end of a range.

    A bootstrap over images: columns of one length are resampled together. Images with the same values are drawn as
    one, with their number for a weight, which is the same distribution and takes a moment for shares.
    """
    generator, by_length = np.random.default_rng(seed), dict[int, list[Values]]()
    for name, column in values.items():
        by_length.setdefault(len(column), []).append(np.append(column, ends[name]))
    spread = np.zeros(RESAMPLES)
    for columns in by_length.values():
        kinds, counts = np.unique(np.stack(columns, axis=1), axis=0, return_counts=True)
        sums, images = kinds.sum(axis=1), counts.sum()
        spread += [generator.multinomial(images, counts / images) @ sums / images for _ in range(RESAMPLES)]
    found = interval(spread)
    return found["low"], found["high"]


def signs(drops: Mapping[str, Values]) -> tuple[int, int]:
    """On how many images a score is worse, and better; columns of one length are about the same images."""
    by_length: dict[int, Values] = {}
    for values in drops.values():
        by_length[len(values)] = by_length.get(len(values), np.zeros(len(values))) + values
    each = np.concatenate(list(by_length.values()))
    return int((each > 0).sum()), int((each < 0).sum())


def sign_test(worse: int, better: int) -> float:
    """The probability of ``worse`` or more among ``worse + better`` fair coins (exact, one-sided)."""
    from scipy.special import betainc  # noqa: PLC0415 (slow to import, and only needed here)

    return float(betainc(worse, better + 1, 0.5)) if worse else 1.0
