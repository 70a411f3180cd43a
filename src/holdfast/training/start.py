"""What a run starts from, by a word: the settings that bring an encoder into training as it is."""

from pathlib import Path

from holdfast.data import DATASETS
from holdfast.models import hub
from holdfast.models.adapters.base import OpenedModel
from holdfast.models.backbones import encoder, is_code
from holdfast.models.embedder import Embedder
from holdfast.models.open import lasting, open_model
from holdfast.runs.config import ENCODERS, Config, Tree, is_encoder
from holdfast.util.errors import HoldfastError
from holdfast.util.imports import CUSTOM


def starting_from(word: str) -> Tree:
    """The settings of a run that goes on with the model of a word: ``hf:``, ``st:``, ``open_clip:``, or holdfast's own.

    Its network, size, resizing and weights. Raises HoldfastError where there is no such model, or it cannot be trained.
    """
    opened = open_model(word)
    if is_encoder(word):
        network = {"model.backbone": lasting(word), "model.dim": encoder.width(opened), "model.weights": None}
        return network | _shown(opened)
    if is_code(word) or not isinstance(opened.embed, Embedder):
        allowed = ", ".join(f"{prefix}:" for prefix in ENCODERS)
        raise HoldfastError(
            f"{word} is not trained by a word: start from a run folder, zoo:NAME, or a model of {allowed}; a module of "
            "yours trains in Python: holdfast.train(…, backbone=module)"
        )
    config, weights = opened.embed.config, Path(hub.located(word)) / "model.safetensors"
    if is_code(config.backbone) or config.backbone == CUSTOM or config.mean or config.std:
        own = "mean and std" if config.mean or config.std else f"a network, {config.backbone},"
        raise HoldfastError(f"{word} has {own} of your own: train it in Python, holdfast.train(…, backbone=module)")
    network = {"model.backbone": config.backbone, "model.dim": config.dim, "model.weights": str(weights.resolve())}
    return network | _shown(opened)


def check_channels(word: str, config: Config) -> None:
    """Refuse a data set whose images have other channels than the model of a word takes."""
    shown, found = open_model(word).preprocessing, DATASETS[config.data.name].channels
    if shown is not None and shown.channels != found:
        raise HoldfastError(
            f"{word} takes images of {shown.channels} channels, and those of data set {config.data.name!r} have {found}"
        )


def _shown(opened: OpenedModel) -> Tree:
    shown = opened.preprocessing
    assert shown is not None
    resize = None if shown.resize == shown.size else shown.resize
    how = {"data.interpolation": shown.resizing.interpolation, "data.fit": shown.resizing.fit}
    return {"data.size": shown.size, "data.resize": resize, **how, "data.centring": shown.resizing.centring}
