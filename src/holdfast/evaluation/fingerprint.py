"""What a result's identity hangs on: the data and the model, as plain facts and as short hashes."""

import hashlib
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from holdfast.core.pgd import Embed
from holdfast.data import Pixels
from holdfast.data.resizing import SQUASHED
from holdfast.evaluation.runner import Target

DIRECTIONS = 4


def describe_data(pixels: Pixels) -> dict[str, Any]:
    """What a result says of a test set."""
    table = pixels.table
    digest = hashlib.sha256()
    for column in (table.labels, table.is_query, table.is_gallery):
        digest.update(column.tobytes())
    images = table.images
    digest.update(images.tobytes() if isinstance(images, np.ndarray) else "\n".join(p.name for p in images).encode())
    return {
        "name": table.name,
        "queries": int(table.is_query.sum()),
        "gallery": int(table.is_gallery.sum()),
        "classes": len(np.unique(table.labels)),
        "size": pixels.size,
        "resize": pixels.side,
        "channels": pixels.channels,
        **({} if pixels.resizing == SQUASHED else asdict(pixels.resizing)),
        "hash": digest.hexdigest()[:8],
    }


def model_fingerprint(target: Target) -> str:
    """Eight hex digits that stand for a module's state, and for what any model makes of the test set."""
    sides = (target.system.queries, target.system.gallery)
    return network_fingerprint(target.model.embed, *(side.embeddings for side in sides))


def network_fingerprint(embed: Embed, *embeddings: Tensor) -> str:
    """Eight hex digits that stand for a module's state, and for ``embeddings`` (N, D) that any model made."""
    digest = hashlib.sha256()
    state = embed.state_dict() if isinstance(embed, nn.Module) else {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    for z in embeddings:
        digest.update(_projected(z))
    return digest.hexdigest()[:8]


def _projected(z: Tensor) -> bytes:
    """Embeddings (N, D) in a few random directions, rounded so far that another machine finds the same."""
    generators = torch.Generator().manual_seed(0)
    columns, rows = (torch.randn(size, DIRECTIONS, generator=generators) for size in z.T.shape)
    values = (z.detach().cpu().float() @ columns * rows).sum(0) / len(z) ** 0.5
    return bytes((1000 * values).round().int().numpy().tobytes())
