"""Networks of the user's own: modules, and functions that build one, by the name of their module or file."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from holdfast.core.fused import frozen
from holdfast.models.backbones.base import Backbone
from holdfast.util.errors import HoldfastError, brief
from holdfast.util.imports import load_attribute


def given(network: nn.Module) -> Backbone:
    """The backbone of a module."""
    return Backbone(tried("the backbone given", lambda *_: network))


def named(spec: str) -> Backbone:
    """The backbone that ``package.module:build`` or ``path/to/file.py:build`` names, once it is built.

    ``build(dim, channels, size)`` gives the module. The code is run.
    """

    def build(dim: int, channels: int, size: int) -> nn.Module:
        function = load_attribute(spec)
        try:
            network: nn.Module = function(dim, channels, size)
        except (Exception, SystemExit) as error:
            raise HoldfastError(f"{spec}(dim={dim}, channels={channels}, size={size}) raises {brief(error)}") from error
        return network

    return Backbone(tried(spec, build), summary=f"built by {spec}")


def tried(name: str, build: Callable[[int, int, int], nn.Module]) -> Callable[[int, int, int], nn.Module]:
    """``build``, and two images passed through what comes out, to see that it is a network of the dim asked for."""

    def checked(dim: int, channels: int, size: int) -> nn.Module:
        network = build(dim, channels, size)
        if not isinstance(network, nn.Module):
            raise HoldfastError(f"{name} is a {type(network).__name__}, not a torch module")
        weight = next(network.parameters(), None)
        if weight is None:
            raise HoldfastError(f"{name} has no parameters to train")
        pixels = torch.zeros(2, channels, size, size, dtype=weight.dtype, device=weight.device)
        try:
            with torch.no_grad(), frozen(network):
                z = network(pixels)
        except Exception as error:
            raise HoldfastError(f"{name} does not take pixels {tuple(pixels.shape)}: {brief(error)}") from error
        if not isinstance(z, Tensor) or z.shape != (2, dim):
            found = tuple(z.shape) if isinstance(z, Tensor) else f"a {type(z).__name__}"
            raise HoldfastError(f"{name} turns pixels {tuple(pixels.shape)} into {found}, not into (2, dim={dim})")
        return network

    return checked
