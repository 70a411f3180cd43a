"""Images below a folder, or named by a CSV: what is found, under which label, and what holds none."""

import os
from pathlib import Path

import pytest

from holdfast.data import Table
from holdfast.data.readers.listing import listed
from holdfast.data.readers.walk import LeftOut, images_below
from holdfast.util.errors import HoldfastError
from tests.helpers import tiny


def found(table: Table, root: Path) -> dict[str, str]:
    """Path to label."""
    paths = [Path(table.name_of(i)) for i in range(len(table))]
    names = [path.relative_to(root).as_posix() for path in paths]
    return {name: table.classes[label] for name, label in zip(names, table.labels, strict=True)}


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
    assert found(table, root) == {
        **{"a/0.png": "a", "a/1.png": "a", "b/0.png": "b", "b/1.png": "b", "top.PNG": "", "b/deep/c/0.png": "c"},
        **{"b/日本 é.png": "b", "b/line\nbreak.png": "b", "b/ space .jpg": "b"},
    }
    assert list(table.images) == sorted(table.images)


def test_names_that_are_no_text_are_found(tmp_path: Path) -> None:
    root = tiny.photos(tmp_path / "photos", "a", each=1)
    odd = os.fsdecode(b"latin\xff.png")
    try:
        (root / odd).touch()
    except OSError:
        pytest.skip("this file system takes no such names")
    assert found(listed(root)[0], root) == {"a/0.png": "a", odd: ""}


def test_links_are_followed_once_and_in_no_circle(tmp_path: Path) -> None:
    root = tiny.photos(tmp_path / "photos", "ab", each=1)
    elsewhere = tiny.photos(tmp_path / "elsewhere", "c", each=1)
    for place, target in {
        **{"a/up": "..", "a/farther": "../..", "b/across": "../a", "self": "self", "gone.png": "nowhere.png"},
        **{"0": "b", "more": str(elsewhere), "again": str(elsewhere), "link.png": "a/0.png"},
    }.items():
        (root / place).symlink_to(target)
    found = images_below(root, left_out := LeftOut(root))
    names = [path.relative_to(root).as_posix() for path in found]
    assert found == sorted(found)
    assert left_out.lines() == ("2 links to nowhere, the first is gone.png",)
    assert {"a/0.png", "b/0.png", "link.png"} < set(names)
    assert set(names) - {"a/0.png", "b/0.png", "link.png"} == {"again/c/0.png"}
    assert len(names) == 4


def test_a_csv_names_images_and_labels(tmp_path: Path) -> None:
    root = tiny.photos(tmp_path / "photos", "ab", each=2)
    outside = tiny.photos(tmp_path / "outside", "c", each=1) / "c/0.png"
    lists = root / "list.csv"
    lists.write_text(f"label,path,other\nmug,b/1.png,x\n,{outside},\nmug,a/0.png,y\n")
    table, place = listed(lists)
    assert place == root
    assert table.images == (root / "b/1.png", outside, root / "a/0.png")
    assert [table.classes[label] for label in table.labels] == ["mug", "", "mug"]
    lists.write_text("path\na/0.png\n")
    assert listed(lists)[0].classes == ("",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file\na/0.png\n", "has no column 'path'"),
        ("path,label\n,mug\n", "line 2: path must be given"),
        ("path\na/7.png\n", r"1 of 1 image is missing, the first is .*7\.png"),
    ],
)
def test_a_csv_that_cannot_be_used_is_refused(tmp_path: Path, content: str, message: str) -> None:
    root = tiny.photos(tmp_path / "photos", "a", each=1)
    (root / "list.csv").write_text(content)
    with pytest.raises(HoldfastError, match=message):
        listed(root / "list.csv")


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/notes.txt").touch()
    with pytest.raises(HoldfastError, match=r"no images in .* or below it \(looked for .*\.jpg"):
        listed(tmp_path)
