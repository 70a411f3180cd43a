"""Attacks on ranks: raise or lower candidates for a query (Zhou et al., ECCV 2020), and set their order (ICCV 2021)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from holdfast.attacks.base import (
    Excluded,
    ImageGenerators,
    Plan,
    Pool,
    System,
    nearest_percent,
    own_entries,
    sample_anywhere,
    sample_pool,
    visible_distances,
)
from holdfast.core.gallery import Queries, count_closer, nearest
from holdfast.core.objectives import CandidateHinge, OrderHinge, RankHinge, Sign, WeightedSum
from holdfast.util.errors import HoldfastError

KEPT = 5
"""Items whose ranks a semantics-preserving attack keeps (Zhou et al., ECCV 2020)."""


@dataclass(frozen=True)
class CA:
    """Candidate attack: perturb an image of the gallery so that it ranks high (+) or low (-) for some queries.

    CA+ takes queries at random, CA- some of the ``pool`` nearest to the candidate. The reading is the mean rank in %
    of the gallery.
    """

    sign: Sign
    width: int = 1
    excluded: Excluded = own_entries
    pool: Pool = nearest_percent
    side: ClassVar[str] = "candidate"
    start: ClassVar[float] = 0.0

    @property
    def readings(self) -> tuple[str, ...]:
        return (_numbered(f"CA{self.sign}", self.width),)

    def choose(self, perturbed: Queries, system: System, generators: ImageGenerators) -> Tensor:
        distances = visible_distances(system.query_items, perturbed, self.excluded)
        return _targets(self, distances, self.width, generators)

    def plan(self, perturbed: Queries, system: System, chosen: Tensor) -> Plan:
        asking = system.queries
        queries = asking.at(chosen)
        distances = torch.stack([system.items.distances(column) for column in queries.unbind(1)], dim=1)
        own = self.excluded(system.items, perturbed.ids)[:, None]
        theirs = torch.stack([self.excluded(system.items, asking.ids[column]) for column in chosen.unbind(1)], dim=1)
        objective = CandidateHinge.of(self.sign, queries, distances.masked_fill_(own | theirs, torch.inf))

        def outcome(z: Tensor) -> dict[str, Tensor]:
            there = system.stored(z)
            reached = [system.items.moved(perturbed.ids, there, column) for column in queries.unbind(1)]
            return {self.readings[0]: _percent(objective.ranks(torch.stack(reached, dim=1)), len(system.items))}

        return Plan(objective, outcome)


@dataclass(frozen=True)
class QA:
    """Query attack: perturb a query so that ``targets`` candidates rank high (+) or low (-) for it.

    QA+ takes candidates at random, QA- some of the ``pool`` nearest to the query. The reading is their mean rank in %
    of the gallery.
    """

    sign: Sign
    targets: int = 1
    excluded: Excluded = own_entries
    pool: Pool = nearest_percent
    side: ClassVar[str] = "query"
    start: ClassVar[float] = 0.0

    @property
    def readings(self) -> tuple[str, ...]:
        return (_numbered(f"QA{self.sign}", self.targets),)

    def choose(self, perturbed: Queries, system: System, generators: ImageGenerators) -> Tensor:
        distances = visible_distances(system.items, perturbed, self.excluded)
        return _targets(self, distances, self.targets, generators)

    def plan(self, perturbed: Queries, system: System, chosen: Tensor) -> Plan:
        hidden = self.excluded(system.items, perturbed.ids)
        objective = RankHinge(self.sign, chosen, system.items, hidden)

        def outcome(z: Tensor) -> dict[str, Tensor]:
            return {self.readings[0]: _percent(places(z, system, chosen, hidden), len(system.items))}

        return Plan(objective, outcome)


@dataclass(frozen=True)
class SPQA:
    """Semantics-preserving query attack: QA, while :data:`KEPT` items from the top of the ranking stay there.

    To the objective of QA comes ``balance`` times that of QA+ for what is to be kept; second reading: its mean rank.
    """

    sign: Sign
    targets: int = 1
    balance: float = 1.0
    side: ClassVar[str] = "query"
    start: ClassVar[float] = 0.0

    @property
    def readings(self) -> tuple[str, ...]:
        name = _numbered(f"SPQA{self.sign}", self.targets)
        return (name, f"{name} kept")

    def choose(self, perturbed: Queries, system: System, generators: ImageGenerators) -> Tensor:
        """The targets, then the items to keep: the nearest that are no target."""
        chosen = QA(self.sign, self.targets).choose(perturbed, system, generators)
        distances = visible_distances(system.items, perturbed, own_entries)
        kept = nearest(distances.scatter(1, chosen, torch.inf), KEPT)
        return torch.cat([chosen, kept], dim=1)

    def plan(self, perturbed: Queries, system: System, chosen: Tensor) -> Plan:
        attack = QA(self.sign).plan(perturbed, system, chosen[:, :-KEPT])
        keep = QA("+").plan(perturbed, system, chosen[:, -KEPT:])

        def outcome(z: Tensor) -> dict[str, Tensor]:
            values = (*attack.outcome(z).values(), *keep.outcome(z).values())
            return dict(zip(self.readings, values, strict=True))

        return Plan(WeightedSum(attack.objective, keep.objective, self.balance), outcome)


@dataclass(frozen=True)
class Order:
    """Order attack: bring the ``count`` nearest items into a given order, drawn at random (Zhou et al., ICCV 2021).

    The objective adds ``max(0, d(q, c_i) - d(q, c_j))`` over the pairs that should stand as i before j, and ``balance``
    times that of QA+ for all of them, so that they stay on top. First reading: the short-range ranking correlation, the
    mean over the pairs of +1 (in order) and -1 (not, or one of them is no longer among the ``visible`` nearest items).
    """

    count: int = 5
    visible: int = 50
    balance: float = 1.0
    side: ClassVar[str] = "query"
    start: ClassVar[float] = 0.0

    @property
    def readings(self) -> tuple[str, ...]:
        name = "OA" if self.count == type(self).count else f"OA:{self.count}"
        return (name, f"{name} kept")

    def __post_init__(self) -> None:
        if self.count < 2:
            raise HoldfastError(f"an order takes at least 2 items, not {self.count}")

    def choose(self, perturbed: Queries, system: System, generators: ImageGenerators) -> Tensor:
        distances = visible_distances(system.items, perturbed, own_entries)
        return sample_pool(nearest(distances, self.count), self.count, generators)

    def plan(self, perturbed: Queries, system: System, chosen: Tensor) -> Plan:
        wanted = system.gallery.at(chosen)
        hidden = own_entries(system.items, perturbed.ids)
        keep = QA("+").plan(perturbed, system, chosen)
        first, second = torch.triu_indices(self.count, self.count, offset=1, device=chosen.device)

        def outcome(z: Tensor) -> dict[str, Tensor]:
            reached = system.items.distances(z).gather(1, chosen)
            seen = (places(z, system, chosen, hidden) < self.visible).float()
            agreement = (reached[:, second] - reached[:, first]).sign()
            correlation = torch.where(seen[:, first] * seen[:, second] > 0, agreement, -1.0).mean(1)
            kept = next(iter(keep.outcome(z).values()))
            return dict(zip(self.readings, (correlation, kept), strict=True))

        return Plan(WeightedSum(OrderHinge(wanted), keep.objective, self.balance), outcome)


def places(z: Tensor, system: System, chosen: Tensor, hidden: Tensor) -> Tensor:
    """How many items stand before each chosen one (B, M) for embeddings ``z`` (B, D); ties count one half."""
    distances = system.items.distances(z).masked_fill(hidden, torch.inf)
    return count_closer(distances, distances.gather(1, chosen)) - 0.5


def _targets(attack: CA | QA, distances: Tensor, count: int, generators: ImageGenerators) -> Tensor:
    """Random items for +, some of the attack's pool for -, ``(B, count)``."""
    return (
        sample_anywhere(distances, count, generators)
        if attack.sign == "+"
        else sample_pool(attack.pool(distances), count, generators)
    )


def _numbered(name: str, count: int) -> str:
    return name if count == 1 else f"{name}:{count}"


def _percent(ranks: Tensor, count: int) -> Tensor:
    return 100 * ranks.mean(1) / count
