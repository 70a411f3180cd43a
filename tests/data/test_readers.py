"""Every layout on a small tree, what is wrong with a tree in words, and the counts of the real sets."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from holdfast.data import DATASETS, Table, load
from holdfast.util.errors import HoldfastError


def touch(path: Path) -> Path:
    """An empty file: readers look at names only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def shown(table: Table, split: str) -> dict[str, list[str]]:
    """Class name to file names, of one split."""
    part: dict[str, list[str]] = {}
    for i in np.flatnonzero(table.split == split):
        part.setdefault(table.classes[table.labels[i]], []).append(Path(table.name_of(int(i))).name)
    return part


# ---- names ----------------------------------------------------------------------------------------------------------


def test_the_data_sets_and_their_families() -> None:
    assert {name: (one.family, one.channels) for name, one in DATASETS.items()} == {
        **dict.fromkeys(("mnist", "fashion-mnist", "digits"), ("28", 1)),
        **dict.fromkeys(("cub", "cars", "sop", "folder", "csv"), ("224", 3)),
    }


def test_an_unknown_name_a_missing_root_and_a_wrong_root(tmp_path: Path) -> None:
    with pytest.raises(HoldfastError, match="unknown data set 'cup'; did you mean 'cub'"):
        load("cup", tmp_path)
    with pytest.raises(HoldfastError, match="'cub' needs the folder its files lie in"):
        load("cub", None)
    (tmp_path / "birds").mkdir()
    with pytest.raises(HoldfastError, match=r"no folder .*birdz; did you mean .*birds"):
        load("cub", tmp_path / "birdz")
    with pytest.raises(HoldfastError, match="is a file, not a folder"):
        load("cub", touch(tmp_path / "cub.tgz"))


# ---- ubyte ----------------------------------------------------------------------------------------------------------


def ubyte(root: Path, sizes: tuple[int, int] = (6, 4), zipped: bool = True) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for part, n in zip(("train", "t10k"), sizes, strict=True):
        images = struct.pack(">4I", 2051, n, 3, 2) + bytes(range(n * 6))
        labels = struct.pack(">2I", 2049, n) + bytes(i % 2 for i in range(n))
        for name, data in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            (root / (name + ".gz" if zipped else name)).write_bytes(gzip.compress(data) if zipped else data)
    return root


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("inside", ["", "raw"])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_ubyte_files_gzipped_or_not_in_the_root_or_in_raw(tmp_path: Path, zipped: bool, inside: str, name: str) -> None:
    ubyte(tmp_path / inside, zipped=zipped)
    table = load(name, tmp_path)
    assert isinstance(table.images, np.ndarray)
    assert table.images.shape == (10, 3, 2)
    assert table.images[1].tolist() == [[6, 7], [8, 9], [10, 11]]
    assert table.labels.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0, 1]
    assert table.split.tolist() == ["train"] * 6 + ["test"] * 4
    assert table.name_of(7) == f"{name} test[1]"
    assert len(table.classes) == 10


def test_damaged_ubyte_files_are_named(tmp_path: Path) -> None:
    plain, zipped = ubyte(tmp_path / "plain", zipped=False), ubyte(tmp_path / "zipped")
    images = plain / "t10k-images-idx3-ubyte"
    whole = images.read_bytes()
    images.write_bytes(whole[:-1])
    with pytest.raises(HoldfastError, match="t10k-images-idx3-ubyte is truncated: 39 bytes, its header says 40"):
        load("mnist", plain)
    images.write_bytes(whole + b"x")
    with pytest.raises(HoldfastError, match="too long"):
        load("mnist", plain)
    images.write_bytes(whole[:9])
    with pytest.raises(HoldfastError, match="the header alone has 16"):
        load("mnist", plain)
    images.write_bytes((plain / "train-labels-idx1-ubyte").read_bytes() + bytes(8))
    with pytest.raises(HoldfastError, match="is no images file: magic number 2049, not 2051"):
        load("mnist", plain)
    images.unlink()
    with pytest.raises(HoldfastError, match=r"t10k-images-idx3-ubyte is missing, and so is .*\.gz"):
        load("mnist", plain)

    labels = zipped / "train-labels-idx1-ubyte.gz"
    compressed = labels.read_bytes()
    labels.write_bytes(compressed[:-9])
    with pytest.raises(HoldfastError, match=r"train-labels-idx1-ubyte\.gz is truncated"):
        load("mnist", zipped)
    labels.write_bytes(b"not gzip at all")
    with pytest.raises(HoldfastError, match=r"cannot read .*train-labels"):
        load("mnist", zipped)
    labels.write_bytes(gzip.compress(struct.pack(">2I", 2049, 5) + bytes(5)))
    with pytest.raises(HoldfastError, match="6 train images but 5 train labels"):
        load("mnist", zipped)


