"""Slow twins of verification: one pair at a time."""

from collections.abc import Sequence

from tests.oracles.attacks import Listed
from tests.oracles.steps import distance


def pair_distances(probes: Listed, templates: Listed) -> tuple[list[float], list[float]]:
    """Distances of genuine and of impostor pairs; a pair of two images counts once, an image with itself never."""
    seen: set[frozenset[int]] = set()
    found: tuple[list[float], list[float]] = ([], [])
    for i in range(len(probes)):
        for j in range(len(templates)):
            pair = frozenset((probes.ids[i], templates.ids[j]))
            if len(pair) < 2 or pair in seen:
                continue
            seen.add(pair)
            genuine = probes.labels[i] == templates.labels[j]
            found[0 if genuine else 1].append(distance(probes.points[i], templates.points[j]))
    return sorted(found[0]), sorted(found[1])


def threshold(far: float, impostors: Sequence[float]) -> float:
    """The largest of their distances below which no more than the rate of them lie."""
    allowed = [t for t in impostors if sum(d < t for d in impostors) <= far * len(impostors) + 1e-9]
    return max(allowed)


def equal_errors(genuine: Sequence[float], impostors: Sequence[float]) -> set[float]:
    """The mean of both error rates in percent wherever they are nearest to each other."""
    rates = []
    for t in [*genuine, *impostors, float("inf")]:
        accepted = sum(d < t for d in impostors) / len(impostors)
        rejected = sum(d >= t for d in genuine) / len(genuine)
        rates.append((round(abs(accepted - rejected), 9), round(50 * (accepted + rejected), 6)))
    return {mean for apart, mean in rates if apart == min(rates)[0]}
