"""Networks by name: one file each, and one line in :data:`BACKBONES`."""

from pathlib import Path

from holdfast.models.backbones import c2f2, custom, efficientnet_lite0, encoder, resnet, timm
from holdfast.models.backbones.base import Backbone
from holdfast.runs.config import AS_IT_IS, ENCODERS, is_encoder
from holdfast.util.errors import HoldfastError, unknown
from holdfast.util.imports import CUSTOM, FORMS, is_spec

BACKBONES: dict[str, Backbone] = {
    "c2f2": c2f2.BACKBONE,
    "resnet18": resnet.RESNET18,
    "resnet34": resnet.RESNET34,
    "resnet50": resnet.RESNET50,
    "efficientnet_lite0": efficientnet_lite0.BACKBONE,
}


def imagenet_weights(name: str) -> Path:
    """The file of a backbone's ImageNet weights. Raises HoldfastError where there is none."""
    find = find_backbone(name).weights
    if find is None:
        known = ", ".join(name for name, one in BACKBONES.items() if one.weights is not None)
        raise HoldfastError(f"no package has ImageNet weights of {name}: give a file of them; those with one: {known}")
    try:
        return find()
    except HoldfastError as error:
        raise HoldfastError(f"{error}; for random weights: --set model.weights=null") from None


def is_code(name: str) -> bool:
    """Whether ``name`` stands for a function of the user's own, which is run to build the network."""
    word = name.removeprefix(AS_IT_IS)
    return is_spec(word) and not word.startswith(("timm:", *(f"{one}:" for one in ENCODERS)))


def find_backbone(name: str) -> Backbone:
    """The backbone called ``name``: one of :data:`BACKBONES`, ``timm:NAME`` where timm is installed, a function
    ``build(dim, channels, size)`` of your own, ``package.module:build`` or ``path/to/file.py:build``, or an encoder as
    it came: ``hf:``, ``st:``, ``open_clip:`` and their words, ``model:timm:NAME``, ``model:package.module:build``."""
    if name in BACKBONES:
        return BACKBONES[name]
    if name.startswith("timm:"):
        return timm.named(name.removeprefix("timm:"))
    if is_encoder(name):
        return encoder.named(name)
    if name == CUSTOM:
        raise HoldfastError(f"backbone {name!r} stands for a module: give it again, as backbone=…")
    if is_code(name):
        return custom.named(name)
    raise unknown("backbone", name, [*BACKBONES, "timm:NAME", FORMS])
