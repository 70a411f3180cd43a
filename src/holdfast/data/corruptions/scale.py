"""How the parameters of corruptions, which were chosen for 224 pixels, carry over to images of other sizes.

Lengths (radii, displacements) are a share of the image's side. A small image shows the same thing with fewer pixels,
and each of them counts more: what is done to single pixels, its *strength*, is multiplied by √(side / 224). At 32
pixels this gives Gaussian noise of σ = 0.03 to 0.14; the authors chose 0.04 to 0.10 there.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE = 224
"""The side that the parameters are for."""

Picture = npt.NDArray[np.float64]
"""An image (H, W, C), or a map (H, W); usually in [0, 1]."""


def length(side: int) -> float:
    """What a length at 224 pixels is multiplied by at this side."""
    return side / SIDE


def strength(side: int) -> float:
    """What a strength at 224 pixels is multiplied by at this side."""
    return float(np.sqrt(side / SIDE))


def resized(values: Picture, side: int) -> Picture:
    """A map (h, w) at another size, (side, side), averaged where it gets smaller."""
    if values.shape == (side, side):
        return values
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), np.float64)
