"""``faiss:FILE``: an index that ``faiss.write_index`` wrote."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from holdfast.search.oracles.base import SearchOracle
from holdfast.util.errors import HoldfastError, nearest
from holdfast.util.extras import faiss_said, require


def open_faiss(word: str) -> SearchOracle:
    """The search of a faiss file by vectors (n, D), with the metric, codes and settings that it was written with.

    Ids are faiss's numbers: the places of the vectors from 0, unless the index maps them to others. Raises
    HoldfastError where there is no such file, or no index of floating-point vectors in it.
    """
    path = Path(word.partition(":")[2]).expanduser()
    faiss = require("faiss", "faiss")
    if not path.is_file():
        raise HoldfastError(f"there is no file {path}{nearest(path)}")
    try:
        index = faiss.read_index(str(path))
    except Exception as error:
        raise HoldfastError(
            f"{path} is no faiss index of floating-point vectors, or damaged ({faiss_said(error)})"
        ) from None
    if not index.ntotal:
        raise HoldfastError(f"{path} holds no vectors")

    def search(vectors: Tensor, k: int) -> list[Sequence[str]]:
        if vectors.shape[1] != index.d:
            raise HoldfastError(f"the model's vectors have {vectors.shape[1]} dimensions, those of {path} {index.d}")
        found = index.search(vectors.numpy(), min(k, index.ntotal))[1]
        return [[str(one) for one in row if one >= 0] for row in found.tolist()]

    return search
