"""One perturbation for many images: PGD perturbs a canvas, which an overlay lays on every image.

The canvas is the one image of the one group that PGD has. Its embedding is that of all images with the canvas on them,
side by side, and its objective is the mean of theirs: so the gradient is averaged over the images before each step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, pi, sqrt
from typing import ClassVar, Protocol

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from holdfast.attacks.base import System
from holdfast.attacks.misrank import Misrank
from holdfast.core.gallery import Queries
from holdfast.core.objectives import Margin, Objective, nearest_match_beyond_nearest_other
from holdfast.core.pgd import Embed
from holdfast.util.errors import HoldfastError

GREY = 128 / 255
"""What a canvas is before it is perturbed."""
ENOUGH = -0.2
"""The margin of a query that counts as wrong for good: it adds nothing to the mean gradient below (Shafahi et al., AAAI
2020, clamp the loss of each image likewise)."""


class Overlay(Protocol):
    """How a canvas is laid on images.

    numbers: how many random numbers, in [0, 1), decide how it lies on an image.
    """

    @property
    def numbers(self) -> int: ...

    def canvas_side(self, image: int) -> int:
        """The side of the canvas for images with this side."""

    def __call__(self, canvas: Tensor, images: Tensor, numbers: Tensor) -> Tensor:
        """The canvas (C, h, h) on images (n, C, H, H), by ``numbers`` (n, K): (n, C, H, H) in [0, 1]."""


@dataclass(frozen=True)
class Universal(Misrank):
    """A universal perturbation (Moosavi-Dezfooli et al., CVPR 2017): the same change of the pixels of every query."""

    name: ClassVar[str] = "universal"
    numbers: ClassVar[int] = 0

    def canvas_side(self, image: int) -> int:
        return image

    def __call__(self, canvas: Tensor, images: Tensor, numbers: Tensor) -> Tensor:
        return (images + (canvas - GREY)).clamp(0, 1)


SCALES, TURN, LIGHT = (0.8, 1.2), pi / 9, (0.8, 1.2)
"""Between what a patch's side is scaled and its brightness multiplied, and by how much it is turned either way, 20°."""


@dataclass(frozen=True)
class Patch(Misrank):
    """An adversarial patch (Brown et al., 2017): a square that hides a part of the query, wherever it is put.

    ``x' = (1 - M) x + M T(p)``, with place, scale, rotation and brightness of T drawn anew for every image and step.
    area: the share of the image that the patch takes before it is scaled, in (0, 0.5].
    """

    area: float = 0.05
    name: ClassVar[str] = "patch"
    numbers: ClassVar[int] = 5

    def __post_init__(self) -> None:
        if not 0 < self.area <= 0.5:
            raise HoldfastError(f"area is above 0 and at most 0.5, a share of the image, not {self.area:g}")

    def canvas_side(self, image: int) -> int:
        return max(2, round(image * sqrt(self.area)))

    def __call__(self, canvas: Tensor, images: Tensor, numbers: Tensor) -> Tensor:
        down, across, scale, turn, light = numbers.to(images).unbind(1)
        half = sqrt(self.area) * _between(scale, *SCALES)
        angle = _between(turn, -TURN, TURN)
        cos, sin = angle.cos(), angle.sin()
        room = (1 - half * (cos + sin.abs())).clamp(min=0)
        x, y = room * _between(across, -1, 1), room * _between(down, -1, 1)
        rows = torch.stack([cos, sin, -(cos * x + sin * y)], 1), torch.stack([-sin, cos, sin * x - cos * y], 1)
        theta = torch.stack(rows, 1) / half[:, None, None]
        grid = affine_grid(theta, [*images.shape], align_corners=False)
        laid, mask = (
            grid_sample(one.expand(len(images), -1, -1, -1), grid, align_corners=False)
            for one in (canvas, torch.ones_like(canvas[:1]))
        )
        return ((1 - mask) * images + _between(light, *LIGHT).view(-1, 1, 1, 1) * laid).clamp(0, 1)


@dataclass(frozen=True, eq=False)
class OnAll:
    """From canvases ``(n, C, h, h)`` to the embeddings of all ``images`` (N, C, H, H) with each of them on, (n, N D).

    width: images embedded at once; what back-propagation needs is computed again for each such block, so that memory
    does not grow with N. generator: of the numbers of the overlay.
    """

    embed: Embed
    overlay: Overlay
    images: Tensor
    generator: Generator
    width: int

    def __call__(self, canvases: Tensor) -> Tensor:
        found = []
        for canvas in canvases:
            numbers = torch.rand(len(self.images), self.overlay.numbers, generator=self.generator).to(canvas)
            blocks = zip(torch.split(self.images, self.width), torch.split(numbers, self.width), strict=True)
            with set_checkpoint_early_stop(False):  # which ends what is computed again by an exception in the model
                parts = [checkpoint(self._block, canvas, *block, use_reentrant=False) for block in blocks]
            found.append(torch.cat(parts).flatten())
        return torch.stack(found)

    def _block(self, canvas: Tensor, images: Tensor, numbers: Tensor) -> Tensor:
        return self.embed(self.overlay(canvas, images, numbers))


@dataclass(frozen=True, eq=False)
class MeanOf:
    """The mean of an objective over ``count`` images whose embeddings lie side by side, (g, 1, count D)."""

    objective: Callable[[Tensor, Tensor], Tensor]
    count: int
    floor: float = -inf

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        each = torch.arange(self.count, device=z.device)
        return torch.stack([self.objective(one.view(self.count, 1, -1), each).mean() for one in z[:, 0]])


def mean_margin(queries: Queries, system: System) -> Objective:
    """What a shared perturbation minimises: the mean margin of the queries (N,), none counted below :data:`ENOUGH`."""
    items = system.items
    matching = queries.labels[:, None] == items.labels
    margin = Margin(nearest_match_beyond_nearest_other, items, matching, items.own(queries.ids), ENOUGH)
    return MeanOf(margin, len(queries.ids))


def _between(numbers: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * numbers
