"""What every ranking attack is made of: what to choose, what to minimise, what to read off."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Generator, Tensor

from holdfast.core.batching import WIDTH, full_precision, rows_per_block, steady
from holdfast.core.pgd import Objective
from holdfast.metrics.retrieval import Gallery, Queries
from holdfast.util.errors import HoldfastError

Outcome = Callable[[Tensor], dict[str, Tensor]]
"""From embeddings ``(B, D)`` of the perturbed images to readings by name, ``(B,)`` each, in the unit of the column."""

Draws = Sequence[Generator]
"""One generator for each perturbed image, so that its draws do not depend on the images beside it."""

ITEM = 64
"""Bytes that an item takes for each row of distances, intermediate results included."""


@dataclass(frozen=True, eq=False)
class Plan:
    """An attack on some images, chosen: PGD minimises the objective; the outcome is read before and after."""

    objective: Objective
    outcome: Outcome


@dataclass(frozen=True, eq=False)
class Items:
    """Embedded items that distances are measured to, N of them. width: from how many images at once; see
    :func:`.steady`."""

    set: Queries
    width: int = WIDTH

    @cached_property
    def origin(self) -> Tensor:
        """``(D,)``, near the items: measured from there, small distances keep their digits."""
        return self.embeddings.median(dim=0).values

    @cached_property
    def columns(self) -> Tensor:
        """``(D, N)``, the items as seen from the origin, side by side: the layout that products are quickest in."""
        return self.seen(self.embeddings).T.contiguous()

    @cached_property
    def squares(self) -> Tensor:
        """``(N,)``, squared distances of the items to the origin."""
        blocks = torch.split(self.embeddings, WIDTH)
        return torch.cat([self.seen(block).square().sum(1) for block in blocks])

    @property
    def embeddings(self) -> Tensor:
        return self.set.embeddings

    @property
    def labels(self) -> Tensor:
        return self.set.labels

    def __len__(self) -> int:
        return len(self.set.ids)

    def distances(self, z: Tensor) -> Tensor:
        """Euclidean distances of embeddings ``(B, D)`` to the items, ``(B, N)``, without gradient.

        Next to an item the product leaves an error of about 1e-4: leave an image's own item out by index.
        """
        return by_rows(lambda z: self.measure(self.seen(z), self.columns, self.squares), self, z)

    def moved(self, ids: Tensor, there: Tensor, z: Tensor) -> Tensor:
        """Distances ``(B,)`` of embeddings ``(B, D)`` to the items with these ids, were those ``there`` (B, D).

        They come from a product of the shape that gives the other distances: what ties there ties here.
        """
        place = self.own(ids).to(torch.uint8).argmax(1)
        there = self.seen(there)
        columns = self.columns.index_copy(1, place, there.T)
        squares = self.squares.index_copy(0, place, there.square().sum(1))

        def measured(z: Tensor, place: Tensor) -> Tensor:
            return self.measure(self.seen(z), columns, squares).gather(1, place[:, None])

        return by_rows(measured, self, z, place)[:, 0]

    def seen(self, z: Tensor) -> Tensor:
        """Embeddings as seen from the origin."""
        return z.to(self.origin) - self.origin

    @staticmethod
    def measure(z: Tensor, columns: Tensor, squares: Tensor) -> Tensor:
        """Distances of ``z`` (B, D) to ``columns`` (D, N) with these ``squares``, all seen from one origin."""
        squared = torch.addmm(squares, z, columns, alpha=-2).add_(z.square().sum(1, keepdim=True))
        return squared.clamp_(min=torch.finfo(squared.dtype).eps ** 2).sqrt_()

    def own(self, ids: Tensor) -> Tensor:
        """``(B, N)`` bool: where each image's own entry stands."""
        return ids[:, None] == self.set.ids


def by_rows(function: Callable[..., Tensor], items: Items, *tensors: Tensor) -> Tensor:
    """``function(*tensors)`` that measures distances to the items, without gradient, row by row; see :func:`.steady`.

    With many items there are fewer rows at once, so that what is measured stays small.
    """
    with full_precision(tensors[0].device):
        return steady(function, *tensors, width=min(items.width, max(16, rows_per_block(ITEM * len(items)))))


def of_rows(x: Tensor, rows: Tensor) -> Tensor:
    """``x[rows]``, without a copy where that is all of it."""
    return x if len(rows) == len(x) else x[rows]


def linear(z: Tensor, values: Tensor, gradient: Tensor) -> Tensor:
    """``values`` (g,) of embeddings ``z`` (g, D), with the ``gradient`` (g, D) that is known already."""
    return values + (gradient * (z - z.detach())).sum(1) if z.requires_grad else values


@dataclass(frozen=True, eq=False)
class System:
    """The retrieval system under attack: who asks, and what is retrieved; both embedded clean, once.

    width: images whose distances are measured at once. Fewer than by default suit who attacks few.
    """

    queries: Queries
    gallery: Gallery
    width: int = WIDTH

    @cached_property
    def items(self) -> Items:
        """The gallery."""
        return Items(self.gallery, self.width)

    @cached_property
    def asking(self) -> Items:
        """The queries."""
        return self.items if self.queries.embeddings is self.gallery.embeddings else Items(self.queries, self.width)