@pytest.mark.parametrize(("given", "lies"), [("", "a/b"), ("a/b/c", "a/b")])
def test_a_root_too_high_or_too_low_is_told_where_the_files_lie(tmp_path: Path, given: str, lies: str) -> None:
    ubyte(tmp_path / lies)
    (tmp_path / given).mkdir(exist_ok=True)
    with pytest.raises(HoldfastError, match=f"it lies in .*{lies}: give that folder instead"):
        load("mnist", tmp_path / given)


# ---- CUB ------------------------------------------------------------------------------------------------------------


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
        table = load("cub", root)
        assert shown(table, "train") == {
            "001.Bird": ["bird 1_0.jpg", "bird 1_1.jpg"],
            "002.Bird": ["bird 2_0.jpg", "bird 2_1.jpg"],
        }
        assert list(shown(table, "test")) == ["007.Bird", "010.Bird"]
        table.check_disjoint()


def test_cub_says_what_is_missing_or_malformed(tmp_path: Path) -> None:
    root = cub(tmp_path / "cub", (1, 2, 7, 10))
    with pytest.raises(HoldfastError, match=r"it lies in .*cub: give that folder"):
        load("cub", root / "images")
    (root / "images" / "007.Bird" / "bird 7_1.jpg").unlink()
    with pytest.raises(HoldfastError, match=r"1 of 8 images are missing, the first is .*bird 7_1\.jpg"):
        load("cub", root)
    cub(root, (1, 2, 7, 10))
    (root / "image_class_labels.txt").write_text("1 1\n2 one\n" + "".join(f"{i} 2\n" for i in range(3, 9)))
    with pytest.raises(HoldfastError, match=r"image_class_labels\.txt: a class number is expected.*'one'"):
        load("cub", root)
    (root / "image_class_labels.txt").write_text("1 1\n")
    with pytest.raises(HoldfastError, match="has no line for image 2"):
        load("cub", root)
    (root / "image_class_labels.txt").write_text("1 1\n2\n")
    with pytest.raises(HoldfastError, match="line 2: '2' is not 'image class'"):
        load("cub", root)
    (root / "image_class_labels.txt").unlink()
    with pytest.raises(HoldfastError, match=r"image_class_labels\.txt is missing"):
        load("cub", root)


# ---- CARS -----------------------------------------------------------------------------------------------------------


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
    table = load("cars", tmp_path)
    assert len(table) == 8 * len(parts)
    assert list(shown(table, "train")) == ["class 98", "class 1"]
    assert shown(table, "test")["class 196"] == ["00003.jpg", "00007.jpg"] * len(parts)


def test_cars_in_one_folder(tmp_path: Path) -> None:
    names = np.array([f"Car {i}" for i in range(1, 197)], dtype=object)
    files = [f"car_ims/{name}" for name in CAR_FILES]
    annotations(tmp_path / "cars_annos.mat", "relative_im_path", files, CAR_CLASSES, class_names=names)
    for name in files:
        touch(tmp_path / name)
    table = load("cars", tmp_path)
    assert shown(table, "train") == {"Car 98": ["00000.jpg", "00004.jpg"], "Car 1": ["00002.jpg", "00006.jpg"]}
    assert list(shown(table, "test")) == ["Car 99", "Car 196"]


def test_cars_without_labels_or_images_say_so(tmp_path: Path) -> None:
    half(tmp_path, "train")
    touch(tmp_path / "cars_test" / "00000.jpg")
    with pytest.raises(HoldfastError, match=r"cars_test is there but its labels .*withlabels\.mat are not"):
        load("cars", tmp_path)
    annotations(tmp_path / "devkit" / "cars_test_annos_withlabels.mat", "fname", ["00000.jpg"], None)
    with pytest.raises(HoldfastError, match=r"no 'annotations' with 'fname' and 'class' \(found bbox_x1, fname\)"):
        load("cars", tmp_path)
    (tmp_path / "devkit" / "cars_train_annos.mat").write_bytes(b"nonsense")
    with pytest.raises(HoldfastError, match=r"cannot read .*cars_train_annos\.mat"):
        load("cars", tmp_path)
    half(tmp_path / "other", "train")
    with pytest.raises(HoldfastError, match=r"it lies in .*other"):
        load("cars", tmp_path / "other" / "cars_train")
    for name in CAR_FILES:
        (tmp_path / "other" / "cars_train" / name).unlink()
    (tmp_path / "other" / "cars_train").rmdir()
    with pytest.raises(HoldfastError, match="neither cars_train/, cars_test/ nor car_ims/"):
        load("cars", tmp_path / "other")


