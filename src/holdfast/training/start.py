"""What a run starts from, by a word: the settings that bring an encoder into training as it is."""

from pathlib import Path

from holdfast.models import hub
from holdfast.models.backbones import encoder, is_code
from holdfast.models.embedder import Embedder
from holdfast.models.open import lasting, open_model
from holdfast.runs.config import ENCODERS, Tree, is_encoder
from holdfast.util.errors import HoldfastError


def starting_from(word: str) -> Tree:
    """The settings of a run that goes on with the model of a word: ``hf:``, ``st:``, ``open_clip:``, or holdfast's own.

    Its network, size, resizing and weights. Raises HoldfastError where there is no such model, or it cannot be trained.
    """
    opened = open_model(word)
    shown = opened.preprocessing
    if is_encoder(word):
        assert shown is not None
        how = shown.resizing
        return {
            **{"model.backbone": lasting(word), "model.dim": encoder.width(opened), "model.weights": None},
            **{"data.size": shown.size, "data.resize": shown.resize},
            **{"data.interpolation": how.interpolation, "data.fit": how.fit, "data.centring": how.centring},
        }
    if is_code(word) or not isinstance(opened.embed, Embedder):
        allowed = ", ".join(f"{prefix}:" for prefix in ENCODERS)
        raise HoldfastError(
            f"{word} is not trained by a word: start from a run folder, zoo:NAME, or a model of {allowed}; a module of "
            "yours trains in Python: holdfast.train(…, backbone=module)"
        )
    config, folder = opened.embed.config, Path(hub.located(word))
    if shown is None or is_code(config.backbone):
        raise HoldfastError(
            f"{word} has a network of your own, {config.backbone}: give it as --backbone, and --weights"
        )
    resize = None if shown.resize == shown.size else shown.resize
    return {
        **{"model.backbone": config.backbone, "model.dim": config.dim, "data.size": config.size, "data.resize": resize},
        "model.weights": str((folder / "model.safetensors").resolve()),
    }
