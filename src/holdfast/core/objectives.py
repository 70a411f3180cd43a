"""What a perturbation minimises: objectives with one value per group of images."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, hardshrink

from holdfast.core.batching import ascending
from holdfast.core.distance import pairs
from holdfast.core.gallery import Items, in_blocks, take_rows
from holdfast.core.triplets import hardness

Sign = Literal["+", "-"]
"""``+`` brings the target nearer to the top, ``-`` pushes it away from there."""


class Objective(Protocol):
    """What a perturbation minimises: one value per group of images (a triplet, a pair, a query).

    Called as ``objective(z (g, R, D), rows (g,)) -> (g,)``; ``rows`` says which of the groups are in play, ascending. A
    group whose value is down to ``floor`` is finished: its gradient is zero from there on.
    """

    @property
    def floor(self) -> float: ...

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor: ...


HARDEST = 2.0
"""The largest hardness there is; as a destination it makes HM min-max training."""


@dataclass(frozen=True)
class RaiseHardness:
    """Raise a triplet's hardness to its destination, and no further (Zhou & Patel 2022, eq. 3).

    destination: ``H_D`` per triplet, ``(T,)``. The value is ``max(0, H_D - H)``, without the paper's square: the
    sign of the gradient is the same, and it does not fade on the way. ``H_D = 2`` is min-max training.
    fixed: embeddings ``(T, 2, D)`` of positives and negatives, where the anchor alone is perturbed.
    """

    destination: Tensor
    floor: float = 0.0
    fixed: Tensor | None = None

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        if self.fixed is not None:
            z = torch.cat([z, self.fixed[rows].to(z)], dim=1)
        return (self.destination[rows] - hardness(z)).relu()


@dataclass(frozen=True)
class CollapsePair:
    """Pull two images' embeddings together: the attack of anti-collapse triplets (Zhou et al. 2021, ACT)."""

    floor: float = 0.0

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        return pairs(z[:, 0], z[:, 1])


@dataclass(frozen=True)
class ShiftEmbedding:
    """Move every image's embedding away from where it was (Zhou et al. 2020, ES).

    origin: the clean embeddings, ``(G, R, D)``. There is no gradient at the origin itself: start off it.
    """

    origin: Tensor
    floor: float = -inf

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        return -pairs(z, self.origin[rows]).sum(dim=1)


@dataclass(frozen=True, eq=False)
class DistanceToTarget:
    """``d(z, target)`` of each image."""

    target: Tensor
    floor: float = 0.0

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        return pairs(z[:, 0], self.target[rows])


@dataclass(frozen=True, eq=False)
class AlignWith:
    """``-⟨z, c⟩`` of each image, for directions ``c`` (B, D)."""

    direction: Tensor
    floor: float = -inf

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        return -(z[:, 0] * self.direction[rows].to(z)).sum(1)


@dataclass(frozen=True, eq=False)
class ComeNearer:
    """``-mean_j σ((r_j - d(z, q_j)) / t)`` of each image: for how many queries it comes nearer than what they have.

    The mean is over several ``t`` too: the smallest counts, and large ones draw an image that is far from all queries.

    queries: (B, n, D). reach: ``r`` (B, n), the distance to beat. weights: of the queries, (B, n), adding up to 1.
    temperatures: ``t`` of each image, (B, T).
    """

    queries: Tensor
    reach: Tensor
    weights: Tensor
    temperatures: Tensor
    floor: float = -inf

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        short = self.reach[rows] - pairs(z, self.queries[rows])
        soft = (short[:, None] / self.temperatures[rows][:, :, None]).sigmoid().mean(1)
        return -(soft * self.weights[rows]).sum(1)


@dataclass(frozen=True, eq=False)
class CosineToTarget:
    """``1 - cos(z, target)`` of each image."""

    target: Tensor
    floor: float = 0.0

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        return 1 - cosine_similarity(z[:, 0], self.target[rows], dim=1)


Contrast = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""From distances (g, N), which items match, and which of these are the image's own, to the rows (g,) of two items: the
one to come nearer, and the one to fall behind it."""


def nearest_match_beyond_nearest_other(distances: Tensor, matching: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest unmatched and the nearest matched item; once the first is nearer, the first result is wrong."""
    return _nearest(distances, ~matching), _nearest(distances, matching & ~own)


