"""What a model finds for a query, in order."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from holdfast.attacks import System
from holdfast.core.gallery import Queries
from holdfast.explorer.scene import Model

FIRST = 10
"""Results that are shown."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """The gallery in the order in which it is found for a query.

    order: rows of the gallery, the query's own entry left out; of what an index finds, the first ones. matching: (N,)
    bool, which rows are of its class.
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


def ranked(model: Model, query: Queries, z: Tensor) -> Ranking:
    """What a model finds for the only one of ``query`` when its embedding is ``z`` (1, D).

    An index that does not compare a query with every item is asked itself, for one more than :data:`FIRST`, since the
    query's own entry may be among them.
    """
    system, index = model.target.system, model.index
    if index is None or index.exhaustive:
        return by_distance(system, query, z)
    rows = index.search(z, FIRST + 1)[0]
    rows = rows[rows >= 0]
    return Ranking(rows[system.gallery.ids[rows] != query.ids][:FIRST], system.gallery.labels == query.labels)


def by_distance(system: System, query: Queries, z: Tensor) -> Ranking:
    """The gallery of a system by its distances to ``z`` (1, D), of two at the same distance the earlier row first."""
    items = system.items
    hidden = items.own(query.ids)[0]
    order = items.distances(z)[0].argsort(stable=True)
    return Ranking(order[~hidden[order]], items.labels == query.labels)
