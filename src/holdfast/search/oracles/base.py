"""What every search oracle is, and those that search with the vectors of a model."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from holdfast.core.batching import checked
from holdfast.data import Pixels
from holdfast.models.adapters.base import OpenedModel
from holdfast.search.blocks import examined

SearchOracle = Callable[[Tensor, int], Iterable[Sequence[str]]]
"""``search(images, k)``: from images (n, C, H, W) in [0, 1], or vectors (n, D), to the ids of the ``k`` nearest items
of each, nearest first, as text; fewer where the search has fewer. An iterator may give each answer as it arrives."""


@contextmanager
def embedded_by(
    model: OpenedModel,
    search: SearchOracle,
    pixels: Pixels,
    *,
    device: torch.device,
    precision: str,
    width: int,
) -> Iterator[SearchOracle]:
    """A search with vectors as one with images, by a model that was looked at and is fixed inside.

    Its vectors are of unit length. They do not depend on what other images are asked about.
    """
    with examined(model.embed, pixels, device, precision=precision, width=width) as (wrapped, _):

        def by_images(images: Tensor, k: int) -> Iterable[Sequence[str]]:
            with torch.no_grad():
                return search(checked(wrapped(images.to(device))).float().cpu(), k)

        yield by_images
