"""Slow twins of shared perturbations: one pixel of one image at a time."""

import math

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.float64]


def patched(image: Picture, canvas: Picture, area: float, numbers: list[float]) -> Picture:
    """A canvas (h, h) on an image (H, H), by bilinear interpolation with nothing around it."""
    side, edge = len(image), len(canvas)
    down, across, scale, turn, light = numbers
    half = math.sqrt(area) * (0.8 + 0.4 * scale)
    angle = math.radians(-20 + 40 * turn)
    room = max(0.0, 1 - half * (math.cos(angle) + abs(math.sin(angle))))
    x0, y0 = room * (2 * across - 1), room * (2 * down - 1)
    found = image.copy()
    for row in range(side):
        for column in range(side):
            x, y = ((2 * one + 1) / side - 1 for one in (column, row))
            u = (math.cos(angle) * (x - x0) + math.sin(angle) * (y - y0)) / half
            v = (-math.sin(angle) * (x - x0) + math.cos(angle) * (y - y0)) / half
            i, j = (((one + 1) * edge - 1) / 2 for one in (v, u))
            covered = value = 0.0
            for k in range(edge):
                for m in range(edge):
                    weight = max(0.0, 1 - abs(i - k)) * max(0.0, 1 - abs(j - m))
                    covered, value = covered + weight, value + weight * canvas[k, m]
            found[row, column] = (1 - covered) * image[row, column] + (0.8 + 0.4 * light) * value
    return found.clip(0, 1)
