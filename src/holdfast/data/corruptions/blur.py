"""Blur: out of focus, through frosted glass, of a moving and of a zooming camera."""

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.signal import fftconvolve

from holdfast.data.corruptions.scale import Picture, length

BILINEAR = Image.Resampling.BILINEAR

RADII = (3, 4, 6, 8, 10)
"""Of the disc that a point becomes out of focus."""
GLASS = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))
"""The σ of the blur before and after, how far a pixel is displaced at most, and how often."""
MOTION = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))
"""Half the length of a trail, and the σ with which it fades."""
ZOOMS = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))
"""Up to which factor, and in what steps."""


def defocus_blur(image: Picture, severity: int, rng: np.random.Generator) -> Picture:
    """Every point becomes a disc."""
    return convolved(image, disc(RADII[severity - 1] * length(len(image))))


def glass_blur(image: Picture, severity: int, rng: np.random.Generator) -> Picture:
    """Blurred, then every pixel takes the value of a random one nearby, then blurred again.

    The authors exchange pixels one after the other; here all are displaced at once. A displacement of a part of a pixel
    happens to that part of the pixels.
    """
    sigma, most, times = GLASS[severity - 1]
    side, scale = len(image), length(len(image))
    blurred = gaussian_filter(image, (sigma * scale, sigma * scale, 0))
    rows, columns = np.indices((side, side))
    for _ in range(times):
        far = scale * rng.integers(-most, most + 1, (2, side, side))
        moved = np.floor(far + rng.random(far.shape)).astype(int)
        blurred = blurred[np.clip(rows + moved[0], 0, side - 1), np.clip(columns + moved[1], 0, side - 1)]
    return np.asarray(gaussian_filter(blurred, (sigma * scale, sigma * scale, 0)))


def motion_blur(image: Picture, severity: int, rng: np.random.Generator) -> Picture:
    """Every point leaves a trail that fades, in a direction within 45° of the horizontal."""
    reach, sigma = (one * length(len(image)) for one in MOTION[severity - 1])
    return convolved(image, trail(reach, sigma, np.radians(rng.uniform(-45, 45))))


def zoom_blur(image: Picture, severity: int, rng: np.random.Generator) -> Picture:
    """The mean of the image and of enlargements of its middle."""
    top, step = ZOOMS[severity - 1]
    factors = np.arange(1, top, step)
    return np.asarray(np.mean([image, *(enlarged(image, factor) for factor in factors)], axis=0))


def enlarged(image: Picture, factor: float) -> Picture:
    """The middle of an image (H, W, C), or of a map (H, W), ``factor`` times as large, at the size of the whole."""
    side, scale = len(image), 1 / factor
    first = side / 2 * (1 - scale)
    found = []
    for channel in np.moveaxis(image, 2, 0) if image.ndim == 3 else [image]:
        whole = Image.fromarray(channel.astype(np.float32))
        middle = whole.transform(whole.size, Image.Transform.AFFINE, (scale, 0, first, 0, scale, first), BILINEAR)
        found.append(np.asarray(middle, np.float64))
    return np.stack(found, axis=2) if image.ndim == 3 else found[0]


def disc(radius: float) -> Picture:
    """The kernel that spreads a point evenly over a disc."""
    fine = np.linspace(-1, 1, 2 * max(8, 4 * round(radius)) + 1)
    y, x = (one.ravel() for one in np.meshgrid(fine, fine, indexing="ij"))
    inside = x**2 + y**2 <= 1 + 1e-9
    return kernel(radius * y[inside], radius * x[inside], np.ones(int(inside.sum())))


def trail(reach: float, sigma: float, angle: float) -> Picture:
    """The kernel that draws a point out by up to twice the ``reach``, fading as a normal density of this σ."""
    along = np.arange(0, 2 * reach + 1e-9, 0.25)
    return kernel(along * np.sin(angle), along * np.cos(angle), np.exp(-((along / sigma) ** 2) / 2))


def kernel(y: Picture, x: Picture, weights: Picture) -> Picture:
    """Points with weights as a kernel of odd sides; each goes to the four pixels around it, by its distance from them.

    That is the mean over the area of a pixel, so that a radius of a part of a pixel blurs by that part.
    """
    half = int(np.ceil(max(np.abs(y).max(), np.abs(x).max())))
    found = np.zeros((2 * half + 1, 2 * half + 1))
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    for down in (0, 1):
        for right in (0, 1):
            share = (1 - np.abs(y - top - down)) * (1 - np.abs(x - left - right))
            inside = share > 0
            at = (top + down + half)[inside], (left + right + half)[inside]
            np.add.at(found, at, (weights * share)[inside])
    return np.asarray(found / found.sum())


def convolved(image: Picture, kernel: Picture) -> Picture:
    """An image (H, W, C), or a map (H, W), convolved with a kernel of odd sides; mirrored beyond its edges."""
    half = len(kernel) // 2
    room = [(half, half), (half, half), *([(0, 0)] * (image.ndim - 2))]
    padded = np.pad(image, room, mode="symmetric")
    shaped = kernel.reshape(*kernel.shape, *[1] * (image.ndim - 2))
    return np.asarray(fftconvolve(padded, shaped, mode="valid", axes=(0, 1)))
