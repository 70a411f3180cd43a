"""``http://host/path``: a search at an address that takes images and answers with ids.

One request is a POST of JSON, ``{"images": ["…", …], "k": 10}``, each image a PNG of 8 bits in base64, grey or RGB.
The answer is JSON as well, ``{"ids": [["a17", "b3", …], …]}``: for each image, in their order, the ids of its ``k``
nearest items, nearest first, as text or whole numbers.
"""

from collections.abc import Iterator, Sequence

from pydantic import StrictInt, StrictStr
from torch import Tensor
from typing_extensions import TypedDict

from holdfast.models.adapters.http import Endpoint, png
from holdfast.search.oracles.base import SearchOracle


class _Found(TypedDict):
    ids: list[list[StrictStr | StrictInt]]


def open_endpoint(word: str) -> SearchOracle:
    """A search at an address. A request that fails is repeated as :class:`.Endpoint` does; each answer is given as it
    arrives. Raises HoldfastError for what is no address, and for a search that fails for good."""
    endpoint = Endpoint(word)

    def search(images: Tensor, k: int) -> Iterator[Sequence[str]]:
        for ids in endpoint.ask([png(image) for image in images], _Found, "ids", k=k):
            yield [str(one) for one in ids]

    return search
