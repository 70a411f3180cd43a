"""Slow twins of the ranking attacks: one image, one item, one target at a time, in plain numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.attacks import System
from holdfast.core.gallery import Gallery, Queries
from holdfast.core.objectives import Sign
from tests.oracles.steps import Vector, distance

Points = Sequence[Vector]
Ids = Sequence[int]


@dataclass(frozen=True)
class Listed:
    """Embedded images as lists."""

    points: Points
    labels: Sequence[int]
    ids: Ids

    def __len__(self) -> int:
        return len(self.ids)


def listed(images: Queries) -> Listed:
    return Listed(images.embeddings.tolist(), images.labels.tolist(), images.ids.tolist())


def world(seed: int, *, queries: int = 12, items: int = 20, dim: int = 3, grid: bool, classes: int = 3) -> System:
    """Shuffled parts of one table of embeddings as queries and gallery; some queries have no entry in the gallery.

    Off the grid the gallery holds a few items twice.
    """
    draw = torch.Generator().manual_seed(seed)
    count = items + 3
    table = numbers(draw, count, dim, grid=grid)
    if not grid:
        table[: items // 4] = table[items // 2 : items // 2 + items // 4]
    labels = torch.randint(0, classes, (count,), generator=draw)
    asking, stored = (torch.randperm(count, generator=draw)[:size] for size in (queries, items))
    return System(Queries(table[asking], labels[asking], asking), Gallery(table[stored], labels[stored], stored))


def numbers(draw: torch.Generator, *shape: int, grid: bool) -> Tensor:
    """Few whole numbers, so that many distances tie, or normal ones in 64ths: squared distances of both are exact."""
    return torch.randint(-2, 3, shape, generator=draw).float() if grid else fine(torch.randn(shape, generator=draw))


def fine(x: Tensor) -> Tensor:
    return (64 * x).round() / 64


def some(images: Queries, rows: Sequence[int] | Tensor) -> Queries:
    """The images at these rows."""
    rows = torch.as_tensor(rows)
    return Queries(images.embeddings[rows], images.labels[rows], images.ids[rows])


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(1000 * seed + i) for i in range(count)]


# ---- ranks ----------------------------------------------------------------------------------------------------------


def place(distances: Sequence[float], target: float, items: Sequence[int]) -> float:
    """How many of the items are nearer than ``target``, those as near counting one half."""
    return sum(1.0 if distances[x] < target else 0.5 if distances[x] == target else 0.0 for x in items)


def hinge(sign: Sign, target: float, other: float) -> float:
    return max(0.0, target - other if sign == "+" else other - target)


def query_objective(sign: Sign, z: Vector, gallery: Listed, chosen: Sequence[int], hidden: Ids) -> float:
    """QA for one query, summed over the chosen rows; entries with a hidden id count nothing."""
    total = 0.0
    for c in chosen:
        for x in range(len(gallery)):
            if gallery.ids[x] not in hidden:
                total += hinge(sign, distance(z, gallery.points[c]), distance(z, gallery.points[x])) / len(gallery)
    return total


def query_rank(z: Vector, gallery: Listed, chosen: Sequence[int], hidden: Ids) -> float:
    """Mean rank of the chosen rows for one query, in percent of the gallery."""
    d = [distance(z, point) for point in gallery.points]
    ranks = []
    for c in chosen:
        ranks.append(place(d, d[c], [x for x in range(len(d)) if gallery.ids[x] not in hidden and x != c]))
    return 100 * sum(ranks) / len(ranks) / len(gallery)


def candidate_objective(
    sign: Sign, z: Vector, asking: Sequence[Vector], gallery: Listed, hidden: Sequence[Ids]
) -> float:
    """CA for one candidate, summed over the queries; ``hidden`` ids for each of them."""
    total = 0.0
    for q, ids in zip(asking, hidden, strict=True):
        for x in range(len(gallery)):
            if gallery.ids[x] not in ids:
                total += hinge(sign, distance(q, z), distance(q, gallery.points[x])) / len(gallery)
    return total


def candidate_rank(z: Vector, asking: Sequence[Vector], gallery: Listed, hidden: Sequence[Ids]) -> float:
    """Mean rank of one candidate for the queries, in percent of the gallery."""
    ranks = []
    for q, ids in zip(asking, hidden, strict=True):
        d = [distance(q, point) for point in gallery.points]
        ranks.append(place(d, distance(q, z), [x for x in range(len(d)) if gallery.ids[x] not in ids]))
    return 100 * sum(ranks) / len(ranks) / len(gallery)


def by_distance(z: Vector, items: Listed, hidden: Ids) -> list[int]:
    """Rows of the items that are not hidden, nearest first; in a tie the earlier row."""
    rows = [x for x in range(len(items)) if items.ids[x] not in hidden]
    return sorted(rows, key=lambda x: (distance(z, items.points[x]), x))


def in_order(z: Vector, gallery: Listed, chosen: Sequence[int]) -> float:
    """The order attack's objective for one query: by how much pairs stand the wrong way round."""
    d = [distance(z, gallery.points[c]) for c in chosen]
    return sum(max(0.0, d[i] - d[j]) for i in range(len(d)) for j in range(i + 1, len(d)))


