"""CUB, CARS and SOP on small trees, what is wrong with a tree in words, and the counts of the real sets."""

import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from holdfast.data import load_dataset
from holdfast.data.readers import matlab
from holdfast.data.readers.matlab import read_mat
from holdfast.util.errors import HoldfastError
from tests.helpers.trees import shown, touch


def cub(root: Path, classes: tuple[int, ...]) -> Path:
    images: list[str] = []
    labels: list[str] = []
    for number in classes:
        for k in range(2):
            images.append(f"{len(images) + 1} {number:03d}.Bird/bird {number}_{k}.jpg")
            labels.append(f"{len(labels) + 1} {number}")
            touch(root / "images" / f"{number:03d}.Bird" / f"bird {number}_{k}.jpg")
    (root / "images.txt").write_text("\n".join(images) + "\n")
    (root / "image_class_labels.txt").write_text("\n".join(reversed(labels)))
    (root / "classes.txt").write_text("".join(f"{n} {n:03d}.Bird\n" for n in classes))
    return root


def test_cub_trains_on_the_first_half_of_the_classes_present(tmp_path: Path) -> None:
    cub(tmp_path / "CUB_200_2011", (1, 2, 7, 10))
    for root in (tmp_path, tmp_path / "CUB_200_2011"):
        table = load_dataset("cub", root)
        assert shown(table, "train") == {
            "001.Bird": ["bird 1_0.jpg", "bird 1_1.jpg"],
            "002.Bird": ["bird 2_0.jpg", "bird 2_1.jpg"],
        }
        assert list(shown(table, "test")) == ["007.Bird", "010.Bird"]
        table.check_disjoint()


def test_cub_says_what_is_missing_or_malformed(tmp_path: Path) -> None:
    root = cub(tmp_path / "cub", (1, 2, 7, 10))
    with pytest.raises(HoldfastError, match=r"it lies in .*cub: give that folder"):
        load_dataset("cub", root / "images")
    (root / "images" / "007.Bird" / "bird 7_1.jpg").unlink()
    with pytest.raises(HoldfastError, match=r"1 of 8 images is missing, the first is .*bird 7_1\.jpg"):
        load_dataset("cub", root)
    cub(root, (1, 2, 7, 10))
    (root / "image_class_labels.txt").write_text("1 1\n2 one\n" + "".join(f"{i} 2\n" for i in range(3, 9)))
    with pytest.raises(HoldfastError, match=r"image_class_labels\.txt: a class number is expected.*'one'"):
        load_dataset("cub", root)
    (root / "image_class_labels.txt").write_text("1 1\n")
    with pytest.raises(HoldfastError, match="has no line for image 2"):
        load_dataset("cub", root)
    (root / "image_class_labels.txt").write_text("1 1\n2\n")
    with pytest.raises(HoldfastError, match="line 2: '2' is not 'image class'"):
        load_dataset("cub", root)
    (root / "image_class_labels.txt").unlink()
    with pytest.raises(HoldfastError, match=r"image_class_labels\.txt is missing"):
        load_dataset("cub", root)


def written(content: dict[str, Any]) -> bytes:
    file = BytesIO()
    savemat(file, content)
    return file.getvalue()


def annotations(path: Path, column: str, files: list[str], classes: list[int] | None, **more: Any) -> None:
    fields: list[Any] = [("bbox_x1", object), (column, object)] + ([("class", object)] if classes else [])
    rows = np.zeros((1, len(files)), dtype=fields)
    for i, name in enumerate(files):
        rows[0, i][column] = name
        rows[0, i]["bbox_x1"] = 1
        if classes:
            rows[0, i]["class"] = classes[i]
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"annotations": rows, **more})


CAR_CLASSES = [98, 99, 1, 196, 98, 99, 1, 196]
CAR_FILES = [f"0000{i}.jpg" for i in range(8)]


def half(root: Path, part: str, where: str = "devkit") -> None:
    suffix = "_withlabels" if part == "test" else ""
    annotations(root / where / f"cars_{part}_annos{suffix}.mat", "fname", CAR_FILES, CAR_CLASSES)
    for name in CAR_FILES:
        touch(root / f"cars_{part}" / name)


@pytest.mark.parametrize("where", ["devkit", "."])
@pytest.mark.parametrize("parts", [("train",), ("test",), ("train", "test")])
def test_cars_are_split_by_class_whichever_half_is_there(tmp_path: Path, parts: tuple[str, ...], where: str) -> None:
    for part in parts:
        half(tmp_path / "stanford_cars", part, where)
    table = load_dataset("cars", tmp_path)
    assert len(table) == 8 * len(parts)
    assert list(shown(table, "train")) == ["class 98", "class 1"]
    assert shown(table, "test")["class 196"] == ["00003.jpg", "00007.jpg"] * len(parts)


def test_cars_in_one_folder(tmp_path: Path) -> None:
    names = np.array([f"Car {i}" for i in range(1, 197)], dtype=object)
    files = [f"car_ims/{name}" for name in CAR_FILES]
    annotations(tmp_path / "cars_annos.mat", "relative_im_path", files, CAR_CLASSES, class_names=names)
    for name in files:
        touch(tmp_path / name)
    table = load_dataset("cars", tmp_path)
    assert shown(table, "train") == {"Car 98": ["00000.jpg", "00004.jpg"], "Car 1": ["00002.jpg", "00006.jpg"]}
    assert list(shown(table, "test")) == ["Car 99", "Car 196"]


