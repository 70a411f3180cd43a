"""Attacks on robust R@1: whatever makes the first result wrong."""

from dataclasses import dataclass
from math import inf
from typing import ClassVar

import torch
from torch import Tensor

from holdfast.attacks.base import ImageGenerators, Plan, System, missed, own_entries, recall_at_1, visible_distances
from holdfast.core.gallery import Queries
from holdfast.core.objectives import ClassOdds, DistanceToTarget, Objective

LEAST = 0.003
"""The least temperature of the log odds, as a share of the median distance from the clean query to the gallery."""


@dataclass(frozen=True)
class Misrank:
    """Bring an image of another class before all of the query's own. Reading: R@1 in %. Beside it the outcome tells the
    margin that is left, in % of the median distance from the clean query to the gallery, and through an index whether
    it missed the nearest item (100, else 0).

    odds: the temperature of the log odds that a descent follows, in units of the margin; 0: it follows the margin.
    toward: move to the centroid of a wrong class first, and start from there: of the class nearest to the clean query
    (0), the second nearest (1), and so on. start: as of :class:`.RankingAttack`.
    """

    odds: float = 0.0
    toward: int | None = None
    start: float = 0.0
    side: ClassVar[str] = "query"
    readings: ClassVar[tuple[str, ...]] = ("R@1",)

    def choose(self, perturbed: Queries, system: System, generators: ImageGenerators) -> Tensor:
        return perturbed.ids.new_empty((len(perturbed.ids), 0))

    def plan(self, perturbed: Queries, system: System, chosen: Tensor) -> Plan:
        items = system.items
        matching = perturbed.labels[:, None] == items.labels
        distances = visible_distances(items, perturbed, own_entries)
        median = distances.median(1).values.clamp(min=torch.finfo(distances.dtype).tiny)
        hidden = items.own(perturbed.ids)
        objective = ClassOdds(items, matching, hidden, self.odds, LEAST * median)

        def outcome(z: Tensor) -> dict[str, Tensor]:
            away = items.distances(z).masked_fill_(hidden, inf)
            margin = away.masked_fill(matching, inf).amin(1) - away.masked_fill(~matching, inf).amin(1)
            found = {"R@1": recall_at_1(z, perturbed, system), "margin": 100 * margin / median}
            if system.first is not None:
                found["missed"] = missed(system.first(z, perturbed.ids), z, perturbed, items)
            return found

        return Plan(objective, outcome, self._approach(perturbed, system, distances.masked_fill(matching, inf)))

    def _approach(self, perturbed: Queries, system: System, distances: Tensor) -> Objective | None:
        """distances: clean, to the items of other classes, (B, N), else infinite."""
        if self.toward is None:
            return None
        labels = system.items.labels
        for _ in range(self.toward):
            left = distances.masked_fill(labels == labels[distances.argmin(1)][:, None], inf)
            distances = torch.where(left.isfinite().any(1, keepdim=True), left, distances)
        members = (labels == labels[distances.argmin(1)][:, None]).to(distances)
        embeddings = system.items.embeddings
        sums = members.to(embeddings.device) @ embeddings.to(members.dtype)
        return DistanceToTarget(sums.to(members.device) / members.sum(1, keepdim=True))


ODDS = Misrank(odds=0.3)
"""What a descent of few steps follows."""
