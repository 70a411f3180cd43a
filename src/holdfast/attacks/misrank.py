"""Attacks on robust R@1: whatever makes the first result wrong."""

from dataclasses import dataclass
from math import inf
from typing import ClassVar

import torch
from torch import Tensor

from holdfast.attacks.base import ImageGenerators, Plan, System, own_entries, recall_at_1, visible_distances
from holdfast.core.gallery import Queries
from holdfast.core.objectives import ShiftEmbedding, SoftMargin

TEMPERATURE = 0.1
"""Of the soft minima, as a share of the median distance from the clean query to the gallery."""


@dataclass(frozen=True)
class Misrank:
    """Bring an image of another class before all of the query's own. Reading: R@1 in %.

    count: over how many of the nearest items the margin is softened; 1: not at all. rival: only the class that is
    nearest to the clean query among the wrong ones (0), the second nearest (1), and so on; None: any. away: move the
    embedding away from where it was first, and start from there. start: as of :class:`.RankingAttack`.
    """

    count: int = 1
    rival: int | None = None
    away: bool = False
    start: float = 0.0
    side: ClassVar[str] = "query"
    readings: ClassVar[tuple[str, ...]] = ("R@1",)

    def choose(self, perturbed: Queries, system: System, generators: ImageGenerators) -> Tensor:
        return perturbed.ids.new_empty((len(perturbed.ids), 0))

    def plan(self, perturbed: Queries, system: System, chosen: Tensor) -> Plan:
        items = system.items
        matching = perturbed.labels[:, None] == items.labels
        distances = visible_distances(items, perturbed, own_entries)
        rivals = ~matching if self.rival is None else self._rivals(distances.masked_fill(matching, inf), items.labels)
        temperature = TEMPERATURE * distances.median(1).values.clamp(min=torch.finfo(distances.dtype).tiny)
        objective = SoftMargin(items, matching, items.own(perturbed.ids), rivals, temperature, self.count)
        approach = ShiftEmbedding(perturbed.embeddings[:, None]) if self.away else None
        return Plan(objective, lambda z: {"R@1": recall_at_1(z, perturbed, system)}, approach)

    def _rivals(self, distances: Tensor, labels: Tensor) -> Tensor:
        """Which items (B, N) are of the class that comes after ``rival`` others, or of the last one there is."""
        for _ in range(self.rival or 0):
            left = distances.masked_fill(labels == labels[distances.argmin(1)][:, None], inf)
            distances = torch.where(left.isfinite().any(1, keepdim=True), left, distances)
        return labels == labels[distances.argmin(1)][:, None]
