"""What a backbone is, under whatever name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from holdfast.util.errors import HoldfastError


@dataclass(frozen=True)
class Backbone:
    """A kind of network: normalised pixels (B, channels, H, W) -> (B, dim), before the L2 normalisation.

    ``build(dim, channels, size)`` makes one. ``mean`` and ``std`` of its input pixels are in the units of [0, 1], one
    per channel it was meant for; attributes ``mean`` and ``std`` of the network itself take their place. With
    ``fixed_size`` it takes size x size pixels only. ``weights`` finds the file of its ImageNet weights, where a package
    has them. ``pretrained`` gives the weights that a network starts from by default, by its own names, where ``build``
    leaves them out: a network that is built to be loaded into needs none.
    """

    build: Callable[[int, int, int], nn.Module]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    summary: str = ""
    fixed_size: bool = False
    weights: Callable[[], Path] | None = None
    pretrained: Callable[[], Mapping[str, Tensor]] | None = None

    def network(self, dim: int, channels: int, size: int) -> nn.Module:
        """One for (B, channels, size, size) pixels, giving (B, dim). Raises HoldfastError where there can be none."""
        for what, value in (("dim", dim), ("channels", channels), ("size", size)):
            if not isinstance(value, int) or value < 1:
                raise HoldfastError(f"{what} of a backbone is a positive whole number, got {value!r}")
        return self.build(dim, channels, size)

    def statistics(self, network: nn.Module) -> tuple[Any, Any]:
        """Mean and std of the pixels of a network that this backbone built."""
        return getattr(network, "mean", self.mean), getattr(network, "std", self.std)


@dataclass(frozen=True)
class AsItIs(Backbone):
    """A model that a word names, as it came: ``mean`` and ``std`` are what its pixels are normalised by before it.

    What else it calls ``mean`` or ``std`` is its own affair.
    """

    def statistics(self, network: nn.Module) -> tuple[Any, Any]:
        """As the word has them."""
        return self.mean, self.std