class RankingAttack(Protocol):
    """One attack.

    side: what is perturbed, ``"query"`` or ``"candidate"`` (an image of the gallery).
    readings: what its outcome holds.
    start: radius of the noise the descent starts from, as a share of the ball's.
    """

    @property
    def side(self) -> str: ...

    @property
    def readings(self) -> tuple[str, ...]: ...

    @property
    def start(self) -> float: ...

    def choose(self, perturbed: Queries, system: System, draws: Draws) -> Tensor:
        """What the attack is about, once, from the clean ranking: rows of the gallery (of the queries, for a candidate
        attack), ``(B, k)``."""

    def plan(self, perturbed: Queries, system: System, chosen: Tensor) -> Plan:
        """The objective and the outcome for images whose clean embeddings are ``perturbed.embeddings``."""


Excluded = Callable[[Items, Tensor], Tensor]
"""Which items take no part, for images with these ids: ``(B, N)`` bool."""


def own_entries(items: Items, ids: Tensor) -> Tensor:
    """An image's own entry is left out, by index."""
    return items.own(ids)


def nothing(items: Items, ids: Tensor) -> Tensor:
    """Every item takes part, an image's own clean copy included."""
    return torch.zeros(len(ids), len(items), dtype=torch.bool, device=ids.device)


def shown(items: Items, perturbed: Queries, excluded: Excluded) -> Tensor:
    """Clean distances ``(B, N)`` of images to the items, infinite for what takes no part."""
    return items.distances(perturbed.embeddings).masked_fill_(excluded(items, perturbed.ids), torch.inf)


Pool = Callable[[Tensor], Tensor]
"""From distances ``(B, N)``, infinite for what is left out, to the rows of the nearest items, ``(B, k)``."""


def nearest_percent(distances: Tensor) -> Tensor:
    """The nearest 1 % of the items, at least one."""
    return nearest(distances, max(1, distances.shape[1] // 100))


def nearest_percent_after_the_first(distances: Tensor) -> Tensor:
    """``int(0.01 N)`` items, at least one, after the single nearest one, which the authors take for the image's own."""
    return nearest(distances, max(1, distances.shape[1] // 100) + 1)[:, 1:]


def nearest(distances: Tensor, k: int) -> Tensor:
    """Rows of the ``k`` nearest items, nearest first, ``(B, k)``; in a tie the earlier row, never an infinite one."""
    _check_enough(distances, k)
    total = distances.shape[1]
    beyond = distances > distances.topk(k, dim=1, largest=False).values[:, -1:]
    rows = torch.arange(total, dtype=torch.int32, device=distances.device).masked_fill(beyond, total)
    # All that are tied with the last, in the order of their rows; where others have more of these, nothing.
    rows = rows.topk(total - int(beyond.sum(1).min()), dim=1, largest=False).values.long()
    found = distances.gather(1, rows.clamp(max=total - 1)).masked_fill_(rows == total, torch.inf)
    return rows.gather(1, found.sort(dim=1, stable=True).indices[:, :k])


def pick(pool: Tensor, count: int, draws: Draws) -> Tensor:
    """``count`` different entries of each row of a pool ``(B, k)``, evenly drawn, ``(B, count)``."""
    if count > pool.shape[1]:
        raise HoldfastError(f"the attack needs {count} different targets, but there are {pool.shape[1]} to choose from")
    order = torch.stack([torch.rand(pool.shape[1], generator=one).argsort()[:count] for one in draws])
    return pool.gather(1, order.to(pool.device))


def anywhere(distances: Tensor, count: int, draws: Draws) -> Tensor:
    """Rows ``(B, count)`` of different items, evenly drawn from those with a finite distance ``(B, N)``."""
    _check_enough(distances, count)
    keys = torch.stack([torch.rand(distances.shape[1], generator=one) for one in draws]).to(distances.device)
    return keys.masked_fill(distances.isinf(), torch.inf).topk(count, dim=1, largest=False).indices


def _check_enough(distances: Tensor, count: int) -> None:
    available = int(distances.isfinite().sum(1).min())
    if count > available:
        raise HoldfastError(f"the attack needs {count} different targets, but there are {available} to choose from")


def ahead(distances: Tensor, targets: Tensor) -> Tensor:
    """How many items are nearer than each target distance, ties one half: ``(B, N), (B, M) -> (B, M)`` float64."""
    counts = [
        (distances < target).sum(1) + 0.5 * (distances == target).sum(1) for target in targets[:, :, None].unbind(1)
    ]
    return torch.stack(counts, dim=1).double()


def first_matches(z: Tensor, perturbed: Queries, system: System) -> Tensor:
    """R@1 in percent of each image ``(B,)`` with embeddings ``z``, as benign retrieval has it: in a tie the share of
    matches among the first; NaN where there is no match to find."""
    hidden, matching = system.items.own(perturbed.ids), perturbed.labels[:, None] == system.items.labels
    distances = system.items.distances(z).masked_fill_(hidden, torch.inf)
    first = distances == distances.amin(1, keepdim=True)
    found = 100 * (first & matching).sum(1) / first.sum(1)
    return found.masked_fill_(~(matching & ~hidden).any(1), torch.nan)
