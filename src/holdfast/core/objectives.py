"""What a perturbation is after: objectives with one value per group of images, all of them minimised."""

from dataclasses import dataclass
from math import inf

from torch import Tensor

from holdfast.core.distance import pairs
from holdfast.core.triplets import hardness

HARDEST = 2.0
"""The largest hardness there is; as a destination it makes HM min-max training."""


@dataclass(frozen=True)
class RaiseHardness:
    """Raise a triplet's hardness to its destination, and no further (Zhou & Patel 2022, eq. 3).

    destination: ``H_D`` per triplet, ``(T,)``. The value is ``max(0, H_D - H)``, without the paper's square: the
    sign of the gradient is the same, and it does not fade on the way. ``H_D = 2`` is min-max training.
    """

    destination: Tensor
    floor: float = 0.0

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        return (self.destination[rows] - hardness(z)).relu()


@dataclass(frozen=True)
class CollapsePair:
    """Pull two images' embeddings together: the attack of anti-collapse triplets (Zhou et al. 2021, ACT)."""

    floor: float = 0.0

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        return pairs(z[:, 0], z[:, 1])


@dataclass(frozen=True)
class ShiftEmbedding:
    """Move every image's embedding away from where it was (Zhou et al. 2020, ES).

    origin: the clean embeddings, ``(G, R, D)``. There is no gradient at the origin itself: start off it.
    """

    origin: Tensor
    floor: float = -inf

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        return -pairs(z, self.origin[rows]).sum(dim=1)
