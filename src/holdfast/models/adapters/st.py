"""``st:ID-or-folder``: an image encoder of sentence-transformers (extra ``st``)."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from holdfast.models import hub
from holdfast.models.adapters.base import Normalised, OpenedModel, computable, named
from holdfast.models.adapters.hf import check_safetensors
from holdfast.models.adapters.processors import read_processor
from holdfast.util.errors import HoldfastError, foreign
from holdfast.util.extras import quiet, require
from holdfast.util.validate import Text, check, read_json

FILES = ("*.json", "*.txt", "*model.safetensors", "*model-*-of-*.safetensors")
"""What is fetched from the Hub: neither pickles nor code."""


class Encoder(nn.Module):
    """The modules of a model of sentence-transformers, on pixels."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, C, H, W), normalised -> (n, D)."""
        z: Tensor = self.network({"pixel_values": pixels, "modality": "image"})["sentence_embedding"]
        return z


def open_st(word: str, weights: Path | None = None, best: bool = False) -> OpenedModel:
    """The modules embed as :meth:`encode` does; their pixels come from holdfast, so that gradients reach them.

    Raises HoldfastError where sentence-transformers or the model is missing, or the model takes no images.
    """
    if weights is not None:
        raise HoldfastError(f"{word} brings its own weights; leave out {weights}")
    library = require("sentence_transformers", "st")
    folder = hub.opened(word.removeprefix("st:"), FILES)
    first = _first(folder)
    check_safetensors(first)
    options = {"device": "cpu", "trust_remote_code": False, "local_files_only": True}
    how: dict[str, Any] = {"use_safetensors": True, "dtype": "auto"}
    with quiet(), foreign(f"sentence-transformers cannot open {folder}", "its files are damaged, or of other versions"):
        network = library.SentenceTransformer(str(folder), model_kwargs=how, **options)
    if "image" not in getattr(network[0], "modalities", ()):
        raise HoldfastError(f"{word} takes no images: it is an encoder of text")
    processor = read_processor(first)
    embed = Normalised(Encoder(network), processor.mean, processor.std).eval()
    parts = ", ".join(type(module).__name__ for module in network)
    remarks = [f"the embedding is that of its modules {parts}", *computable(network)]
    facts = {"library": f"sentence-transformers {library.__version__}", "pooling": parts}
    return named(word, embed, None, processor.preprocessing, remarks, **facts)


def _first(folder: Path) -> Path:
    """The folder of the first module, without pickles anywhere."""
    if not (folder / "modules.json").is_file():
        raise HoldfastError(f"{folder} holds no model of sentence-transformers: it has no modules.json")
    modules = read_json(folder / "modules.json")
    check(list[dict[str, Text | int]], modules, str(folder / "modules.json"))
    if pickles := [path for path in sorted(folder.rglob("*.bin")) if not any(path.parent.glob("*.safetensors"))]:
        raise HoldfastError(f"{pickles[0]} is a pickle, which is not loaded: save the model again as safetensors")
    if not modules:
        raise HoldfastError(f"{folder / 'modules.json'} lists no modules")
    return folder / str(modules[0].get("path", ""))
