"""``hf:ID-or-folder``, ``hf:ID-or-folder:POOLING``: an image encoder of transformers (extra ``hf``)."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.models import hub
from holdfast.models.adapters.base import Normalised, OpenedModel, computable, dtype_of, named
from holdfast.models.adapters.processors import read_processor
from holdfast.util.arrays import check_whole
from holdfast.util.errors import HoldfastError, foreign, unknown, within
from holdfast.util.extras import quiet, require
from holdfast.util.text import counted
from holdfast.util.validate import read_json

FILES = ("*.json", "model.safetensors", "model-*-of-*.safetensors")
"""What is fetched from the Hub: neither pickles nor code."""

POOLINGS = {
    "features": "the image features of a model that also reads text",
    "pooler": "the output of the model's own pooler",
    "cls": "the class token",
    "mean": "the mean over all places of the image",
}
CLASS = ("cls_token", "class_embedding")
SPECIAL = (*CLASS, "distillation_token", "register_tokens")
"""Parameters that stand before the tokens of the image; the class token is the first."""


class Pooled(nn.Module):
    """A model of transformers as one vector per image.

    pooling: one of :data:`POOLINGS`. untrained: the tensors that no file had, none of which it needs.
    """

    def __init__(self, network: nn.Module, pooling: str, untrained: Sequence[str] = ()) -> None:
        super().__init__()
        self.network: Any = network
        self.untrained = frozenset(untrained)
        for name, parameter in network.named_parameters():
            if name in self.untrained:
                nn.init.zeros_(parameter.requires_grad_(False))  # else the model has another fingerprint each time
        self.pooling, self.special = pooling, sum(special_tokens(network).values())

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, C, H, W), normalised -> (n, D)."""
        if self.pooling == "features":
            found = self.network.get_image_features(pixel_values=pixels)
            features: Tensor = found if isinstance(found, Tensor) else found.pooler_output
            return features
        found = self.network(pixel_values=pixels)
        if self.pooling == "pooler":
            pooled: Tensor = found.pooler_output
            return pooled.flatten(1)
        last: Tensor = found.last_hidden_state
        if last.ndim == 4:
            return last.mean((2, 3))
        return last[:, 0] if self.pooling == "cls" else last[:, self.special :].mean(1)


