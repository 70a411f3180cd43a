"""The nearest items of each query, exactly: in torch, or by faiss where it is installed."""

from collections.abc import Callable

import torch
from torch import Tensor

from holdfast.core.batching import rows_per_block
from holdfast.core.distance import exact_matrix
from holdfast.core.gallery import ITEM, nearest
from holdfast.util.errors import HoldfastError, pick
from holdfast.util.extras import require

Found = tuple[Tensor, Tensor]
"""Distances and rows of the nearest items, (Q, k) each."""

Search = Callable[[Tensor, Tensor, int], Found]
"""From items (N, D), queries (Q, D) and 1 ≤ k ≤ N to the ``k`` nearest of each, nearest first, Euclidean distance."""


def by_torch(items: Tensor, queries: Tensor, k: int) -> Found:
    """Every query against every item, some queries at once; of items equally far the earlier one comes first."""
    found = []
    for block in torch.split(queries, rows_per_block(ITEM * len(items))):
        distances = exact_matrix(block, items)
        rows = nearest(distances, k)
        found.append((distances.gather(1, rows), rows))
    return _joined(found)


def by_faiss(items: Tensor, queries: Tensor, k: int) -> Found:
    """As :func:`by_torch`, by faiss's ``IndexFlatL2`` on the CPU: exact as well, quicker with many queries.

    Where items are equally far from a query, to rounding, it may find others of them.
    """
    faiss = require("faiss", "faiss")
    index = faiss.IndexFlatL2(items.shape[1])
    index.add(items.float().cpu().numpy())
    rows = torch.from_numpy(index.search(queries.float().cpu().numpy(), k)[1]).to(items.device)
    width = rows_per_block(4 * k * items.shape[1])
    blocks = zip(torch.split(queries, width), torch.split(rows.sort(dim=1).values, width), strict=True)
    return _joined([_ordered(items, *block) for block in blocks])


def _ordered(items: Tensor, queries: Tensor, rows: Tensor) -> Found:
    """Items at ascending ``rows`` (Q, k), nearest first."""
    distances, order = exact_matrix(queries[:, None], items[rows])[:, 0].sort(dim=1, stable=True)
    return distances, rows.gather(1, order)


def _joined(blocks: list[Found]) -> Found:
    distances, rows = zip(*blocks, strict=True)
    return torch.cat(distances), torch.cat(rows)


BACKENDS: dict[str, Search] = {"torch": by_torch, "faiss": by_faiss}


def search_by(backend: str, k: int) -> Search:
    """The search of a backend. Raises HoldfastError for an unknown or absent one, and for no results."""
    search = pick("backend", backend, BACKENDS)
    if backend == "faiss":
        require("faiss", "faiss")
    if k < 1:
        raise HoldfastError(f"k is at least 1 result, not {k}")
    return search
