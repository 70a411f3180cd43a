"""An index by one word: a faiss factory string, its search parameters after a colon.

``SQ8``, ``PQ32``, ``IVF256,PQ32:nprobe=16``, ``HNSW32:efSearch=64``; and ``Binary:rescore=40``, where the sign of each
number is kept, the 40 items nearest by Hamming distance are taken, and their vectors decide.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from math import lcm
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from holdfast.attacks.base import as_given
from holdfast.core.distance import exact_matrix
from holdfast.util.errors import HoldfastError, shown
from holdfast.util.extras import faiss_said, require
from holdfast.util.text import counted

BINARY, RESCORED = "Binary", 40
EXAMPLES = "SQ8, PQ32, IVF256,PQ32:nprobe=16, HNSW32:efSearch=64, Binary:rescore=40, or any other string of faiss"
NAMES = (
    "Flat",
    "SQ",
    "SQfp",
    "PQ",
    "IVF",
    "HNSW",
    "LSH",
    "OPQ",
    "PCA",
    "RFlat",
    "Binary",
    "nprobe",
    "efSearch",
    "rescore",
)
"""What is in most words."""
LEAST = {"IVF": 1, "HNSW": 2}
"""Lists, and links of an item, that an index needs; with fewer faiss fails late, or ends the process."""
ANY_DIMENSION = 64
"""To parse with before the model's is known, times what the numbers of sub-vectors need."""
BLOCK = 8192
"""Items that are added or decoded at once."""

Search = Callable[[Tensor, int], Tensor]
"""From vectors (B, D) and k to the rows (B, k) of the nearest items, nearest first; −1 where there are fewer."""


@dataclass(frozen=True, eq=False)
class GalleryIndex:
    """A built index of N items.

    items: what a query is compared with (N, D): decoded vectors, or the given ones where the codes do not say a vector.
    search: the real search. exhaustive: it compares a query with every item, so that exact distances to ``items``
    are all there is to it. bytes_per_item: of codes and links. stored: what becomes of a vector (B, D) that is added.
    """

    word: str
    items: Tensor
    search: Search
    exhaustive: bool
    bytes_per_item: int
    stored: Callable[[Tensor], Tensor] = as_given


def check_index(word: str | None) -> None:
    """Raise HoldfastError for what is no index, before anything is embedded, and where faiss is not installed."""
    if word is None:
        return
    faiss = require("faiss", "faiss")
    name, parameters = _parts(word)
    if name == BINARY:
        _rescored(word, parameters)
        return
    for kind, number in re.findall(r"(IVF|HNSW)(\d+)", name):
        if int(number) < LEAST[kind]:
            raise HoldfastError(f"{shown(word)} is no index: {kind} takes a number of {LEAST[kind]} or more")
    parts = [int(number) for number in re.findall(r"PQ([1-9]\d{0,3})(?!\d)", name)]
    try:
        _opened(faiss, word, lcm(ANY_DIMENSION, *parts))
    except RuntimeError as error:
        raise HoldfastError(f"{shown(word)} is no index ({faiss_said(error)}){_hint(word)}; give {EXAMPLES}") from None


def build_index(word: str, items: Tensor) -> GalleryIndex:
    """The index that a word names, trained on the ``items`` (N, D) and filled with them, block by block.

    The same items give the same index. Raises HoldfastError where the word does not go with their number or dimension.
    """
    faiss = require("faiss", "faiss")
    name, parameters = _parts(word)
    vectors = items.detach().float().cpu().contiguous()
    if name == BINARY:
        return _binary(faiss, word, vectors, items, _rescored(word, parameters))
    try:
        index = _opened(faiss, word, vectors.shape[1])
        base = _base(faiss, index)
        index.train(vectors.numpy())
        with _one_thread(faiss) if isinstance(base, faiss.IndexHNSW) else nullcontext():
            for block in torch.split(vectors, BLOCK):
                index.add(block.numpy())
        if isinstance(base, faiss.IndexIVF):
            base.make_direct_map()
        coder = faiss.downcast_index(base.storage) if isinstance(base, faiss.IndexHNSW) else index
        size = coder.sa_code_size() + (4 * base.hnsw.nb_neighbors(0) if isinstance(base, faiss.IndexHNSW) else 0)
        decoded = vectors if isinstance(base, faiss.IndexLSH) else _decoded(index, vectors)
        index.search(vectors[:1].numpy(), 1)
    except RuntimeError as error:
        size = f"{counted(len(vectors), 'vector')} of {counted(vectors.shape[1], 'number')}"
        raise HoldfastError(f"index {word} does not go with {size} ({faiss_said(error)})") from None
    exhaustive = isinstance(index, faiss.IndexFlat | faiss.IndexScalarQuantizer | faiss.IndexPQ)
    if decoded is vectors:
        return GalleryIndex(word, items, partial(_search, index), exhaustive, size)
    there = decoded.to(items)
    return GalleryIndex(word, there, partial(_search, index), exhaustive, size, partial(_coded, coder))