# ---- SOP ------------------------------------------------------------------------------------------------------------


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
    table = load("sop", tmp_path)
    assert shown(table, "train") == {
        "class 1": ["train_1_0.JPG", "train_1_1.JPG"],
        "class 2": ["train_2_0.JPG", "train_2_1.JPG"],
    }
    assert list(shown(table, "test")) == ["class 11", "class 12"]


def test_sop_refuses_shared_classes_and_a_missing_list(tmp_path: Path) -> None:
    root = sop(tmp_path, test_classes=(2, 3))
    with pytest.raises(HoldfastError, match="'class 2'"):
        load("sop", root)
    (root / "Ebay_test.txt").unlink()
    with pytest.raises(HoldfastError, match=r"Ebay_test\.txt is missing \(expected Stanford_Online_Products/"):
        load("sop", root)


# ---- folders --------------------------------------------------------------------------------------------------------


def test_a_folder_per_class_is_split_by_class(tmp_path: Path) -> None:
    for name in ("d", "b", "a", "c", "e"):
        touch(tmp_path / name / "1.jpg")
        touch(tmp_path / name / "0.PNG")
        touch(tmp_path / name / "notes.txt")
        touch(tmp_path / name / ".hidden.jpg")
    touch(tmp_path / ".cache" / "x.jpg")
    (tmp_path / "empty").mkdir()
    table = load("folder", tmp_path)
    assert shown(table, "train") == {"a": ["0.PNG", "1.jpg"], "b": ["0.PNG", "1.jpg"]}
    assert list(shown(table, "test")) == ["c", "d", "e"]


def test_train_and_test_folders_may_share_classes(tmp_path: Path) -> None:
    for split, names in (("train", "ab"), ("test", "bc")):
        for name in names:
            for k in range(2):
                touch(tmp_path / split / name / f"{split}{k}.jpg")
    table = load("folder", tmp_path)
    assert table.classes == ("a", "b", "c")
    assert shown(table, "train") == {name: ["train0.jpg", "train1.jpg"] for name in "ab"}
    assert shown(table, "test") == {name: ["test0.jpg", "test1.jpg"] for name in "bc"}


def test_folders_that_cannot_be_meant(tmp_path: Path) -> None:
    for name in "abc":
        touch(tmp_path / "few" / name / "1.jpg")
    with pytest.raises(HoldfastError, match=r"the train split has 1 classes and needs 2; .* at least 4 are needed"):
        load("folder", tmp_path / "few")
    with pytest.raises(HoldfastError, match=r"few holds folders of images, not images; give .*few"):
        load("folder", tmp_path)
    with pytest.raises(HoldfastError, match=r"images lie directly in it: give .*few if it is one class"):
        load("folder", tmp_path / "few" / "a")
    for name in "ab":
        touch(tmp_path / "half" / "train" / name / "1.jpg")
    with pytest.raises(HoldfastError, match=r"half/test is missing"):
        load("folder", tmp_path / "half")
    touch(tmp_path / "half" / "test" / "a" / "1.jpg")
    with pytest.raises(HoldfastError, match=r"the test split has 1 classes and needs 2$"):
        load("folder", tmp_path / "half")


# ---- CSV ------------------------------------------------------------------------------------------------------------


def table_csv(root: Path, text: str, name: str = "df.csv") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for i in range(6):
        touch(root / "images" / f"{i}.jpg")
    (root / name).write_text(text, encoding="utf-8-sig")
    return root


def rows(test_flags: tuple[str, ...] = ("", "", "", ""), split: str = "validation") -> str:
    head = "label,path,split,is_query,is_gallery,category\n"
    train = "10,images/0.jpg,train,,,chair\n10,images/1.jpg,train,,,chair\n"
    test = (f"{9 - i // 2},images/{i + 2}.jpg,{split},{flags or ','},chair\n" for i, flags in enumerate(test_flags))
    return head + train + "".join(test)


@pytest.mark.parametrize("split", ["validation", "test", "Validation"])
def test_csv_with_empty_flags(tmp_path: Path, split: str) -> None:
    table = load("csv", table_csv(tmp_path, rows(split=split)))
    assert table.classes == ("8", "9", "10")
    assert table.labels.tolist() == [2, 2, 1, 1, 0, 0]
    assert table.is_query.tolist() == table.is_gallery.tolist() == [False] * 2 + [True] * 4
    assert Path(table.name_of(3)) == tmp_path / "images" / "3.jpg"


