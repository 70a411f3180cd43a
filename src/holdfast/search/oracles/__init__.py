"""Searches that answer with ids alone, by one word: a faiss file, Qdrant, PostgreSQL, or an address."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from difflib import get_close_matches

import torch

from holdfast.data import Pixels
from holdfast.models.adapters.base import OpenedModel
from holdfast.search.oracles.base import SearchOracle, embedded_by
from holdfast.search.oracles.endpoint import open_endpoint
from holdfast.search.oracles.faiss_file import open_faiss
from holdfast.search.oracles.pgvector import open_pgvector
from holdfast.search.oracles.postgres import SCHEMES, parse_address
from holdfast.search.oracles.qdrant import open_qdrant
from holdfast.util.errors import HoldfastError, shown

ALLOWED = "faiss:FILE, qdrant:FOLDER:COLLECTION, postgresql://host/database?table=TABLE or http://host/path"

VECTORS: dict[str, Callable[[str], AbstractContextManager[SearchOracle]]] = {
    "faiss": lambda word: nullcontext(open_faiss(word)),
    "qdrant": lambda word: nullcontext(open_qdrant(word)),
    **dict.fromkeys(SCHEMES, open_pgvector),
}
"""By what stands before the colon of a word: what searches with vectors, which a model makes of the images."""

ADDRESSES = ("http", "https")


def public(word: str) -> str:
    """A word without what may be secret in it: for results and messages."""
    prefix, colon, rest = word.partition(":")
    if prefix in SCHEMES:
        return parse_address(word).name
    if prefix not in VECTORS and prefix not in ADDRESSES:  # a slip in one of them
        rest = rest.rpartition("@")[2]
    return (prefix + colon + rest).partition("?")[0]


@contextmanager
def open_search(
    word: str,
    model: OpenedModel | None,
    pixels: Pixels,
    *,
    device: torch.device,
    precision: str = "float32",
    width: int,
) -> Iterator[SearchOracle]:
    """The search that a word names, with its model fixed inside, where it needs one.

    width: images that the model is given at once. Raises HoldfastError where there is no such search, where it needs a
    model and there is none, or the other way round.
    """
    prefix, colon, _ = word.partition(":")
    said = public(word)
    rest = said.partition(":")[2]
    if colon and prefix in ADDRESSES:
        if model is not None:
            raise HoldfastError(f"{said} is given images, not vectors: leave out the model {model.name}")
        yield open_endpoint(word)
        return
    if not colon or prefix not in VECTORS or not rest:
        near = get_close_matches(prefix, [*VECTORS, *ADDRESSES], n=1) if colon else []
        hint = f"; did you mean {near[0]}:{rest}?" if near and near[0] != prefix else ""
        raise HoldfastError(f"{shown(said)} names no search{hint} (allowed: {ALLOWED})")
    if model is None:
        raise HoldfastError(f"{said} searches with vectors: name the model that makes them of images")
    with (
        VECTORS[prefix](word) as vectors,
        embedded_by(model, vectors, pixels, device=device, precision=precision, width=width) as search,
    ):
        yield search
