"""Whole folders embedded block by block: what is left out, what survives a kill, and what has changed since."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from holdfast import HoldfastError, Index
from holdfast.core.batching import WIDTH
from holdfast.data.readers.listing import listed
from holdfast.models.preprocessing import Preprocessing
from holdfast.search import blocks
from tests.helpers import tiny
from tests.helpers.runs import together
from tests.helpers.waiting import Gate, forked

BLOCK = 2 * WIDTH
WEIGHTS = torch.randn(192, 6, generator=torch.Generator().manual_seed(0))


class Counting:
    """A model that counts the blocks of images it is given."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.calls += 1
        return images.flatten(1) @ WEIGHTS


def index_of(source: Path, out: Path | None, model: Any = None, size: int = 8) -> Index:
    table, root = listed(source)
    return Index.build(
        model or Counting(), Preprocessing(size).pixels(table, max_broken=len(table)), out, root=root, quiet=True
    )


def same(one: Index, other: Index) -> bool:
    return torch.equal(one.embeddings, other.embeddings) and one.paths == other.paths and one.labels == other.labels


# -- what cannot be read ----------------------------------------------------------------------------------------------


def spoil(root: Path) -> set[str]:
    """Files that are no images, or no longer, each in its own way."""
    whole = (root / "a/0.png").read_bytes()
    spoilt = {"a/cut.png": whole[:-30], "a/empty.jpg": b"", "b/text.gif": b"hello", "b/head.png": whole[:12]}
    for name, content in spoilt.items():
        (root / name).write_bytes(content)
    Image.fromarray(np.zeros((8, 8), np.float32)).save(root / "b/deep.tif")
    return {*spoilt, "b/deep.tif"}


def test_broken_images_are_left_out_and_named_with_the_reason(tmp_path: Path) -> None:
    root = tiny.photos(tmp_path / "photos", "ab", each=3)
    clean = index_of(root, None)
    broken = spoil(root)
    index = index_of(root, tmp_path / "x.npz")
    assert same(index, clean)
    reasons = dict(index.about["broken"])
    assert set(reasons) == broken
    assert all(reasons.values())
    assert "mode 'F'" in reasons["b/deep.tif"]
    assert Index.load(tmp_path / "x.npz").about == index.about


def test_an_image_in_another_format_than_its_name_says_is_read(tmp_path: Path) -> None:
    root = tiny.photos(tmp_path / "photos", "a", each=1)
    Image.open(root / "a/0.png").save(root / "a/1.jpg", "PNG")
    index = index_of(root, None)
    assert index.paths == ("a/0.png", "a/1.jpg")
    torch.testing.assert_close(index.embeddings[0], index.embeddings[1])


def test_many_broken_images_are_no_reason_to_stop(tmp_path: Path) -> None:
    root = tiny.photos(tmp_path / "photos", "b", each=2)
    (root / "a").mkdir()
    for i in range(BLOCK + 40):
        (root / f"a/{i}.png").touch()
    index = index_of(root, tmp_path / "x.npz")
    assert index.paths == ("b/0.png", "b/1.png")
    assert len(index.about["broken"]) == BLOCK + 40


def test_nothing_but_broken_images_is_an_error_that_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").touch()
    with pytest.raises(
        HoldfastError, match=r"none of the 1 image can be read; the first is .*a\.png \(the file is empty\)"
    ):
        index_of(tmp_path / "photos", tmp_path / "x.npz")
    assert [file.name for file in tmp_path.iterdir()] == ["photos"]


