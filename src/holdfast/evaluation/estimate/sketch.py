"""A test set of which some images are embedded, while random vectors stand for the others: as large, and soon made."""

from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor
from torch.nn.functional import normalize

from holdfast.attacks import System
from holdfast.core.batching import spread
from holdfast.core.gallery import Queries
from holdfast.data import Pixels
from holdfast.evaluation.estimate.memory import peak
from holdfast.evaluation.runner import Target, matched_rows
from holdfast.evaluation.settings import AttackSettings
from holdfast.models.embedding import EmbeddedDataset, embed_rows
from holdfast.models.wrapped import WrappedModel
from holdfast.util.errors import HoldfastError
from holdfast.util.text import counted

ATTACKED, ALONE = 2**14, 512
"""Images that are embedded where there are attacks to try, and where there are none."""
TRIED = 256
"""Images to try attacks on, of each side."""


@dataclass(frozen=True, eq=False)
class Sketch:
    """tried: ids (t,) of images to try attacks on, by side. known: ids (k,) of all that are embedded, which took some
    ``seconds`` and, at the most, ``memory`` bytes."""

    target: Target
    tried: dict[str, Tensor]
    known: Tensor
    seconds: float
    memory: int | None

    def rows(self, side: str, most: int = TRIED) -> Tensor:
        """The rows (t,) of the images to try, on their side; of at ``most`` so many."""
        images = self.target.system.queries if side == "query" else self.target.system.gallery
        rows = torch.isin(images.ids, self.tried[side].to(images.ids)).nonzero().squeeze(1)
        return rows[spread(len(rows), most)]


def sketch(
    model: WrappedModel,
    pixels: Pixels,
    resolved: AttackSettings,
    *,
    device: torch.device,
    known: Tensor | None = None,
) -> Sketch:
    """Embed some of what is attacked, images of its classes, and others; or those with ids ``known``."""
    table = pixels.table
    labels, ids = torch.from_numpy(table.labels), torch.arange(len(pixels))
    asks, found = (torch.from_numpy(mask) for mask in (table.is_query, table.is_gallery))
    queries, gallery = (Queries(torch.empty(int(mask.sum()), 0), labels[mask], ids[mask]) for mask in (asks, found))
    tried: dict[str, Tensor] = {}
    for side, images, others in (("query", queries, gallery), ("candidate", gallery, queries)):
        rows = matched_rows(images.ids, images.labels, others, pixels, resolved)
        tried[side] = images.ids[rows[spread(len(rows), TRIED)]]
    known = _chosen(labels, torch.cat([*tried.values()]), resolved.attacking) if known is None else known
    began = perf_counter()
    with peak(device) as used:
        z, known = embed_rows(model, pixels, device, rows=known)
    seconds = perf_counter() - began
    generator = torch.Generator().manual_seed(0)
    whole = normalize(torch.randn(len(pixels), z.shape[1], generator=generator), dim=1).to(z)
    whole[known] = z
    classes = len(torch.unique(labels))
    embedded = EmbeddedDataset(whole, ids.to(device), labels.to(device), asks.to(device), found.to(device), classes)
    readable = {side: wanted[torch.isin(wanted, known)] for side, wanted in tried.items()}
    for side, wanted in tried.items():
        if resolved.attacking and len(wanted) and not len(readable[side]):
            raise HoldfastError(
                f"{table.name}: none of {counted(len(wanted), 'image')} to try an attack on can be read"
            )
    return Sketch(
        Target(model, System(embedded.queries, embedded.gallery), pixels), readable, known, seconds, used.bytes
    )


def _chosen(labels: Tensor, tried: Tensor, attacking: bool) -> Tensor:
    """Ids to embed: where attacks are tried, half of them from the classes of what is ``tried``."""
    order = torch.rand(len(labels), generator=torch.Generator().manual_seed(0)).argsort()
    if not attacking:
        return order[:ALONE].sort().values
    if len(labels) <= ATTACKED:
        return torch.arange(len(labels))
    mates = order[torch.isin(labels[order], labels[tried])][: ATTACKED // 2]
    chosen = dict.fromkeys(torch.cat([tried, mates, order]).tolist())
    return torch.tensor([*chosen][:ATTACKED]).sort().values
