"""Models of a word as backbones, as they came: ``hf:``, ``st:``, ``open_clip:``, and ``model:`` before other words."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import torch
from torch import nn

from holdfast.core.fused import frozen
from holdfast.models.adapters.base import Normalised, OpenedModel
from holdfast.models.adapters.code import open_code
from holdfast.models.adapters.hf import open_hf
from holdfast.models.adapters.open_clip import open_open_clip
from holdfast.models.adapters.st import open_st
from holdfast.models.adapters.timm import facts_of, statistics, without_classifier
from holdfast.models.backbones.base import AsItIs, Backbone
from holdfast.models.backbones.custom import tried
from holdfast.runs.config import AS_IT_IS
from holdfast.util.errors import HoldfastError, brief

OPEN: dict[str, Callable[[str], OpenedModel]] = {"hf": open_hf, "st": open_st, "open_clip": open_open_clip}


def module_of(opened: OpenedModel) -> nn.Module:
    """The network that can be trained of an opened model. Raises HoldfastError where there is none."""
    embed = opened.embed.network if isinstance(opened.embed, Normalised) else opened.embed
    if not isinstance(embed, nn.Module):
        raise HoldfastError(f"{opened.word} is a {type(embed).__name__}, not a torch module: there is nothing to train")
    return embed


def width(opened: OpenedModel, channels: int, size: int) -> int:
    """How many numbers a model gives for an image of (channels, size, size)."""
    whole = opened.embed
    assert isinstance(whole, nn.Module)
    weight = next(whole.parameters(), torch.empty(0))
    try:
        with torch.no_grad(), frozen(whole):
            z = whole(torch.zeros(1, channels, size, size, dtype=weight.dtype, device=weight.device))
        return int(z.shape[1])
    except Exception as error:
        raise HoldfastError(
            f"{opened.word} fails on an image of {channels} x {size} x {size}: {brief(error)}"
        ) from error


def named(word: str) -> Backbone:
    """The backbone of a model's word. Raises HoldfastError where there is none, or images of another kind come."""
    inside = word.removeprefix(AS_IT_IS)
    if inside == word:
        return _encoder(word)
    return _timm(inside) if inside.startswith("timm:") else _code(inside)


def _encoder(word: str) -> Backbone:
    """An encoder of another library, with the weights in its own files."""
    opened = OPEN[word.partition(":")[0]](word)
    shown, whole = opened.preprocessing, opened.embed
    assert shown is not None
    assert isinstance(whole, Normalised)

    def build(dim: int, channels: int, size: int) -> nn.Module:
        own = width(opened, shown.channels, shown.size)
        if (dim, channels, size) != (own, shown.channels, shown.size):
            raise HoldfastError(
                f"{word} turns {shown.channels} channels of {shown.size} pixels a side into {own} numbers, not "
                f"{channels} of {size} into {dim}: start with --model {word}, on images of that kind"
            )
        return deepcopy(whole.network).float()

    return AsItIs(build, *_statistics(whole), f"the encoder {word}", fixed_size=True)


def _timm(word: str) -> Backbone:
    """A network of timm without its classifier; timm's weights come only where training starts."""
    name = word.removeprefix("timm:")
    facts = facts_of(name)
    build = tried(word, lambda *_: without_classifier(name, pretrained=False))
    fixed = bool(facts and facts.fixed_input_size)
    backbone = AsItIs(build, *statistics(facts), f"{name} of timm, without its classifier", fixed_size=fixed)
    return replace(backbone, pretrained=lambda: without_classifier(name, pretrained=True).state_dict())


def _code(word: str) -> Backbone:
    """What a module's own function gives. The code is run."""
    opened = open_code(word)
    network = module_of(opened)
    mean, std = _statistics(opened.embed) if isinstance(opened.embed, Normalised) else ((0.0,), (1.0,))
    return AsItIs(tried(word, lambda *_: deepcopy(network).float()), mean, std, f"built by {word}")


def _statistics(whole: Normalised) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mean, std = (tuple(part.flatten().tolist()) for part in (whole.mean, whole.std))
    return mean, std
