"""Images from strangers: what is no image is refused before it can do harm, and what is one comes out upright."""

import asyncio
import struct
import zlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from holdfast.data import Pixels, Table
from holdfast.data.pixels import to_image
from holdfast.explorer import uploads
from holdfast.explorer.uploads import PIXELS, Shelf, TooLargeError, as_the_models_see, body, decode
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


def png_of_size(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG whose header promises so many pixels, and holds none."""
    chunks = b"\x89PNG\r\n\x1a\n"
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    )
    for kind, content in parts:
        chunks += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return chunks


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_lossless_images_come_out_as_they_are(kind: str, mode: str) -> None:
    image = photo(mode="RGB").quantize(16) if mode == "P" else photo(mode=mode)
    found, remarks = decode(saved(image, kind))
    assert found.mode == "RGB"
    assert np.array_equal(np.asarray(found), np.asarray(image.convert("RGB")))
    assert remarks == []


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("WEBP", "RGB")])
def test_photos_come_out_nearly_as_they_are(kind: str, mode: str) -> None:
    image = Image.new("RGB", (32, 32), (200, 40, 90)).convert(mode)
    found, _ = decode(saved(image, kind))
    assert np.abs(np.asarray(found).astype(int) - np.asarray(image.convert("RGB")).astype(int)).max() < 12


def test_a_turned_photo_is_turned_back() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    found, _ = decode(saved(photo(12, 8), exif=exif))
    assert found.size == (8, 12)
    assert np.array_equal(np.asarray(found), np.asarray(photo(12, 8).transpose(Image.Transpose.ROTATE_270)))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_becomes_white(mode: str) -> None:
    image = photo().convert("RGBA")
    image.putalpha(0)
    data = saved(image.quantize(4), transparency=0) if mode == "P" else saved(image.convert(mode))
    found, remarks = decode(data)
    assert found.mode == "RGB"
    assert np.asarray(found).max() == 255
    assert remarks == ["what is transparent has become white"]
    if mode != "P":
        assert np.asarray(found).min() == 255


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("black", "white", "red")]
    found, remarks = decode(saved(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert np.asarray(found).max() < 10
    assert remarks == ["of the animation the first frame is taken"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "the file is empty"),
        (b"\0" * 100, "no PNG, JPEG, WebP, BMP or GIF image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no PNG"),
        (saved(photo(), "TIFF"), "no PNG"),
        (saved(photo(), "PPM"), "no PNG"),
        (saved(photo(99, 99))[:300], "damaged or cut short"),
        (saved(photo(99, 99), "JPEG")[:-900], "damaged or cut short"),
        (saved(Image.new("I;16", (9, 9))), "more than 8 bits"),
        *((png_of_size(9, 9, depth=16, colour=colour), "more than 8 bits") for colour in (0, 2, 4, 6)),
        (png_of_size(10_000, 10_000), "10000 × 10000 pixels, more than the 40,000,000"),
        (png_of_size(100_000, 100_000), "more than the 40,000,000 pixels"),
        (png_of_size(2**31 - 1, 2**31 - 1), "pixels"),
        (png_of_size(5000, PIXELS // 5000), "damaged or cut short"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_image_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(HoldfastError, match=said):
        decode(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_image_or_refused(data: bytes) -> None:
    with pytest.raises(HoldfastError):
        decode(data)


@given(st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "BMP"]), st.data())
@settings(max_examples=60)
def test_damaged_images_are_images_or_refused(kind: str, draw: st.DataObject) -> None:
    data = bytearray(saved(photo(), kind))
    for _ in range(draw.draw(st.integers(1, 5))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        image, _ = decode(bytes(data[: draw.draw(st.integers(0, len(data)))]))
    except HoldfastError:
        return
    assert image.mode == "RGB"
    assert image.width * image.height <= PIXELS


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


def test_an_image_of_a_test_set_comes_back_as_itself() -> None:
    test = digits(50)
    image = test.read(torch.tensor([3]))[0]
    found, _ = decode(saved(to_image(image[0])))
    assert torch.equal(as_the_models_see(found, test), image)


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
    upright = uploads._upright

    def counted(opened: Image.Image) -> tuple[Image.Image, list[str]]:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        found = upright(opened)
        at_once[0] -= 1
        return found

    monkeypatch.setattr(uploads, "_upright", counted)
    images = np.zeros((2, 8, 8), np.uint8)
    gallery = Pixels(Table.build("small", images, [0, 0], ["test"] * 2), 8, channels=1)
    with ThreadPoolExecutor(8) as pool:
        files = [saved(photo(200, 200))] * 16
        assert len(list(pool.map(lambda data: uploads.taken(data, gallery), files))) == 16
    assert most[0] == 1
