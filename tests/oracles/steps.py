"""Slow per-sample twins of the vectorised functions, written from the paper's definitions: plain loops, no batching."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Vector = Sequence[float]
Weights = dict[int, float]


def distance(x: Vector, y: Vector) -> float:
    return math.sqrt(sum((float(a) - float(b)) ** 2 for a, b in zip(x, y, strict=True)))


def nearest(query: Vector, items: Sequence[Vector], k: int) -> list[int]:
    """The ``k`` nearest items, nearest first; of items equally far the earlier one."""
    return sorted(range(len(items)), key=lambda i: (distance(query, items[i]), i))[:k]


def hardness(a: Vector, p: Vector, n: Vector) -> float:
    return distance(a, p) - distance(a, n)


def triplet_loss(triplets: Sequence[Sequence[Vector]], margin: float) -> float:
    return sum(max(0.0, hardness(a, p, n) + margin) for a, p, n in triplets) / len(triplets)


def intra_class_structure(anchors: Sequence[Vector], shifted: Sequence[Vector], positives: Sequence[Vector]) -> float:
    terms = [max(0.0, distance(a, s) - distance(a, p)) for a, s, p in zip(anchors, shifted, positives, strict=True)]
    return sum(terms) / len(terms)


def left(loss: float, ceiling: float) -> float:
    return min(ceiling, loss) / ceiling


@dataclass(frozen=True)
class Candidates:
    """What a strategy may draw for one anchor: positives and negatives by position, with their weights."""

    positives: Weights
    negatives: Weights


def candidates(
    strategy: str, z: Sequence[Vector], labels: Sequence[int], anchor: int, mate: int, *, margin: float = 0.2
) -> Candidates:
    """The table of sampling strategies, row by row. ``mate`` is the pair's other image."""
    same = [i for i in range(len(labels)) if labels[i] == labels[anchor] and i != anchor]
    other = [i for i in range(len(labels)) if labels[i] != labels[anchor]]
    d = {i: distance(z[anchor], z[i]) for i in (*same, *other)}
    positives, negatives = [mate], other
    if strategy == "M":
        negatives = [i for i in other if d[mate] < d[i] < d[mate] + margin] or other
    if strategy in ("S", "A"):
        nearest, farthest = min(d[i] for i in other), max(d[i] for i in same)
        positives = [i for i in same if d[i] > nearest] or (same if strategy == "S" else [anchor, *same])
        negatives = [i for i in other if d[i] < farthest] or other
    if strategy == "E":
        positives = [i for i in same if d[i] == min(d[j] for j in same)]
    if strategy in ("H", "E"):
        negatives = [i for i in other if d[i] == min(d[j] for j in other)]
    weight = {i: inverse_density(d[i], len(z[0])) if strategy == "D" else 1.0 for i in negatives}
    return Candidates(dict.fromkeys(positives, 1.0), weight)


def inverse_density(d: float, dim: int) -> float:
    """``1 / q(d)`` on the unit sphere; distances are clipped to the range in which Wu et al. weigh."""
    d = min(max(d, 0.5), 1.4)
    return math.exp(-(dim - 2) * math.log(d) - (dim - 3) / 2 * math.log(1 - d * d / 4))


def hardness_of(z: Tensor) -> Tensor:
    """Hardness of one embedded triplet ``(3, D)``, with a gradient."""
    a, p, n = z
    raised: Tensor = (a - p).norm() - (a - n).norm()
    return raised


def shortfall(z: Tensor, destination: float) -> Tensor:
    """The objective of hardness manipulation as the paper writes it, for one triplet ``(3, D)``."""
    return (destination - hardness_of(z)).clamp(min=0) ** 2


def pgd(
    embed: Callable[[Tensor], Tensor],
    groups: Tensor,
    value: Callable[[Tensor, int], Tensor],
    *,
    eps: float,
    step: float,
    steps: int,
) -> list[Tensor]:
    """L-infinity PGD from zero perturbation on all groups ``(G, R, C, H, W)`` at every step; the trajectory."""
    count, roles = groups.shape[:2]
    trajectory = [groups.clone()]
    for _ in range(steps):
        x = trajectory[-1].clone().requires_grad_()
        z = embed(x.reshape(count * roles, *x.shape[2:])).reshape(count, roles, -1)
        total = torch.stack([value(z[i], i) for i in range(count)]).sum()
        (gradient,) = torch.autograd.grad(total, x)
        moved = x.detach() - step * gradient.sign()
        moved = torch.maximum(torch.minimum(moved, groups + eps), groups - eps)
        trajectory.append(moved.clamp(0, 1))
    return trajectory


def fare(
    net: nn.Module, original: nn.Module, images: Tensor, starts: Tensor, *, eps: float, step: float, steps: int
) -> Tensor:
    """The loss of FARE, one image after the other, each descent from its own start. The networks are in eval mode."""
    losses = []
    for image, start in zip(images, starts, strict=True):
        origin, x = original(image[None])[0].detach(), start.clone()
        for _ in range(steps):
            x.requires_grad_()
            (gradient,) = torch.autograd.grad(((net(x[None])[0] - origin) ** 2).sum(), x)
            x = torch.maximum(torch.minimum(x.detach() + step * gradient.sign(), image + eps), image - eps).clamp(0, 1)
        losses.append(((net(x[None])[0] - origin) ** 2).sum())
    return torch.stack(losses).mean()


def lagrangian(net: nn.Module, original: nn.Module, images: Tensor, weights: Sequence[float], rho: float) -> Tensor:
    """What LORE adds to a loss, one clean image after the other."""
    terms = []
    for image, weight in zip(images, weights, strict=True):
        moved = ((net(image[None])[0] - original(image[None])[0].detach()) ** 2).sum()
        terms.append(weight * (moved - rho))
    return torch.stack(terms).mean()