def farthest_other_within_nearest_match(distances: Tensor, matching: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """What the authors' evaluator takes: the farthest unmatched and the nearest matched, the own copy matched."""
    return distances.masked_fill(matching, -inf).argmax(dim=1), _nearest(distances, matching)


def _nearest(distances: Tensor, among: Tensor) -> Tensor:
    return distances.masked_fill(~among, inf).argmin(dim=1)


@dataclass(frozen=True, eq=False)
class Margin:
    """By how much one item is farther than another, which a contrast picks at each step; not below the floor."""

    contrast: Contrast
    items: Items
    matching: Tensor
    own: Tensor
    floor: float

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        z = z[:, 0]
        matching, own = take_rows(self.matching, rows), take_rows(self.own, rows)
        picked = self.contrast(self.items.distances(z.detach()), matching, own)
        near, far = (pairs(z, self.items.at(row)) for row in picked)
        return (near - far).clamp(min=self.floor)


WRONG = -1e9
"""The value of a query whose first result is wrong already."""

NOTHING = 1e-30
"""A weight below it adds nothing to a sum in float32; the subnormal ones among these slow it down several times."""


@dataclass(frozen=True, eq=False)
class ClassOdds:
    """The margin: how much farther the nearest item of another class is than the nearest match. Its gradient is that of
    the log odds of the class, ``log Σ exp(-d / T)`` over the matches less the same over the other classes.

    T is ``share`` of the margin, and at least ``least``: far from its end a descent follows whole classes, near it the
    items that decide. With a share of 0 it always follows those.

    matching, own: (B, N). least: for each image, (B,). A query is finished once its first result is wrong, as
    :meth:`.Items.distances` measure it.
    """

    items: Items
    matching: Tensor
    own: Tensor
    share: float
    least: Tensor
    floor: float = WRONG

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        z = z[:, 0]
        found = in_blocks(partial(self._with_gradient, wanted=z.requires_grad), self.items, z, rows)
        return with_gradient(z, found[:, 0], found[:, 1:])

    def _with_gradient(self, z: Tensor, rows: Tensor, wanted: bool) -> Tensor:
        """The value and, where wanted, its gradient, ``(g, 1 + D)``."""
        items, seen = self.items, self.items.seen(z)
        distances = items.measured(seen)
        matching, own = self.matching[rows], self.own[rows]
        matches, others = distances.masked_fill(~matching | own, inf), distances.masked_fill(matching, inf)
        margin = others.amin(1) - matches.amin(1)
        wrong = margin < 0
        value = margin.masked_fill(wrong, self.floor)[:, None]
        if not wanted:
            return value
        temperature = (self.share * margin).maximum(self.least[rows].to(margin))[:, None]
        weights = torch.softmax(-others / temperature, 1) - torch.softmax(-matches / temperature, 1)
        weights = hardshrink(weights, NOTHING).masked_fill_(wrong[:, None], 0).div_(temperature * distances)
        return torch.cat([value, _slope(items, seen, weights)], dim=1)


@dataclass(frozen=True, eq=False)
class RankHinge:
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
        found = in_blocks(partial(self._with_gradient, wanted=z.requires_grad), self.items, z, rows)
        return with_gradient(z, found[:, 0], found[:, 1:])

    def _with_gradient(self, z: Tensor, rows: Tensor, wanted: bool) -> Tensor:
        """The value and, where wanted, its gradient, ``(g, 1 + D)``."""
        items, seen = self.items, self.items.seen(z)
        distances = items.measured(seen)
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
        away = _slope(items, seen, weights)
        onto = ((z[:, None] - items.at(chosen)) * (counts / reached)[:, :, None]).sum(1)
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
        queries, nearer, sums, counts = (
            take_rows(x, rows) for x in (self.queries, self.nearer, self.sums, self.counts)
        )
        reached = pairs(z, queries)
        places = torch.searchsorted(nearer, reached.detach()[:, :, None], right=self.sign == "-")
        total, passed = sums.gather(2, places)[:, :, 0], places[:, :, 0]
        if self.sign == "-":
            total, passed = total - sums[:, :, -1], (passed - counts).clamp(max=0)
        return ((passed * reached.double() - total).sum(1) / nearer.shape[2]).to(z)


@dataclass(frozen=True, eq=False)
class OrderHinge:
    """``Σ max(0, d(z, c_i) - d(z, c_j))`` over pairs i < j of ``wanted`` (B, k, D), of each image."""

    wanted: Tensor
    floor: float = 0.0

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        distances = pairs(z, self.wanted[rows])
        first, second = torch.triu_indices(distances.shape[1], distances.shape[1], offset=1, device=z.device)
        return (distances[:, first] - distances[:, second]).relu().sum(1)


@dataclass(frozen=True, eq=False)
class WeightedSum:
    """One objective plus ``balance`` times another."""

    one: Callable[[Tensor, Tensor], Tensor]
    other: Callable[[Tensor, Tensor], Tensor]
    balance: float
    floor: float = 0.0

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        return self.one(z, rows) + self.balance * self.other(z, rows)


def with_gradient(z: Tensor, values: Tensor, gradient: Tensor) -> Tensor:
    """``values`` (g,) of embeddings ``z`` (g, D), with the ``gradient`` (g, D) that is known already."""
    return values + (gradient * (z - z.detach())).sum(1) if z.requires_grad else values


def _slope(items: Items, seen: Tensor, weights: Tensor) -> Tensor:
    """The gradient (g, D) of a weighted sum of distances to the items, from its weights over the distances (g, N).

    ``∂d(z, x)/∂z = (z - x) / d(z, x)``: a second matrix product. seen: the embeddings, as seen from the items' origin.
    """
    return seen * weights.sum(1, keepdim=True) - items.sums(weights)


def _signed(sign: Sign, gap: Tensor) -> Tensor:
    return gap if sign == "+" else -gap
