"""``qdrant:FOLDER:COLLECTION``: a collection that qdrant-client keeps in a folder (its local mode).

qdrant-client reads what lies there with pickle: open folders only that you trust.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from holdfast.search.oracles.base import SearchOracle
from holdfast.util.errors import HoldfastError, brief, nearest, unknown
from holdfast.util.extras import quiet, require

META = "meta.json"
"""What a folder of qdrant-client has in it."""


def open_qdrant(word: str) -> SearchOracle:
    """The search of a collection by vectors (n, D), with its own distance. Ids are those of its points.

    Raises HoldfastError where there is no such folder or collection, where another process holds it, and where the
    collection has named vectors.
    """
    place, _, name = word.partition(":")[2].rpartition(":")
    folder = Path(place).expanduser()
    if not place or not name:
        raise HoldfastError(f"{word} names no collection: give qdrant:FOLDER:COLLECTION")
    module = require("qdrant_client", "qdrant")
    if not (folder / META).is_file():
        reason = f"there is no {META} in it" if folder.is_dir() else f"there is no such folder{nearest(folder)}"
        raise HoldfastError(f"{folder} is no folder of qdrant-client: {reason}")
    try:
        with quiet():
            client = module.QdrantClient(path=str(folder))
            names = [one.name for one in client.get_collections().collections]
    except Exception as error:
        raise HoldfastError(f"{folder} cannot be opened as a folder of qdrant-client ({brief(error)})") from None
    if name not in names:
        raise unknown(f"collection in {folder}:", name, names)
    vectors_of: Any = client.get_collection(name).config.params.vectors
    dim = getattr(vectors_of, "size", None)
    if dim is None:
        raise HoldfastError(f"collection {name!r} has several vectors for a point; one with a single vector is needed")

    def search(vectors: Tensor, k: int) -> list[Sequence[str]]:
        if vectors.shape[1] != dim:
            raise HoldfastError(
                f"the model's vectors have {vectors.shape[1]} dimensions, those of collection {name!r} {dim}"
            )
        found = (client.query_points(name, query=one, limit=k, with_payload=False) for one in vectors.tolist())
        return [[str(point.id) for point in answer.points] for answer in found]

    return search
