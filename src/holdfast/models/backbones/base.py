"""What a backbone is, under whatever name."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from holdfast.util.errors import HoldfastError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Backbone:
    """A kind of network: normalised pixels (B, channels, H, W) -> (B, dim), before the L2 normalisation.

    ``build(dim, channels, size)`` makes one. ``mean`` and ``std`` of its input pixels are in the units of [0, 1], one
    per channel it was meant for; attributes ``mean`` and ``std`` of the network itself take their place. With
    ``fixed_size`` it takes size x size pixels only. ``weights`` finds the file of its ImageNet weights, where a package
    has them.
    """

    build: Callable[[int, int, int], nn.Module]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    summary: str = ""
    fixed_size: bool = False
    weights: Callable[[], Path] | None = None

    def network(self, dim: int, channels: int, size: int) -> nn.Module:
        """One for (B, channels, size, size) pixels, giving (B, dim). Raises HoldfastError where there can be none."""
        for what, value in (("dim", dim), ("channels", channels), ("size", size)):
            if not isinstance(value, int) or value < 1:
                raise HoldfastError(f"{what} of a backbone is a positive whole number, got {value!r}")
        return self.build(dim, channels, size)
