"""What every adapter gives: a model that is ready to embed, and what is known of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.core.pgd import Embed
from holdfast.models.preprocessing import Preprocessing

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, eq=False)
class OpenedModel:
    """A model that :func:`.open_model` opened.

    embed: images (n, C, H, W) in [0, 1] to vectors (n, D); mean and std are inside it.
    name: in tables.
    about: what results say of the model, as plain data.
    preprocessing: how it is shown images; None where it does not say, so that the data set decides.
    folder: the run folder it was read from, whose test set is its own; None for any other model.
    word: what it was opened by; None for an object.
    black_box: it gives vectors only, and no gradients.
    remarks: what a reader of its results should know of how it was opened.
    """

    embed: Embed
    name: str
    about: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None
    folder: Path | None = None
    word: str | None = None
    black_box: bool = False
    remarks: tuple[str, ...] = ()


def named(
    word: str,
    embed: Embed,
    weights: Path | None,
    preprocessing: Preprocessing | None,
    remarks: Sequence[str] = (),
    **facts: Any,
) -> OpenedModel:
    """A model that no run of holdfast made; facts: what else results say of it, such as the library it is of."""
    name = word.replace("/", "-").replace(":", "-").strip("-.")
    about = {"recipe": None, "backbone": word, "weights": None if weights is None else weights.name, **facts}
    return OpenedModel(embed, name, about, preprocessing, word=word, remarks=tuple(remarks))


class Normalised(nn.Module):
    """``network`` on pixels (n, C, H, W) in [0, 1], of which it takes away ``mean`` and divides by ``std``.

    It gets them in the dtype of its parameters.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(n, C, H, W) -> (n, D); gray images are repeated for every channel of the network."""
        pixels = (images - self.mean) / self.std
        z: Tensor = self.network(pixels.to(dtype_of(self.network)))
        return z


def dtype_of(network: nn.Module) -> torch.dtype:
    """What a network computes in: the dtype of its first weights."""
    return next((one.dtype for one in network.parameters() if one.is_floating_point()), torch.float32)


def computable(network: nn.Module) -> list[str]:
    """Have a network compute in the dtype that its weights are stored in; in float32 for float16 without a GPU.

    What was done, where that is not float32 throughout.
    """
    stored = dtype_of(network)
    if stored == torch.float16 and not torch.cuda.is_available():
        network.float()
        return ["the weights are stored in float16; without a GPU the model computes in float32"]
    return [] if stored == torch.float32 else [f"the model computes in {str(stored).removeprefix('torch.')}, as stored"]
