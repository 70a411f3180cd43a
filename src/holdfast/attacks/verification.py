"""Attacks on verification, where a probe is accepted as a template's class if it is near enough.

The probe is perturbed, the template stays as it is (RobFR, Yang et al., arXiv 2007.04118).
"""

from dataclasses import dataclass
from math import inf
from typing import ClassVar

from torch import Tensor

from holdfast.attacks.base import ImageGenerators, Plan, System, own_entries, sample_anywhere, visible_distances
from holdfast.core.distance import pairs
from holdfast.core.gallery import Queries, nearest
from holdfast.core.objectives import DistanceToTarget, ShiftEmbedding


@dataclass(frozen=True)
class Dodging:
    """Move a probe away from a random template of its own class. Reading: the distance of the two, in [0, 2].

    enough: the distance at which a descent ends; by default it goes on to the last step.
    """

    enough: float = inf
    name: ClassVar[str] = "dodging"
    side: ClassVar[str] = "query"
    start: ClassVar[float] = 0.1
    readings: ClassVar[tuple[str, ...]] = ("dodging distance",)

    def choose(self, perturbed: Queries, system: System, generators: ImageGenerators) -> Tensor:
        distances = visible_distances(system.items, perturbed, own_entries)
        others = perturbed.labels[:, None] != system.items.labels
        return sample_anywhere(distances.masked_fill(others, inf), 1, generators)

    def plan(self, perturbed: Queries, system: System, chosen: Tensor) -> Plan:
        template = system.gallery.at(chosen[:, 0])
        return Plan(ShiftEmbedding(template[:, None], -self.enough), lambda z: {self.readings[0]: pairs(z, template)})


@dataclass(frozen=True)
class Impersonation:
    """Move a probe onto a random template of another class. Reading: the distance of the two, in [0, 2].

    enough: the distance at which a descent ends; by default it goes on to the last step.
    """

    enough: float = 0.0
    name: ClassVar[str] = "impersonation-random"
    side: ClassVar[str] = "query"
    start: ClassVar[float] = 0.0
    readings: ClassVar[tuple[str, ...]] = ("random impostor distance",)

    def choose(self, perturbed: Queries, system: System, generators: ImageGenerators) -> Tensor:
        return sample_anywhere(self.impostors(perturbed, system), 1, generators)

    @staticmethod
    def impostors(perturbed: Queries, system: System) -> Tensor:
        """Clean distances to the templates of other classes, else infinite, ``(B, N)``."""
        distances = visible_distances(system.items, perturbed, own_entries)
        return distances.masked_fill(perturbed.labels[:, None] == system.items.labels, inf)

    def plan(self, perturbed: Queries, system: System, chosen: Tensor) -> Plan:
        template = system.gallery.at(chosen[:, 0])
        return Plan(DistanceToTarget(template, self.enough), lambda z: {self.readings[0]: pairs(z, template)})


@dataclass(frozen=True)
class NearestImpersonation(Impersonation):
    """:class:`Impersonation` of the template that is nearest to the clean probe."""

    name: ClassVar[str] = "impersonation-nearest"
    readings: ClassVar[tuple[str, ...]] = ("nearest impostor distance",)

    def choose(self, perturbed: Queries, system: System, generators: ImageGenerators) -> Tensor:
        return nearest(self.impostors(perturbed, system), 1)
