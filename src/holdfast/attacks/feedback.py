"""Attacks on a search that answers with ids alone: no gradients, no distances, only which items come in which order.

What PGD takes for the embedding of an image is here the search's answer to it: codes of items ``(B, K)``, nearest
first, −1 where it ends. The codes of items that are in the test table are their rows there. Li et al., CVPR 2021
(QAIR); Zhou et al., ICCV 2021.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from holdfast.attacks.base import ImageGenerators, Plan, System
from holdfast.core.gallery import Gallery, Queries
from holdfast.util.errors import HoldfastError, shown

PROMOTED = 10.0
"""How much the rank of the promoted item weighs beside that of its neighbours."""

Met = dict[str, Tensor]
"""By milestone: which images (g,) have reached it."""

Look = Callable[[Tensor, Tensor], tuple[Tensor, Met]]
"""From answers (g, K) and the rows (g,) of the images to their values (g,) and the milestones that they reach."""


def rank_weights(k: int) -> list[float]:
    """What the places of an answer weigh, in proportion to 1 / log2(rank + 1); they add up to 1."""
    weights = [1 / math.log2(rank + 2) for rank in range(k)]
    return [weight / sum(weights) for weight in weights]


def without_own(answers: Tensor, own: Tensor, k: int) -> Tensor:
    """The first ``k`` of answers (g, K) to images, whose ``own`` (g,) codes are left out."""
    hidden = (answers == own[:, None]) | (answers < 0)
    order = hidden.to(torch.uint8).sort(dim=1, stable=True).indices[:, :k]
    return answers.masked_fill(hidden, -1).gather(1, order)


def among(answers: Tensor, items: Tensor) -> Tensor:
    """Which of the ``answers`` (g, k) are among the ``items`` (g, n) of their row: (g, k) bool."""
    return ((answers[:, :, None] == items[:, None]) & (answers >= 0)[:, :, None]).any(2)


def weighed(hits: Tensor, weights: list[float]) -> Tensor:
    """``Σ_r w_r · hit_r`` of each row (g, k), in float64, added up rank by rank: the same in every batch."""
    total = torch.zeros(len(hits), dtype=torch.float64, device=hits.device)
    for weight, column in zip(weights, hits.unbind(1), strict=False):
        total += weight * column
    return total


@dataclass(frozen=True, eq=False)
class Staircase:
    """The value of each answer, and at which search an image reached each milestone; that of the clean image is the
    first.

    asked: searches of each image so far, (B,). reached: by milestone the number of the search, (B,), 0 for never.
    """

    look: Look
    asked: Tensor
    reached: Met
    floor: float = 0.0

    @classmethod
    def of(cls, look: Look, images: Queries, milestones: Iterable[str], floor: float = 0.0) -> Self:
        """Of images of which none was asked about."""
        never = torch.zeros_like(images.ids)
        return cls(look, never, {name: never.clone() for name in milestones}, floor)

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        values, met = self.look(z[:, 0], rows)
        self.asked[rows] += 1
        for name, there in met.items():
            at = self.reached[name]
            new = rows[there & (at[rows] == 0)]
            at[new] = self.asked[new]
        return values

    def readings(self) -> dict[str, Tensor]:
        """The milestones so far, (B,) float64 each."""
        return {name: at.double() for name, at in self.reached.items()}


@dataclass(frozen=True)
class RankFeedback:
    """Drive out of the answer what it holds for the clean image: minimise ``s = Σ_r w_r · 1[id_r ∈ R0]``, w_r in
    proportion to 1 / log2(r + 1) and R0 the first ``k`` of the clean answer.

    Readings: ``kept``, s in %; and at which search an answer first had another first result, one that is not in R0
    (``first replaced``), nothing of R0 (``all replaced``), or, where the items' classes are known, a first result of
    another class (``first wrong``); 0 for never. An image is finished once nothing of R0 is left.
    """

    k: int = 10
    name: ClassVar[str] = "rank-feedback"
    aim: ClassVar[str] = "Drives out of the answer what it holds for the clean image."
    side: ClassVar[str] = "query"
    start: ClassVar[float] = 0.0
    readings: ClassVar[tuple[str, ...]] = ("kept", "first replaced", "all replaced")
    milestones: ClassVar[tuple[str, ...]] = ("first wrong", "first replaced", "all replaced")

    def choose(self, perturbed: Queries, system: System, generators: ImageGenerators) -> Tensor:
        """Nothing."""
        return perturbed.ids.new_empty((len(perturbed.ids), 0))

    def plan(self, perturbed: Queries, system: System, chosen: Tensor) -> Plan:
        """perturbed: the clean answers (B, K) in the place of embeddings. system: the gallery's ids and classes; none
        where they are not known."""
        clean, weights = without_own(perturbed.embeddings, perturbed.ids, self.k), rank_weights(self.k)

        known = len(system.gallery.ids) > 0

        def kept(z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            answers = without_own(z, perturbed.ids[rows], self.k)
            return answers, among(answers, clean[rows])

        def look(z: Tensor, rows: Tensor) -> tuple[Tensor, Met]:
            answers, hits = kept(z, rows)
            met = {"first replaced": ~hits[:, 0], "all replaced": ~hits.any(1)}
            if known:
                right = classes_of(answers[:, 0], system.gallery) == perturbed.labels[rows]
                met["first wrong"] = ~right
            return weighed(hits, weights), met

        value = Staircase.of(look, perturbed, self.milestones[not known :])

        def outcome(z: Tensor) -> dict[str, Tensor]:
            hits = kept(z, torch.arange(len(z), device=z.device))[1]
            return {"kept": 100 * weighed(hits, weights), **value.readings()}

        return Plan(value, outcome)


@dataclass(frozen=True)
class RankPromotion:
    """Bring an item t of the gallery to the front: minimise ``s = −(10 w_rank(t) + Σ_r w_r · 1[id_r ∈ T])``, where T is
    the answer to t's own image, and what has no place in the answer weighs nothing.

    item: t, its id in the test table; None: drawn for each image, from what its clean answer does not hold. Readings:
    ``rank`` of t in the last answer, k + 1 where it has none; and at which search t was first anywhere in the answer
    (``in the answer``) and at its top (``on top``), 0 for never. An image is finished once t is on top.
    """

    k: int = 10
    item: int | None = None
    name: ClassVar[str] = "rank-promotion"
    aim: ClassVar[str] = "Brings an item of the gallery to the front of the answer."
    side: ClassVar[str] = "query"
    start: ClassVar[float] = 0.0
    readings: ClassVar[tuple[str, ...]] = ("rank", "in the answer", "on top")
    milestones: ClassVar[tuple[str, ...]] = ("in the answer", "on top")

    def choose(self, perturbed: Queries, system: System, generators: ImageGenerators) -> Tensor:
        """The row of t in the gallery, (B, 1). Raises HoldfastError where there is none to promote."""
        gallery = system.gallery
        if self.item is not None:
            row = (gallery.ids == self.item).nonzero()
            if not len(row):
                raise HoldfastError(f"the gallery has no item {shown(self.item)} to promote")
            return row[:1].expand(len(perturbed.ids), 1)
        if len(gallery.ids) < self.k + 2:
            raise HoldfastError(f"an item to promote is drawn from beyond the first {self.k}: the gallery is too small")
        draws = []
        for answers, own, generator in zip(perturbed.embeddings, perturbed.ids, generators, strict=True):
            free = (~torch.isin(gallery.ids, torch.cat([answers.long(), own[None]]))).nonzero()[:, 0]
            draws.append(free[torch.randint(len(free), (1,), generator=generator)])
        return torch.stack(draws)

    def plan(self, perturbed: Queries, system: System, chosen: Tensor) -> Plan:
        """perturbed: the clean answers (B, K) in the place of embeddings. system: its gallery's embeddings are the
        answers to the images of the items chosen."""
        weights = rank_weights(self.k)
        item = system.gallery.ids[chosen[:, 0]]
        neighbours = without_own(system.gallery.at(chosen[:, 0]), item, self.k)
        least = -(PROMOTED * weights[0] + sum(weights))

        def places(z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            answers = without_own(z, perturbed.ids[rows], self.k)
            return answers, answers == item[rows, None]

        def look(z: Tensor, rows: Tensor) -> tuple[Tensor, Met]:
            answers, there = places(z, rows)
            value = -(PROMOTED * weighed(there, weights) + weighed(among(answers, neighbours[rows]), weights))
            met = {"in the answer": there.any(1), "on top": there[:, 0]}
            return value.masked_fill(met["on top"], least), met

        value = Staircase.of(look, perturbed, self.milestones, least)

        def outcome(z: Tensor) -> dict[str, Tensor]:
            there = places(z, torch.arange(len(z), device=z.device))[1]
            rank = torch.where(there.any(1), there.to(torch.uint8).argmax(1) + 1, self.k + 1)
            return {"rank": rank.double(), **value.readings()}

        return Plan(value, outcome)


def classes_of(codes: Tensor, gallery: Gallery) -> Tensor:
    """The classes (g,) of items of the gallery by their ids (g,); −1 of what is not in it."""
    ids, order = gallery.ids.sort()
    place = torch.searchsorted(ids, codes.long()).clamp(max=len(ids) - 1)
    return gallery.labels[order[place]].masked_fill(ids[place] != codes, -1)


FEEDBACK: dict[str, type[RankFeedback] | type[RankPromotion]] = {one.name: one for one in (RankFeedback, RankPromotion)}
"""The attacks on a search by their names."""
