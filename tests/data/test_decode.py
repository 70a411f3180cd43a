"""Every way an image comes in gives the same pixels, and what is no image is refused before it can do harm."""

import os
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image

from holdfast.data import Pixels, Table, load_dataset
from holdfast.data import decode as module
from holdfast.data.decode import FORMATS, decode
from holdfast.data.readers.listing import asked, listed
from holdfast.explorer import uploads
from holdfast.util.errors import HoldfastError
from tests.helpers.tiny import photos

SIDE, KEY = 12, 77
GREY = np.random.default_rng(0).integers(80, 256, (SIDE, SIDE), np.uint8)
"""A picture without the value KEY."""
HIDDEN = np.random.default_rng(1).integers(0, 4, (SIDE, SIDE)) == 0
"""Where it is transparent; what is seen there is white."""
SEEN = np.where(HIDDEN, 255, GREY).astype(np.uint8)


def photo(width: int = 12, height: int = 8, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    pixels[: height // 2] //= 4
    return Image.fromarray(pixels).convert(mode)


def saved(image: Image.Image | npt.NDArray[Any], kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def png(pixels: npt.NDArray[Any], colour: int, key: int | None = None, size: tuple[int, int] | None = None) -> bytes:
    """A PNG of (H, W) or (H, W, C) of 8 or 16 bits. key: the grey that is transparent. size: that it claims to have."""
    height, width = pixels.shape[:2]
    lines = b"".join(b"\0" + line.astype(line.dtype.newbyteorder(">")).tobytes() for line in pixels)
    head = struct.pack(">IIBBBBB", *(size or (width, height)), 8 * pixels.itemsize, colour, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    if key is not None:
        chunks.insert(1, (b"tRNS", struct.pack(">H", key) * (1 if pixels.ndim == 2 else 3)))
    parts = (struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def of_size(width: int, height: int) -> bytes:
    """A PNG that promises so many pixels, and holds none."""
    return png(np.zeros((0, 1, 3), np.uint8), 2, size=(width, height))


def colour(grey: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.stack([grey] * 3, -1)


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 3
    return exif


def kinds() -> dict[str, bytes]:
    """The same picture, stored in many ways; what lies below transparent pixels differs."""
    alpha = np.where(HIDDEN, 0, 255).astype(np.uint8)
    keyed, deep, opaque = (np.where(HIDDEN, KEY, GREY).astype(np.uint8), SEEN.astype(np.uint16) * 257, alpha * 0 + 255)
    upside = SEEN[::-1, ::-1].copy()
    ink = np.dstack([np.zeros((SIDE, SIDE, 3), np.uint8), 255 - SEEN])
    palette = Image.fromarray(keyed)
    palette.putpalette(bytes(i for value in range(256) for i in (value, value, value)))
    return {
        "grey": saved(SEEN),
        "colour": saved(colour(SEEN), "BMP"),
        "opaque": saved(np.dstack([colour(SEEN), opaque])),
        "transparent on black": saved(np.dstack([colour(np.where(HIDDEN, 0, GREY).astype(np.uint8)), alpha])),
        "transparent on red": saved(
            np.dstack([np.where(HIDDEN[..., None], [255, 0, 0], colour(GREY)), alpha]).astype("u1")
        ),
        "transparent grey": saved(Image.fromarray(np.dstack([GREY, alpha]), "LA")),
        "transparent WebP": saved(np.dstack([colour(GREY), alpha]), "WEBP", lossless=True, exact=True),
        "transparent TIFF": saved(np.dstack([colour(GREY), alpha]), "TIFF"),
        "transparent palette": saved(palette, transparency=KEY),
        "palette of alphas": saved(palette, transparency=bytes(0 if i == KEY else 255 for i in range(256))),
        "transparent GIF": saved(palette, "GIF", transparency=KEY),
        "grey with a key": png(keyed, 0, KEY),
        "colour with a key": png(colour(keyed), 2, KEY),
        "16 bits": png(deep, 0),
        "16 bits in colour": png(colour(deep), 2),
        "16 bits and alpha": png(np.dstack([keyed, alpha]).astype(np.uint16) * 257, 4),
        "16 bits in colour and alpha": png(np.dstack([colour(keyed), alpha]).astype(np.uint16) * 257, 6),
        "16 bits with a key": png(keyed.astype(np.uint16) * 257, 0, KEY * 257),
        "16 bits in colour with a key": png(colour(keyed).astype(np.uint16) * 257, 2, KEY * 257),
        "16 bits TIFF": saved(deep, "TIFF"),
        "16 bits PGM": f"P5 {SIDE} {SIDE} 65535\n".encode() + deep.astype(">u2").tobytes(),
        "CMYK": saved(Image.fromarray(ink, "CMYK"), "TIFF"),
        "turned": saved(upside, exif=turned()),
        "turned TIFF": saved(upside, "TIFF", exif=turned()),
        "turned WebP": saved(colour(upside), "WEBP", lossless=True, exif=turned()),
        "with a profile": saved(SEEN, icc_profile=b"a profile that is not applied"),
    }


KINDS = kinds()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_that_look_alike_are_one_to_data_sets_search_and_explorer(
    kind: str, channels: int, tmp_path: Path
) -> None:
    """With one tensor, they have one embedding by any model."""
    (file := tmp_path / "picture.png").write_bytes(KINDS[kind])
    gallery = Pixels(listed(tmp_path)[0], SIDE, channels=channels)
    (tmp_path / "images.csv").write_text("path\npicture.png\n")
    ways = [gallery.read(torch.arange(1))[0], uploads.taken(KINDS[kind], gallery)[0]]
    for source in (file, tmp_path, tmp_path / "images.csv"):
        ways.append(Pixels(asked([source])[0], SIDE, channels=channels).read(torch.arange(1))[0])
    expected = torch.tensor(SEEN / 255).float().expand(1, channels, SIDE, SIDE)
    assert all(torch.equal(way, expected) for way in ways)


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))
def test_half_transparent_pixels_are_mixed_with_white(value: int, alpha: int, size: int) -> None:
    pixels = np.full((1 + size % 3, 2, 2), [value, alpha], np.uint8)
    found = np.asarray(decode(saved(Image.fromarray(pixels, "LA")))[0].convert("L")).astype(int)
    assert np.abs(found - (value * alpha + 255 * (255 - alpha)) / 255).max() <= 1


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("WEBP", "RGB")])
def test_photos_come_out_nearly_as_they_are(kind: str, mode: str) -> None:
    image = Image.new("RGB", (32, 32), (200, 40, 90)).convert(mode)
    found, _ = decode(saved(image, kind))
    assert np.abs(np.asarray(found.convert("RGB")).astype(int) - np.asarray(image.convert("RGB"))).max() < 12


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("black", "white", "red")]
    found, remarks = decode(saved(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert np.asarray(found).max() < 10
    assert remarks == ["of the animation the first frame is taken"]


def test_what_is_lost_is_said() -> None:
    assert decode(KINDS["colour"])[1] == []
    assert decode(KINDS["16 bits in colour with a key"])[1] == [
        "of 16 bits a channel the upper 8 are kept",
        "what is transparent has become white",
    ]


# ---- what is no image -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "the file is empty"),
        (b"\0" * 100, "no image of the kinds PNG, JPEG, "),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no image of the kinds"),
        (saved(photo(99, 99))[:300], "damaged or cut short"),
        (saved(photo(99, 99), "JPEG")[:-900], "damaged or cut short"),
        (saved(np.zeros((9, 9), np.float32), "TIFF"), "mode 'F'; convert the image to 8 bits"),
        (saved(np.zeros((9, 9), np.int32), "TIFF"), "mode 'I'; convert the image to 8 bits"),
        (of_size(2_000, 8_000), "damaged or cut short"),
        (of_size(100_000, 100_000), "more than the 178,956,970 pixels"),
        (of_size(2**31 - 1, 2**31 - 1), "pixels"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_image_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(HoldfastError, match=said) as caught:
        decode(data)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_no_reader_but_those_named_sees_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Such as that of EPS, which starts Ghostscript."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript is started"))
    Image.init()
    tried = 0
    for kind in Image.SAVE.keys() - {*FORMATS, "MPO", "DIB"}:  # an MPO is a JPEG
        try:
            data = saved(photo(64, 64), kind)
        except Exception:  # cannot be written from RGB
            continue
        (tmp_path / "picture.png").write_bytes(data)
        for source in (data, tmp_path / "picture.png"):
            with pytest.raises(HoldfastError, match="no image of the kinds"):
                decode(source)
        tried += 1
    assert tried > 5


def too_large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(module.MAX_BYTES + 1)


NO_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "there is no such file"),
    "below a file": (lambda path: path.parent.write_bytes(b""), "there is no such file"),
    "folder": (lambda path: path.mkdir(), "it is a folder"),
    "pipe": (os.mkfifo, "it is a pipe, socket or device"),
    "link to a device": (lambda path: path.symlink_to("/dev/zero"), "it is a pipe, socket or device"),
    "dangling link": (lambda path: path.symlink_to("nowhere.png"), r"it is a link that leads nowhere \(nowhere\.png\)"),
    "link to itself": (lambda path: path.symlink_to(path), "it is a link that leads nowhere"),
    "too large": (too_large, "it has more than the 1,024 MB"),
}


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_named_and_never_opened(kind: str, tmp_path: Path) -> None:
    make, said = NO_FILES[kind]
    if kind != "below a file":
        (tmp_path / "x").mkdir()
    make(tmp_path / "x/image.png")
    with pytest.raises(HoldfastError, match=said):
        decode(tmp_path / "x/image.png")
    if kind == "too large":  # found when it is read
        return
    photos(tmp_path / "photos", "ab", each=2)
    lists = tmp_path / "list.csv"
    lists.write_text("label,path,split\n1,photos/a/0.png,train\n1,x/image.png,train\n")
    for read in (lambda: load_dataset("csv", lists), lambda: listed(lists)):
        with pytest.raises(HoldfastError, match=rf"1 of 2 images is missing, the first is .*x/image\.png: {said}"):
            read()


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b.png"], ids=["long", "null"])
def test_a_name_that_no_file_can_have_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"label,path,split\n1,{name},train\n")
    with pytest.raises(HoldfastError, match="1 of 1 image is missing"):
        load_dataset("csv", tmp_path)


def test_a_pipe_in_the_place_of_a_list_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "list.csv")
    for read in (lambda: load_dataset("csv", tmp_path), lambda: listed(tmp_path / "list.csv")):
        with pytest.raises(HoldfastError, match="pipe, socket or device"):
            read()


# ---- copies ---------------------------------------------------------------------------------------------------------


def test_copies_are_counted_by_what_is_seen(tmp_path: Path) -> None:
    for i, data in enumerate((KINDS["grey"], KINDS["transparent GIF"], saved(photo()), KINDS["16 bits"])):
        (tmp_path / f"{i}.png").write_bytes(data)
    paths = tuple(tmp_path / f"{i}.png" for i in range(4))
    pixels = Pixels(Table.build("copies", paths, ["a", "a", "b", "b"], ["test"] * 4), 8)
    assert pixels.remarks() == []
    pixels.read(torch.arange(4))
    (remark,) = pixels.remarks()
    assert f"3 images have a copy, the same pixel for pixel, such as {tmp_path.name}/0.png and" in remark
    assert "in several classes: 1 of 1 such picture" in remark
