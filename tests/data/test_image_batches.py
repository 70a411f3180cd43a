"""Batches of single images: every image once, the same for a seed and an epoch, shared out among processes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from holdfast.data import ImageBatches, Loader, Pixels, load_dataset
from holdfast.util.errors import HoldfastError


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 4), st.integers(0, 5))
def test_every_image_once_an_epoch_and_the_shares_make_the_batch(count: int, each: int, world: int, e: int) -> None:
    if count < world:
        return
    size = each * world
    whole = ImageBatches(count, size, seed=3).epoch(e)
    shares = [ImageBatches(count, size, seed=3, rank=rank, world=world) for rank in range(world)]
    split = [one.epoch(e) for one in shares]
    assert {len(one) for one in split} == {len(shares[0])}
    assert sorted(torch.cat([one.indices for one in whole]).tolist()) == list(range(count))
    for step, parts in enumerate(zip(*split, strict=True)):
        joined = torch.cat([part.indices for part in parts])
        assert torch.equal(joined, whole[step].indices[: len(joined)])
        assert len(whole[step].indices) - len(joined) < world
        assert {len(part.indices) for part in parts} == {len(joined) // world}
        for rank, part in enumerate(parts):
            assert part.offset == rank * len(joined) // world
            assert part.total == len(joined)
            assert torch.equal(part.anchors, torch.arange(len(part.indices)))
    assert len(whole) - len(shares[0]) in (0, 1)


def test_epochs_and_seeds_differ_and_repeat() -> None:
    def order(seed: int, e: int) -> list[int]:
        return torch.cat([one.indices for one in ImageBatches(50, 8, seed=seed).epoch(e)]).tolist()

    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(seed, e)) for seed in range(2) for e in range(2)}) == 4


def test_what_cannot_be_shared_is_refused() -> None:
    with pytest.raises(HoldfastError, match=r"7 images cannot be shared equally by 2 processes"):
        ImageBatches(50, 7, world=2)
    with pytest.raises(HoldfastError, match=r"1 training images cannot give each of 2 processes one"):
        ImageBatches(1, 8, world=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine images in folders that mean nothing, a text, and one that is broken."""
    for i in range(9):
        place = tmp_path / "images" / str(i % 2) / ("deep" if i % 3 else ".")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 6, 3), 20 * i, np.uint8)).save(place / f"{i}.png")
    (tmp_path / "images" / "notes.txt").write_text("none")
    return tmp_path / "images"


def test_every_image_below_a_folder_trains(folder: Path) -> None:
    table = load_dataset("images", folder)
    assert sorted(path.stem for path in table.images if isinstance(path, Path)) == [str(i) for i in range(9)]
    assert set(table.split.tolist()) == {"train"}
    assert not table.is_query.any()
    assert "notes.txt" in table.describe()
    (empty := folder / "empty").mkdir()
    with pytest.raises(HoldfastError, match="no images in"):
        load_dataset("images", empty)


def test_a_broken_image_leaves_its_batch(folder: Path) -> None:
    (folder / "0" / "broken.png").write_bytes(b"no image")
    pixels = Pixels(load_dataset("images", folder), 6)
    pixels_per_batch = [len(batch.images) for batch in Loader(pixels, ImageBatches(10, 4)).epoch(0)]
    assert sum(pixels_per_batch) == 9
