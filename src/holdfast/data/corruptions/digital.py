"""What cameras, screens and files do: contrast, elastic deformation, large pixels, JPEG."""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

from holdfast.data.corruptions.scale import Picture, strength

CONTRASTS = (0.4, 0.3, 0.2, 0.1, 0.05)
ELASTIC = ((0.0056, 0.7, 0.1), (0.018, 0.08, 0.2), (0.0036, 0.01, 0.02), (0.005, 0.01, 0.02), (0.0087, 0.01, 0.02))
"""How far pixels are displaced (root mean square), over what distance displacements are alike, and how far three
corners of a triangle are moved at most, as shares of the side. The first is what the authors' filtered noise amounts to
at 244 pixels."""
CELLS = (0.6, 0.5, 0.4, 0.3, 0.25)
"""Of how many pixels a side are left."""
QUALITIES = (25, 18, 15, 10, 7)


def contrast(image: Picture, severity: int, rng: np.random.Generator) -> Picture:
    """Values drawn to the mean of their channel."""
    mean: Picture = image.mean(axis=(0, 1), keepdims=True)
    return mean + CONTRASTS[severity - 1] * (image - mean)


def elastic_transform(image: Picture, severity: int, rng: np.random.Generator) -> Picture:
    """A random affine map, then smooth random displacements (Simard et al., ICDAR 2003)."""
    far, smooth, corners = ELASTIC[severity - 1]
    side = len(image)
    places = np.indices((side, side)).astype(np.float64)
    places = _affine(places, rng.uniform(-corners, corners, (3, 2)) * side, side)
    for axis in (0, 1):
        field = gaussian_filter(rng.uniform(-1, 1, (side, side)), smooth * side, mode="reflect", truncate=3)
        places[axis] += far * side * field / max(float(np.sqrt((field**2).mean())), 1e-12)
    channels = [map_coordinates(channel, places, order=1, mode="mirror") for channel in np.moveaxis(image, 2, 0)]
    return np.stack(channels, axis=2)


def pixelate(image: Picture, severity: int, rng: np.random.Generator) -> Picture:
    """Brought to fewer pixels and back."""
    side = len(image)
    cells = max(1, round(side * CELLS[severity - 1] ** strength(side)))
    small = _image(image).resize((cells, cells), Image.Resampling.BOX)
    return _picture(small.resize((side, side), Image.Resampling.BOX))


def jpeg_compression(image: Picture, severity: int, rng: np.random.Generator) -> Picture:
    """Written as JPEG and read again."""
    file = io.BytesIO()
    _image(image).save(file, "JPEG", quality=quality_at(QUALITIES[severity - 1], len(image)))
    with Image.open(file) as opened:
        return _picture(opened)


def quality_at(quality: int, side: int) -> int:
    """The quality at which JPEG rounds as coarsely at this side as its :func:`.strength` asks for.

    A quality q below 50 multiplies the table of step sizes by 50 / q, one above by (200 - 2 q) / 100 (libjpeg).
    """
    percent = strength(side) * (5000 / quality if quality < 50 else 200 - 2 * quality)
    return int(np.clip(round(5000 / percent if percent > 100 else (200 - percent) / 2), 1, 95))


def _affine(places: Picture, moved: Picture, side: int) -> Picture:
    """Where ``places`` (2, H, W) come from, if three corners around the centre are moved by ``moved`` (3, 2)."""
    centre, third = side / 2, side / 3
    before = np.array([[centre + third, centre + third], [centre + third, centre - third], [centre - third] * 2])
    matrix = np.linalg.solve(np.c_[before + moved, np.ones(3)], before)
    return np.moveaxis(np.stack([places[0], places[1], np.ones_like(places[0])], axis=2) @ matrix, 2, 0)


def _image(image: Picture) -> Image.Image:
    levels: npt.NDArray[np.uint8] = (255 * image).round().astype(np.uint8)
    return Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels)


def _picture(image: Image.Image) -> Picture:
    values = np.asarray(image, np.float64) / 255
    return values[..., None] if values.ndim == 2 else values
