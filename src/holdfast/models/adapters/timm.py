"""``timm:NAME``: a network of timm without its classifier, as its own weights were trained (extra ``timm``)."""

from math import floor
from pathlib import Path
from typing import Any, Literal

from holdfast.data.resizing import Resizing
from holdfast.models.adapters.base import Normalised, OpenedModel, named
from holdfast.models.backbones import find_backbone
from holdfast.models.preprocessing import Preprocessing
from holdfast.models.weights import load_exactly
from holdfast.util.errors import HoldfastError, brief
from holdfast.util.extras import require

CROPS: dict[str, Literal["shortest", "squash"]] = {"center": "shortest", "squash": "squash"}
"""By timm's name: how images become squares."""


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
    embed = Normalised(network, kind.mean, kind.std).eval()
    return named(word, embed, weights, _shown(facts, name), library=f"timm {timm.__version__}")


def _shown(facts: Any, name: str) -> Preprocessing | None:
    """How timm itself shows a network images when it evaluates it."""
    if not facts:
        return None
    channels, size, width = facts.input_size
    if size != width or facts.crop_mode not in CROPS:
        raise HoldfastError(f"timm:{name} takes images that are padded, or not square: holdfast takes square ones only")
    resizing = Resizing(facts.interpolation, CROPS[facts.crop_mode], "even")
    return Preprocessing(size, floor(size / facts.crop_pct), channels, resizing)
