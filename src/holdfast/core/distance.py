"""The one distance: Euclidean, smaller is closer, in float32 or wider whatever the precision around it."""

import torch
from torch import Tensor


def pairs(a: Tensor, b: Tensor) -> Tensor:
    """Distances of corresponding vectors, ``(..., D), (..., D) -> (...)``; the gradient at distance zero is zero."""
    distance: Tensor = torch.linalg.vector_norm(_precise(a) - _precise(b), dim=-1)
    return distance


def matrix(a: Tensor, b: Tensor) -> Tensor:
    """Distances of every vector of ``a`` to every vector of ``b``, ``(B, D), (N, D) -> (B, N)``.

    It goes through a matrix product, so a vector's distance to itself can come out as 1e-3: leave self-matches
    out by index, never by looking for a zero.
    """
    return torch.cdist(_precise(a), _precise(b))


def exact_matrix(a: Tensor, b: Tensor) -> Tensor:
    """As :func:`matrix`, but from the differences: exactly zero between equal vectors, and equal vectors tie.

    Several times slower than the matrix product where there are many vectors on both sides. ``a`` and ``b`` may have
    further dimensions in front, in common.
    """
    return torch.cdist(_precise(a), _precise(b), compute_mode="donot_use_mm_for_euclid_dist")


def _precise(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
