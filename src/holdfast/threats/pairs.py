"""Genuine and impostor pairs of a test set: their distances, the threshold at a false accept rate, and error rates."""

from dataclasses import dataclass
from math import ceil, floor, inf

import torch
from torch import Generator, Tensor

from holdfast.core.batching import rows_per_block
from holdfast.core.distance import exact_matrix
from holdfast.core.gallery import Queries
from holdfast.util.errors import HoldfastError
from holdfast.util.text import counted

MOST_PAIRS = 2_000_000
"""Of what the threshold is found from; where there are more, probes are drawn."""
NEEDED = 10
"""False accepts among clean impostors that a rate must stand for at least."""


@dataclass(frozen=True, eq=False)
class Faces:
    """Who may be compared with whom: classes ``labels`` (n,) and rows ``ids`` (n,) of a test table."""

    labels: Tensor
    ids: Tensor

    @classmethod
    def of(cls, images: Queries) -> "Faces":
        """Of embedded images."""
        return cls(images.labels, images.ids)

    def take(self, rows: Tensor) -> "Faces":
        """Those at ``rows``."""
        return Faces(self.labels[rows], self.ids[rows])


def drawn_probes(probes: int, templates: int, seed: int) -> Tensor:
    """The rows of the probes that make at most :data:`MOST_PAIRS` pairs, in order; at least one."""
    most = max(1, MOST_PAIRS // max(1, templates))
    if probes <= most:
        return torch.arange(probes)
    return torch.randperm(probes, generator=Generator().manual_seed(seed))[:most].sort().values


def masks(probes: Faces, templates: Faces, every: Faces) -> tuple[Tensor, Tensor]:
    """Which pairs of some ``probes`` (n,) of ``every`` (Q,) and ``templates`` (N,) are genuine and which impostors,
    ``(n, N)`` bool each.

    An image is not compared with itself, and two images that are both probes and templates count once.
    """
    one, other = probes.ids[:, None], templates.ids[None]
    twice = torch.isin(probes.ids, templates.ids)[:, None] & torch.isin(templates.ids, every.ids)[None] & (other < one)
    counts = (one != other) & ~twice
    same = probes.labels[:, None] == templates.labels[None]
    return counts & same, counts & ~same


def count_pairs(probes: Faces, templates: Faces) -> tuple[int, int]:
    """How many genuine and impostor pairs there are."""
    totals = [0, 0]
    for rows in _blocks(len(probes.ids), len(templates.ids)):
        for i, mask in enumerate(masks(probes.take(rows), templates, probes)):
            totals[i] += int(mask.sum())
    return totals[0], totals[1]


def distances(probes: Queries, templates: Queries) -> tuple[Tensor, Tensor]:
    """The distances of all genuine and of all impostor pairs, ``(g,)`` and ``(i,)``, ascending."""
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    every, stored = Faces.of(probes), Faces.of(templates)
    for rows in _blocks(len(probes.ids), len(templates.ids)):
        part = exact_matrix(probes.embeddings[rows], templates.embeddings)
        for side, mask in zip(found, masks(every.take(rows.to(every.ids.device)), stored, every), strict=True):
            side.append(part[mask])
    return torch.cat(found[0]).sort().values, torch.cat(found[1]).sort().values


def least_rate(impostors: int) -> float:
    """The least false accept rate that so many impostor pairs can show; 1 or more: none."""
    return ceil(1e6 * NEEDED / impostors) / 1e6


def require_rate(far: float, impostors: int, genuine: int) -> None:
    """Raise HoldfastError for a false accept rate that so many pairs cannot show, and say which they can."""
    if not genuine or not impostors:
        lacking = "genuine" if not genuine else "impostor"
        raise HoldfastError(f"there are no {lacking} pairs: verification needs two images of a class, and two classes")
    if not 0 < far < 1:
        raise HoldfastError(f"far is above 0 and below 1, as 0.01, not {far:g}")
    if far * impostors < NEEDED - 1e-9:
        least = least_rate(impostors)
        possible = f"{least:g} is the least" if least < 1 else "no rate is possible"
        raise HoldfastError(
            f"far {far:g} of {counted(impostors, 'impostor pair')} is less than the {NEEDED} false accepts that a rate "
            f"needs to mean anything: {possible}"
        )


def threshold_at(far: float, impostors: Tensor) -> float:
    """The largest distance below which at most a share ``far`` of the ``impostors`` (n,), ascending, lie.

    A pair is accepted, by :func:`accepted_at`, if it is nearer: impostors tied there are all rejected.
    """
    return float(impostors[floor(far * len(impostors) + 1e-9)])


def accepted_at(threshold: float, reached: Tensor) -> Tensor:
    """Which pairs are accepted, (n,) bool, by their distances (n,)."""
    return reached < threshold


def equal_error_rate(genuine: Tensor, impostors: Tensor) -> float:
    """The error rate, in percent, at the threshold where as many genuine pairs are rejected as impostors accepted.

    Where no threshold makes them equal, their mean where they are nearest. genuine, impostors: distances (g,), (i,).
    """
    genuine, impostors = (one.double().sort().values for one in (genuine, impostors))
    thresholds = torch.cat([torch.unique(torch.cat([genuine, impostors])), genuine.new_tensor([inf])])
    accepted = torch.searchsorted(impostors, thresholds).double() / len(impostors)
    rejected = 1 - torch.searchsorted(genuine, thresholds).double() / len(genuine)
    best = (accepted - rejected).abs().argmin()
    return 50 * float(accepted[best] + rejected[best])


def _blocks(probes: int, templates: int) -> tuple[Tensor, ...]:
    return torch.split(torch.arange(probes), rows_per_block(32 * templates))
