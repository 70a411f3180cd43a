"""An embedded gallery: the distances to its items, the nearest of them, and ranks."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from holdfast.core.batching import WIDTH, fixed_batch, full_precision, rows_per_block
from holdfast.util.errors import HoldfastError
from holdfast.util.text import counted

ITEM = 64
"""Bytes that an item takes for each row of distances, intermediate results included."""


@dataclass(frozen=True, eq=False)
class Queries:
    """Embedded queries.

    Attributes:
        embeddings: (Q, D) floating point; distances are Euclidean, in float32 or wider.
        labels: (Q,) integer classes.
        ids: (Q,) integer positions in the test table. The gallery's entry with the same id is the query's own and is
            left out of its ranking; a query need not have one.
    """

    embeddings: Tensor
    labels: Tensor
    ids: Tensor

    def __post_init__(self) -> None:
        for name in ("labels", "ids"):
            column: Tensor = getattr(self, name)
            if column.shape != self.embeddings.shape[:1] or column.is_floating_point():
                raise HoldfastError(
                    f"{name} must hold one integer for each of the {counted(len(self.embeddings), 'embedding')}; "
                    f"got {column.dtype} of shape {tuple(column.shape)}"
                )

    def take(self, rows: Tensor) -> "Queries":
        """Those at ``rows``."""
        return Queries(self.embeddings[rows], self.labels[rows], self.ids[rows])


@dataclass(frozen=True, eq=False)
class Gallery(Queries):
    """Embedded gallery items, as :class:`Queries`; an id occurs once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(torch.unique(self.ids)) != len(self.ids):
            raise HoldfastError("an id occurs twice in the gallery; ids are positions in the test table")


@dataclass(frozen=True, eq=False)
class Items:
    """Embedded items that distances are measured to, N of them. width: from how many images at once; see
    :func:`.fixed_batch`."""

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
        return in_blocks(lambda z: self.measure(self.seen(z), self.columns, self.squares), self, z)

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

        return in_blocks(measured, self, z, place)[:, 0]

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


def in_blocks(function: Callable[..., Tensor], items: Items, *tensors: Tensor) -> Tensor:
    """``function(*tensors)`` that measures distances to the items, without gradient; see :func:`.fixed_batch`.

    With many items there are fewer rows at once, so that what is measured stays small.
    """
    with full_precision(tensors[0].device):
        return fixed_batch(function, *tensors, width=min(items.width, max(16, rows_per_block(ITEM * len(items)))))


def take_rows(x: Tensor, rows: Tensor) -> Tensor:
    """``x[rows]``, without a copy where that is all of it."""
    return x if len(rows) == len(x) else x[rows]


def nearest(distances: Tensor, k: int) -> Tensor:
    """Rows of the ``k`` nearest items, nearest first, ``(B, k)``; in a tie the earlier row, never an infinite one."""
    require_finite(distances, k)
    total = distances.shape[1]
    beyond = distances > distances.topk(k, dim=1, largest=False).values[:, -1:]
    rows = torch.arange(total, dtype=torch.int32, device=distances.device).masked_fill(beyond, total)
    # All that are tied with the last, in the order of their rows; where others have more of these, nothing.
    rows = rows.topk(total - int(beyond.sum(1).min()), dim=1, largest=False).values.long()
    found = distances.gather(1, rows.clamp(max=total - 1)).masked_fill_(rows == total, torch.inf)
    return rows.gather(1, found.sort(dim=1, stable=True).indices[:, :k])


def require_finite(distances: Tensor, count: int) -> None:
    """Raise HoldfastError where a row ``(B, N)`` has fewer than ``count`` finite distances."""
    available = int(distances.isfinite().sum(1).min())
    if count > available:
        raise HoldfastError(
            f"the attack needs {counted(count, 'different target')}, and has {available} to choose from"
        )


def count_closer(distances: Tensor, targets: Tensor) -> Tensor:
    """How many items are nearer than each target distance, ties one half: ``(B, N), (B, M) -> (B, M)`` float64."""
    counts = [
        (distances < target).sum(1) + 0.5 * (distances == target).sum(1) for target in targets[:, :, None].unbind(1)
    ]
    return torch.stack(counts, dim=1).double()
