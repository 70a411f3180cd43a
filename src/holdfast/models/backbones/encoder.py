"""Encoders of other libraries as backbones: ``hf:``, ``st:``, ``open_clip:``, with the weights they came with."""

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import nn

from holdfast.models.adapters.base import Normalised, OpenedModel
from holdfast.models.adapters.hf import open_hf
from holdfast.models.adapters.open_clip import open_open_clip
from holdfast.models.adapters.st import open_st
from holdfast.models.backbones.base import Backbone
from holdfast.runs.config import ENCODERS
from holdfast.util.errors import HoldfastError

OPEN: dict[str, Callable[[str], OpenedModel]] = dict(zip(ENCODERS, (open_hf, open_st, open_open_clip), strict=True))


def width(opened: OpenedModel) -> int:
    """How many numbers an encoder that says how it is shown images gives for one."""
    shown = opened.preprocessing
    assert shown is not None
    with torch.no_grad():
        return opened.embed(torch.zeros(1, shown.channels, shown.size, shown.size)).shape[1]


def named(word: str) -> Backbone:
    """The backbone of an encoder's word. Raises HoldfastError where there is none, or images of another kind come."""
    opened = OPEN[word.partition(":")[0]](word)
    shown, whole = opened.preprocessing, opened.embed
    assert shown is not None
    assert isinstance(whole, Normalised)

    def build(dim: int, channels: int, size: int) -> nn.Module:
        own = width(opened)
        if (dim, channels, size) != (own, shown.channels, shown.size):
            raise HoldfastError(
                f"{word} turns {shown.channels} channels of {shown.size} pixels a side into {own} numbers, not "
                f"{channels} of {size} into {dim}: start with --model {word}, on images of that kind"
            )
        return deepcopy(whole.network).float()

    mean, std = (tuple(part.flatten().tolist()) for part in (whole.mean, whole.std))
    return Backbone(build, mean, std, f"the encoder {word}", fixed_size=True)
