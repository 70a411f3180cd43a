"""Any network of timm, an extra, with the mean and std of its pretrained weights."""

from difflib import get_close_matches

from torch import nn

from holdfast.models.backbones.base import IMAGENET_MEAN, IMAGENET_STD, Backbone
from holdfast.util.errors import HoldfastError
from holdfast.util.extras import require
from holdfast.util.text import counted


def named(name: str) -> Backbone:
    """The backbone of a model's name in timm. Raises HoldfastError where timm or the model is missing."""
    timm = require("timm", "timm")
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(f'timm:{match}' for match in near)}?" if near else ""
        raise HoldfastError(f"timm {timm.__version__} has no model {name!r}{hint}; timm.list_models() lists them")
    try:
        facts = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise HoldfastError(f"timm:{name}: {error}") from error
    mean, std = (facts.mean, facts.std) if facts else (IMAGENET_MEAN, IMAGENET_STD)
    fixed_size = bool(facts and facts.fixed_input_size)

    def build(dim: int, channels: int, size: int) -> nn.Module:
        options = {"img_size": size} if fixed_size and size != facts.input_size[-1] else {}
        try:
            network: nn.Module = timm.create_model(name, num_classes=dim, in_chans=channels, **options)
        except Exception as error:
            wanted = f"dim {dim}, {counted(channels, 'channel')}, size {size}"
            raise HoldfastError(f"timm cannot build {name} for {wanted}: {error}") from error
        return network

    return Backbone(build, tuple(mean), tuple(std), f"{name} of timm", fixed_size)
