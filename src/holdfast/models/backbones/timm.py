"""Any network of timm, an extra, with the mean and std of its pretrained weights."""

from torch import nn

from holdfast.models.adapters.timm import facts_of, statistics
from holdfast.models.backbones.base import Backbone
from holdfast.util.errors import HoldfastError
from holdfast.util.extras import require
from holdfast.util.text import counted


def named(name: str) -> Backbone:
    """The backbone of a model's name in timm. Raises HoldfastError where timm or the model is missing."""
    timm, facts = require("timm", "timm"), facts_of(name)
    fixed_size = bool(facts and facts.fixed_input_size)

    def build(dim: int, channels: int, size: int) -> nn.Module:
        options = {"img_size": size} if fixed_size and size != facts.input_size[-1] else {}
        try:
            network: nn.Module = timm.create_model(name, num_classes=dim, in_chans=channels, **options)
        except Exception as error:
            wanted = f"dim {dim}, {counted(channels, 'channel')}, size {size}"
            raise HoldfastError(f"timm cannot build {name} for {wanted}: {error}") from error
        return network

    return Backbone(build, *statistics(facts), summary=f"{name} of timm", fixed_size=fixed_size)
