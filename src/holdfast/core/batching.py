"""What every pass over many embeddings shares: checked input, bounded blocks, full precision."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from holdfast.util.errors import HoldfastError
from holdfast.util.text import counted

WORKSPACE = 256 * 2**20
"""Bytes that one block of rows may occupy, intermediate results included."""

WIDTH = 64
"""Images that a network embeds at once, and rows of a matrix that are computed at once."""


def fixed_batch(function: Callable[..., Tensor], *tensors: Tensor, width: int = WIDTH) -> Tensor:
    """``function(*tensors)`` of tensors of as many rows, ``(n, ...) -> (n, ...)``, always called with ``width`` rows.

    Kernels round differently for other batch sizes, and an attack blows such differences up. In blocks of one size,
    the last one filled with repeats, a row's result does not depend on how many rows there are beside it.
    """
    count = len(tensors[0])
    if not count:
        return function(*tensors)
    if short := -count % width:
        tensors = tuple(torch.cat([x, x[-1:].expand(short, *x.shape[1:])]) for x in tensors)
    blocks = zip(*(torch.split(x, width) for x in tensors), strict=True)
    return torch.cat([function(*block) for block in blocks])[:count]


def spread(count: int, most: int) -> Tensor:
    """Places from the first of ``count`` to the last, as far apart each; at ``most`` so many."""
    return torch.linspace(0, count - 1, min(count, most)).long()


def ascending(x: Tensor) -> Tensor:
    """``x`` sorted along its last dimension; on a CPU in its own memory, by numpy, which is many times faster there."""
    if x.device.type != "cpu":
        return x.sort(dim=-1).values
    x.numpy().sort(axis=-1)
    return x


def rows_per_block(bytes_per_row: int) -> int:
    """Rows of ``bytes_per_row`` bytes that fit in :data:`WORKSPACE`; at least one."""
    return max(1, WORKSPACE // max(1, bytes_per_row))


def checked(embeddings: Tensor) -> Tensor:
    """``embeddings`` (N, D), detached, in float32 or (if given so) float64; N ≥ 1 finite rows.

    Raises:
        HoldfastError: not a floating-point matrix, empty, or with a row whose norm is not finite.
    """
    if embeddings.ndim != 2 or not embeddings.is_floating_point() or not embeddings.numel():
        raise HoldfastError(
            f"embeddings must be a non-empty floating-point matrix (items, dimensions); "
            f"got {embeddings.dtype} of shape {tuple(embeddings.shape)}"
        )
    exact = embeddings.detach().to(torch.promote_types(embeddings.dtype, torch.float32))
    broken = (~torch.linalg.vector_norm(exact, dim=1).isfinite()).nonzero().flatten().tolist()
    if broken:
        raise HoldfastError(
            f"{len(broken)} of {counted(len(exact), 'embedding')} have no finite norm (first at row {broken[0]}); "
            f"check the model for NaN or Inf"
        )
    return exact


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No gradients, and no autocast of distances to half precision."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield
