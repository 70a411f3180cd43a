"""Gradients without back-propagation, for the same descent: an attacker who can only ask the model."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.core.pgd import Draws, Iterate, random


@dataclass(frozen=True)
class NES:
    """Natural evolution strategies (Ilyas et al., ICML 2018): finite differences along random directions.

    pairs: antithetic pairs of queries per step. sigma: how much they change a pixel (standard deviation).
    """

    pairs: int = 25
    sigma: float = 0.01

    def __call__(self, at: Iterate, draws: Draws) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            values, gradient = at.value(at.images), torch.zeros_like(at.images)
            for _ in range(self.pairs):
                direction = random(torch.randn, at.images, draws)
                above, below = ((at.images + s * self.sigma * direction).clamp(0, 1) for s in (1, -1))
                slope = at.value(above) - at.value(below)
                gradient += slope.view(-1, *[1] * (direction.ndim - 1)) * direction
        return values, gradient / (2 * self.sigma * self.pairs)


@dataclass(frozen=True)
class Square:
    """Square attack (Andriushchenko et al., ECCV 2020): change one random square, and go there if the objective falls.

    Under L-infinity use a step of twice the radius, so that a square goes to the edge of the ball at once.
    share: of the image's area that the first squares cover; later ones are smaller, on the authors' schedule.
    """

    share: float = 0.3

    def __call__(self, at: Iterate, draws: Draws) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            values, direction = at.value(at.images), self._square(at, draws)
            falls = at.value(at.move(direction)) < values
            return values, direction * falls.view(-1, *[1] * (direction.ndim - 1))

    def _square(self, at: Iterate, draws: Draws) -> Tensor:
        """A random sign per channel on a random square of each image, zero elsewhere."""
        height, width = at.images.shape[-2:]
        halvings = sum(at.progress > point for point in HALVINGS)
        side = min(height, width, max(1, round(math.sqrt(self.share / 2**halvings * height * width))))
        numbers = random(torch.rand, at.images[..., :2, 0] if height > 1 else at.images[..., :1, 0], draws)
        corner = numbers[:, :, 0]  # (g, R, 2), shared by the channels
        top = (corner[..., 0] * (height - side + 1)).long()[..., None]
        left = (corner[..., -1] * (width - side + 1)).long()[..., None]
        y, x = (torch.arange(n, device=at.images.device) for n in (height, width))
        inside = ((y >= top) & (y < top + side))[..., :, None] & ((x >= left) & (x < left + side))[..., None, :]
        signs = random(torch.rand, at.images[..., :1, :1], draws).sub(0.5).sign()
        return signs * inside[:, :, None]


HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Shares of the steps after which the squares' area halves: the authors' 10 to 8,000 of 10,000 queries."""
