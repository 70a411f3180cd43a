"""Smoothing, one noisy copy at a time."""

from math import comb

import torch
from torch import Generator, Tensor


def is_hit(z: Tensor, gallery: Tensor, labels: list[int], own: int, label: int) -> bool:
    """Whether every nearest item of the gallery, but the own one, has the label."""
    distances = {i: float((z - item).norm()) for i, item in enumerate(gallery) if i != own}
    nearest = min(distances.values())
    return all(labels[i] == label for i, distance in distances.items() if distance == nearest)


def tail(p: float, hits: int, draws: int) -> float:
    """The probability of at least so many hits in so many draws."""
    return sum(comb(draws, k) * p**k * (1 - p) ** (draws - k) for k in range(hits, draws + 1))


def gaussian(shape: tuple[int, ...], sigma: float, generator: Generator) -> Tensor:
    return sigma * torch.randn(shape, generator=generator)
