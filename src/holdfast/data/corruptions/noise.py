"""Noise: Gaussian, shot, impulse."""

import numpy as np

from holdfast.data.corruptions.scale import Picture, strength

DEVIATIONS = (0.08, 0.12, 0.18, 0.26, 0.38)
PHOTONS = (60, 25, 12, 5, 3)
"""That a white pixel stands for."""
SHARES = (0.03, 0.06, 0.09, 0.17, 0.27)
"""Of the values that become black or white."""


def gaussian_noise(image: Picture, severity: int, rng: np.random.Generator) -> Picture:
    """Independent normal noise on every value."""
    return image + strength(len(image)) * DEVIATIONS[severity - 1] * rng.standard_normal(image.shape)


def shot_noise(image: Picture, severity: int, rng: np.random.Generator) -> Picture:
    """A Poisson number of photons for every value."""
    photons = PHOTONS[severity - 1] / strength(len(image)) ** 2
    return np.asarray(rng.poisson(image * photons) / photons)


def impulse_noise(image: Picture, severity: int, rng: np.random.Generator) -> Picture:
    """Salt and pepper: values that become 0 or 1."""
    hit = rng.random(image.shape) < strength(len(image)) * SHARES[severity - 1]
    return np.where(hit, rng.integers(0, 2, image.shape).astype(np.float64), image)
