"""Whole folders embedded: what is found, what is left out, and what survives a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from holdfast import HoldfastError, Index
from holdfast.data.readers.listing import images_below, listed
from holdfast.models.preprocessing import Preprocessing
from holdfast.search.blocks import BLOCK
from holdfast.search.lookup import answer, embed_files, model_of
from tests.helpers import tiny

WEIGHTS = torch.randn(192, 6, generator=torch.Generator().manual_seed(0))
NET = """
import time, torch
weights = torch.randn(192, 6, generator=torch.Generator().manual_seed(0))
def net(images):
    time.sleep({pause})
    return images.flatten(1) @ weights
"""


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


# -- what is found ----------------------------------------------------------------------------------------------------


def test_all_images_below_a_folder_are_found_with_their_folder_as_label(tmp_path: Path) -> None:
    root = tiny.photos(tmp_path / "photos", "ab", each=2)
    tiny.photos(root / "b" / "deep", "c", each=1)
    picture = (root / "a/0.png").read_bytes()
    for name in ("top.PNG", "b/日本 é.png", "b/line\nbreak.png", "b/ space .jpg"):
        (root / name).write_bytes(picture)
    for name in (".hidden.png", "notes.txt", "a/0.png.bak", "b/png"):
        (root / name).write_bytes(picture)
    (root / ".git").mkdir()
    (root / ".git/x.png").write_bytes(picture)
    (root / "folder.png").mkdir()
    table, place = listed(root)
    assert place == root
    found = {
        path.relative_to(root).as_posix(): table.classes[i] for path, i in zip(table.images, table.labels, strict=True)
    }
    assert found == {
        **{"a/0.png": "a", "a/1.png": "a", "b/0.png": "b", "b/1.png": "b", "top.PNG": "", "b/deep/c/0.png": "c"},
        **{"b/日本 é.png": "b", "b/line\nbreak.png": "b", "b/ space .jpg": "b"},
    }
    assert list(table.images) == sorted(table.images)
    index = index_of(root, tmp_path / "x.npz")
    assert dict(zip(index.paths, index.labels, strict=True)) == found
    assert same(Index.load(tmp_path / "x.npz"), index)


def test_names_that_are_no_text_are_found_and_kept(tmp_path: Path) -> None:
    root = tiny.photos(tmp_path / "photos", "a", each=1)
    odd = os.fsdecode(b"latin\xff.png")
    try:
        (root / odd).write_bytes((root / "a/0.png").read_bytes())
    except OSError:
        pytest.skip("this file system takes no such names")
    assert index_of(root, tmp_path / "x.npz").paths == Index.load(tmp_path / "x.npz").paths == ("a/0.png", odd)


def test_links_are_followed_once_and_in_no_circle(tmp_path: Path) -> None:
    root = tiny.photos(tmp_path / "photos", "ab", each=1)
    elsewhere = tiny.photos(tmp_path / "elsewhere", "c", each=1)
    for place, target in {
        **{"a/up": "..", "a/farther": "../..", "b/across": "../a", "self": "self", "gone.png": "nowhere.png"},
        **{"0": "b", "more": str(elsewhere), "again": str(elsewhere), "link.png": "a/0.png"},
    }.items():
        (root / place).symlink_to(target)
    found = [path.relative_to(root).as_posix() for path in images_below(root)]
    assert images_below(root) == sorted(images_below(root))
    assert {"a/0.png", "b/0.png", "link.png"} < set(found)
    assert set(found) - {"a/0.png", "b/0.png", "link.png"} == {"again/c/0.png"}
    assert len(found) == 4


def test_a_csv_names_images_and_labels(tmp_path: Path) -> None:
    root = tiny.photos(tmp_path / "photos", "ab", each=2)
    outside = tiny.photos(tmp_path / "outside", "c", each=1) / "c/0.png"
    lists = root / "list.csv"
    lists.write_text(f"label,path,other\nmug,b/1.png,x\n,{outside},\nmug,a/0.png,y\n")
    index = index_of(lists, None)
    assert index.paths == ("b/1.png", str(outside), "a/0.png")
    assert index.labels == ("mug", "", "mug")
    lists.write_text("path\na/0.png\n")
    assert index_of(lists, None).labels == ("",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file\na/0.png\n", "has no column 'path'"),
        ("path\n", "has no rows"),
        ("path,label\n,mug\n", "line 2: path must be given"),
        ("path\na/7.png\n", r"1 of 1 images are missing, the first is .*7\.png"),
        ("", "has no column 'path'"),
    ],
)
def test_a_csv_that_cannot_be_used_is_refused(tmp_path: Path, content: str, message: str) -> None:
    root = tiny.photos(tmp_path / "photos", "a", each=1)
    (root / "list.csv").write_text(content)
    with pytest.raises(HoldfastError, match=message):
        listed(root / "list.csv")


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos/a").mkdir(parents=True)
    (tmp_path / "photos/a/notes.txt").touch()
    with pytest.raises(HoldfastError, match=r"no images in .*photos or below it \(looked for .*\.jpg"):
        listed(tmp_path / "photos")
    with pytest.raises(HoldfastError, match=r"there is no folder .*photoz; did you mean .*photos\?"):
        listed(tmp_path / "photoz")


# -- what cannot be read ----------------------------------------------------------------------------------------------


def spoil(root: Path) -> set[str]:
    """Files that are no images, or no longer, each in its own way."""
    whole = (root / "a/0.png").read_bytes()
    spoilt = {"a/cut.png": whole[:-30], "a/empty.jpg": b"", "b/text.gif": b"hello", "b/head.png": whole[:12]}
    for name, content in spoilt.items():
        (root / name).write_bytes(content)
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(root / "b/deep.png")
    return {*spoilt, "b/deep.png"}


def test_broken_images_are_left_out_and_named_with_the_reason(tmp_path: Path) -> None:
    root = tiny.photos(tmp_path / "photos", "ab", each=3)
    clean = index_of(root, None)
    broken = spoil(root)
    index = index_of(root, tmp_path / "x.npz")
    assert same(index, clean)
    reasons = dict(index.about["broken"])
    assert set(reasons) == broken
    assert all(reasons.values())
    assert "16" in reasons["b/deep.png"] or "mode" in reasons["b/deep.png"]
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
    with pytest.raises(HoldfastError, match=r"none of the 1 images can be read; the first is .*a\.png \(Unidentified"):
        index_of(tmp_path / "photos", tmp_path / "x.npz")
    assert [file.name for file in tmp_path.iterdir()] == ["photos"]


# -- a kill, and what changed since -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two blocks of photos and a bit; some in the first block are broken."""
    root = tmp_path_factory.mktemp("many") / "photos"
    root.mkdir()
    draws = np.random.default_rng(0)
    for i in range(2 * BLOCK + 30):
        Image.fromarray(draws.integers(0, 256, (8, 8, 3), np.uint8)).save(root / f"{i:04}.png")
    (root / "0003.png").write_bytes(b"")
    return root


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
    assert list((out.parent / f"{out.name}.part").glob("*.npz"))
    assert not out.exists()