def test_cars_without_labels_or_images_say_so(tmp_path: Path) -> None:
    half(tmp_path, "train")
    touch(tmp_path / "cars_test" / "00000.jpg")
    with pytest.raises(HoldfastError, match=r"cars_test is there but its labels .*withlabels\.mat are not"):
        load_dataset("cars", tmp_path)
    annotations(tmp_path / "devkit" / "cars_test_annos_withlabels.mat", "fname", ["00000.jpg"], None)
    with pytest.raises(HoldfastError, match=r"no 'annotations' with 'fname' and 'class' \(found bbox_x1, fname\)"):
        load_dataset("cars", tmp_path)
    (tmp_path / "devkit" / "cars_train_annos.mat").write_bytes(b"nonsense")
    with pytest.raises(HoldfastError, match=r"cannot read .*cars_train_annos\.mat"):
        load_dataset("cars", tmp_path)
    (tmp_path / "devkit" / "cars_train_annos.mat").write_bytes(written({"annotations": {"fname": 1, "class": -1}}))
    with pytest.raises(HoldfastError, match=r"annos\.mat, annotations, class: 0 is at least 0, not -1"):
        load_dataset("cars", tmp_path)
    half(tmp_path / "other", "train")
    with pytest.raises(HoldfastError, match=r"it lies in .*other"):
        load_dataset("cars", tmp_path / "other" / "cars_train")
    for name in CAR_FILES:
        (tmp_path / "other" / "cars_train" / name).unlink()
    (tmp_path / "other" / "cars_train").rmdir()
    with pytest.raises(HoldfastError, match="neither cars_train/, cars_test/ nor car_ims/"):
        load_dataset("cars", tmp_path / "other")


def sop(root: Path, test_classes: tuple[int, ...] = (11, 12)) -> Path:
    for name, classes in (("train", (1, 2)), ("test", test_classes)):
        rows = ["image_id class_id super_class_id path"]
        for number in classes:
            for k in range(2):
                path = f"chair_final/{name}_{number}_{k}.JPG"
                touch(root / path)
                rows.append(f"{len(rows)} {number} 1 {path}")
        (root / f"Ebay_{name}.txt").write_text("\n".join(rows) + "\n")
    return root


def test_sop_follows_its_two_lists(tmp_path: Path) -> None:
    sop(tmp_path / "Stanford_Online_Products")
    table = load_dataset("sop", tmp_path)
    assert shown(table, "train") == {
        "class 1": ["train_1_0.JPG", "train_1_1.JPG"],
        "class 2": ["train_2_0.JPG", "train_2_1.JPG"],
    }
    assert list(shown(table, "test")) == ["class 11", "class 12"]


def test_sop_refuses_shared_classes_and_a_missing_list(tmp_path: Path) -> None:
    root = sop(tmp_path, test_classes=(2, 3))
    with pytest.raises(HoldfastError, match="'class 2'"):
        load_dataset("sop", root)
    (root / "Ebay_test.txt").unlink()
    with pytest.raises(HoldfastError, match=r"Ebay_test\.txt is missing \(expected Stanford_Online_Products/"):
        load_dataset("sop", root)


def test_real_cub(real_data: Path) -> None:
    table = load_dataset("cub", real_data)
    train, test = table.train(), table.test()
    assert len(train) + len(test) == 5902
    assert (len(np.unique(train.labels)), len(np.unique(test.labels))) == (50, 50)
    assert table.unmatched_queries == 0
    for i in (0, 3000, 5901):
        assert Path(table.name_of(i)).parent.name == table.classes[table.labels[i]]
    with Image.open(table.name_of(0)) as image:
        assert image.size == (227, 227)


def test_real_cars(real_data: Path) -> None:
    table = load_dataset("cars", real_data / "stanford_cars")
    assert len(table) == 8144
    assert (len(np.unique(table.train().labels)), len(np.unique(table.test().labels))) == (98, 98)
    assert table.classes[table.labels[0]] == "class 14"


def test_what_crashes_or_fills_the_process_that_reads_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.mat"
    file.write_bytes(written({"annotations": np.zeros((2, 3))}))
    assert read_mat(file, ("annotations", "other")) == {"annotations": [[0.0] * 3] * 2}
    shape = struct.pack("<2I", 2, 3)
    assert file.read_bytes().count(shape) == 1
    file.write_bytes(file.read_bytes().replace(shape, struct.pack("<2I", 2**16, 2**17)))
    with pytest.raises(HoldfastError, match=r"cannot read .*a\.mat: "):
        read_mat(file, ("annotations",))
    (tmp_path / "reader.py").write_text("import os\nos.abort()\n")
    monkeypatch.setattr(matlab, "__file__", str(tmp_path / "reader.py"))
    with pytest.raises(HoldfastError, match=r"a\.mat: it is damaged, and crashes the reader of MATLAB files$"):
        read_mat(file, ("annotations",))
    (tmp_path / "reader.py").write_text("import sys\nsys.stdin.read()\nwhile True: pass\n")
    monkeypatch.setattr(matlab, "SECONDS", 0)
    with pytest.raises(HoldfastError, match=r"a\.mat: that takes longer than 0 seconds$"):
        read_mat(file, ("annotations",))
