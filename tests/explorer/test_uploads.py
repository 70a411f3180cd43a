"""Images from strangers: what is no image is refused before it can do harm, and what is one comes out upright."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from holdfast.data import Pixels, Table
from holdfast.explorer import uploads
from holdfast.explorer.uploads import Shelf, TooLargeError, as_the_models_see, body, taken
from holdfast.util.errors import HoldfastError
from tests.helpers.tiny import digits


def photo(width: int = 12, height: int = 8, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    pixels[: height // 2] //= 4
    return Image.fromarray(pixels).convert(mode)


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


async def chunks(*sizes: int, taken: list[int]) -> AsyncIterator[bytes]:
    for size in sizes:
        taken.append(size)
        yield b"x" * size


@given(st.lists(st.integers(0, 400), max_size=12), st.integers(0, 1000))
def test_no_more_is_read_than_is_taken(sizes: list[int], most: int) -> None:
    taken: list[int] = []
    if sum(sizes) <= most:
        assert len(asyncio.run(body(chunks(*sizes, taken=taken), most))) == sum(sizes)
        return
    with pytest.raises(TooLargeError, match="the most that is taken"):
        asyncio.run(body(chunks(*sizes, taken=taken), most))
    assert sum(taken) - taken[-1] <= most


@pytest.mark.parametrize("channels", [1, 3])
def test_an_upload_is_prepared_as_the_images_of_the_test_set_are(channels: int) -> None:
    pixels = np.stack([np.asarray(photo(20, 20, "RGB").rotate(90 * i)) for i in range(4)])
    test = Pixels(Table.build("photos", pixels, [0, 0, 1, 1], ["test"] * 4), 8, 10, channels=channels)
    for i in range(4):
        found = as_the_models_see(Image.fromarray(pixels[i]), test)
        assert torch.equal(found, test.read(torch.tensor([i]))[0])


def test_an_upload_has_fewer_pixels_than_a_file_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "PIXELS", 95)
    with pytest.raises(HoldfastError, match="the image has 12 × 8 pixels, more than the 95 that are taken"):
        taken(saved(photo(12, 8)), digits(50))


def test_a_shelf_keeps_what_was_used_last() -> None:
    shelf: Shelf[int] = Shelf(3)
    names = [shelf.add(i) for i in range(3)]
    assert [shelf.get(name) for name in names] == [0, 1, 2]
    assert shelf.get(names[0]) == 0
    names.append(shelf.add(3))
    assert [shelf.get(name) for name in names] == [0, None, 2, 3]
    assert shelf.get("no such name") is None
    assert len(set(names)) == 4


def test_images_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, most = [0], [0]
    decode = uploads.decode

    def counted(data: bytes, pixels: int) -> tuple[Image.Image, list[str]]:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        found = decode(data, pixels)
        at_once[0] -= 1
        return found

    monkeypatch.setattr(uploads, "decode", counted)
    images = np.zeros((2, 8, 8), np.uint8)
    gallery = Pixels(Table.build("small", images, [0, 0], ["test"] * 2), 8, channels=1)
    with ThreadPoolExecutor(8) as pool:
        files = [saved(photo(200, 200))] * 16
        assert len(list(pool.map(lambda data: uploads.taken(data, gallery), files))) == 16
    assert most[0] == 1
