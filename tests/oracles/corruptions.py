"""Slow twins of the corruptions: one pixel at a time."""

import colorsys

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.float64]


def brighter(image: Picture, by: float) -> Picture:
    """Through HSV and back."""
    found = np.empty_like(image)
    for y, x in np.ndindex(image.shape[:2]):
        hue, saturation, value = colorsys.rgb_to_hsv(*image[y, x])
        found[y, x] = colorsys.hsv_to_rgb(hue, saturation, min(1.0, value + by))
    return found


def convolved(image: Picture, kernel: Picture) -> Picture:
    """Mirrored beyond the edges, the edge itself twice."""
    side, half = len(image), len(kernel) // 2
    found = np.zeros_like(image)
    for y, x in np.ndindex(side, side):
        for j, i in np.ndindex(kernel.shape):
            found[y, x] += kernel[j, i] * image[mirrored(y - j + half, side), mirrored(x - i + half, side)]
    return found


def mirrored(i: int, side: int) -> int:
    return -1 - i if i < 0 else 2 * side - 1 - i if i >= side else i


def enlarged(image: Picture, factor: float) -> Picture:
    """Linear between pixels, seen from the centre."""
    side = len(image)
    centre, found = (side - 1) / 2, np.zeros_like(image)
    for y, x in np.ndindex(side, side):
        top, left = (centre + (one - centre) / factor for one in (y, x))
        for j, i in np.ndindex(side, side):
            found[y, x] += max(0.0, 1 - abs(top - j)) * max(0.0, 1 - abs(left - i)) * image[j, i]
    return found


def pixelated(image: Picture, cells: int) -> Picture:
    """The mean of each cell, where its side is a whole number of pixels."""
    each = len(image) // cells
    found = np.empty_like(image)
    for y, x in np.ndindex(image.shape[:2]):
        top, left = y // each * each, x // each * each
        found[y, x] = image[top : top + each, left : left + each].mean(axis=(0, 1))
    return found
