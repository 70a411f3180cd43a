"""How many images pass through the network in a step."""

import torch
from torch import Tensor

from holdfast.core.pgd import Embed


class Counted:
    """An embedder that counts the images passed through it, forward."""

    def __init__(self, embed: Embed) -> None:
        self.embed, self.images = embed, 0

    def __call__(self, images: Tensor) -> Tensor:
        self.images += len(images)
        return self.embed(images)


def count(images: int, like: Tensor) -> Tensor:
    """A number of images, as logs have it."""
    return torch.tensor(float(images), device=like.device)
