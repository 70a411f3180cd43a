"""What a model finds for a query, in order."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from holdfast.core.gallery import Queries
from holdfast.evaluation.runner import Target

FIRST = 10
"""Results that are shown."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """The gallery in the order of its distances to a query, of two at the same distance the earlier row first.

    order: rows of the gallery, nearest first, the query's own entry left out. matching: (N,) bool, which rows are of
    its class.
    """

    order: Tensor
    matching: Tensor

    @cached_property
    def places(self) -> Tensor:
        """(N,) where each row of the gallery stands, from 1; 0 for what is left out."""
        places = torch.zeros_like(self.matching, dtype=torch.long)
        places[self.order] = torch.arange(1, len(self.order) + 1, device=places.device)
        return places

    @property
    def found(self) -> list[bool]:
        """Of the first results, which are of the query's class."""
        return [bool(one) for one in self.matching[self.order[:FIRST]]]


def ranked(target: Target, query: Queries, z: Tensor) -> Ranking:
    """What a model finds for the only one of ``query`` when its embedding is ``z`` (1, D)."""
    items = target.system.items
    hidden = items.own(query.ids)[0]
    order = items.distances(z)[0].argsort(stable=True)
    return Ranking(order[~hidden[order]], items.labels == query.labels)
