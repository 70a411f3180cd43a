"""Back to where an encoder came from: a folder or weights that its own library loads, without holdfast."""

import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn import functional as F

from holdfast.core.pgd import Embed
from holdfast.export.source import Source
from holdfast.models import hub
from holdfast.models.adapters import open_clip
from holdfast.models.adapters.hf import FILES, parted
from holdfast.models.open import open_model
from holdfast.models.weights import load_exactly
from holdfast.util.arrays import save_safetensors
from holdfast.util.errors import HoldfastError
from holdfast.util.extras import quiet

WEIGHTS = "model.safetensors"
OPEN_CLIP_FOLDER = f"open_clip:{open_clip.HUB}:"
"""What the word of a model of open_clip that lies in a folder, or on the Hub, begins with."""


def write(source: Source, folder: Path) -> None:
    """What the library of an encoder reads: a folder of transformers or sentence-transformers; for open_clip, timm, or
    the module that was trained, ``model.safetensors`` with the network's own names.

    Weights are float32. The unit length of holdfast's embeddings is no part of it. Raises HoldfastError where the
    library cannot write what was trained.
    """
    kind = source.origin.partition(":")[0]
    network: Any = source.embedder.backbone
    if kind == "hf":
        inner = network.network
        if not hasattr(inner, "save_pretrained"):
            raise HoldfastError(
                f"{source.origin} was trained as the image tower of a larger model, which transformers does not save "
                "alone: train it with the pooling 'features'"
            )
        trained = {name: one for name, one in inner.state_dict().items() if name not in network.untrained}
        with quiet():
            inner.save_pretrained(folder, state_dict=trained)
        for path in sorted(hub.opened(parted(source.origin)[0], FILES).glob("*.json")):
            if not (folder / path.name).exists() and not path.name.endswith(".index.json"):
                shutil.copyfile(path, folder / path.name)
    elif kind == "st":
        with quiet():
            network.network.save_pretrained(str(folder))
    elif source.origin.startswith(OPEN_CLIP_FOLDER):
        config, weights = open_clip.FILES
        shutil.copyfile(
            hub.opened(source.origin.removeprefix(OPEN_CLIP_FOLDER), open_clip.FILES) / config, folder / config
        )
        save_safetensors(folder / weights, network.network.state_dict(), {"format": "pt"})
    else:
        inner = network.network if kind == "open_clip" else network
        save_safetensors(folder / WEIGHTS, inner.state_dict(), {"format": "pt"})


def load(folder: Path, source: Source) -> Embed:
    """The encoder that lies in the folder, as a function from images to embeddings of unit length."""
    kind, _, rest = source.origin.partition(":")
    weights = folder / WEIGHTS
    opened = {
        "hf": lambda: open_model(f"hf:{folder}", pooling=parted(source.origin)[1]),
        "st": lambda: open_model(f"st:{folder}"),
        "open_clip": lambda: open_model(
            f"{OPEN_CLIP_FOLDER}{folder}"
            if source.origin.startswith(OPEN_CLIP_FOLDER)
            else f"open_clip:{rest.partition(':')[0]}:{weights}"
        ),
        "model": lambda: open_model(rest, weights=weights),
    }
    if kind in opened:
        embed = opened[kind]().embed
        if isinstance(embed, nn.Module):
            embed.eval()
        return lambda images: F.normalize(embed(images), dim=1)
    fresh = deepcopy(source.embedder)
    for tensor in fresh.backbone.state_dict().values():
        tensor.zero_()
    load_exactly(fresh.backbone, folder / WEIGHTS)
    return fresh
