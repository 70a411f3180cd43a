"""Images of noise and an untrained network, for what depends on their number and size alone: time and memory."""

import numpy as np
import torch

from holdfast.data import Pixels, Table
from holdfast.models.embedder import Embedder, EmbedderConfig
from holdfast.models.wrapped import WrappedModel

SIZE = 28


def noise(items: int, classes: int, twins: bool = False) -> Pixels:
    """Grey images of random pixels, class after class; as twins, those of a class are alike."""
    images = np.random.default_rng(0).integers(0, 256, (classes if twins else items, SIZE, SIZE), np.uint8)
    images = images[np.arange(items) % len(images)]
    table = Table.build("noise", images, np.arange(items) % classes, ["test"] * items)
    return Pixels(table, SIZE, channels=1)


def fresh() -> Embedder:
    """C2F2 with 512 dimensions and random weights."""
    torch.manual_seed(0)
    return Embedder(EmbedderConfig("c2f2", channels=1, size=SIZE))


def untrained(pixels: Pixels) -> WrappedModel:
    """:func:`fresh`, looked at with some of the images."""
    wrapped = WrappedModel(fresh().eval().requires_grad_(False))
    wrapped.examine(pixels.read(torch.arange(32))[0])
    return wrapped
