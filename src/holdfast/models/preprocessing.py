"""How a model is shown images."""

from dataclasses import dataclass
from typing import Any

from holdfast.data import Pixels, Table
from holdfast.data.resizing import SQUASHED, Resizing


@dataclass(frozen=True)
class Preprocessing:
    """size: of the images, in pixels a side. resize: side before the centre crop, None for no crop. channels: 1 or 3.

    resizing: how an image of another shape is brought to ``resize``. Mean and std are the model's own and lie inside
    it.
    """

    size: int = 224
    resize: int | None = None
    channels: int = 3
    resizing: Resizing = SQUASHED

    def pixels(self, table: Table, **options: Any) -> Pixels:
        """The images of a table; options are those of :class:`.Pixels`."""
        return Pixels(table, self.size, self.resize, channels=self.channels, resizing=self.resizing, **options)