# -- a kill, and what changed since -----------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def small_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", BLOCK)
        yield


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two blocks of photos and a bit; some in the first block are broken."""
    root = tmp_path_factory.mktemp("many") / "photos"
    root.mkdir()
    generators = np.random.default_rng(0)
    for i in range(2 * BLOCK + 30):
        Image.fromarray(generators.integers(0, 256, (8, 8, 3), np.uint8)).save(root / f"{i:04}.png")
    (root / "0003.png").write_bytes(b"")
    return root


def kept(out: Path) -> list[Path]:
    """The finished blocks of an index that is being built."""
    return list((out.parent / f"{out.name}.part").glob("*.npz"))


def stopped(root: Path, out: Path, after: int) -> None:
    """Embed until the model has been given so many blocks, and fail there."""

    class Stopped(Counting):
        def __call__(self, images: Tensor) -> Tensor:
            if self.calls >= after:
                raise KeyboardInterrupt
            return super().__call__(images)

    model = Stopped()
    with pytest.raises(KeyboardInterrupt):
        index_of(root, out, model)
    assert kept(out)
    assert not out.exists()


@pytest.fixture(scope="module")
def whole(many: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The index of all of them, and the calls of the model before the first image."""
    model, out = Counting(), tmp_path_factory.mktemp("whole") / "whole.npz"
    index_of(many, out, model)
    return out, model.calls - sum(-(-n // WIDTH) for n in (BLOCK - 1, BLOCK, 30))


def test_a_stopped_call_goes_on_and_ends_as_if_it_had_not_been_stopped(
    many: Path, whole: tuple[Path, int], tmp_path: Path
) -> None:
    file, before = whole
    stopped(many, tmp_path / "x.npz", after=before + BLOCK // WIDTH + 1)
    model = Counting()
    index_of(many, tmp_path / "x.npz", model)
    assert model.calls == before + BLOCK // WIDTH + 1
    assert (tmp_path / "x.npz").read_bytes() == file.read_bytes()
    assert [one.name for one in tmp_path.iterdir()] == ["x.npz"]


def test_finished_blocks_are_used_where_their_images_are_as_they_were(
    many: Path, whole: tuple[Path, int], tmp_path: Path
) -> None:
    root, before = shutil.copytree(many, tmp_path / "photos"), whole[1]
    stopped(root, tmp_path / "x.npz", after=before + 2 * BLOCK // WIDTH)
    for i in range(BLOCK):
        (root / f"{i:04}.png").unlink()
    changed = np.asarray(Image.open(root / f"{2 * BLOCK + 1:04}.png"))
    Image.fromarray(255 - changed).save(root / f"{2 * BLOCK + 1:04}.png")
    model = Counting()
    index = index_of(root, tmp_path / "x.npz", model)
    assert model.calls == before + 1
    assert same(index, index_of(root, None))
    assert index.paths[0] == f"{BLOCK:04}.png"


def test_a_damaged_block_is_made_again(many: Path, whole: tuple[Path, int], tmp_path: Path) -> None:
    stopped(many, tmp_path / "x.npz", after=whole[1] + BLOCK // WIDTH + 1)
    (block,) = kept(tmp_path / "x.npz")
    block.write_bytes(block.read_bytes()[:1000])
    index_of(many, tmp_path / "x.npz")
    assert (tmp_path / "x.npz").read_bytes() == whole[0].read_bytes()


@pytest.mark.parametrize("change", ["content", "time", "more", "fewer", "label"])
def test_an_index_of_what_has_changed_since_is_refused(tmp_path: Path, change: str) -> None:
    root = tiny.photos(tmp_path / "photos", "ab", each=2)
    first = index_of(root, tmp_path / "x.npz")
    assert same(index_of(root, tmp_path / "x.npz"), first)
    if change == "content":
        Image.new("RGB", (9, 9), "red").save(root / "a/0.png")
    elif change == "time":
        os.utime(root / "a/0.png", ns=(0, 1))
    elif change == "more":
        (root / "c.png").write_bytes((root / "a/0.png").read_bytes())
    elif change == "fewer":
        (root / "b/1.png").unlink()
    else:
        (root / "a").rename(root / "aa")
    with pytest.raises(HoldfastError, match=r"x\.npz is an index of other images"):
        index_of(root, tmp_path / "x.npz")
    assert same(Index.load(tmp_path / "x.npz"), first)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["photos", "x.npz"]


def test_other_labels_in_a_csv_are_another_index(tmp_path: Path) -> None:
    lists = tiny.photos(tmp_path / "photos", "a", each=2) / "list.csv"
    lists.write_text("path,label\na/0.png,mug\na/1.png,cup\n")
    index_of(lists, tmp_path / "x.npz")
    lists.write_text("path,label\na/0.png,cup\na/1.png,cup\n")
    with pytest.raises(HoldfastError, match="an index of other images"):
        index_of(lists, tmp_path / "x.npz")


def test_a_kept_block_is_removed_with_an_index_that_was_there(tmp_path: Path) -> None:
    root = tiny.photos(tmp_path / "photos", "ab", each=2)
    first = index_of(root, tmp_path / "x.npz")
    (tmp_path / "x.npz.part").mkdir()
    (tmp_path / "x.npz.part" / "0123456789abcdef.npz").touch()
    assert same(index_of(root, tmp_path / "x.npz"), first)
    assert not (tmp_path / "x.npz.part").exists()


def test_a_killed_process_is_gone_on_with(many: Path, whole: tuple[Path, int], tmp_path: Path) -> None:
    gate, out = Gate(tmp_path / "gate"), tmp_path / "x.npz"

    class Halting(Counting):
        def __call__(self, images: Tensor) -> Tensor:
            if kept(out):
                gate.halt()
            return super().__call__(images)

    process = forked(lambda: index_of(many, out, Halting()))
    gate.arrived()
    process.kill()
    process.join()
    gate.close()
    assert len(kept(out)) == 1
    assert not out.exists()
    assert index_of(many, out).about["broken"][0][0] == "0003.png"
    assert out.read_bytes() == whole[0].read_bytes()
    assert not kept(out)


def test_processes_under_torchrun_embed_a_share_each(many: Path, whole: tuple[Path, int], tmp_path: Path) -> None:
    out = tmp_path / "x.npz"

    def work() -> None:
        model = Counting()
        index_of(many, out, model)
        (tmp_path / f"calls-{os.environ['RANK']}").write_text(str(model.calls))

    together(work)
    assert out.read_bytes() == whole[0].read_bytes()
    calls = [int(file.read_text()) for file in tmp_path.glob("calls-*")]
    assert sorted(count - whole[1] for count in calls) == [2, 3], "of five calls in all"
