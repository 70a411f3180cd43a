"""Triplets of images as index tensors, and their hardness."""

from dataclasses import dataclass

from torch import Tensor, stack

from holdfast.core.distance import pairs

ANCHOR, POSITIVE, NEGATIVE = 0, 1, 2


@dataclass(frozen=True)
class Triplets:
    """Indices into a batch: ``anchor``, ``positive`` and ``negative``, each ``(T,)`` and of dtype int64."""

    anchor: Tensor
    positive: Tensor
    negative: Tensor

    def take(self, x: Tensor) -> Tensor:
        """The triplets' entries of ``x``, ``(B, ...) -> (T, 3, ...)`` in the order anchor, positive, negative."""
        # index_select adds up its gradient in order; that of x[...] varies with the threads when an image recurs.
        return stack([x.index_select(0, rows) for rows in (self.anchor, self.positive, self.negative)], dim=1)

    def __len__(self) -> int:
        return len(self.anchor)


def hardness(z: Tensor) -> Tensor:
    """``H = d(a, p) - d(a, n)`` in [-2, 2] of embedded triplets, ``(T, 3, D) -> (T,)`` (Zhou & Patel 2022, eq. 1)."""
    return pairs(z[:, ANCHOR], z[:, POSITIVE]) - pairs(z[:, ANCHOR], z[:, NEGATIVE])
