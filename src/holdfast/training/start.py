"""What a run starts from, by a word: the settings that bring a model into training as it is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.data import DATASETS
from holdfast.models import hub
from holdfast.models.adapters.base import OpenedModel
from holdfast.models.backbones import encoder, is_code
from holdfast.models.embedder import Embedder
from holdfast.models.open import lasting, open_model
from holdfast.runs.config import AS_IT_IS, DataConfig, Tree, is_encoder
from holdfast.util.errors import HoldfastError
from holdfast.util.imports import CUSTOM

UNTRAINED = ("program:", "onnx:", "http:", "https:")
"""What begins the words of models that are attacked and not trained."""


def starting_from(
    word: str, *, weights: str | Path | None = None, pooling: str | None = None, given: Mapping[str, Any] | None = None
) -> Tree:
    """The settings of a run that goes on with the model of a word: its network, size, resizing and weights.

    word: ``hf:``, ``st:``, ``open_clip:``, ``timm:``, a module of one's own (``package.module:build``), or what
    holdfast trained. weights, pooling: of :func:`.open_model`. given: the other settings, with dotted keys; a module
    that does not say its size has it from ``data.size``.

    Raises HoldfastError where there is no such model, it cannot be trained, or ``data.name`` has images of other
    channels.
    """
    other = given or {}
    if word.startswith(UNTRAINED):
        raise HoldfastError(
            f"{word} is not trained: it gives vectors, and no weights to go on from; start from the network itself, by "
            "hf:, st:, open_clip:, timm:, package.module:build, a run folder or zoo:NAME"
        )
    opened = open_model(word, weights=weights, pooling=pooling)
    if isinstance(opened.embed, Embedder) and not is_code(word):
        tree = _embedder(word, opened.embed) | _shown(opened)
    else:
        tree = _as_it_is(opened, weights, other)
    shown, name = opened.preprocessing, other.get("data.name")
    if shown is not None and name in DATASETS and DATASETS[name].channels != shown.channels:
        raise HoldfastError(
            f"{word} takes images of {shown.channels} channels, and those of data set {name!r} have "
            f"{DATASETS[name].channels}"
        )
    return tree


def _embedder(word: str, embedder: Embedder) -> Tree:
    """A run, an entry of the zoo, or another embedder of holdfast's."""
    config, weights = embedder.config, Path(hub.located(word)) / "model.safetensors"
    ours = not is_code(config.backbone) or is_encoder(config.backbone)
    if not ours or config.backbone == CUSTOM or config.mean or config.std:
        own = "mean and std" if config.mean or config.std else f"a network, {config.backbone},"
        raise HoldfastError(f"{word} has {own} of your own: train it in Python, holdfast.train(…, backbone=module)")
    return {"model.backbone": config.backbone, "model.dim": config.dim, "model.weights": str(weights.resolve())}


def _as_it_is(opened: OpenedModel, weights: str | Path | None, given: Mapping[str, Any]) -> Tree:
    """A model of another library, or of code."""
    word, shown = str(opened.word), opened.preprocessing
    encoder.module_of(opened)
    size = given.get("data.size") if shown is None else shown.size
    if not isinstance(size, int):
        raise HoldfastError(
            f"{word} does not say what size of images it takes: give it an attribute size, or add --set data.size=224"
        )
    channels = DATASETS[given.get("data.name", DataConfig.name)].channels if shown is None else shown.channels
    name, file = lasting(word), None if weights is None else str(Path(weights).resolve())
    if file is not None and word.startswith("open_clip:"):
        name, file = f"{name}:{file}", None
    network = {
        "model.backbone": name if is_encoder(word) else AS_IT_IS + name,
        "model.dim": encoder.width(opened, channels, size),
        "model.weights": file,
    }
    return network if shown is None else network | _shown(opened)


def _shown(opened: OpenedModel) -> Tree:
    shown = opened.preprocessing
    assert shown is not None
    resize = None if shown.resize == shown.size else shown.resize
    how = {"data.interpolation": shown.resizing.interpolation, "data.fit": shown.resizing.fit}
    return {"data.size": shown.size, "data.resize": resize, **how, "data.centring": shown.resizing.centring}
