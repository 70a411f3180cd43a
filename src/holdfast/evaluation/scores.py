"""From records to scores: means, bootstrap intervals, the ERS, and the least of the three R@1."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast.evaluation.protocols import COLUMNS, TOP1, ers
from holdfast.evaluation.records import Record
from holdfast.evaluation.words import SCORE_WORDS

RESAMPLES = 1000
LEVEL = 95.0
LEAST = "least R@1"

Values = npt.NDArray[np.float64]


def interval(values: Values) -> dict[str, float]:
    """The percentile interval of bootstrapped values, at :data:`LEVEL` percent."""
    low, high = np.percentile(values, [50 - LEVEL / 2, 50 + LEVEL / 2])
    return {"low": float(low), "high": float(high)}


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
        matrix = np.stack([columns[name] for name in names], axis=1)
        generator, even, share = np.random.default_rng(seed), np.full(count, 1 / count), weights(count, batch)
        means = []
        for _ in range(RESAMPLES):
            shares = generator.multinomial(count, even) * share
            means.append(shares @ matrix / shares.sum())
        spread |= dict(zip(names, np.stack(means, axis=1), strict=True))
    return spread


def summarise(found: Mapping[str, Sequence[Record]], batch: int | None, seed: int) -> dict[str, Any]:
    """``columns``, ``ERS`` and ``least R@1`` as in a result file, of the records of each attack.

    Intervals are bootstrapped over the attacked images; images with the same place in two attacks are drawn together.
    """
    columns = {name: readings(records, name) for records in found.values() for name in records[0]["after"]}
    if all(name in columns for name in TOP1):
        columns[LEAST] = withstood(found)
    spread = bootstrap(columns, batch, seed)
    ten = [column.name for column in COLUMNS]
    summary = {
        name: {"value": float(weights(len(values), batch) @ values), **interval(spread[name])}
        for name, values in columns.items()
    }
    least = {**summary.pop(LEAST), "unit": SCORE_WORDS[LEAST].unit} if LEAST in summary else None
    score = None
    if all(name in summary for name in ten):
        samples = [ers({name: spread[name][i] for name in ten}) for i in range(RESAMPLES)]
        value = ers({name: summary[name]["value"] for name in ten})
        score = {"value": value, **interval(np.array(samples)), "unit": SCORE_WORDS["ERS"].unit}
    described = {
        name: {**one, "unit": SCORE_WORDS[name].unit if name in ten else "", "queries": len(columns[name])}
        for name, one in summary.items()
    }
    return {"columns": described, "ERS": score, LEAST: least}


def withstood(found: Mapping[str, Sequence[Record]]) -> Values:
    """R@1 of each query under the worst of no attack and the attacks on R@1, in %."""
    attacks = {column.attack: column.name for column in COLUMNS if column.name in TOP1}
    after = [readings(found[attack], name) for attack, name in attacks.items()]
    before = [record["before"]["ES:R"] for record in found["es"]]
    worst: Values = np.minimum.reduce([*after, np.array(before)])
    return worst
