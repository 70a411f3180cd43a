"""The smoothed search under attack: what is left of its R@1 bounds the truth from above.

The attack descends on the mean log odds of noisy copies, as Salman et al. (NeurIPS 2019) do.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from holdfast.attacks.misrank import ODDS
from holdfast.core.gallery import Queries
from holdfast.core.objectives import Objective
from holdfast.core.pgd import PGD, Adaptive
from holdfast.core.steps import L2
from holdfast.evaluation.records import Record, Records
from holdfast.evaluation.robust.smoothing import SmoothedSearch, least_probability, noise_like, record_of
from holdfast.evaluation.runner import generators_of
from holdfast.util.progress import Progress

NAME = "smoothed-"
"""What the records of a radius are called begins with it."""
STEPS = 20
"""Few, for each of them embeds :data:`SEEN` copies."""
SEEN, READ = 16, 128
"""Noisy copies that the attack descends on, and fresh ones that decide whether it broke the query."""


def attacked(
    search: SmoothedSearch,
    queries: Queries,
    standing: Tensor,
    radii: Sequence[float],
    alpha: float,
    *,
    records: Records,
    quiet: bool = False,
) -> dict[float, Tensor]:
    """Which of the queries ``standing`` (n,) are left by an attack within each L2 radius, rising: (n,) bool.

    A query is broken where so few of its fresh copies find its class that most of all copies do not, but for a
    probability of ``alpha``. It is then not attacked again.
    """
    standing, left = standing.clone(), {}
    with Progress("attacking the smoothed search", len(radii) * int(standing.sum()), quiet=quiet) as progress:
        for radius in radii:
            rows = standing.nonzero()[:, 0]
            part = queries.take(rows.to(queries.ids.device))
            found = search.record(f"{NAME}{radius:g}", part, _Descent(search, radius, alpha), records, progress)
            standing[rows] = torch.tensor([one["after"]["R@1"] > 0 for one in found], dtype=torch.bool)
            left[radius] = standing.clone()
    return left


@dataclass(frozen=True, eq=False)
class _Descent:
    """The attack within one radius."""

    search: SmoothedSearch
    radius: float
    alpha: float

    def __call__(self, queries: Queries, images: Tensor, generators: list[Generator]) -> Iterable[Record]:
        model, system = self.search.target.model, self.search.target.system
        (generator,) = generators_of(NAME, self.search.seed, [0])
        noise = noise_like(images[0], self.search.sigma, SEEN, generator)
        copies = queries.take(torch.arange(len(images), device=images.device).repeat_interleave(SEEN))
        plan = ODDS.plan(copies, system, copies.ids.new_empty((len(copies.ids), 0)))
        pgd = PGD(L2(self.radius), 2 * self.radius, STEPS, schedule=Adaptive(), best=True)

        def embed(images: Tensor) -> Tensor:
            return model((images[:, None] + noise).flatten(0, 1)).view(len(images), -1)

        with model.seeded(generators[0].initial_seed()):
            adversarial = pgd(embed, images[:, None], OverCopies(plan.objective)).squeeze(1)
        moved = pgd.ball.norm(adversarial - images)
        for i, generator in enumerate(generators):
            query = queries.take(queries.ids.new_tensor([i]))
            hits = self.search.hits(query, adversarial[i], READ, generator)
            broken = least_probability(READ - hits, READ, self.alpha) >= 0.5
            after = {"hits": 100 * hits / READ, "R@1": 0.0 if broken else 100.0}
            yield record_of(query, {"R@1": 100.0}, after, float(moved[i]))


@dataclass(frozen=True, eq=False)
class OverCopies:
    """The mean of an objective over the :data:`SEEN` noisy copies of each query, whose embeddings stand side by side.

    objective: of the copies, those of one query after each other. A query is finished once all its copies are.
    """

    objective: Objective
    floor: float = -4.0  # below every margin of unit vectors

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        copies = (SEEN * rows[:, None] + torch.arange(SEEN, device=rows.device)).flatten()
        values = self.objective(z.reshape(len(copies), 1, -1), copies).clamp(min=self.floor)
        return values.view(-1, SEEN).mean(1)
