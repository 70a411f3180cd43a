"""The images of a data set as embeddings, by any model."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast.core.fused import frozen
from holdfast.core.gallery import Gallery, Queries
from holdfast.core.pgd import Embed
from holdfast.data import Pixels, stream
from holdfast.data.pixels import Found
from holdfast.util import distributed
from holdfast.util.errors import HoldfastError
from holdfast.util.text import counted

BATCH = 256

COPIES, ROOM = 2, 0.5
"""Copies of the embeddings that an attack needs on a device, and the share of its memory that they may take."""


@dataclass(frozen=True)
class EmbeddedDataset:
    """A test set as embeddings ``z (N, D)``, the rows ``ids (N,)`` of its table, and ``labels (N,)``.

    spread: as in :class:`.Queries`.
    """

    z: Tensor
    ids: Tensor
    labels: Tensor
    is_query: Tensor
    is_gallery: Tensor
    classes: int
    spread: bool = False

    @property
    def queries(self) -> Queries:
        return Queries(*self._part(self.is_query), self.spread)

    @property
    def gallery(self) -> Gallery:
        return Gallery(*self._part(self.is_gallery), self.spread)

    def _part(self, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings, labels, ids; the whole is not copied."""
        columns = self.z, self.labels, self.ids
        return columns if mask.all() else (self.z[mask.to(self.z.device)], self.labels[mask], self.ids[mask])


def embed_dataset(
    embed: Embed,
    pixels: Pixels,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
    *,
    ranks: int = 1,
) -> EmbeddedDataset:
    """Embed the readable images of a test table, a module in evaluation mode; with several ``ranks`` each its share.

    They are spread over the ranks where a device has no room for them all. Raises HoldfastError on NaN.
    """
    if ranks == 1:
        spread, (z, ids) = False, embed_rows(embed, pixels, device, progress=progress)
    else:
        z, ids = _embed_together(embed, pixels, device, progress)
        spread = any(distributed.collect(lambda: COPIES * z.nbytes > ROOM * distributed.memory(device)))
        z = z if spread else z.to(device)
    if not len(ids):
        first = pixels.table.name_of(0)
        raise HoldfastError(f"none of the {counted(len(pixels), 'test image')} can be read; the first is {first}")
    table = pixels.table
    labels, is_query, is_gallery = (
        torch.from_numpy(column)[ids].to(device) for column in (table.labels, table.is_query, table.is_gallery)
    )
    return EmbeddedDataset(z, ids.to(device), labels, is_query, is_gallery, len(torch.unique(labels)), spread)


def _embed_together(
    embed: Embed, pixels: Pixels, device: torch.device, progress: Callable[[int, int], None] | None
) -> tuple[Tensor, Tensor]:
    """As :func:`embed_rows`, of all images, in main memory, with what each rank has found of its share."""
    share = torch.arange(len(pixels))[distributed.portion(len(pixels))]

    def work() -> tuple[Tensor, Tensor, Found]:
        z, ids = embed_rows(embed, pixels, device, rows=share, progress=progress)
        return z.cpu(), ids, pixels.found()

    parts = distributed.collect(work)
    for *_, found in parts:
        pixels.adopt(found)
    some = [z for z, *_ in parts if len(z)] or [parts[0][0]]
    return torch.cat(some), torch.cat([ids for _, ids, _ in parts])


def embed_rows(
    embed: Embed,
    pixels: Pixels,
    device: torch.device,
    *,
    rows: Tensor | None = None,
    batch: int = BATCH,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Embeddings (n, D) of the readable images among those at ``rows`` (all of them by default), and their rows (n,).

    ``batch`` images are decoded at once. A module is in evaluation mode meanwhile. Raises HoldfastError on NaN.
    """
    parts, found = [torch.empty(0, 0, device=device)], [torch.empty(0, dtype=torch.long)]
    with frozen(embed) if isinstance(embed, nn.Module) else nullcontext(), torch.no_grad():
        for indices, images in stream(pixels, batch, rows, progress):
            parts.append(embed(images.to(device)))
            found.append(indices)
    z, ids = torch.cat(parts[1:] or parts), torch.cat(found)
    if not z.isfinite().all():
        first = pixels.table.name_of(int(ids[(~z.isfinite().all(dim=1)).cpu().nonzero()[0, 0]]))
        raise HoldfastError(f"the model gives NaN or infinite embeddings; first for {first}")
    return z, ids
