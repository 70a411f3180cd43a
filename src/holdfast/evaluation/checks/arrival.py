"""Whether scores have arrived: what four times the steps would change."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from holdfast.evaluation.protocols import COLUMNS
from holdfast.evaluation.records import Record
from holdfast.evaluation.runner import Runner, Target, attack_batch, reading
from holdfast.util.progress import Progress

LONGER = 4
"""How many times the steps a longer attack takes."""

SAMPLE = 32
"""Images of each attack that are tried."""


def further(
    target: Target,
    runners: Sequence[Runner],
    found: Mapping[str, Sequence[Record]],
    surrogate: Target | None = None,
    quiet: bool = False,
) -> dict[str, float]:
    """How many points of 100 a longer attack takes away from each score, by its name, on some of the attacked images.

    found: the records of each runner. Nothing is said of attacks whose last iterate counts, not their best; negative
    where the longer attack happens to do less.
    """
    tried, taken = [runner for runner in runners if runner.pgd.best], {}
    with Progress("checking the scores", len(tried), quiet=quiet) as progress:
        for runner in tried:
            chosen = np.linspace(0, len(runner.images) - 1, min(SAMPLE, len(runner.images))).astype(int)
            rows, known = runner.images[chosen], [found[runner.name][i] for i in chosen]
            pgd, generators = replace(runner.pgd, steps=LONGER * runner.pgd.steps), runner.generators(target, rows)
            after = attack_batch(runner.attack, target, rows, pgd, generators=generators, surrogate=surrogate).after
            for column in (column for column in COLUMNS if column.name in after):
                before = [column.to_score(one["after"][column.name]) for one in known]
                now = [column.to_score(reading(after, i)[column.name]) for i in range(len(rows))]
                taken[column.name] = float(np.mean(before) - np.mean(now))
            progress.advance(runner.name)
    return taken
