"""Attacks on ranks: raise or lower candidates for a query (Zhou et al., ECCV 2020), and set their order (ICCV 2021)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from holdfast.attacks.base import (
    Draws,
    Excluded,
    Items,
    Plan,
    Pool,
    System,
    ahead,
    anywhere,
    by_rows,
    linear,
    nearest,
    nearest_percent,
    of_rows,
    own_entries,
    pick,
    shown,
)
from holdfast.core.batching import ascending
from holdfast.core.distance import pairs
from holdfast.metrics.retrieval import Queries
from holdfast.util.errors import HoldfastError

Sign = Literal["+", "-"]
"""``+`` brings the target nearer to the top, ``-`` pushes it away from there."""

KEPT = 5
"""Items whose ranks a semantics-preserving attack keeps (Zhou et al., ECCV 2020)."""


@dataclass(frozen=True, eq=False)
class Hinge:
    """``mean_x max(0, ±(d(z, c) - d(z, x)))``, summed over the ``chosen`` items ``c`` (B, M), of each image.

    What is ``hidden`` (B, N) counts nothing.
    """

    sign: Sign
    chosen: Tensor
    items: Items
    hidden: Tensor
    floor: float = 0.0

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        z = z[:, 0]
        found = by_rows(partial(self._with_gradient, wanted=z.requires_grad), self.items, z, rows)
        return linear(z, found[:, 0], found[:, 1:])

    def _with_gradient(self, z: Tensor, rows: Tensor, wanted: bool) -> Tensor:
        """The value and, where wanted, its gradient, ``(g, 1 + D)``.

        The value is a weighted sum of distances, and ``∂d(z, x)/∂z = (z - x) / d(z, x)``: the gradient is a second
        matrix product, of the weights over the distances with the items.
        """
        items, seen = self.items, self.items.seen(z)
        distances = items.measure(seen, items.columns, items.squares)
        hidden, chosen = self.hidden[rows], self.chosen[rows]
        reached = distances.gather(1, chosen)
        value, counts = torch.zeros_like(seen[:, 0]), torch.empty_like(reached)
        weights = distances[:0]
        for i, target in enumerate(reached.unbind(1)):
            gap = _signed(self.sign, target[:, None] - distances).masked_fill_(hidden, 0).relu_()
            value += gap.sum(1)
            active = gap.sign_()
            counts[:, i] = active.sum(1)
            weights = active if i == 0 else weights.add_(active)
        if not wanted:
            return value[:, None] / len(items)
        weights.div_(distances)
        away = seen * weights.sum(1, keepdim=True) - weights @ items.columns.T
        onto = ((z[:, None] - items.embeddings[chosen]) * (counts / reached)[:, :, None]).sum(1)
        return torch.cat([value[:, None], _signed(self.sign, onto - away)], dim=1) / len(items)


@dataclass(frozen=True, eq=False)
class CandidateHinge:
    """``mean_x max(0, ±(d(q, z) - d(q, x)))``, summed over the queries ``q`` (B, W, D), of each image.

    ``d(q, x)`` is changed by no perturbation, so it is sorted once: with r items nearer than the candidate, at
    distances that add up to s, the sum over these is ``r d(q, z) - s``.

    nearer: ``d(q, x)`` of what counts, ascending, then infinite, (B, W, N). sums: of the first 0 to N finite ones,
    (B, W, N + 1) float64. counts: how many count, (B, W).
    """

    sign: Sign
    queries: Tensor
    nearer: Tensor
    sums: Tensor
    counts: Tensor
    floor: float = 0.0

    @classmethod
    def of(cls, sign: Sign, queries: Tensor, distances: Tensor) -> "CandidateHinge":
        """From ``d(q, x)`` (B, W, N), infinite for what counts nothing; sorts them where they lie."""
        nearer = ascending(distances)
        sums = nearer.new_zeros((*nearer.shape[:2], nearer.shape[2] + 1), dtype=torch.float64)
        for image, row in zip(sums, nearer, strict=True):
            image[:, 1:] = row.nan_to_num(posinf=0.0).cumsum(1, dtype=torch.float64)
        return cls(sign, queries, nearer, sums, nearer.isfinite().sum(2))

    def ranks(self, reached: Tensor) -> Tensor:
        """How many items are nearer than ``reached`` (B, W), ties one half, likewise float64."""
        sides = [torch.searchsorted(self.nearer, reached[:, :, None], right=right) for right in (False, True)]
        return (sides[0] + sides[1])[:, :, 0].double() / 2

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        queries, nearer, sums, counts = (of_rows(x, rows) for x in (self.queries, self.nearer, self.sums, self.counts))
        reached = pairs(z, queries)
        places = torch.searchsorted(nearer, reached.detach()[:, :, None], right=self.sign == "-")
        total, passed = sums.gather(2, places)[:, :, 0], places[:, :, 0]
        if self.sign == "-":
            total, passed = total - sums[:, :, -1], (passed - counts).clamp(max=0)
        return ((passed * reached.double() - total).sum(1) / nearer.shape[2]).to(z)


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

    def choose(self, perturbed: Queries, system: System, draws: Draws) -> Tensor:
        distances = shown(system.asking, perturbed, self.excluded)
        return _targets(self, distances, self.width, draws)

    def plan(self, perturbed: Queries, system: System, chosen: Tensor) -> Plan:
        asking = system.queries
        queries = asking.embeddings[chosen]
        distances = torch.stack([system.items.distances(column) for column in queries.unbind(1)], dim=1)
        own = self.excluded(system.items, perturbed.ids)[:, None]
        theirs = torch.stack([self.excluded(system.items, asking.ids[column]) for column in chosen.unbind(1)], dim=1)
        objective = CandidateHinge.of(self.sign, queries, distances.masked_fill_(own | theirs, torch.inf))

        def outcome(z: Tensor) -> dict[str, Tensor]:
            reached = [system.items.moved(perturbed.ids, z, column) for column in queries.unbind(1)]
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

    def choose(self, perturbed: Queries, system: System, draws: Draws) -> Tensor:
        distances = shown(system.items, perturbed, self.excluded)
        return _targets(self, distances, self.targets, draws)

    def plan(self, perturbed: Queries, system: System, chosen: Tensor) -> Plan:
        hidden = self.excluded(system.items, perturbed.ids)
        objective = Hinge(self.sign, chosen, system.items, hidden)

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

    def choose(self, perturbed: Queries, system: System, draws: Draws) -> Tensor:
        """The targets, then the items to keep: the nearest that are no target."""
        chosen = QA(self.sign, self.targets).choose(perturbed, system, draws)
        distances = shown(system.items, perturbed, own_entries)
        kept = nearest(distances.scatter(1, chosen, torch.inf), KEPT)
        return torch.cat([chosen, kept], dim=1)

    def plan(self, perturbed: Queries, system: System, chosen: Tensor) -> Plan:
        attack = QA(self.sign).plan(perturbed, system, chosen[:, :-KEPT])
        keep = QA("+").plan(perturbed, system, chosen[:, -KEPT:])

        def outcome(z: Tensor) -> dict[str, Tensor]:
            values = (*attack.outcome(z).values(), *keep.outcome(z).values())
            return dict(zip(self.readings, values, strict=True))

        return Plan(Both(attack.objective, keep.objective, self.balance), outcome)


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

    def choose(self, perturbed: Queries, system: System, draws: Draws) -> Tensor:
        distances = shown(system.items, perturbed, own_entries)
        return pick(nearest(distances, self.count), self.count, draws)

    def plan(self, perturbed: Queries, system: System, chosen: Tensor) -> Plan:
        wanted = system.gallery.embeddings[chosen]
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

        return Plan(Both(InOrder(wanted), keep.objective, self.balance), outcome)


@dataclass(frozen=True, eq=False)
class InOrder:
    """``Σ max(0, d(z, c_i) - d(z, c_j))`` over pairs i < j of ``wanted`` (B, k, D), of each image."""

    wanted: Tensor
    floor: float = 0.0

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        distances = pairs(z, self.wanted[rows])
        first, second = torch.triu_indices(distances.shape[1], distances.shape[1], offset=1, device=z.device)
        return (distances[:, first] - distances[:, second]).relu().sum(1)


@dataclass(frozen=True, eq=False)
class Both:
    """One objective plus ``balance`` times another."""

    one: Callable[[Tensor, Tensor], Tensor]
    other: Callable[[Tensor, Tensor], Tensor]
    balance: float
    floor: float = 0.0

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        return self.one(z, rows) + self.balance * self.other(z, rows)


def places(z: Tensor, system: System, chosen: Tensor, hidden: Tensor) -> Tensor:
    """How many items stand before each chosen one (B, M) for embeddings ``z`` (B, D); ties count one half."""
    distances = system.items.distances(z).masked_fill(hidden, torch.inf)
    return ahead(distances, distances.gather(1, chosen)) - 0.5


def _targets(attack: CA | QA, distances: Tensor, count: int, draws: Draws) -> Tensor:
    """Random items for +, some of the attack's pool for -, ``(B, count)``."""
    return anywhere(distances, count, draws) if attack.sign == "+" else pick(attack.pool(distances), count, draws)


def _numbered(name: str, count: int) -> str:
    return name if count == 1 else f"{name}:{count}"


def _percent(ranks: Tensor, count: int) -> Tensor:
    return 100 * ranks.mean(1) / count


def _signed(sign: Sign, gap: Tensor) -> Tensor:
    return gap if sign == "+" else -gap
