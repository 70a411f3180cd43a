"""Certified R@1: the share of queries that no perturbation within an L2 radius can break, proven by smoothing."""

from collections.abc import Iterable
from math import sqrt
from typing import Any

import torch
from torch import Generator, Tensor

from holdfast.core.gallery import Queries
from holdfast.evaluation.records import Record, Records
from holdfast.evaluation.robust.smoothed import attacked
from holdfast.evaluation.robust.smoothing import SmoothedSearch, certified_radius, least_probability, record_of
from holdfast.evaluation.runner import Target, attacked_rows
from holdfast.evaluation.scores import share
from holdfast.evaluation.settings import AttackSettings
from holdfast.util.errors import HoldfastError
from holdfast.util.progress import Progress

RADII = (0.0, 0.25, 0.5, 0.75, 1.0)
"""L2 radii at which certified R@1 is reported, in units of the pixel range [0, 1]."""
NAME = "certified"
"""What the records are called."""


def certified_recall(
    target: Target, resolved: AttackSettings, records: Records, *, quiet: bool
) -> dict[str, Any] | None:
    """Certify the queries that are attacked, attack them, and go on where ``records`` end; None without a sigma.

    Returns ``certified`` of a result. ``radii`` holds for each of :data:`RADII` the certified share, and in
    ``attacked`` what the attack leaves (None where no gradient reaches the pixels). ``abstained`` counts the queries
    whose class comes first for most copies, but for too few of them to be sure; ``largest`` is the radius of a query
    whose copies all find it.
    """
    if resolved.sigma is None:
        return None
    rows = attacked_rows("query", target, resolved)
    if not len(rows):
        raise HoldfastError("no readable image has another image of its class to be found: nothing to certify")
    search, queries = SmoothedSearch(target, resolved.sigma, resolved.seed), target.system.queries.take(rows)
    radii, right = certify(search, queries, resolved.draws, resolved.alpha, records=records, quiet=quiet)
    left = {0.0: right}
    if target.model.differentiable:
        left |= attacked(search, queries, right, RADII[1:], resolved.alpha, records=records, quiet=quiet)
    side = sqrt(target.pixels.channels * target.pixels.size**2)
    return {
        "sigma": resolved.sigma,
        "draws": resolved.draws,
        "alpha": resolved.alpha,
        "largest": certified_radius(least_probability(resolved.draws, resolved.draws, resolved.alpha), resolved.sigma),
        "queries": len(rows),
        "abstained": int((right & (radii <= 0)).sum()),
        "radii": [
            {
                "radius": radius,
                "linf": radius / side,
                **share(100.0 * (radii > radius).numpy()),
                "attacked": share(100.0 * left[radius].numpy()) if radius in left else None,
            }
            for radius in RADII
        ],
    }


def certify(
    search: SmoothedSearch, queries: Queries, draws: int, alpha: float, *, records: Records, quiet: bool = False
) -> tuple[Tensor, Tensor]:
    """The certified radius of each query, (n,) float64, and for which most copies find their class, (n,) bool.

    A radius is too large with a probability of at most ``alpha``; it is 0 where nothing is certain.
    """

    def make(part: Queries, images: Tensor, generators: list[Generator]) -> Iterable[Record]:
        for i, generator in enumerate(generators):
            query = part.take(part.ids.new_tensor([i]))
            hits = search.hits(query, images[i], draws, generator)
            radius = certified_radius(least_probability(hits, draws, alpha), search.sigma)
            yield record_of(query, {"hits": 100 * hits / draws}, {"radius": radius})

    with Progress("certifying", len(queries.ids), quiet=quiet) as progress:
        found = search.record(NAME, queries, make, records, progress)
    radii = torch.tensor([one["after"]["radius"] for one in found], dtype=torch.float64)
    return radii, torch.tensor([one["before"]["hits"] > 50 for one in found])
