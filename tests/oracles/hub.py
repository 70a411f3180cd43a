"""Slow twins of hubs and of what detects them: one query, one item at a time."""

import math
from collections.abc import Sequence

from tests.oracles.attacks import Listed
from tests.oracles.steps import Vector, distance


def ranking(i: int, queries: Listed, gallery: Listed) -> list[tuple[float, int]]:
    """Distances and ids of the items of a query's list, its own left out."""
    rows = [x for x in range(len(gallery)) if gallery.ids[x] != queries.ids[i]]
    order = sorted(rows, key=lambda x: (distance(queries.points[i], gallery.points[x]), x))
    return [(distance(queries.points[i], gallery.points[x]), gallery.ids[x]) for x in order]


def hit_rate(z: Vector, identity: int, rows: Sequence[int], *, queries: Listed, gallery: Listed, k: int) -> float:
    """For how many queries, in percent, an item is among the first k once it is embedded as ``z``; its own query left
    out."""
    asking, hits = [i for i in rows if queries.ids[i] != identity], 0
    for i in asking:
        others = [d for d, one in ranking(i, queries, gallery) if one != identity]
        hits += distance(queries.points[i], z) <= others[k - 1] + 1e-6
    return 100 * hits / len(asking)


def soft_count(
    z: Vector, queries: Sequence[Vector], *, reach: Sequence[float], weights: Sequence[float], ts: Vector
) -> float:
    """What a hub minimises, of one image."""
    total = 0.0
    for q, r, w in zip(queries, reach, weights, strict=True):
        for t in ts:
            total -= w / len(ts) * (1 + math.tanh((r - distance(z, q)) / t / 2)) / 2
    return total


def robust_z(counts: Sequence[float]) -> list[float]:
    """By sorted lists."""

    def median(values: Sequence[float]) -> float:
        ordered, half = sorted(values), len(values) // 2
        return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2

    middle = median(counts)
    sizes = [abs(one - middle) for one in counts]
    scale = 1.4826 * median(sizes) or 1.2533 * sum(sizes) / len(sizes)
    return [(one - middle) / scale if scale else 0.0 for one in counts]


def weighted_counts(lists: Sequence[Sequence[int]], ids: Sequence[int]) -> list[float]:
    """How often each id is in lists, a place counting less the later it is."""
    return [sum(1 / math.log2(r + 2) for one in lists for r, i in enumerate(one) if i == identity) for identity in ids]
