"""Attacks on the embedding itself: away from where it was (ES), or onto a target (TMA)."""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import cosine_similarity

from holdfast.attacks.base import (
    Excluded,
    ImageGenerators,
    Plan,
    System,
    own_entries,
    recall_at_1,
    sample_anywhere,
    visible_distances,
)
from holdfast.core.distance import pairs
from holdfast.core.gallery import Queries
from holdfast.core.objectives import CosineToTarget, ShiftEmbedding


@dataclass(frozen=True, eq=False)
class ShiftSeen(ShiftEmbedding):
    """:class:`ShiftEmbedding` that remembers the embeddings ``(B, D)`` it was last asked about."""

    seen: Tensor = field(kw_only=True)

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        self.seen[rows] = z[:, 0].detach()
        return super().__call__(z, rows)


@dataclass(frozen=True)
class ES:
    """Embedding shift (Zhou et al., ECCV 2020): move a query's embedding as far as possible.

    Readings: the distance moved, in [0, 2], and R@1 in %.
    """

    side: ClassVar[str] = "query"
    start: ClassVar[float] = 0.1
    readings: ClassVar[tuple[str, ...]] = ("ES:D", "ES:R")

    def choose(self, perturbed: Queries, system: System, generators: ImageGenerators) -> Tensor:
        return perturbed.ids.new_empty((len(perturbed.ids), 0))

    def plan(self, perturbed: Queries, system: System, chosen: Tensor) -> Plan:
        origin = perturbed.embeddings

        def outcome(z: Tensor) -> dict[str, Tensor]:
            return {"ES:D": pairs(z, origin), "ES:R": recall_at_1(z, perturbed, system)}

        return Plan(ShiftEmbedding(origin[:, None]), outcome)


HEADSTART = 9e-7
"""How far the authors' evaluator sees an embedding ahead of its origin, in each coordinate: 1e-6, which the distance
of torch adds to a difference, less the 1e-7 that the evaluator adds to the origin."""


@dataclass(frozen=True)
class ESBeforeLastStep(ES):
    """ES as the authors' evaluator has it: the distance is that before the last PGD step, and the start is not random.

    Every descent sets out in the one direction that raises all coordinates of the embedding; see :data:`HEADSTART`.
    """

    start: ClassVar[float] = 0.0

    def plan(self, perturbed: Queries, system: System, chosen: Tensor) -> Plan:
        origin = perturbed.embeddings
        objective = ShiftSeen((origin - HEADSTART)[:, None], seen=origin.clone())

        def outcome(z: Tensor) -> dict[str, Tensor]:
            return {"ES:D": pairs(objective.seen, origin), "ES:R": recall_at_1(z, perturbed, system)}

        return Plan(objective, outcome)


@dataclass(frozen=True)
class TMA:
    """Targeted mismatch (Tolias et al., ICCV 2019): give a query the embedding of a random item.

    Reading: the cosine of the two, in [-1, 1].
    """

    excluded: Excluded = own_entries
    side: ClassVar[str] = "query"
    start: ClassVar[float] = 0.0
    readings: ClassVar[tuple[str, ...]] = ("TMA",)

    def choose(self, perturbed: Queries, system: System, generators: ImageGenerators) -> Tensor:
        return sample_anywhere(visible_distances(system.items, perturbed, self.excluded), 1, generators)

    def plan(self, perturbed: Queries, system: System, chosen: Tensor) -> Plan:
        target = system.gallery.at(chosen[:, 0])

        def outcome(z: Tensor) -> dict[str, Tensor]:
            return {"TMA": cosine_similarity(z, target, dim=1)}

        return Plan(CosineToTarget(target), outcome)
