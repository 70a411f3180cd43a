"""Collapse gauges: whether embeddings still differ enough to retrieve anything."""

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from holdfast.core.batching import checked, full_precision
from holdfast.util.errors import HoldfastError

COLLAPSED_COSINE = 0.999
"""Mean pairwise cosine above which a model is collapsed: there two unit embeddings lie 0.045 apart (root mean square),
far less than the margin of 0.2. ResNets with random weights start at 0.97 to 0.9985, from where training recovers."""

COLLAPSED_RANK = 1.5
"""Effective rank below which a model is collapsed: practically one line through the embeddings."""


def gauges(embeddings: Tensor) -> dict[str, float]:
    """Two gauges of collapse, of N ≥ 2 embeddings (N, D).

    Returns:
        ``mean_cosine``: mean cosine of all pairs of distinct items, in [-1 / (N - 1), 1]; 1 when all are equal.
        ``effective_rank``: exp(entropy of the covariance's eigenvalues, normalised to sum 1) (Roy & Vetterli, 2007), in
        [1, min(D, N - 1)]; 0 when all embeddings are identical.
    """
    points = checked(embeddings)
    count, dimensions = points.shape
    if count < 2:
        raise HoldfastError("collapse gauges compare embeddings with each other; give at least 2")
    with full_precision(points.device):
        blocks = torch.split(points, 4096)
        direction, mean = points.new_zeros(2, dimensions, dtype=torch.float64)
        length, scatter = direction.new_zeros(()), direction.new_zeros(dimensions, dimensions)
        for block in blocks:
            unit = normalize(block.double(), dim=1)
            direction += unit.sum(0)
            length += unit.square().sum()
            mean += block.double().sum(0)
        mean /= count
        for block in blocks:
            centred = block.double() - mean
            scatter += centred.T @ centred
        variances = torch.linalg.eigvalsh(scatter).clamp(min=0)
    total = variances.sum()
    entropy = torch.special.entr(variances / total).sum().item() if total > 0 else -math.inf
    return {
        "mean_cosine": ((direction.square().sum() - length) / (count * (count - 1))).item(),
        "effective_rank": math.exp(entropy),
    }


def collapsed(measured: dict[str, float], classes: int | None = None) -> bool:
    """Whether :func:`gauges` show a collapse: all embeddings close together, or all on one line.

    Two well separated classes do lie on one line, so with ``classes=2`` only identical embeddings fail by their rank.
    """
    least_rank = COLLAPSED_RANK if classes is None or classes > 2 else 0.5
    return measured["mean_cosine"] > COLLAPSED_COSINE or measured["effective_rank"] < least_rank
