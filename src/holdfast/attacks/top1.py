"""Attacks on what a query finds first: LTM, GTM, GTT."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import ClassVar

from torch import Tensor

from holdfast.attacks.base import ImageGenerators, Plan, System, own_entries, recall_at_1, visible_distances
from holdfast.attacks.rank import places
from holdfast.core.gallery import Queries, nearest
from holdfast.core.objectives import Contrast, DistanceToTarget, Margin, RankHinge, nearest_match_beyond_nearest_other

TOP = 4


@dataclass(frozen=True)
class LTM:
    """Learning-to-mis-rank (Wang et al., CVPR 2020): unmatched items nearer, matched farther. Reading: R@1 in %."""

    contrast: Contrast = nearest_match_beyond_nearest_other
    floor: float = -inf
    side: ClassVar[str] = "query"
    start: ClassVar[float] = 0.0
    readings: ClassVar[tuple[str, ...]] = ("LTM",)

    def choose(self, perturbed: Queries, system: System, generators: ImageGenerators) -> Tensor:
        return perturbed.ids.new_empty((len(perturbed.ids), 0))

    def plan(self, perturbed: Queries, system: System, chosen: Tensor) -> Plan:
        matching = perturbed.labels[:, None] == system.items.labels
        objective = Margin(self.contrast, system.items, matching, system.items.own(perturbed.ids), self.floor)
        return Plan(objective, lambda z: {"LTM": recall_at_1(z, perturbed, system)})


Lure = Callable[[Tensor, Queries, System], Tensor]
"""From clean distances (B, N), infinite for the own entry, to the row of the item to move onto, (B,)."""


def nearest_of_another_class(distances: Tensor, perturbed: Queries, system: System) -> Tensor:
    """The nearest item whose label is not the query's."""
    same = perturbed.labels[:, None] == system.items.labels
    return nearest(distances.masked_fill(same, inf), 1)[:, 0]


def place_among_others(distances: Tensor, perturbed: Queries, system: System) -> Tensor:
    """What the authors' evaluator takes, of the items whose label is not that of the *first result*: the place of the
    nearest is counted within those items only, and then used as a row of the whole gallery."""
    labels = system.items.labels
    other = labels[nearest(distances, 1)] != labels
    row = nearest(distances.masked_fill(~other, inf), 1)
    return (other.cumsum(1) - 1).gather(1, row)[:, 0]


@dataclass(frozen=True)
class GTM:
    """Greedy top-1 misranking (Zhou et al., arXiv 2106.03614): move a query onto an item of another class.

    Reading: R@1 in %.
    """

    lure: Lure = nearest_of_another_class
    side: ClassVar[str] = "query"
    start: ClassVar[float] = 0.0
    readings: ClassVar[tuple[str, ...]] = ("GTM",)

    def choose(self, perturbed: Queries, system: System, generators: ImageGenerators) -> Tensor:
        distances = visible_distances(system.items, perturbed, own_entries)
        return self.lure(distances, perturbed, system)[:, None]

    def plan(self, perturbed: Queries, system: System, chosen: Tensor) -> Plan:
        target = system.gallery.at(chosen[:, 0])
        return Plan(DistanceToTarget(target), lambda z: {"GTM": recall_at_1(z, perturbed, system)})


@dataclass(frozen=True)
class GTT:
    """Greedy top-1 translocation (Zhou et al., arXiv 2106.03614): push the first result out of the top 4.

    Reading: 100 while it is still there, else 0.
    """

    side: ClassVar[str] = "query"
    start: ClassVar[float] = 0.0
    readings: ClassVar[tuple[str, ...]] = ("GTT",)

    def choose(self, perturbed: Queries, system: System, generators: ImageGenerators) -> Tensor:
        return nearest(visible_distances(system.items, perturbed, own_entries), 1)

    def plan(self, perturbed: Queries, system: System, chosen: Tensor) -> Plan:
        hidden = system.items.own(perturbed.ids)
        objective = RankHinge("-", chosen, system.items, hidden)

        def outcome(z: Tensor) -> dict[str, Tensor]:
            return {"GTT": 100 * (TOP - places(z, system, chosen, hidden)[:, 0]).clamp(0, 1)}

        return Plan(objective, outcome)
