"""An embedded gallery: the distances to its items, the nearest of them, and ranks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import torch
from torch import Tensor

from holdfast.core.batching import WIDTH, fixed_batch, full_precision, rows_per_block
from holdfast.util import distributed
from holdfast.util.errors import HoldfastError
from holdfast.util.text import counted

ITEM = 64
"""Bytes that an item takes for each row of distances, intermediate results included."""

BLOCK = 2**16
"""Items in one matrix product. A product of another shape may be rounded otherwise, so it is the same wherever they
lie."""


@dataclass(frozen=True, eq=False)
class Columns:
    """Items as seen from an origin, side by side in blocks: the layout that products are quickest in.

    origin: (D,), near the items: measured from there, small distances keep their digits. blocks: (D, n) each, of
    :data:`BLOCK` items, the last of what is left. squares: squared distances to the origin, (n,) for each block.
    """

    origin: Tensor
    blocks: Sequence[Tensor]
    squares: Sequence[Tensor]

    @classmethod
    def of(cls, parts: Sequence[Tensor], origin: Tensor) -> "Columns":
        """Of items (n, D) block by block, moved to where the origin is."""
        blocks, squares = [], []
        for part in parts:
            seen = part.to(origin) - origin
            blocks.append(seen.T.contiguous())
            squares.append(torch.cat([rows.square().sum(1) for rows in torch.split(seen, WIDTH)]))
        return cls(origin, blocks, squares)

    def distances(self, seen: Tensor) -> Tensor:
        """Of vectors (B, D), seen from the origin, to the items, (B, N)."""
        found = seen.new_empty(len(seen), sum(map(len, self.squares)))
        for block, squares, place in zip(self.blocks, self.squares, torch.split(found, BLOCK, dim=1), strict=False):
            torch.addmm(squares, seen, block, alpha=-2, out=place)
        return _rooted(found, seen)

    def parts(self, weights: Tensor) -> Tensor:
        """What each block adds to the sums of items, seen from the origin, with weights (B, N): (blocks, B, D)."""
        some = torch.split(weights, BLOCK, dim=1)
        found = [mine @ block.T for mine, block in zip(some, self.blocks, strict=False)]
        return torch.stack(found) if found else weights.new_empty(0, len(weights), len(self.origin))

    def sums(self, weights: Tensor) -> Tensor:
        """Sums (B, D) of the items, seen from the origin, with weights (B, N)."""
        total: Tensor = reduce(torch.add, self.parts(weights))
        return total


class SpreadColumns:
    """Columns whose blocks lie on several ranks: all make it together, and each answers for the blocks that it has."""

    def __init__(self, parts: Sequence[Tensor], origin: Tensor) -> None:
        shares = [parts[distributed.portion(len(parts), one)] for one in range(distributed.world())]
        self.origin, self.counts = origin, [sum(map(len, share)) for share in shares]
        self.blocks = [len(share) for share in shares]
        own, first = Columns.of(shares[distributed.rank()], origin), sum(self.counts[: distributed.rank()])
        last = first + self.counts[distributed.rank()]
        self.to_measure = distributed.answer_by(own.distances)
        self.to_add = distributed.answer_by(lambda weights: own.parts(weights[:, first:last]))

    def distances(self, seen: Tensor) -> Tensor:
        """As :meth:`.Columns.distances`."""
        return torch.cat(distributed.ask(self.to_measure, seen, [(len(seen), count) for count in self.counts]), dim=1)

    def sums(self, weights: Tensor) -> Tensor:
        """As :meth:`.Columns.sums`."""
        shapes = [(count, len(weights), len(self.origin)) for count in self.blocks]
        parts = distributed.ask(self.to_add, weights, shapes)
        total: Tensor = reduce(torch.add, (one for part in parts for one in part))
        return total


def _rooted(found: Tensor, seen: Tensor) -> Tensor:
    """Distances (B, n) from what they have in excess, squared, of the norms of the vectors (B, D); in place."""
    squared = found.add_(seen.square().sum(1, keepdim=True))
    return squared.clamp_(min=torch.finfo(squared.dtype).eps ** 2).sqrt_()


@dataclass(frozen=True, eq=False)
class Queries:
    """Embedded queries.

    Attributes:
        embeddings: (Q, D) floating point; distances are Euclidean, in float32 or wider.
        labels: (Q,) integer classes.
        ids: (Q,) integer positions in the test table. The gallery's entry with the same id is the query's own and is
            left out of its ranking; a query need not have one.
        spread: they are too many for the device of labels and ids. Distances to them are measured by all ranks, each
            with a share on its device; the embeddings lie in main memory.
    """

    embeddings: Tensor
    labels: Tensor
    ids: Tensor
    spread: bool = False

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
        return Queries(self.at(rows), self.labels[rows], self.ids[rows])

    def at(self, rows: Tensor) -> Tensor:
        """The embeddings at ``rows`` (...), (..., D)."""
        return self.embeddings[rows.to(self.embeddings.device)].to(self.labels.device)

    @cached_property
    def columns(self) -> Columns | SpreadColumns:
        """What distances to them are measured by."""
        parts, origin = torch.split(self.embeddings, BLOCK), self.embeddings.median(dim=0).values
        return SpreadColumns(parts, origin.to(self.labels.device)) if self.spread else Columns.of(parts, origin)


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
        return in_blocks(lambda z: self.measured(self.seen(z)), self, z)

    def moved(self, ids: Tensor, there: Tensor, z: Tensor) -> Tensor:
        """Distances ``(B,)`` of embeddings ``(B, D)`` to the items with these ids, were those ``there`` (B, D).

        They come from a product of the shape that gives the other distances: what ties there ties here.
        """
        place, there = self.own(ids).to(torch.uint8).argmax(1), self.seen(there)
        found = there.new_empty(len(z))
        for block in torch.unique(place // BLOCK).tolist():
            rows = (place // BLOCK == block).nonzero()[:, 0]
            size, within = min(BLOCK, len(self) - BLOCK * block), place[rows] - BLOCK * block
            columns = there.new_zeros(there.shape[1], size).index_copy_(1, within, there[rows].T)
            squares = there.new_zeros(size).index_copy_(0, within, there[rows].square().sum(1))
            alone = Columns(self.set.columns.origin, [columns], [squares])

            def to_own(z: Tensor, within: Tensor, alone: Columns = alone) -> Tensor:
                return alone.distances(self.seen(z)).gather(1, within[:, None])

            found[rows] = in_blocks(to_own, self, z[rows], within)[:, 0]
        return found

    def seen(self, z: Tensor) -> Tensor:
        """Embeddings as seen from the origin."""
        return z.to(self.set.columns.origin) - self.set.columns.origin

    def measured(self, seen: Tensor) -> Tensor:
        """Distances (B, N) of vectors (B, D) that are seen from the origin."""
        return self.set.columns.distances(seen)

    def sums(self, weights: Tensor) -> Tensor:
        """Sums (B, D) of the items, seen from the origin, with weights (B, N)."""
        return self.set.columns.sums(weights)

    def at(self, rows: Tensor) -> Tensor:
        """The embeddings at ``rows`` (...), (..., D)."""
        return self.set.at(rows)

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
