"""Robust R@1: a cascade of attacks, each on the queries that all before have left; see :data:`.CASCADE`.

A query is robust at ε if it finds its class first unattacked, and no stage finds a perturbation in the ball for which
an image of another class comes first. ε, the norm, and the seed are all there is to choose.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from math import inf
from typing import Any

import torch
from torch import Tensor

from holdfast.attacks.base import APPROACH
from holdfast.core.batching import spread
from holdfast.core.gradients import NES, WHITE_BOX
from holdfast.core.pgd import DECAYING, PGD, crossing
from holdfast.core.steps import BALLS
from holdfast.evaluation.checks.arrival import LONGER
from holdfast.evaluation.protocols import BLACK_BOX, CASCADE, Stage
from holdfast.evaluation.records import Records
from holdfast.evaluation.result import ROBUST
from holdfast.evaluation.robust.draws import AVERAGED, FRESH, DrawingRunner, attack_over_draws, unattacked
from holdfast.evaluation.runner import Target, generators_of, narrowed
from holdfast.evaluation.scores import share
from holdfast.evaluation.settings import AttackSettings, steps_within
from holdfast.evaluation.words import SCORE_WORDS
from holdfast.util.progress import Progress
from holdfast.util.text import counted

PREFIX = "worst."
"""What the records of a stage are called begins with it."""


def robust_recall(
    target: Target,
    resolved: AttackSettings,
    rows: Tensor,
    records: Records,
    progress: Progress,
    *,
    batch: int,
    surrogate: Target | None = None,
) -> tuple[dict[str, Any], Tensor]:
    """Attack the queries at ``rows`` (n,) stage by stage, and go on where ``records`` end.

    surrogate: what stages with gradients attack in place of the target, to see what of it transfers.

    Returns ``robust R@1`` of a result, and the rows of the queries that nothing broke. ``stages`` says of each its
    ``name``, how many queries it was ``tried`` on, how many it ``broke``, and the image ``passes`` and ``asked`` images
    (those of passes that fill up a block left out) that took.
    """
    queries = target.system.queries.take(rows)
    worst = unattacked(target, rows, resolved.seed)
    margins = torch.full_like(worst, inf)
    place = {identity: i for i, identity in enumerate(queries.ids.tolist())}
    stages: list[dict[str, Any]] = []
    for stage in stages_of(resolved):
        left = rows[(worst > 0) & (margins <= stage.within)]
        name = PREFIX + stage.name
        runner = DrawingRunner(name, stage.attack, descent(stage, resolved), left, resolved.seed, batch)
        progress.total += len(left)
        progress.advance(by=len(records.of(name)))
        with narrowed(target, len(left)) as few:
            for _ in runner.run(few, records, progress, followed(stage, surrogate)):
                pass
        attacked = records.of(name)
        for record in attacked:
            at, after = place[record["id"]], record["after"]
            worst[at] = min(float(worst[at]), after["R@1"])
            margins[at] = min(float(margins[at]), after.get("margin", inf))
        costs = [cost for cost in records.costs if cost["attack"] == name]
        stages.append(
            {
                "name": stage.name,
                "tried": len(left),
                "broke": sum(record["after"]["R@1"] == 0 for record in attacked),
                "passes": sum(cost["forward"] + cost["backward"] for cost in costs),
                "asked": sum(cost.get("asked", 0) for cost in costs),
            }
        )
    recall = share(worst.double().cpu().numpy())
    found: dict[str, Any] = {**recall, "unit": SCORE_WORDS[ROBUST].unit, "stages": stages}
    if target.model.random:
        found["draws"] = {"averaged": AVERAGED, "fresh": FRESH}
    return found, rows[worst > 0]


def stages_of(resolved: AttackSettings, stages: Iterable[Stage] | None = None) -> Iterator[Stage]:
    """The stages that a budget's gradients and queries allow, by default of the cascade, or of that of a black box."""
    for stage in (BLACK_BOX if resolved.black_box else CASCADE) if stages is None else stages:
        budget, free = resolved.query_budget, stage.gradient != WHITE_BOX
        steps = stage.steps if budget is None or not free else steps_within(stage.gradient, budget)
        if resolved.eps and steps and (free or not resolved.black_box):
            yield replace(stage, steps=steps)


def most_steps(resolved: AttackSettings) -> int:
    """How many steps a query meets that no stage breaks."""
    if not resolved.cascade:
        return 0
    return sum(
        stage.steps * (1 + stage.restarts) + APPROACH * (stage.attack.toward is not None)
        for stage in stages_of(resolved)
    )


def descent(stage: Stage, resolved: AttackSettings, times: int = 1) -> PGD:
    """The descent of a stage in a budget's ball; ``times`` as long."""
    ball = BALLS[resolved.norm](resolved.eps)
    first, steps = stage.first * resolved.eps, stage.steps * times
    pgd = PGD(ball, first, steps, gradient=stage.gradient, best=True, restarts=stage.restarts)
    if isinstance(stage.gradient, NES):
        return replace(pgd, step=crossing(resolved.eps, pgd.steps), schedule=DECAYING)
    return replace(pgd, schedule=stage.schedule) if stage.gradient == WHITE_BOX else pgd


SAMPLE, POINTS = 64, 0.5
"""On how many of the queries that are left a longer attack is tried, and how many points of robust R@1 it may take away
where the cascade has converged."""


def longer(
    target: Target, resolved: AttackSettings, left: Tensor, total: int, surrogate: Target | None = None
) -> tuple[bool | None, str]:
    """Whether four times the steps leave robust R@1 where it is, and what was seen.

    left: rows of the queries that withstood the cascade, of ``total`` attacked. A black box is not tried: what counts
    there is its query budget.
    """
    if resolved.black_box:
        return None, "a black box is attacked within a query budget: more queries may break more"
    rows = left[spread(len(left), SAMPLE)]
    standing = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    stages = [stage for stage in stages_of(resolved) if stage.lasting]
    for stage in stages:
        tried = rows[standing]
        if not len(tried):
            break
        pgd = descent(stage, resolved, LONGER)
        generators = generators_of("longer." + stage.name, resolved.seed, target.system.queries.ids[tried].tolist())
        with narrowed(target, len(tried)) as few:
            other = followed(stage, surrogate)
            attacked = attack_over_draws(stage.attack, few, tried, pgd, generators=generators, surrogate=other)
        standing[standing.clone()] = attacked.after["R@1"] > 0
    broken = int((~standing).sum())
    lost = 100 * broken / max(1, len(rows)) * len(left) / total
    seen = f"{LONGER} times the steps broke {broken} of {counted(len(rows), 'query')} that nothing had broken"
    return lost <= POINTS, f"{seen}: {lost:.1f} points of robust R@1"


def followed(stage: Stage, surrogate: Target | None) -> Target | None:
    """Whose gradients a stage follows in place of the target's; one that needs none asks the target itself."""
    return surrogate if stage.gradient == WHITE_BOX else None
