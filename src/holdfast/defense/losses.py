"""The two terms of the training loss, over embedded triplets."""

from torch import Tensor

from holdfast.core.distance import pairs
from holdfast.core.triplets import hardness


def triplet_loss(z: Tensor, margin: float) -> Tensor:
    """Mean of ``max(0, d(a, p) - d(a, n) + margin)`` over the triplets, ``(T, 3, D) -> ()``."""
    return (hardness(z) + margin).relu().mean()


def intra_class_structure(anchor: Tensor, shifted: Tensor, positive: Tensor) -> Tensor:
    """Mean of ``max(0, d(a, a~) - d(a, p))``: a perturbed anchor stays nearer than a positive (Zhou & Patel, eq. 8).

    Benign anchors, perturbed anchors and benign positives, ``(T, D)`` each, give a scalar.
    """
    return (pairs(anchor, shifted) - pairs(anchor, positive)).relu().mean()
