"""What attacks and checks take: a few steps of each on a batch, the first stages of the cascade on some queries."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from holdfast.attacks import RankingAttack
from holdfast.attacks.base import Attacked
from holdfast.core.batching import WIDTH, spread
from holdfast.core.gradients import Gradient
from holdfast.core.pgd import PGD
from holdfast.evaluation.checks import check
from holdfast.evaluation.checks.arrival import LONGER, SAMPLE
from holdfast.evaluation.checks.trust import CHECKED
from holdfast.evaluation.estimate.calls import Call, Cost, Pace, cost, mean, most_calls, stretched, watch
from holdfast.evaluation.estimate.parts import Part
from holdfast.evaluation.estimate.sketch import Sketch
from holdfast.evaluation.protocols import Stage
from holdfast.evaluation.robust.cascade import PREFIX, descent, followed, stages_of
from holdfast.evaluation.robust.cascade import SAMPLE as LASTING
from holdfast.evaluation.robust.draws import AVERAGED, DrawingRunner, unattacked
from holdfast.evaluation.robust.minimal import HALVINGS, trials_of
from holdfast.evaluation.runner import Runner, Target, narrowed
from holdfast.evaluation.settings import AttackSettings
from holdfast.util.progress import Progress

STEPS = 4
"""Of an attack that is timed."""
STAGES = 3
"""Stages of the cascade that are tried to their end; who withstands them is expected to withstand the others."""
CLOSE = 1.0
"""But who does so by so few % may still fall: 10 of 22 such queries did, of the zoo's HM at 8/255, of its HM on easy
positives at 32/255, and of its ACT at 77/255."""
ASKED = 32
"""On how many queries these are tried where each step asks a black box, which may cost money."""
CHANCES = (np.arange(9) + 0.5) / 9
"""Quantiles of how many may withstand that nothing is known of, as likely each."""
AGAIN = 8
"""Queries that the checks are tried on."""


class Tried(NamedTuple):
    """An attack by the descent ``tried``, shorter than the one ``asked`` for, on a batch. approach: it has one."""

    calls: list[Call]
    pace: Pace
    tried: PGD
    asked: PGD
    approach: bool

    def costs(self, images: int, batch: int, times: int = 1) -> tuple[Cost, Cost]:
        """What a descent ``times`` as long as asked costs: as expected, and at the most."""
        asked = replace(self.asked, steps=times * self.asked.steps)
        expected = stretched(self.calls, self.tried, asked, self.approach)
        most = most_calls(asked, self.approach)
        return cost(expected, images, batch, self.pace), cost(most, images, batch, self.pace)


class Stood(NamedTuple):
    """A stage of the cascade tried to its end: its calls, on how many queries, how many of them withstood it, and the
    least margins so far of these."""

    calls: list[Call]
    tried: int
    withstood: int
    margins: Tensor


@dataclass(frozen=True, eq=False)
class Rehearsal:
    """The attacks of a budget on the images of a sketch, and what they take on all, ``total`` queries among them.

    batch: images attacked at once. surrogate: what the attacks see in place of the target.
    """

    sketch: Sketch
    resolved: AttackSettings
    runners: Sequence[Runner]
    total: int
    batch: int
    surrogate: Target | None = None
    paces: dict[tuple[Gradient, int], Pace] = field(default_factory=dict)

    @property
    def target(self) -> Target:
        return self.sketch.target

    @cached_property
    def right(self) -> Tensor:
        """Which of the queries to try (t,) are right unattacked."""
        return unattacked(self.target, self.sketch.rows("query"), self.resolved.seed) > 0

    @property
    def rows(self) -> Tensor:
        """Of the queries to try, those that are right unattacked; all where none is."""
        return self.sketch.rows("query")[self.right | ~self.right.any()]

    @cached_property
    def tried(self) -> dict[str, Tried]:
        """The attacks, by name."""
        found: dict[str, Tried] = {}
        for runner in self.runners:
            rows = self.sketch.rows(runner.attack.side, self.batch)
            short = replace(runner.pgd, steps=min(STEPS, runner.pgd.steps))
            if not found:  # to warm up
                self._watched(replace(runner, pgd=replace(short, steps=1)), self.target, rows, self.surrogate)
            calls, pace, _ = self._watched(replace(runner, pgd=short), self.target, rows, self.surrogate)
            approach = self._approaches(runner.attack, rows)
            found[runner.name] = Tried(calls, pace, short, runner.pgd, approach)
        return found

    @cached_property
    def stood(self) -> list[Stood]:
        """The first stages of the cascade."""
        rows, most = self.rows, ASKED if self.resolved.black_box else len(self.rows)
        left, found = rows[spread(len(rows), most)], list[Stood]()
        margins = torch.full((len(left),), inf, device=left.device)
        for stage in [*stages_of(self.resolved)][:STAGES]:
            if tried := len(left):
                with narrowed(self.target, tried) as few:
                    calls, _, attacked = self._watched(self._runner(stage), few, left, followed(stage, self.surrogate))
                stands = attacked.after["R@1"] > 0
                left, margins = left[stands], margins.minimum(attacked.after["margin"])[stands]
                found.append(Stood(calls, tried, len(left), margins))
        return found

    @property
    def others(self) -> int:
        """How many queries are right unattacked and not tried."""
        return max(0, round(self.total * float(self.right.double().mean())) - self.stood[0].tried)

    @property
    def withstand(self) -> list[int]:
        """How many queries may withstand the cascade."""
        last = self.stood[-1]
        close = float((last.margins <= CLOSE).double().mean()) if last.withstood else 0.0
        left = zip(self._left(last.withstood), CHANCES, strict=True)
        return [round(images * (1 - close * (1 - chance))) for images, chance in left]

    def _near(self, stage: Stage) -> list[int]:
        """How many of these a stage may be tried on."""
        margins = self.stood[-1].margins
        near = float((margins <= stage.within).double().mean()) if len(margins) else 1.0
        return [round(near * images) for images in self.withstand]

    def attacks(self) -> Iterator[Part]:
        """Each of the attacks."""
        for runner in self.runners:
            tried = self.tried[runner.name]
            yield _part(runner.name, tried.costs(len(runner.images), self.batch), tried.pace)

    def cascade(self) -> Iterator[Part]:
        """Each stage of robust R@1."""
        for i, stage in enumerate(stages_of(self.resolved)):
            most, known = self._most(stage), self.stood[i] if i < len(self.stood) else None
            calls, counts = (known.calls, self._left(known.tried)) if known else (most, self._near(stage))
            expected = mean([cost(calls, images, self.batch, self._pace(stage, images)) for images in counts])
            whole = self._pace(stage, self.total)
            yield _part(stage.name, (expected, cost(most, self.total, self.batch, whole)), whole)

    def minimal(self) -> Part:
        """The search for the smallest ε of each query that the cascade breaks, none of whose trials ends early."""
        calls = [call for stage in trials_of(self.resolved) for call in self._most(stage)] * HALVINGS
        stage, right = next(stages_of(self.resolved)), self._left(self.stood[0].tried)[0]
        counts, whole = [right - images for images in self.withstand], self._pace(stage, self.total)
        expected = mean([cost(calls, broken, self.batch, self._pace(stage, broken)) for broken in counts])
        return _part("minimal ε", (expected, cost(calls, self.total, self.batch, whole)), whole)

    def checks(self) -> Part:
        """What is found out about the scores."""
        total, some = min(CHECKED, self.total), self.sketch.rows("query", AGAIN)
        with narrowed(self.target, len(some)) as few, Progress("", 0, quiet=True) as progress:
            calls, alone, _ = watch(
                few, len(some), lambda one, other: check(one, self.resolved, some, progress, other), self.surrogate
            )
        whole = [tried.pace for tried in self.tried.values()]
        whole += (
            [self._pace(stage, WIDTH) for stage in [*stages_of(self.resolved)][:1]] if self.resolved.cascade else []
        )
        pace = replace(max(whole or [alone], key=lambda one: len(one.block)), beside=alone.beside)
        costs = [
            (cost(calls, total, total, pace), cost([one._replace(share=1.0) for one in calls], total, total, pace))
        ]
        for tried in self.tried.values() if not self.resolved.black_box else ():
            if tried.asked.best:
                costs.append(tried.costs(min(SAMPLE, self.total), SAMPLE, LONGER))
        for stage in stages_of(self.resolved) if self.resolved.cascade and not self.resolved.black_box else ():
            if stage.lasting:
                longer = self._most(stage, LONGER)
                counts = [min(LASTING, images) for images in (*self.withstand, self.total)]
                *guessed, most = (cost(longer, one, LASTING, self._pace(stage, one)) for one in counts)
                costs.append((mean(guessed), most))
        expected, highest = (sum(column, Cost()) for column in zip(*costs, strict=True))
        return _part("checks", (expected, highest), pace)

    def _left(self, tried: int) -> list[int]:
        """How many of all queries may be left where ``tried`` of those that stages were tried on are; as likely each.

        What is known of the share is Jeffreys' beta distribution; of the first stage, all are left.
        """
        from scipy.special import betaincinv  # noqa: PLC0415 (slow to import, and only needed here)

        known = self.stood[0].tried
        first = tried == known
        shares = np.ones_like(CHANCES) if first else betaincinv(tried + 0.5, known - tried + 0.5, CHANCES)
        return [tried + round(self.others * float(one)) for one in shares]

    def _runner(self, stage: Stage, steps: int | None = None) -> Runner:
        pgd = descent(stage, self.resolved)
        pgd = pgd if steps is None else replace(pgd, steps=min(steps, pgd.steps), restarts=0)
        return DrawingRunner(PREFIX + stage.name, stage.attack, pgd, self.rows, self.resolved.seed, self.batch)

    def _most(self, stage: Stage, times: int = 1) -> list[Call]:
        draws = AVERAGED if self.target.model.random else 1
        approach = stage.attack.toward is not None
        return most_calls(replace(descent(stage, self.resolved, times), draws=draws), approach)

    def _pace(self, stage: Stage, images: int) -> Pace:
        """How fast a stage's calls are on so many queries; those of an approach take no longer."""
        rows = self.rows[: max(1, min(images, self.batch, len(self.rows)))]
        with narrowed(self.target, min(images, WIDTH)) as few:
            key = stage.gradient, few.model.width
            if key not in self.paces:
                runner, other = self._runner(stage, STEPS), followed(stage, self.surrogate)
                self.paces[key] = self._watched(runner, few, rows, other)[1]
        return self.paces[key]

    def _watched(
        self, runner: Runner, target: Target, rows: Tensor, surrogate: Target | None
    ) -> tuple[list[Call], Pace, Attacked]:
        return watch(target, len(rows), lambda one, other: runner.carry_out(one, rows, other), surrogate)

    def _approaches(self, attack: RankingAttack, rows: Tensor) -> bool:
        one = self.target.system.perturbed(attack).take(rows[:1])
        generators = [torch.Generator().manual_seed(0)]
        chosen = attack.choose(one, self.target.system, generators)
        return attack.plan(one, self.target.system, chosen).approach is not None


def _part(name: str, costs: tuple[Cost, Cost], pace: Pace) -> Part:
    expected, most = costs
    return Part(name, expected.passes, expected.seconds, max(expected.seconds, most.seconds), pace.memory)
