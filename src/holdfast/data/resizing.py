"""From an image of any shape to a square: squashed, or its middle, by any interpolation of Pillow."""

from dataclasses import dataclass
from typing import Literal

from PIL import Image

from holdfast.util.errors import pick

INTERPOLATIONS = {one.name.lower(): one for one in Image.Resampling}
"""Those of Pillow, by name; all but ``nearest`` are antialiased."""


@dataclass(frozen=True)
class Resizing:
    """How images become squares; libraries differ in it, and so do the pixels that their models see.

    interpolation: one of :data:`INTERPOLATIONS`.
    fit: ``squash``: both sides become the square's. ``shortest``: the shorter side does, the shape is kept, and of the
        longer one the middle.
    centring: the offset of a centre crop, half a margin, where that is no whole number: ``down`` (transformers), or to
        the ``even`` one (torchvision).

    Raises HoldfastError for another interpolation.
    """

    interpolation: str = "bilinear"
    fit: Literal["squash", "shortest"] = "squash"
    centring: Literal["down", "even"] = "down"

    def __post_init__(self) -> None:
        pick("interpolation", self.interpolation, INTERPOLATIONS)

    def margin(self, total: int) -> int:
        """What lies before a centre crop where ``total`` pixels lie beside it."""
        return total // 2 if self.centring == "down" else round(total / 2)

    def square(self, image: Image.Image, side: int, size: int) -> Image.Image:
        """The image at ``side`` x ``side``, whose centre crop of ``size`` is also that of the whole resized image."""
        by, short = INTERPOLATIONS[self.interpolation], min(image.size)
        if self.fit == "squash":
            return image.resize((side, side), by)
        width, height = (side if length == short else int(side * length / short) for length in image.size)
        left, top = (self.margin(length - size) - self.margin(side - size) for length in (width, height))
        return image.resize((width, height), by).crop((left, top, left + side, top + side))


SQUASHED = Resizing()
"""How holdfast's own models are shown images."""