def examining(root: Path) -> int:
    """Calls of a model before the first image of a folder."""
    model = Counting()
    index_of(root, None, model)
    return model.calls - sum(-(-n // 64) for n in (BLOCK - 1, BLOCK, 30))


def test_a_stopped_call_goes_on_and_ends_as_if_it_had_not_been_stopped(many: Path, tmp_path: Path) -> None:
    index_of(many, tmp_path / "whole.npz")
    before = examining(many)
    stopped(many, tmp_path / "x.npz", after=before + BLOCK // 64 + 2)
    model = Counting()
    index_of(many, tmp_path / "x.npz", model)
    assert model.calls == before + BLOCK // 64 + 1
    assert (tmp_path / "x.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["whole.npz", "x.npz"]


def test_finished_blocks_are_used_where_their_images_are_as_they_were(many: Path, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    subprocess.run(["cp", "-a", str(many), str(root)], check=True)
    before = examining(root)
    stopped(root, tmp_path / "x.npz", after=before + 2 * BLOCK // 64)
    for i in range(BLOCK):
        (root / f"{i:04}.png").unlink()
    changed = np.asarray(Image.open(root / f"{2 * BLOCK + 1:04}.png"))
    Image.fromarray(255 - changed).save(root / f"{2 * BLOCK + 1:04}.png")
    model = Counting()
    index = index_of(root, tmp_path / "x.npz", model)
    assert model.calls == before + 1
    assert same(index, index_of(root, None))
    assert index.paths[0] == f"{BLOCK:04}.png"


def test_a_damaged_block_is_made_again(many: Path, tmp_path: Path) -> None:
    stopped(many, tmp_path / "x.npz", after=examining(many) + BLOCK // 64 + 1)
    (block,) = (tmp_path / "x.npz.part").glob("*.npz")
    block.write_bytes(block.read_bytes()[:1000])
    assert same(index_of(many, tmp_path / "x.npz"), index_of(many, None))


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


def test_a_killed_process_is_gone_on_with(many: Path, tmp_path: Path) -> None:
    def command(pause: float, out: str) -> list[str]:
        (tmp_path / "net.py").write_text(NET.format(pause=pause))
        return [
            *(sys.executable, "-m", "holdfast", "embed", str(many), "--model", "net.py:net"),
            *("--size", "8", "--out", out),
        ]

    with subprocess.Popen(command(0.15, "x.npz"), cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("x.npz.part/*.npz")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "x.npz").exists()
    kept = len(list(tmp_path.glob("x.npz.part/*.npz")))
    assert 1 <= kept <= 2
    model = f"{tmp_path / 'net.py'}:net"
    command(0, "")
    for out in ("x.npz", "whole.npz"):
        embed_files(many, model, tmp_path / out, size=8, quiet=True)
    assert (tmp_path / "x.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert not list(tmp_path.glob("*.part"))
    assert json.loads(str(np.load(tmp_path / "x.npz")["about"]))["broken"][0][0] == "0003.png"


# -- real photos ------------------------------------------------------------------------------------------------------


def test_photos_of_birds_are_found_again_when_shifted(real_data: Path, tmp_path: Path) -> None:
    (tmp_path / "birds.py").write_text(
        "import torch\n"
        "from holdfast import Embedder, EmbedderConfig\n"
        "def build():\n"
        "    torch.manual_seed(0)\n"
        '    return Embedder(EmbedderConfig("resnet18", dim=64, channels=3, size=64)).eval()\n'
    )
    photos = real_data / "CUB_200_2011" / "images"
    folders = sorted(photos.iterdir())[:2]
    (tmp_path / "photos").mkdir()
    for folder in folders:
        (tmp_path / "photos" / folder.name).mkdir()
        for photo in sorted(folder.iterdir())[:8]:
            (tmp_path / "photos" / folder.name / photo.name).symlink_to(photo.resolve())
    spec = f"{tmp_path / 'birds.py'}:build"
    index = embed_files(tmp_path / "photos", spec, tmp_path / "x.npz", size=64, resize=72, quiet=True)
    assert len(index) == 16
    assert set(index.labels) == {folder.name for folder in folders}
    assert index.preprocessing == Preprocessing(64, 72, 3)

    photo = Image.open(tmp_path / "photos" / index.paths[5]).convert("RGB")
    (tmp_path / "queries").mkdir()
    photo.crop((2, 2, photo.width, photo.height)).save(tmp_path / "queries/shifted.png")
    table, _ = listed(tmp_path / "queries")
    (best,), broken = answer(index, model_of(index), table, 1)
    assert not broken
    assert (best.rank, best.path, best.label) == (1, index.paths[5], index.labels[5])
