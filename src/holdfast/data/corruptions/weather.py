"""Weather: snow, frost, fog, bright light.

What falls or lies between the camera and the scene is drawn at four times the image's side, at least up to 224 pixels,
and brought to the image's size. The frost is drawn too, where the authors have photographs of it.
"""

import numpy as np

from holdfast.data.corruptions.blur import convolved, enlarged, trail
from holdfast.data.corruptions.scale import SIDE, Picture, length, resized

SNOW = (
    (0.1, 0.3, 3.0, 0.5, 10, 4, 0.8),
    (0.2, 0.3, 2.0, 0.5, 12, 4, 0.7),
    (0.55, 0.3, 4.0, 0.9, 12, 8, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
)
"""Mean, deviation, size and threshold of the flakes, the reach and σ of their trails, and how much of the image is
left."""
FROST = ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))
"""The weights of image and frost."""
FOG = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))
"""How thick it is, and how fast its finer parts fade."""
LIGHT = (0.1, 0.2, 0.3, 0.4, 0.5)
ICE = np.array([0.86, 0.94, 1.0])
"""The colour of frost."""
OCTAVES = 8


def snow(image: Picture, severity: int, rng: np.random.Generator) -> Picture:
    """Flakes with trails, and a whitened scene."""
    mean, deviation, flake, threshold, reach, sigma, left = SNOW[severity - 1]
    side = _drawn(len(image))
    layer = enlarged(rng.normal(mean, deviation, (side, side)), max(1.0, flake * length(side)))
    layer = np.clip(np.where(layer < threshold, 0, layer), 0, 1)
    angle = np.radians(rng.uniform(45, 135))
    layer = resized(convolved(layer, trail(reach * length(side), sigma * length(side), angle)), len(image))[..., None]
    whitened = np.maximum(image, 1.5 * _grey(image) + 0.5)
    return np.asarray(left * image + (1 - left) * whitened + layer + layer[::-1, ::-1])


def frost(image: Picture, severity: int, rng: np.random.Generator) -> Picture:
    """Crystals of ice before the scene: ridges of a fractal at two scales."""
    scene, ice = FROST[severity - 1]
    side = _drawn(len(image))
    ridges = [(1 - np.abs(2 * fractal(rng, side, decay) - 1)) ** 3 for decay in (1.3, 1.8)]
    drawn = np.clip(0.15 + 0.7 * np.maximum(*ridges) + 0.15 * ridges[0], 0, 1)
    layer = resized(drawn, len(image))[..., None]
    tint = ICE if image.shape[2] == 3 else ICE.mean(keepdims=True)
    return np.asarray(scene * image + ice * layer * tint)


def fog(image: Picture, severity: int, rng: np.random.Generator) -> Picture:
    """A bright fractal added, and the range brought back."""
    thick, decay = FOG[severity - 1]
    layer = resized(fractal(rng, _drawn(len(image)), decay), len(image))[..., None]
    most = float(image.max())
    return (image + thick * layer) * most / (most + thick)


def brightness(image: Picture, severity: int, rng: np.random.Generator) -> Picture:
    """The value of HSV raised; hue and saturation stay."""
    value: Picture = image.max(axis=2, keepdims=True)
    raised = np.clip(value + LIGHT[severity - 1], 0, 1)
    return np.where(value > 0, image * raised / np.where(value > 0, value, 1), raised)


def fractal(rng: np.random.Generator, side: int, decay: float) -> Picture:
    """Random maps of 2 to 2**7 + 1 points a side, each ``decay`` times weaker than the one before, added up: (side,
    side) in [0, 1]."""
    total = np.zeros((side, side))
    for octave in range(OCTAVES):
        grid = rng.uniform(-1, 1, (2**octave + 1, 2**octave + 1))
        total += resized(grid, side) / decay**octave
    low, high = total.min(), total.max()
    return np.asarray((total - low) / (high - low))


def _drawn(side: int) -> int:
    """The side that weather is drawn at for an image of this side."""
    return max(side, min(SIDE, 4 * side))


def _grey(image: Picture) -> Picture:
    return np.asarray(image @ np.array([[0.299], [0.587], [0.114]])) if image.shape[2] == 3 else image