def short_range_correlation(z: Vector, gallery: Listed, chosen: Sequence[int], hidden: Ids, visible: int) -> float:
    """Mean over the pairs: +1 in order, 0 tied, -1 the wrong way round or out of sight."""
    d = [distance(z, point) for point in gallery.points]
    shown = [x for x in range(len(d)) if gallery.ids[x] not in hidden]
    terms = []
    for i, a in enumerate(chosen):
        for b in chosen[i + 1 :]:
            ranks = [place(d, d[c], [x for x in shown if x != c]) for c in (a, b)]
            seen = all(rank < visible for rank in ranks)
            terms.append((d[b] > d[a]) - (d[b] < d[a]) if seen else -1)
    return sum(terms) / len(terms)


# ---- the first result -----------------------------------------------------------------------------------------------


def recall_at_1(z: Vector, label: int, own: int, gallery: Listed) -> float:
    """Expected R@1 in percent over the orders of ties, the own entry left out; NaN with no match to find."""
    rows = [x for x in range(len(gallery)) if gallery.ids[x] != own]
    if label not in [gallery.labels[x] for x in rows]:
        return math.nan
    d = {x: distance(z, gallery.points[x]) for x in rows}
    first = [x for x in rows if d[x] == min(d.values())]
    return 100 * sum(gallery.labels[x] == label for x in first) / len(first)


def misrank(z: Vector, label: int, own: int, gallery: Listed) -> float:
    """LTM: nearest unmatched minus nearest matched distance, the own entry left out."""
    d = [distance(z, point) for point in gallery.points]
    other = [d[x] for x in range(len(d)) if gallery.labels[x] != label]
    match = [d[x] for x in range(len(d)) if gallery.labels[x] == label and gallery.ids[x] != own]
    return min(other) - min(match)


def misrank_of_the_authors(z: Vector, label: int, gallery: Listed) -> float:
    """LTM by the released evaluator: farthest unmatched minus nearest matched, the own copy matched, not below 0."""
    d = [distance(z, point) for point in gallery.points]
    other = [d[x] for x in range(len(d)) if gallery.labels[x] != label]
    match = [d[x] for x in range(len(d)) if gallery.labels[x] == label]
    return max(0.0, max(other) - min(match))


def lure(z: Vector, label: int, own: int, gallery: Listed) -> int:
    """GTM: the row of the nearest item of another class."""
    return next(x for x in by_distance(z, gallery, [own]) if gallery.labels[x] != label)


def lure_of_the_authors(z: Vector, own: int, gallery: Listed) -> int:
    """GTM by the released evaluator: ranks of what is unlike the first result, and the place of the least of them."""
    order = by_distance(z, gallery, [own])
    order += [x for x in range(len(gallery)) if gallery.ids[x] == own]  # at infinite distance, so last
    ranks = [order.index(x) for x in range(len(gallery))]
    masked = [ranks[x] for x in range(len(gallery)) if gallery.labels[x] != gallery.labels[order[0]]]
    return masked.index(min(masked))


def still_on_top(z: Vector, gallery: Listed, chosen: int, own: int) -> float:
    """GTT: 100 while the chosen item is among the first four; a tie at the edge counts one half."""
    d = [distance(z, point) for point in gallery.points]
    rank = place(d, d[chosen], [x for x in range(len(d)) if gallery.ids[x] not in (own, gallery.ids[chosen])])
    return 100 * min(1.0, max(0.0, 4 - rank))
