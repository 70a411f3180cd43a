"""Images from strangers: bounded in bytes and in pixels before they are decoded, and never written to a file."""

from collections import OrderedDict
from collections.abc import AsyncIterable
from secrets import token_urlsafe
from threading import Lock
from typing import Generic, TypeVar

import numpy as np
from PIL import Image
from torch import Tensor, arange

from holdfast.data import Pixels, Table
from holdfast.data.decode import decode
from holdfast.util.errors import HoldfastError

BYTES = 10 * 2**20
"""Of an uploaded file."""

PIXELS = 40_000_000
"""Of an uploaded image."""

KEPT = 32
"""Uploads that are remembered; the one longest unused goes first."""

_ONE_AT_A_TIME = Lock()
"""A decoded image may take several hundred megabytes."""

Item = TypeVar("Item")


class TooLargeError(HoldfastError):
    """More bytes than are taken."""


async def body(stream: AsyncIterable[bytes], most: int = BYTES) -> bytes:
    """What is sent, in memory; raises :class:`TooLargeError` as soon as it is more than ``most`` bytes."""
    received = bytearray()
    async for chunk in stream:
        received += chunk
        if len(received) > most:
            raise TooLargeError(f"more than {most / 2**20:.3g} MB were sent, the most that is taken")
    return bytes(received)


def taken(data: bytes, pixels: Pixels) -> tuple[Tensor, tuple[int, int], list[str]]:
    """A file as the models of a test set see it, (1, C, size, size), its own width and height, and remarks.

    One at a time, since a large image takes much memory. Raises HoldfastError, see :func:`.decode`.
    """
    with _ONE_AT_A_TIME:
        image, remarks = decode(data, PIXELS)
        return as_the_models_see(image, pixels), image.size, remarks


def as_the_models_see(image: Image.Image, pixels: Pixels) -> Tensor:
    """An RGB image brought to the size and channels of a test set, as its own images are: (1, C, size, size)."""
    alone = np.zeros(1, np.bool_)
    table = Table.build("upload", np.asarray(image)[None], [0], ["test"], is_query=alone, is_gallery=alone)
    images, readable = pixels.alike(table, workers=1).read(arange(1))
    if not readable.all():
        raise HoldfastError("the image cannot be brought to the size of the gallery's")
    return images


class Shelf(Generic[Item]):
    """The last few things, by names nobody can guess."""

    def __init__(self, most: int = KEPT) -> None:
        self.most, self._items, self._lock = most, OrderedDict[str, Item](), Lock()

    def add(self, item: Item) -> str:
        """Keep something; its name."""
        name = token_urlsafe(16)
        with self._lock:
            self._items[name] = item
            while len(self._items) > self.most:
                self._items.popitem(last=False)
        return name

    def get(self, name: str) -> Item | None:
        """What has a name, if it is still there."""
        with self._lock:
            if name in self._items:
                self._items.move_to_end(name)
            return self._items.get(name)
