"""``timm:NAME``: a network of timm without its classifier, as its own weights were trained (extra ``timm``)."""

from difflib import get_close_matches
from math import floor
from pathlib import Path
from typing import Any, Literal

from torch import nn

from holdfast.data.resizing import Resizing
from holdfast.models.adapters.base import IMAGENET_MEAN, IMAGENET_STD, Normalised, OpenedModel, named
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
    facts = facts_of(name)
    network = without_classifier(name, pretrained=weights is None)
    if weights is not None:
        heads = facts.classifier if facts else None
        load_exactly(network, weights, (heads,) if isinstance(heads, str) else tuple(heads or ()))
    embed = Normalised(network, *statistics(facts)).eval()
    return named(word, embed, weights, shown(facts, name), library=f"timm {timm.__version__}")


def facts_of(name: str) -> Any:
    """timm's configuration of a network's pretrained weights; None where it has none.

    Raises HoldfastError where timm or the network is missing.
    """
    timm = require("timm", "timm")
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(f'timm:{match}' for match in near)}?" if near else ""
        raise HoldfastError(f"timm {timm.__version__} has no model {name!r}{hint}; timm.list_models() lists them")
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise HoldfastError(f"timm:{name}: {error}") from error


def statistics(facts: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of the pixels that pretrained weights were trained on; ImageNet's where timm does not say."""
    return (tuple(facts.mean), tuple(facts.std)) if facts else (IMAGENET_MEAN, IMAGENET_STD)


def without_classifier(name: str, pretrained: bool) -> nn.Module:
    """A network of timm up to its features, with timm's weights of it or with random ones."""
    timm, facts = require("timm", "timm"), facts_of(name)
    if pretrained and not (facts and facts.has_weights):
        raise HoldfastError(f"timm has no pretrained weights of {name}; give a file with --weights")
    try:
        network: nn.Module = timm.create_model(name, num_classes=0, pretrained=pretrained)
    except Exception as error:
        advice = "without network, give a file with --weights" if pretrained else "name another network"
        raise HoldfastError(f"timm cannot build {name} ({brief(error)}); {advice}") from error
    return network


def shown(facts: Any, name: str) -> Preprocessing | None:
    """How timm itself shows a network images when it evaluates it."""
    if not facts:
        return None
    channels, size, width = facts.input_size
    if size != width or facts.crop_mode not in CROPS:
        raise HoldfastError(f"timm:{name} takes images that are padded, or not square: holdfast takes square ones only")
    resizing = Resizing(facts.interpolation, CROPS[facts.crop_mode], "even")
    return Preprocessing(size, floor(size / facts.crop_pct), channels, resizing)
