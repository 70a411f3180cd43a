"""The embedder as it was before hardening, and what holds training near it."""

from copy import deepcopy
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.fused import autocast
from holdfast.util.distributed import average

HIDDEN = 64
"""Width of the network that gives the multipliers."""
STEPS = 5
"""Steps of the embedder for each step of the multipliers."""
RATE = 0.25
"""Step size of the multipliers' ascent, for an excess in units of ρ."""


class Original(nn.Module):
    """A frozen copy of an embedder: images ``(B, C, H, W) -> (B, D)``, in evaluation mode and without gradients."""

    def __init__(self, embedder: nn.Module) -> None:
        super().__init__()
        self.network = deepcopy(embedder).eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """It stays in evaluation mode."""
        return self

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        z: Tensor = self.network(images)
        return z


def squared_distances(z: Tensor, origins: Tensor) -> Tensor:
    """``‖φ(x) - φ0(x)‖²`` of each image, ``(B, D), (B, D) -> (B,)``; between vectors of length 1 in [0, 4]."""
    return (z - origins).square().sum(1)


class Constraint(nn.Module):
    """``‖φ(x) - φ0(x)‖² <= ρ ‖φ0(x)‖²`` of clean images, as a term of the loss (Poppi et al. 2025, LORE).

    The term is the Lagrangian's, ``mean_x λ(x) (‖φ(x) - φ0(x)‖² - ρ)``. The multipliers ``λ(x) = softplus(MLP(φ0(x)))``
    rise where the constraint is broken: one step of plain gradient ascent after every :data:`STEPS` of the embedder.

    rho: ρ; φ0 has length 1.
    """

    steps: Tensor

    def __init__(self, rho: float) -> None:
        super().__init__()
        self.rho, self.network = rho, nn.Sequential()
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def begin(self, origins: Tensor) -> None:
        """Make the multipliers, one and the same for all images at first, for embeddings ``(B, D)``."""
        last = nn.Linear(HIDDEN, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.network = nn.Sequential(nn.Linear(origins.shape[1], HIDDEN), nn.ReLU(), last).to(origins)
        self.steps.zero_()

    def multipliers(self, origins: Tensor) -> Tensor:
        """``λ(x)``, ``(B, D) -> (B,)``."""
        with autocast(None, origins.device):
            return F.softplus(self.network(origins)).squeeze(1)

    def forward(self, z: Tensor, origins: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The term ``()`` of embeddings and their origins ``(B, D)``, and what to log of it."""
        squared = squared_distances(z, origins)
        if self.steps and self.steps % STEPS == 0:
            self._ascend(origins, squared.detach() / self.rho - 1)
        self.steps += 1
        multipliers = self.multipliers(origins).detach()
        term = (multipliers * (squared - self.rho)).mean()
        return term, {"distance": squared.detach().mean(), "multiplier": multipliers.mean()}

    @torch.enable_grad()
    def _ascend(self, origins: Tensor, excess: Tensor) -> None:
        parameters = list(self.network.parameters())
        gradients = torch.autograd.grad((self.multipliers(origins) * excess).mean(), parameters)
        average(gradients)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.add_(gradient, alpha=RATE)
