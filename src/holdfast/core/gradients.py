"""How a descent finds its direction: by back-propagation, or as an attacker who can only query the model."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Generator, Tensor

from holdfast.util.text import counted

Generators = Generator | Sequence[Generator] | None
"""Where random numbers come from: one generator for all groups, or one per group, whose draws then do not depend on
the other groups."""


@dataclass(frozen=True)
class Iterate:
    """Where a descent stands, as a :class:`Gradient` sees it.

    images: ``(g, R, C, H, W)``, the groups still in play.
    value: the objective of such images, ``(g, R, C, H, W) -> (g,)``.
    move: from a direction ``(g, R, C, H, W)`` to the images that a step against it leads to.
    floor: groups with a value down to it are finished.
    progress: share of the steps already taken, in [0, 1).
    known: the objective of the images where it is known already, ``(g,)``, else NaN; None: nowhere.
    ahead: where a gradient may note the objective of the images that its step leads to, ``(g,)``; None: nowhere.
    """

    images: Tensor
    value: Callable[[Tensor], Tensor]
    move: Callable[[Tensor], Tensor]
    floor: float
    progress: float
    known: Tensor | None = None
    ahead: Tensor | None = None

    def values(self) -> Tensor:
        """The objective of the images, ``(g,)``, asked for only where it is not known for all of them."""
        if self.known is None or self.known.isnan().any():
            return self.value(self.images)
        return self.known


Gradient = Callable[[Iterate, Generators], tuple[Tensor, Tensor]]
"""How a descent finds its direction: the objective ``(g,)`` at an iterate, and its gradient like the images."""


@dataclass(frozen=True)
class BackPropagation:
    """The white box: the exact gradient for the pixels."""

    def __call__(self, at: Iterate, generators: Generators) -> tuple[Tensor, Tensor]:
        pixels = at.images.detach().requires_grad_()
        with torch.enable_grad():
            values = at.value(pixels)
            # Groups do not share images, so the gradient of the sum holds the gradient of each.
            total = values.sum()
        values = values.detach()
        if not (values > at.floor).any():
            return values, torch.zeros_like(at.images)
        return values, torch.autograd.grad(total, pixels)[0]


WHITE_BOX = BackPropagation()


@dataclass(frozen=True)
class NES:
    """Natural evolution strategies (Ilyas et al., ICML 2018): finite differences along random directions.

    pairs: antithetic pairs of queries per step. sigma: how much they change a pixel (standard deviation).
    """

    pairs: int = 25
    sigma: float = 0.01

    @property
    def queries(self) -> int:
        """Of the model, per step and image."""
        return 1 + 2 * self.pairs

    def __call__(self, at: Iterate, generators: Generators) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            values, gradient = at.values(), torch.zeros_like(at.images)
            for _ in range(self.pairs):
                direction = random_like(torch.randn, at.images, generators)
                above, below = ((at.images + s * self.sigma * direction).clamp(0, 1) for s in (1, -1))
                slope = at.value(above) - at.value(below)
                gradient += slope.view(-1, *[1] * (direction.ndim - 1)) * direction
        return values, gradient / (2 * self.sigma * self.pairs)


@dataclass(frozen=True)
class Square:
    """Square attack (Andriushchenko et al., ECCV 2020): change one random square, and go there if the objective falls.

    Under L-infinity use a step of twice the radius, so that a square goes to the edge of the ball at once.
    share: of the image's area that the first squares cover; later ones are smaller, on the authors' schedule.
    accept: from the objective there and here, ``(g,)`` each, where to go; by default where it falls. An objective that
    is a staircase needs equal values accepted (``torch.le``), or most moves would be lost.
    """

    share: float = 0.3
    accept: Callable[[Tensor, Tensor], Tensor] = field(default=torch.lt, repr=False)
    queries: ClassVar[int] = 1
    """Of the model, per step and image."""

    def __call__(self, at: Iterate, generators: Generators) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            values, direction = at.values(), self._square(at, generators)
            moved = at.value(at.move(direction))
            taken = self.accept(moved, values)
            if at.ahead is not None:
                at.ahead.copy_(moved.where(taken, values))
            return values, direction * taken.view(-1, *[1] * (direction.ndim - 1))

    def _square(self, at: Iterate, generators: Generators) -> Tensor:
        """A random sign per channel on a random square of each image, zero elsewhere."""
        height, width = at.images.shape[-2:]
        halvings = sum(at.progress > point for point in HALVINGS)
        side = min(height, width, max(1, round(math.sqrt(self.share / 2**halvings * height * width))))
        numbers = random_like(torch.rand, at.images[..., :2, 0] if height > 1 else at.images[..., :1, 0], generators)
        corner = numbers[:, :, 0]  # (g, R, 2), shared by the channels
        top = (corner[..., 0] * (height - side + 1)).long()[..., None]
        left = (corner[..., -1] * (width - side + 1)).long()[..., None]
        y, x = (torch.arange(n, device=at.images.device) for n in (height, width))
        inside = ((y >= top) & (y < top + side))[..., :, None] & ((x >= left) & (x < left + side))[..., None, :]
        signs = random_like(torch.rand, at.images[..., :1, :1], generators).sub(0.5).sign()
        return signs * inside[:, :, None]


def over_draws(value: Callable[[Tensor], Tensor], draws: int) -> Callable[[Tensor], Tensor]:
    """The mean of so many calls of a value that random numbers go into, one after the other; its gradient likewise
    (expectation over transformation, Athalye et al., ICML 2018)."""

    def mean(images: Tensor) -> Tensor:
        found = [_with_slope(value, images) for _ in range(draws)]
        values = torch.stack([one for one, _ in found]).mean(0)
        if not images.requires_grad:
            return values
        slope = torch.stack([one for _, one in found]).mean(0)
        return values + (slope * (images - images.detach())).flatten(1).sum(1)

    return mean


def _with_slope(value: Callable[[Tensor], Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    if not images.requires_grad:
        return value(images), images
    pixels = images.detach().requires_grad_()
    with torch.enable_grad():
        values = value(pixels)
    return values.detach(), torch.autograd.grad(values.sum(), pixels)[0]


HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Shares of the steps after which the squares' area halves: the authors' 10 to 8,000 of 10,000 queries."""


def random_like(sample: Callable[..., Tensor], like: Tensor, generators: Generators) -> Tensor:
    """``sample`` (torch.rand, torch.randn) in the shape ``(g, ...)`` of a tensor, by one generator or one per group."""
    if generators is None or isinstance(generators, Generator):
        device = like.device if generators is None else generators.device
        return sample(like.shape, generator=generators, device=device).to(like)
    if len(generators) != len(like):
        raise ValueError(f"{counted(len(generators), 'generator')} for {counted(len(like), 'group')}")
    if not len(like):
        return torch.empty_like(like)
    return torch.stack([sample(like.shape[1:], generator=one, device=one.device) for one in generators]).to(like)


def generators_at(generators: Generators, rows: Tensor) -> Generators:
    """The generators of these groups."""
    if generators is None or isinstance(generators, Generator):
        return generators
    return [generators[row] for row in rows.tolist()]
