"""How many images an attack on a search has reached with so many searches."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from holdfast.evaluation.scores import share

POINTS = (1, 100, 300, 1000)
"""Searches per image at which the share is told; the first is that of the clean image."""


def curve(
    entries: Sequence[dict[str, Any]], milestones: Iterable[str], budget: int
) -> dict[str, list[dict[str, float]]]:
    """By milestone: at each of :data:`POINTS` within the budget, and at the budget, the share of images in percent that
    reached it with at most so many ``searches``, with its 95 % interval (Clopper and Pearson)."""
    found = {}
    for name in milestones:
        reached = np.array([entry["after"][name] for entry in entries])
        found[name] = [
            {"searches": point, **share(np.where((reached > 0) & (reached <= point), 100.0, 0.0))}
            for point in (*(one for one in POINTS if one < budget), budget)
        ]
    return found
