"""Images and perturbations as files for the page."""

from io import BytesIO

from torch import Tensor

from holdfast.data.pixels import to_image

VISIBLE = 64.0
"""How much a perturbation is amplified at most."""


def gain(eps: float) -> float:
    """By how much a perturbation is amplified, so that one of size ``eps`` reaches from grey to black and white."""
    return VISIBLE if eps <= 0.5 / VISIBLE else round(0.5 / eps, 1)


def amplified(r: Tensor, eps: float) -> Tensor:
    """A perturbation around grey, (1, C, H, W) in [0, 1]."""
    return (0.5 + gain(eps) * r).clamp(0, 1)


def png(image: Tensor) -> bytes:
    """An image (1, C, H, W) in [0, 1] as a file."""
    file = BytesIO()
    to_image(image[0]).save(file, "PNG")
    return file.getvalue()
