"""An embedder as a program of ``torch.export``: a graph and its weights, run without the code of holdfast."""

import io
import json
from pathlib import Path

import torch
from torch.export import Dim, ExportedProgram

from holdfast.core.pgd import Embed
from holdfast.export.source import Source
from holdfast.models.embedder import Embedder
from holdfast.util.errors import HoldfastError, brief
from holdfast.util.extras import quiet

DYNAMIC = {"images": {0: Dim("batch", min=1)}}
"""What is free in the shape of the input."""

FACTS = "holdfast.json"
"""The file in a ``.pt2`` that holds :attr:`.Source.facts`."""


def program(embedder: Embedder) -> ExportedProgram:
    """The program of an embedder from :func:`.frozen_copy`: ``images`` (batch, channels, size, size) of any batch size.

    Raises HoldfastError where the backbone cannot be traced.
    """
    config = embedder.config
    images = torch.rand(2, config.channels, config.size, config.size)
    try:
        with quiet():
            found = torch.export.export(embedder, (images,), dynamic_shapes=DYNAMIC)
    except Exception as error:
        raise HoldfastError(f"{config.backbone} cannot be exported ({brief(error)})") from error
    for node in found.graph.nodes:
        node.meta.pop("stack_trace", None)  # it tells where the code lies on this machine
    return found


def write(source: Source, path: Path) -> None:
    """A ``.pt2`` file for ``torch.export.load``."""
    content = io.BytesIO()
    with quiet():
        torch.export.save(program(source.embedder), content, extra_files={FACTS: json.dumps(source.facts)})
    path.write_bytes(content.getvalue())


def load(path: Path) -> Embed:
    """What :func:`write` wrote, as a function from images to embeddings."""
    with quiet():
        return torch.export.load(io.BytesIO(path.read_bytes())).module()
