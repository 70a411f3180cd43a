"""``open_clip:ARCH:PRETRAINED-or-file``, ``open_clip:hf-hub:OWNER/NAME-or-folder``: the image tower of a CLIP model of
open_clip (extra ``open_clip``)."""

from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from torch import Tensor, nn

from holdfast.data.resizing import Resizing
from holdfast.models import hub
from holdfast.models.adapters.base import Normalised, OpenedModel, computable, named
from holdfast.models.preprocessing import Preprocessing
from holdfast.util.arrays import check_whole
from holdfast.util.errors import HoldfastError, foreign, nearest, unknown, within
from holdfast.util.extras import quiet, require

HUB = "hf-hub"
"""What stands in the place of an architecture that a repository on the Hub, or a folder like it, says itself."""
FILES = ("open_clip_config.json", "open_clip_model.safetensors")
"""What is fetched from the Hub: neither pickles nor code."""


class ImageTower(nn.Module):
    """The image features of a CLIP model, not normalised."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, 3, H, W), normalised -> (n, D)."""
        z: Tensor = self.network.encode_image(pixels)  # type: ignore[operator]
        return z


def open_open_clip(word: str, weights: Path | None = None, best: bool = False) -> OpenedModel:
    """``weights``, or a file in the word's third place, is a ``.safetensors`` of the whole model.

    Raises HoldfastError where open_clip, the architecture or its weights are missing.
    """
    library = require("open_clip", "open-clip")
    architecture, _, pretrained = word.removeprefix("open_clip:").partition(":")
    if pretrained and weights is not None:
        raise HoldfastError(f"{word} names its weights already; leave out {weights}")
    if architecture == HUB:
        folder = hub.opened(pretrained, FILES)
        check_files(folder)
        architecture, source = f"local-dir:{folder}", None
    else:
        source = _known(library, architecture, pretrained or str(weights or ""))
    with quiet(), foreign(f"open_clip cannot open {word}", "the weights cannot be fetched, or are of another model"):
        network = library.create_model(architecture, source, weights_only=True)
    facts = library.get_model_preprocess_cfg(network)
    size, *other = facts["size"] if isinstance(facts["size"], list | tuple) else [facts["size"]]
    if facts["resize_mode"] not in ("shortest", "squash") or any(side != size for side in other):
        raise HoldfastError(f"{word} takes images that are padded, or not square: holdfast takes square ones only")
    interpolation = "bilinear" if facts["interpolation"] == "bilinear" else "bicubic"
    shown = Preprocessing(size, size, 3, Resizing(interpolation, facts["resize_mode"], "even"))
    embed = Normalised(ImageTower(network), facts["mean"], facts["std"]).eval()
    told = {"library": f"open_clip {library.__version__}", "pooling": "features"}
    return named(word, embed, weights, shown, computable(embed.network), **told)


def check_files(folder: Path) -> None:
    """Raise HoldfastError where a folder does not have what open_clip writes for the Hub, or it is damaged."""
    for name in FILES:
        if not (folder / name).is_file():
            raise HoldfastError(f"{folder} holds no model of open_clip: it has no {name}; pickles are not loaded")
        with within(folder / name):
            check_whole(folder / name)


def _known(library: ModuleType, architecture: str, asked: str) -> str:
    """What open_clip loads: the tag of pretrained weights, or a file.

    Raises HoldfastError where there is neither, or no such architecture.
    """
    if architecture not in library.list_models():
        near = get_close_matches(architecture, library.list_models(), n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(f'open_clip:{match}' for match in near)}?" if near else ""
        raise HoldfastError(
            f"open_clip {library.__version__} has no model {architecture!r}{hint}; open_clip.list_models() lists them"
        )
    tags = library.list_pretrained_tags_by_model(architecture)
    if asked in tags:
        return asked
    if not asked:
        named_so = ", ".join([f":{tag}" for tag in tags] + [":FILE.safetensors"])
        raise HoldfastError(f"open_clip:{architecture} names no weights: add one of {named_so}")
    file = Path(asked)
    if not file.suffix:
        raise unknown(f"weights of {architecture}", asked, [*tags, "FILE.safetensors"])
    if not file.is_file():
        raise HoldfastError(f"no weights at {file}{nearest(file)}")
    if file.suffix != ".safetensors":
        raise HoldfastError(f"{file} is not loaded: weights of open_clip are read from .safetensors only")
    with within(file):
        check_whole(file)
    return asked
