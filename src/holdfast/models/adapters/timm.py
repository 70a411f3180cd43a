"""``timm:NAME``: a network of timm without its classifier, as its own weights were trained (extra ``timm``)."""

from pathlib import Path

import torch
from torch import Tensor, nn

from holdfast.models.adapters.base import OpenedModel, named
from holdfast.models.backbones import find_backbone
from holdfast.models.preprocessing import Preprocessing
from holdfast.models.weights import load_exactly
from holdfast.util.errors import HoldfastError, brief
from holdfast.util.extras import require


class Normalised(nn.Module):
    """``network`` on pixels (n, C, H, W) in [0, 1], of which it takes away ``mean`` and divides by ``std``."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(n, C, H, W) -> (n, D); gray images are repeated for every channel of the network."""
        z: Tensor = self.network((images - self.mean) / self.std)
        return z


def open_timm(word: str, weights: Path | None = None, best: bool = False) -> OpenedModel:
    """Size, crop, mean and std are those of timm's configuration; the classifier in ``weights`` may be left over.

    Raises HoldfastError where timm has no such network or no weights of it, or weights do not fit.
    """
    timm, name = require("timm", "timm"), word.removeprefix("timm:")
    kind, facts = find_backbone(word), timm.get_pretrained_cfg(name)
    if weights is None and not (facts and facts.has_weights):
        raise HoldfastError(f"timm has no pretrained weights of {name}; give a file with --weights")
    try:
        network = timm.create_model(name, num_classes=0, pretrained=weights is None)
    except Exception as error:
        advice = "without network, give a file with --weights" if weights is None else "name another network"
        raise HoldfastError(f"timm cannot build {name} ({brief(error)}); {advice}") from error
    if weights is not None:
        heads = facts.classifier if facts else None
        load_exactly(network, weights, (heads,) if isinstance(heads, str) else tuple(heads or ()))
    channels, size, _ = facts.input_size if facts else (0, 0, 0)
    shown = Preprocessing(size, round(size / facts.crop_pct), channels) if facts else None
    return named(word, Normalised(network, kind.mean, kind.std).eval(), weights, shown)
