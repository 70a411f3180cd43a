"""Models that draw random numbers: attacked on average, and broken by majority.

What torch draws follows from the seed and the images of a batch, so that a call that is repeated, or goes on after a
kill, finds the same; with other images in a batch the draws are others. Other models are attacked as ever.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from holdfast.attacks import RankingAttack
from holdfast.attacks.base import Attacked, Outcome, System, recall_at_1
from holdfast.core.batching import WIDTH
from holdfast.core.gallery import Queries
from holdfast.core.pgd import PGD
from holdfast.evaluation.runner import Runner, Target, attack_batch
from holdfast.models.wrapped import WrappedModel

AVERAGED, FRESH = 20, 100
"""Over how many draws a gradient is averaged, and how many fresh ones decide whether a query is broken."""


@dataclass(frozen=True)
class DrawingRunner(Runner):
    """As :class:`Runner`, of an attack on R@1, for any model."""

    def carry_out(self, target: Target, rows: Tensor, surrogate: Target | None = None) -> Attacked:
        generators = self.generators(target, rows)
        return attack_over_draws(self.attack, target, rows, self.pgd, generators=generators, surrogate=surrogate)


def attack_over_draws(
    attack: RankingAttack,
    target: Target,
    rows: Tensor,
    pgd: PGD,
    *,
    generators: list[torch.Generator],
    surrogate: Target | None = None,
    **start: Any,
) -> Attacked:
    """As :func:`.attack_batch`; of a model that draws random numbers the gradient is averaged over :data:`AVERAGED`
    draws, and R@1 is 0 where most of :data:`FRESH` others are wrong."""
    if (surrogate or target).model.random:
        pgd = replace(pgd, draws=AVERAGED)
    attacked = attack_batch(attack, target, rows, pgd, generators=generators, surrogate=surrogate, **start)
    if not target.model.random:
        return attacked
    with target.model.seeded(generators[0].initial_seed() ^ 1):
        before, after = (
            majority(attacked.outcome, target.model, images) for images in (attacked.clean, attacked.images)
        )
    return replace(attacked, before=before, after=after)


def majority(outcome: Outcome, model: WrappedModel, images: Tensor) -> dict[str, Tensor]:
    """Readings of images (B, C, H, W), means of :data:`FRESH` draws; R@1 is 100, or 0 where most of them are wrong."""
    with torch.no_grad():
        draws = [outcome(model(images)) for _ in range(FRESH)]
    means = {name: torch.stack([draw[name] for draw in draws]).mean(0) for name in draws[0]}
    return means | {"R@1": 100.0 * (means["R@1"] >= 50)}


def unattacked(target: Target, rows: Tensor, seed: int) -> Tensor:
    """R@1 in percent of the queries at ``rows`` (n,) as they are."""
    system = target.system
    found = []
    for some in torch.split(rows, WIDTH):
        part = system.queries.take(some)
        if not target.model.random:
            found.append(recall_at_1(part.embeddings, part, system))
            continue
        images = target.pixels.read(part.ids.cpu())[0].to(part.embeddings.device)
        with target.model.seeded(seed):
            found.append(majority(partial(_reading, part, system), target.model, images)["R@1"])
    return torch.cat(found)


def _reading(queries: Queries, system: System, z: Tensor) -> dict[str, Tensor]:
    return {"R@1": recall_at_1(z, queries, system)}
