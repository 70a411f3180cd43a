"""Natural corruptions of images: 15 kinds at 5 severities (Hendrycks & Dietterich, ICLR 2019), in code of our own."""

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from holdfast.data.corruptions.blur import defocus_blur, glass_blur, motion_blur, zoom_blur
from holdfast.data.corruptions.digital import contrast, elastic_transform, jpeg_compression, pixelate
from holdfast.data.corruptions.noise import gaussian_noise, impulse_noise, shot_noise
from holdfast.data.corruptions.scale import Picture
from holdfast.data.corruptions.weather import brightness, fog, frost, snow
from holdfast.data.pixels import Pixels
from holdfast.util.errors import HoldfastError, pick

Corruption = Callable[[Picture, int, np.random.Generator], Picture]
"""From an image (H, W, C) in [0, 1], a severity from 1 to 5 and random numbers to the image corrupted; it may leave
[0, 1]."""

CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "defocus_blur": defocus_blur,
    "glass_blur": glass_blur,
    "motion_blur": motion_blur,
    "zoom_blur": zoom_blur,
    "snow": snow,
    "frost": frost,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic_transform": elastic_transform,
    "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
}
"""The kinds by name, as the paper calls them: noise, blur, weather, and what cameras and files do."""

SEVERITIES = (1, 2, 3, 4, 5)


def corrupted(images: Tensor, kind: str, severity: int, ids: Sequence[int], seed: int = 0) -> Tensor:
    """Images (n, C, side, side) in [0, 1] after a corruption, rounded to 8 bits as files are.

    What is random follows from the seed, the kind, the severity, and the image's id alone. Raises HoldfastError for an
    unknown kind or severity.
    """
    corrupt = pick("corruption", kind, CORRUPTIONS)
    if severity not in SEVERITIES:
        raise HoldfastError(f"a severity is 1, 2, 3, 4 or 5, not {severity}")
    found = torch.empty_like(images)
    for image, out, identity in zip(images, found, ids, strict=True):
        rng = np.random.default_rng((seed, zlib.crc32(kind.encode()), severity, identity))
        made = corrupt(image.permute(1, 2, 0).double().cpu().numpy(), severity, rng)
        levels = (255 * np.clip(made, 0, 1)).round() / 255
        out.copy_(torch.from_numpy(levels).permute(2, 0, 1))
    return found


class CorruptedPixels(Pixels):
    """The images of another :class:`.Pixels` after a corruption, seeded by their rows in its table."""

    def __init__(self, pixels: Pixels, kind: str, severity: int, seed: int = 0) -> None:
        super().__init__(
            pixels.table, pixels.size, pixels.side, channels=pixels.channels, resizing=pixels.resizing, workers=1
        )
        self.pixels, self.kind, self.severity, self.seed = pixels, kind, severity, seed

    def read(self, indices: Tensor, augment: Tensor | None = None) -> tuple[Tensor, Tensor]:
        images, readable = self.pixels.read(indices, augment)
        return corrupted(images, self.kind, self.severity, indices.tolist(), self.seed), readable


__all__ = ["CORRUPTIONS", "SEVERITIES", "CorruptedPixels", "Corruption", "corrupted"]