@pytest.mark.parametrize(("yes", "no"), [("True", "False"), ("1", "0"), ("1.0", "0.0"), ("yes", "NO"), ("T", "f")])
def test_csv_spellings_of_true_and_false(tmp_path: Path, yes: str, no: str) -> None:
    flags = (f"{yes},{no}", f"{no},{yes}", f"{yes},{yes}", f"{no},{yes}")
    table = load("csv", table_csv(tmp_path, rows(flags)) / "df.csv")
    assert table.is_query.tolist() == [False, False, True, False, True, False]
    assert table.is_gallery.tolist() == [False, False, False, True, True, True]


def test_csv_without_flag_columns_with_spaces_and_text_labels(tmp_path: Path) -> None:
    text = "path, split, label\n" + "".join(f"images/{i}.jpg, {s}, {c}\n" for i, s, c in CSV_ROWS)
    table = load("csv", table_csv(tmp_path, text))
    assert table.classes == ("10", "9", "bee")
    assert table.is_query.sum() == 4


CSV_ROWS = [
    *((0, "train", "10"), (1, "train", "10"), (2, "test", "bee")),
    *((3, "test", "bee"), (4, "test", "9"), (5, "test", "9")),
]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,file,split\n1,a,train\n", "no column 'path'; its header is 'label,file,split'"),
        ("label;path;split\n1;a;train\n", "no column 'label'"),
        ("", "no column 'label'"),
        ("label,path,split\n", "has no rows"),
        ("label,path,split\n,images/0.jpg,train\n", "line 2: label and path must be given"),
        ("label,path,split\n1,images/0.jpg\n", "line 2: ''"),
        ("label,path,split\n1,images/0.jpg,valdation\n", "line 2: 'valdation'; did you mean 'validation'"),
        ("label,path,split\n1,images/9.jpg,train\n", r"1 of 1 images are missing, the first is .*9\.jpg"),
        (rows(("true,true", ",true", "true,true", "true,true")), "line 5: is_query is empty, but other test rows"),
        (rows(("maybe,true",) * 4), "line 4: is_query is 'maybe', not true or false"),
        ("label,path,split,is_query\n1,images/0.jpg,train,true\n", "1 training images have is_query set"),
    ],
)
def test_csv_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(HoldfastError, match=message):
        load("csv", table_csv(tmp_path, text))


def test_csv_not_found_or_not_alone(tmp_path: Path) -> None:
    root = table_csv(tmp_path / "a", rows())
    with pytest.raises(HoldfastError, match=r"no \.csv file in .*; .*a/df\.csv is one folder down"):
        load("csv", tmp_path)
    table_csv(root, rows(), name="other.csv")
    with pytest.raises(HoldfastError, match="holds 2 CSV files"):
        load("csv", root)
    (root / "lists").mkdir()
    moved = (root / "df.csv").rename(root / "lists" / "df.csv")
    with pytest.raises(HoldfastError, match=r"it lies at .*a/images/0\.jpg"):
        load("csv", moved)


# ---- bundled and real -----------------------------------------------------------------------------------------------


def test_digits_are_split_in_proportion_and_always_alike() -> None:
    table = load("digits")
    assert isinstance(table.images, np.ndarray)
    assert table.images.shape == (1797, 8, 8)
    assert (table.images.min(), table.images.max()) == (0, 255)
    train = table.split == "train"
    assert train.sum() == 1000
    assert (~train).sum() == 797
    share = np.bincount(table.labels[train]) / np.bincount(table.labels)
    assert np.abs(share - 1000 / 1797).max() < 0.005
    assert (table.images == load("digits").images).all()
    assert table.labels[:12].tolist() == load("digits").train().labels[:12].tolist()


def test_real_fashion_mnist(real_data: Path) -> None:
    table = load("fashion-mnist", real_data / "fashion-mnist")
    assert (len(table.train()), len(table.test())) == (60000, 10000)
    assert np.bincount(table.labels).tolist() == [7000] * 10
    assert table.classes[table.labels[0]] == "Ankle boot"


def test_real_cub(real_data: Path) -> None:
    table = load("cub", real_data)
    train, test = table.train(), table.test()
    assert len(train) + len(test) == 5902
    assert (len(np.unique(train.labels)), len(np.unique(test.labels))) == (50, 50)
    assert table.unmatched_queries == 0
    for i in (0, 3000, 5901):
        assert Path(table.name_of(i)).parent.name == table.classes[table.labels[i]]
    with Image.open(table.name_of(0)) as image:
        assert image.size == (227, 227)


def test_real_cars(real_data: Path) -> None:
    table = load("cars", real_data / "stanford_cars")
    assert len(table) == 8144
    assert (len(np.unique(table.train().labels)), len(np.unique(table.test().labels))) == (98, 98)
    assert table.classes[table.labels[0]] == "class 14"
