"""The odds that the nearest item is of an image's own class: what a descent on a rough landscape follows."""

from dataclasses import dataclass
from functools import partial
from math import inf

import torch
from torch import Tensor

from holdfast.core.gallery import Items, in_blocks
from holdfast.core.objectives import with_gradient

WRONG = -1e9
"""The value of a query whose first result is wrong already."""


@dataclass(frozen=True, eq=False)
class ClassOdds:
    """The margin: how much farther the nearest item of another class is than the nearest match. Its gradient is that of
    the log odds of the class, ``log Σ exp(-d / T)`` over the matches less the same over the other classes.

    T is ``share`` of the margin, and at least ``least``: far from its end a descent follows whole classes, near it the
    items that decide. With a share of 0 it always follows those.

    matching, own: (B, N). least: for each image, (B,). A query is finished once its first result is wrong, as
    :meth:`.Items.distances` measure it.
    """

    items: Items
    matching: Tensor
    own: Tensor
    share: float
    least: Tensor
    floor: float = WRONG

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        z = z[:, 0]
        found = in_blocks(partial(self._with_gradient, wanted=z.requires_grad), self.items, z, rows)
        return with_gradient(z, found[:, 0], found[:, 1:])

    def _with_gradient(self, z: Tensor, rows: Tensor, wanted: bool) -> Tensor:
        """The value and, where wanted, its gradient, ``(g, 1 + D)``.

        The log odds are a weighted sum of distances, and ``∂d(z, x)/∂z = (z - x) / d(z, x)``: the gradient is a second
        matrix product, of the weights over the distances with the items.
        """
        items, seen = self.items, self.items.seen(z)
        distances = items.measure(seen, items.columns, items.squares)
        matching, own = self.matching[rows], self.own[rows]
        matches, others = distances.masked_fill(~matching | own, inf), distances.masked_fill(matching, inf)
        margin = others.amin(1) - matches.amin(1)
        wrong = margin < 0
        value = margin.masked_fill(wrong, self.floor)[:, None]
        if not wanted:
            return value
        temperature = (self.share * margin).maximum(self.least[rows].to(margin))[:, None]
        weights = torch.softmax(-others / temperature, 1) - torch.softmax(-matches / temperature, 1)
        weights = weights.masked_fill_(wrong[:, None], 0).div_(temperature * distances)
        gradient = seen * weights.sum(1, keepdim=True) - weights @ items.columns.T
        return torch.cat([value, gradient], dim=1)
