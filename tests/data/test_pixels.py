"""Pixels: decoding, crop and flip against per-pixel twins, the cache, and images that cannot be read."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from holdfast.data import Pixels, Table, draw_augmentation, load_dataset
from holdfast.data.pixels import to_image
from holdfast.util.errors import HoldfastError

Array = npt.NDArray[np.uint8]


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def table_of(images: Any) -> Table:
    n = len(images)
    return Table.build("toy", images, np.arange(n) % 2, ["train"] * n)


def saved(folder: Path, images: list[Array], suffix: str = ".png") -> tuple[Path, ...]:
    paths = tuple(folder / f"{i}{suffix}" for i in range(len(images)))
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def every(pixels: Pixels) -> Tensor:
    images, ok = pixels.read(torch.arange(len(pixels)))
    assert ok.all()
    return images


def naive(image: Array, size: int, row: list[float] | None) -> Tensor:
    """One (H, W, C) image cropped and flipped pixel by pixel."""
    margin = image.shape[0] - size
    top = left = margin // 2
    flip = False
    if row is not None:
        top, left, flip = int(row[0] * (margin + 1)), int(row[1] * (margin + 1)), row[2] < 0.5
    out = torch.zeros(image.shape[2], size, size)
    for c in range(image.shape[2]):
        for y in range(size):
            for x in range(size):
                column = size - 1 - x if flip else x
                out[c, y, x] = float(image[top + y, left + column, c]) / 255
    return out


@settings(max_examples=30)
@given(side=st.integers(1, 7), cut=st.integers(0, 6), channels=st.sampled_from((1, 3)), seed=st.integers(0, 99))
def test_crop_and_flip_equal_the_naive_twin(side: int, cut: int, channels: int, seed: int) -> None:
    images = noise(3, side, side, 3, seed=seed) if channels == 3 else noise(3, side, side, seed=seed)
    size = max(1, side - cut)
    pixels = Pixels(table_of(images), size, side, channels=channels)
    rows = draw_augmentation(3, torch.Generator().manual_seed(seed))
    order = torch.tensor([2, 0, 1])
    augmented, plain = pixels.read(order, rows)[0], pixels.read(order)[0]
    assert augmented.dtype == torch.float32
    assert augmented.shape == (3, channels, size, size)
    for position, i in enumerate(order.tolist()):
        image = images[i].reshape(side, side, channels)
        assert torch.equal(plain[position], naive(image, size, None))
        assert torch.equal(augmented[position], naive(image, size, rows[position].tolist()))


def test_every_crop_and_both_flips_are_drawn_alike() -> None:
    side, size, n = 5, 3, 3600
    images = np.zeros((1, side, side), np.uint8)
    images[0] = np.arange(25).reshape(5, 5)
    pixels = Pixels(table_of(images), size, side, channels=1)
    drawn = pixels.read(torch.zeros(n, dtype=torch.int64), draw_augmentation(n, torch.Generator().manual_seed(0)))[0]
    corner = (drawn[:, 0, 0] * 255).round()
    flipped = corner[:, 0] > corner[:, 2]
    counts = torch.bincount((corner.amin(1)).long() * 2 + flipped.long())
    counts = counts[counts > 0]
    assert len(counts) == 18
    assert (counts - n / 18).abs().max() < 5 * (n / 18) ** 0.5


def test_the_largest_draw_stays_inside() -> None:
    pixels = Pixels(table_of(noise(1, 9, 9)), 8, 9, channels=1)
    rows = torch.full((1, 3), 1.0, dtype=torch.float64)
    assert torch.equal(pixels.read(torch.tensor([0]), rows)[0], pixels.read(torch.tensor([0]), rows * 0.75)[0])


def test_rows_drawn_for_the_whole_batch_can_be_shared_out() -> None:
    pixels = Pixels(table_of(noise(8, 6, 6)), 4, 6, channels=1)
    rows = draw_augmentation(8, torch.Generator().manual_seed(3))
    whole = pixels.read(torch.arange(8), rows)[0]
    halves = [pixels.read(torch.arange(8)[part], rows[part])[0] for part in (slice(0, 4), slice(4, 8))]
    assert torch.equal(whole, torch.cat(halves))
    with pytest.raises(ValueError, match=r"augment has shape \(8, 3\), not \(4, 3\)"):
        pixels.read(torch.arange(4), rows)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("colour", [False, True])
def test_files_and_arrays_of_the_same_pixels_read_alike(tmp_path: Path, channels: int, colour: bool) -> None:
    images = noise(3, 8, 8, 3) if colour else noise(3, 8, 8)
    from_array = Pixels(table_of(images), 6, channels=channels)
    from_files = Pixels(table_of(saved(tmp_path, list(images))), 6, channels=channels)
    assert torch.equal(every(from_array), every(from_files))
    modes = {1: "L", 3: "RGB"}
    expected = np.asarray(Image.fromarray(images[1]).convert(modes[channels]).resize((6, 6), Image.Resampling.BILINEAR))
    assert torch.equal(
        every(from_files)[1], torch.tensor(expected.reshape(6, 6, channels) / 255).float().permute(2, 0, 1)
    )


def test_arrays_of_the_asked_size_are_taken_as_they_are() -> None:
    grey = noise(4, 8, 8)
    assert torch.equal(every(Pixels(table_of(grey), 8, channels=1)), torch.tensor(grey / 255).float()[:, None])
    assert torch.equal(every(Pixels(table_of(grey), 8))[:, 2], torch.tensor(grey / 255).float())
    white = every(Pixels(table_of(np.full((1, 8, 8), 255, np.uint8)), 8, channels=1))
    assert white.max() == white.min() == 1


def test_a_shrunk_image_is_antialiased() -> None:
    stripes = np.zeros((1, 64, 64), np.uint8)
    stripes[:, :, ::2] = 255
    small = every(Pixels(table_of(stripes), 8, channels=1))
    assert (small - 0.5).abs().max() < 0.1


# ---- cache ----------------------------------------------------------------------------------------------------------


def test_the_cache_decodes_once_and_changes_nothing(tmp_path: Path) -> None:
    paths = saved(tmp_path, list(noise(5, 9, 9, 3)))
    plain, cached = Pixels(table_of(paths), 6, 8), Pixels(table_of(paths), 6, 8, cache=True)
    rows = draw_augmentation(4, torch.Generator().manual_seed(1))
    order = torch.tensor([3, 1, 3, 0])
    expected = plain.read(order, rows)[0]
    assert torch.equal(cached.read(order, rows)[0], expected)
    for i in (0, 1, 3):
        paths[i].unlink()
    assert torch.equal(cached.read(order, rows)[0], expected)
    cached.verify()
    paths[2].unlink()
    assert not cached.read(torch.tensor([2]))[1].item()


def test_a_cache_that_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = saved(tmp_path, list(noise(4, 8, 8, 3)))
    needed = 4 * 3 * 16 * 16
    monkeypatch.setattr("holdfast.data.pixels.available_memory", lambda: 2 * needed)
    Pixels(table_of(paths), 16, cache=True)
    monkeypatch.setattr("holdfast.data.pixels.available_memory", lambda: 2 * needed - 2)
    with pytest.raises(HoldfastError, match=r"a cache of 4 images of 16x16 needs 0\.00 GB"):
        Pixels(table_of(paths), 16, cache=True)
    Pixels(table_of(noise(4, 16, 16, 3)), 16, cache=True)  # already in memory


# ---- broken images --------------------------------------------------------------------------------------------------


def spoiled(folder: Path, good: int, bad: int) -> tuple[Path, ...]:
    """``good`` JPEG files and then ``bad`` ones, each damaged in another way."""
    paths = saved(folder, list(noise(good + bad, 32, 32, 3)), ".jpg")
    for i, path in enumerate(paths[good:]):
        data = path.read_bytes()
        path.write_bytes((data[: len(data) // 2], b"", b"no image", data[:30])[i % 4])
    return paths


def test_broken_images_are_left_black_marked_and_remembered(tmp_path: Path) -> None:
    paths = spoiled(tmp_path, 3, 4)
    for pixels in (Pixels(table_of(paths), 16), Pixels(table_of(paths), 16, cache=True)):
        for _ in range(2):
            images, ok = pixels.read(torch.tensor([4, 0, 3, 1, 5, 2, 6]))
            assert ok.tolist() == [False, True, False, True, False, True, False]
            assert images[~ok].abs().max() == 0
            assert (images[ok].flatten(1).amax(1) > 0).all()
            assert sorted(pixels.broken) == [3, 4, 5, 6]
        assert "truncated" in pixels.broken[3]
        assert "no image of the kinds" in pixels.broken[5]


def test_too_many_broken_images_raise_and_name_files(tmp_path: Path) -> None:
    paths = spoiled(tmp_path, 3, 4)
    pixels = Pixels(table_of(paths), 16, max_broken=3)
    pixels.read(torch.arange(6))
    with pytest.raises(HoldfastError, match=r"4 of 7 images cannot be read, more than the 3 allowed: .*3\.jpg \(.*; …"):
        pixels.read(torch.arange(7))
    assert Pixels(table_of(paths), 16).max_broken == 10
    assert Pixels(table_of(noise(5000, 1, 1)), 1, channels=1).max_broken == 50


def test_verify_reports_all_and_changes_nothing(tmp_path: Path) -> None:
    paths = spoiled(tmp_path, 3, 4)
    pixels = Pixels(table_of(paths), 16, cache=True, max_broken=0)
    seen: list[tuple[int, int]] = []
    found = pixels.verify(lambda done, total: seen.append((done, total)))
    assert sorted(found) == [3, 4, 5, 6]
    assert seen == [(i, 7) for i in range(1, 8)]
    assert pixels.broken == {}
    for path in paths:
        path.unlink()
    assert len(pixels.verify()) == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 2}, "channels is 2"),
        ({"resize": 4}, "images of size 8 cannot be cropped from a resize of 4"),
        ({"size": 0}, "size 0"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_settings_that_cannot_work(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(HoldfastError, match=message):
        Pixels(table_of(noise(2, 8, 8)), **{"size": 8, **changes})


def test_real_images_have_the_right_size_and_range(real_data: Path) -> None:
    pixels = Pixels(load_dataset("cub", real_data).test(), 56, 64)
    images, ok = pixels.read(torch.arange(8), draw_augmentation(8, torch.Generator().manual_seed(0)))
    assert ok.all()
    assert images.shape == (8, 3, 56, 56)
    assert images.min() >= 0
    assert 0.5 < images.max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_what_was_read_becomes_the_same_image_again(channels: int) -> None:
    shape = (1, 5, 5) if channels == 1 else (1, 5, 5, 3)
    images = noise(*shape)
    shown = to_image(every(Pixels(table_of(images), 5, channels=channels))[0])
    assert shown.mode == {1: "L", 3: "RGB"}[channels]
    assert np.array_equal(np.asarray(shown), images[0])


def test_values_beyond_the_pixel_range_are_clipped() -> None:
    image = to_image(torch.tensor([-0.2, 0.0, 0.499 / 255, 0.501 / 255, 1.0, 1.3]).view(1, 1, 6))
    assert np.asarray(image).tolist() == [[0, 0, 0, 1, 255, 255]]
