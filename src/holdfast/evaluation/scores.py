"""From records to scores: means and their intervals, the ERS, and the least of the three R@1."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast.evaluation.protocols import COLUMNS, TOP1, ers
from holdfast.evaluation.records import Record
from holdfast.evaluation.result import LEAST
from holdfast.evaluation.words import SCORE_WORDS

RESAMPLES = 1000
LEVEL = 95.0
SHARES = frozenset((*TOP1, "GTT", LEAST))
"""The scores that are a share of queries: each reading is 0 or 100."""

UNKNOWN: Mapping[str, float | None] = {"low": None, "high": None}
"""The bounds of a mean of one value."""

Values = npt.NDArray[np.float64]


def interval(spread: Values) -> dict[str, float]:
    """The percentile interval of bootstrapped means, at :data:`LEVEL` percent."""
    low, high = np.percentile(spread, [50 - LEVEL / 2, 50 + LEVEL / 2])
    return {"low": float(low), "high": float(high)}


def share_interval(value: float, count: float) -> dict[str, float]:
    """The interval of a share of ``count`` queries, in percent, by Clopper and Pearson, at :data:`LEVEL` percent.

    It has a width at 0 and at 100 % too: 0 of 64 is 0 to 5.6 %. ``count`` may be broken, as that of weighted queries.
    """
    from scipy.special import betaincinv  # noqa: PLC0415 (slow to import, and only needed here)

    kept, tail = value / 100 * count, (1 - LEVEL / 100) / 2
    low = betaincinv(kept, count - kept + 1, tail) if value > 0 else 0.0
    high = betaincinv(kept + 1, count - kept, 1 - tail) if value < 100 else 1.0
    return {"low": 100 * float(low), "high": 100 * float(high)}


def share(recall: Values) -> dict[str, float]:
    """The mean R@1 of queries (n,), in percent, with its interval, and how many are ``kept``, 0 being wrong."""
    value = float(recall.mean())
    return {
        "value": value,
        **share_interval(value, len(recall)),
        "kept": int((recall > 0).sum()),
        "queries": len(recall),
    }


def readings(records: Sequence[Record], name: str) -> Values:
    """One reading after the attack, of each image."""
    return np.array([record["after"][name] for record in records])


def weights(count: int, batch: int | None) -> Values:
    """What each of ``count`` values adds to the mean, or to the mean of the means of consecutive batches."""
    starts = np.arange(0, count, batch or count)
    sizes = np.diff(starts, append=count)
    return np.repeat(1 / (len(sizes) * sizes), sizes)


def bootstrap(columns: Mapping[str, Values], batch: int | None, seed: int) -> dict[str, Values]:
    """Means of resampled images, :data:`RESAMPLES` for each column; columns of one length are resampled together."""
    spread: dict[str, Values] = {}
    for count in {len(values) for values in columns.values()}:
        names = [name for name, values in columns.items() if len(values) == count]
        generator, even, share = np.random.default_rng(seed), np.full(count, 1 / count), weights(count, batch)
        means = []
        for _ in range(RESAMPLES):
            shares = generator.multinomial(count, even) * share
            means.append([shares @ columns[name] / shares.sum() for name in names])
        spread |= dict(zip(names, np.array(means).T, strict=True))
    return spread


def summarise(found: Mapping[str, Sequence[Record]], batch: int | None, seed: int) -> dict[str, Any]:
    """``columns``, ``ERS`` and ``least R@1`` as in a result file, of the records of each attack.

    The intervals of shares are exact, and shares have how many queries are ``kept``. The others are bootstrapped over
    the attacked images, where there are two or more; images with the same place in two attacks are drawn together.
    """
    columns = {name: readings(records, name) for records in found.values() for name in records[0]["after"]}
    if all(name in columns for name in TOP1):
        columns[LEAST] = withstood(found)
    spread = bootstrap(columns, batch, seed)
    ten = [column.name for column in COLUMNS]
    summary = {name: _summary(name, values, batch, spread[name]) for name, values in columns.items()}
    least = {**summary.pop(LEAST), "unit": SCORE_WORDS[LEAST].unit} if LEAST in summary else None
    score = None
    if all(name in summary for name in ten):
        samples = [ers({name: spread[name][i] for name in ten}) for i in range(RESAMPLES)]
        value = ers({name: summary[name]["value"] for name in ten})
        bounds = interval(np.array(samples)) if min(map(len, columns.values())) > 1 else UNKNOWN
        score = {"value": value, **bounds, "unit": SCORE_WORDS["ERS"].unit}
    described = {name: {**one, "unit": SCORE_WORDS[name].unit if name in ten else ""} for name, one in summary.items()}
    return {"columns": described, "ERS": score, LEAST: least}


def _summary(name: str, values: Values, batch: int | None, spread: Values) -> dict[str, Any]:
    """The value of a column with its interval, and how many images it is of."""
    share = weights(len(values), batch)
    value = float(share @ values)
    if name not in SHARES:
        bounds = interval(spread) if len(values) > 1 else UNKNOWN
        return {"value": value, **bounds, "queries": len(values)}
    value = min(max(value, 0.0), 100.0)  # the weights add up to 1 but for rounding
    exact = share_interval(value, 1 / float(share @ share))
    return {"value": value, **exact, "queries": len(values), "kept": round(float(values.sum()) / 100)}


def withstood(found: Mapping[str, Sequence[Record]]) -> Values:
    """R@1 of each query under the worst of no attack and the attacks on R@1, in %."""
    attacks = {column.attack: column.name for column in COLUMNS if column.name in TOP1}
    after = [readings(found[attack], name) for attack, name in attacks.items()]
    before = [record["before"]["ES:R"] for record in found["es"]]
    worst: Values = np.minimum.reduce([*after, np.array(before)])
    return worst
