"""Squares of images: against resizing the whole and cropping its centre, and against a per-pixel rule of rounding."""

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from holdfast.data import Pixels, Table
from holdfast.data.resizing import INTERPOLATIONS, SQUASHED, Resizing
from holdfast.util.errors import HoldfastError

Centring = Literal["down", "even"]
SIDES = st.integers(1, 40)
BY = st.sampled_from(sorted(INTERPOLATIONS))
CENTRINGS = st.sampled_from(("down", "even"))
COUNTED = np.arange(40 * 40 * 3, dtype=np.uint32).reshape(40, 40, 3) % 251


def picture(height: int, width: int) -> Image.Image:
    return Image.fromarray(COUNTED[:height, :width].astype(np.uint8))


def offset(margin: int, centring: str) -> int:
    """Half a margin, rounded by cases."""
    whole, half = divmod(margin, 2)
    return whole + (half and centring == "even" and whole % 2)


@given(shape=st.tuples(SIDES, SIDES), side=SIDES, cut=SIDES, centring=CENTRINGS, by=BY)
def test_the_centre_is_that_of_the_whole_image(
    shape: tuple[int, int], side: int, cut: int, centring: Centring, by: str
) -> None:
    (height, width), size = shape, max(1, side - cut)
    image = picture(height, width)
    resizing = Resizing(by, "shortest", centring)
    square = np.asarray(resizing.square(image, side, size))
    assert square.shape == (side, side, 3)
    long = int(side * max(height, width) / min(height, width))
    whole = np.asarray(
        image.resize((long, side) if width > height else (side, long), INTERPOLATIONS[by])
        if width != height
        else image.resize((side, side), INTERPOLATIONS[by])
    )
    top, left = (offset(length - size, centring) for length in whole.shape[:2])
    inner = resizing.margin(side - size)
    assert inner == offset(side - size, centring)
    crop = slice(inner, inner + size)
    assert np.array_equal(square[crop, crop], whole[top : top + size, left : left + size])


@given(height=SIDES, width=SIDES, side=SIDES)
def test_squashed_is_resized_to_both_sides(height: int, width: int, side: int) -> None:
    image = picture(height, width)
    expected = image.resize((side, side), Image.Resampling.BILINEAR)
    assert SQUASHED.square(image, side, side).tobytes() == expected.tobytes()


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("centring", ["down", "even"])
def test_pixels_are_read_so(centring: Centring, cache: bool) -> None:
    resizing = Resizing("bicubic", "shortest", centring)
    images = COUNTED[None, :20, :31].astype(np.uint8)
    table = Table.build("toy", np.repeat(images, 2, 0), [0, 0], ["test", "test"])
    pixels = Pixels(table, 9, 12, resizing=resizing, cache=cache)
    whole = np.asarray(Image.fromarray(images[0]).resize((18, 12), Image.Resampling.BICUBIC))
    top, left = offset(12 - 9, centring), offset(18 - 9, centring)
    expected = torch.tensor(whole[top : top + 9, left : left + 9]).permute(2, 0, 1) / 255
    for reader in (pixels, pixels.alike(table)):
        assert torch.equal(reader.read(torch.tensor([0]))[0][0], expected)


def test_another_interpolation_is_refused() -> None:
    with pytest.raises(HoldfastError, match="unknown interpolation 'bicubical'; did you mean 'bicubic'"):
        Resizing("bicubical")