def special_tokens(network: nn.Module) -> dict[str, int]:
    """How many tokens stand before those of the image, by name."""
    parts = {name.rpartition(".")[2]: value for name, value in network.named_parameters()}
    return {name: parts[name].numel() // parts[name].shape[-1] for name in SPECIAL if name in parts}


def open_hf(word: str, weights: Path | None = None, best: bool = False, pooling: str | None = None) -> OpenedModel:
    """How images are shown is read from ``preprocessor_config.json``; weights are read from safetensors only.

    pooling: ``pooler``, ``cls`` or ``mean``, where the word does not name it; by default the image features of a model
    that also reads text, else its pooler, where that is trained, else the class token, else the mean. Raises
    HoldfastError where transformers or the model is missing, where it takes no images, or where weights of it are
    missing.
    """
    if weights is not None:
        raise HoldfastError(f"{word} brings its own weights; leave out {weights}")
    place, said = parted(word)
    if pooling is not None and pooling not in POOLINGS:
        raise unknown("pooling", pooling, POOLINGS)
    if None not in (said, pooling) and said != pooling:
        raise HoldfastError(f"{word} names the pooling {said} already; leave out {pooling}")
    library, pooling = require("transformers", "hf"), pooling or said
    word = f"hf:{place}" if pooling is None else f"hf:{place}:{pooling}"
    folder = hub.opened(place, FILES)
    reads_text = _kind(library, folder)
    processor = read_processor(folder)
    network, missing = _load(library, folder)
    if absent := [name for name in missing if "pooler" not in name]:
        raise HoldfastError(
            f"{word} lacks {counted(len(absent), 'tensor')} of its model, such as {absent[0]}: it cannot embed"
        )
    remarks, shown = computable(network), processor.preprocessing
    trial = torch.zeros(1, shown.channels, shown.size, shown.size)
    with torch.no_grad(), foreign(f"{word} fails on an image of {shown.size} pixels a side", "mend its config.json"):
        possible = _possible(network.eval(), reads_text, not missing, trial)
    chosen = pooling or possible[0]
    if chosen not in possible:
        why = "its files hold no weights of its pooler" if missing and chosen == "pooler" else "it has none"
        raise HoldfastError(f"{word} cannot have pooling {chosen}: {why}; possible: {', '.join(possible)}")
    tower = network if chosen == "features" or not reads_text else network.vision_model
    embed = Normalised(Pooled(tower, chosen, missing), processor.mean, processor.std).eval()
    remarks = [f"the embedding is {POOLINGS[chosen]} (pooling {chosen})", *remarks]
    facts = {"library": f"transformers {library.__version__}", "pooling": chosen}
    return named(word, embed, None, shown, remarks, **facts)


def parted(word: str) -> tuple[str, str | None]:
    """The folder or ID in a word, and its pooling where it names one: ``hf:owner/name:cls``."""
    place = word.removeprefix("hf:")
    before, _, last = place.rpartition(":")
    return (before, last) if before and last in POOLINGS and not Path(place).is_dir() else (place, None)


def _kind(library: ModuleType, folder: Path) -> bool:
    """Whether the model reads text as well. Raises HoldfastError where there is none, or it takes no images."""
    if not (folder / "config.json").is_file():
        raise HoldfastError(f"{folder} holds no model of transformers: it has no config.json")
    check_safetensors(folder)
    config = read_json(folder / "config.json")
    kind = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(kind, str) or kind not in library.CONFIG_MAPPING:
        raise HoldfastError(
            f"{folder}: transformers {library.__version__} has no model {kind!r}; a newer version may; code that comes "
            "with a model is never run"
        )
    with quiet(), foreign(f"transformers cannot read {folder / 'config.json'}", "mend the file"):
        described = library.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        kinds = library.MODEL_MAPPING.get(type(described), None)
    model = kinds[0] if isinstance(kinds, tuple) else kinds
    reads_text = hasattr(model, "get_image_features")
    if not reads_text and getattr(model, "main_input_name", None) != "pixel_values":
        raise HoldfastError(f"{folder} holds a {kind} model, which takes no images")
    return reads_text


def check_safetensors(folder: Path) -> None:
    """Raise HoldfastError where a folder has no weights in safetensors, or damaged ones."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = [path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in sorted(folder.glob(pattern))]
        found = f"; {pickles[0]} is a pickle, which is not loaded: save it again as safetensors" if pickles else ""
        raise HoldfastError(f"{folder} holds no weights: it has no .safetensors{found}")
    for file in files:
        with within(file):
            check_whole(file)


def _load(library: ModuleType, folder: Path) -> tuple[Any, list[str]]:
    """The network, and which of its weights are not in the files, but for those that read text."""
    options = {"trust_remote_code": False, "use_safetensors": True, "local_files_only": True, "dtype": "auto"}
    with quiet(), foreign(f"transformers cannot open {folder}", "its files are damaged, or do not fit each other"):
        network, found = library.AutoModel.from_pretrained(folder, output_loading_info=True, **options)
    return network, sorted(name for name in found["missing_keys"] if not name.startswith("text_model."))


def _possible(network: Any, reads_text: bool, trained: bool, trial: Tensor) -> list[str]:
    """The poolings of a network that embeds one image, its own first; trained: its pooler has weights."""
    own = ["features"] if reads_text else []
    tower = getattr(network, "vision_model", None) if reads_text else network
    if tower is None:
        return own
    found = tower(pixel_values=trial.to(dtype_of(network)))
    if trained and getattr(found, "pooler_output", None) is not None:
        own.append("pooler")
    return [*own, *(["cls"] if special_tokens(tower).keys() & {*CLASS} else []), "mean"]