def _parts(word: str) -> tuple[str, str]:
    name, _, parameters = word.partition(":")
    return name, parameters


def _hint(word: str) -> str:
    """The known name nearest to the first unknown one in a word."""
    by_lower = {name.lower(): name for name in NAMES}
    for name in re.findall("[A-Za-z]+", word):
        near = get_close_matches(name.lower(), by_lower, n=1)
        if name not in NAMES and near:
            return f"; did you mean {by_lower[near[0]]}?"
    return ""


def _opened(faiss: ModuleType, word: str, dim: int) -> Any:
    """An empty index for vectors of ``dim`` numbers, set to search as the word says."""
    name, parameters = _parts(word)
    index = faiss.index_factory(dim, name, faiss.METRIC_L2)
    if parameters:
        faiss.ParameterSpace().set_index_parameters(index, parameters)
    base = _base(faiss, index)
    for clustering in (getattr(base, "cp", None), getattr(getattr(base, "pq", None), "cp", None)):
        if clustering is not None:
            clustering.min_points_per_centroid = 1  # faiss prints a warning otherwise
    return index


def _base(faiss: ModuleType, index: Any) -> Any:
    """The index behind what transforms the vectors first."""
    while isinstance(index, faiss.IndexPreTransform):
        index = faiss.downcast_index(index.index)
    return index


@contextmanager
def _one_thread(faiss: ModuleType) -> Iterator[None]:
    """A graph that several threads build is another one each time."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _decoded(index: Any, vectors: Tensor) -> Tensor:
    """What the codes of vectors (N, D) say, block by block; the vectors themselves where that is the same."""
    found = vectors
    for start in range(0, len(vectors), BLOCK):
        given = vectors[start : start + BLOCK]
        block = torch.as_tensor(index.reconstruct_n(start, len(given)))
        if found is vectors and not torch.equal(block, given):
            found = vectors.clone()
        if found is not vectors:
            found[start : start + BLOCK] = block
    return found


def _coded(coder: Any, z: Tensor) -> Tensor:
    """Vectors (B, D) encoded and decoded."""
    return torch.from_numpy(coder.sa_decode(coder.sa_encode(z.detach().float().cpu().numpy()))).to(z)


def _search(index: Any, z: Tensor, k: int) -> Tensor:
    rows = index.search(z.detach().float().cpu().numpy(), min(k, index.ntotal))[1]
    return torch.from_numpy(rows).to(z.device)


def _rescored(word: str, parameters: str) -> int:
    """How many items a binary index has rescored."""
    name, _, number = parameters.partition("=")
    if parameters and (name != "rescore" or not number.isdecimal() or not 0 < int(number) < 2**31):
        raise HoldfastError(f"{shown(word)} is no index: {BINARY} takes rescore=N, as in {BINARY}:rescore=40")
    return int(number) if parameters else RESCORED


def _binary(faiss: ModuleType, word: str, vectors: Tensor, items: Tensor, rescored: int) -> GalleryIndex:
    """Signs, searched by Hamming distance, and what is nearest by that compared by its vectors."""
    size = -(-vectors.shape[1] // 8)
    index = faiss.IndexBinaryFlat(8 * size)
    for block in torch.split(vectors, BLOCK):
        index.add(_signs(block))

    def search(z: Tensor, k: int) -> Tensor:
        rows = torch.from_numpy(index.search(_signs(z), min(max(k, rescored), len(vectors)))[1]).long()
        near = rows.sort(dim=1).values
        distances = exact_matrix(z.detach().float().cpu()[:, None], vectors[near])[:, 0]
        return near.gather(1, distances.sort(dim=1, stable=True).indices[:, :k]).to(z.device)

    return GalleryIndex(word, items, search, False, size)


def _signs(z: Tensor) -> npt.NDArray[np.uint8]:
    return np.packbits(z.detach().cpu().numpy() > 0, axis=1)
