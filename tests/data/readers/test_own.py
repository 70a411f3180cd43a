"""Folders and CSVs of the user's own: how they are split, and what is wrong with one in words."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.data import held_out, load_dataset
from holdfast.util.errors import HoldfastError
from tests.helpers.trees import shown, touch


def test_a_folder_per_class_is_split_by_class(tmp_path: Path) -> None:
    for name in ("d", "b", "a", "c", "e"):
        touch(tmp_path / name / "1.jpg")
        touch(tmp_path / name / "0.PNG")
        touch(tmp_path / name / "notes.txt")
        touch(tmp_path / name / ".hidden.jpg")
    touch(tmp_path / ".cache" / "x.jpg")
    (tmp_path / "fempty").mkdir()
    table = load_dataset("folder", tmp_path)
    assert shown(table, "train") == {name: ["0.PNG", "1.jpg"] for name in "abc"}
    assert list(shown(table, "test")) == ["d", "e"]


@given(st.lists(st.integers(0, 3), min_size=6, max_size=6), st.data())
def test_no_split_depends_on_what_can_be_read(counts: list[int], draw: st.DataObject) -> None:
    """Files that are gone, or not read, never carry the class of another file to the other split."""
    with TemporaryDirectory() as place:
        root = Path(place)
        for name, count in zip("abcdef", counts, strict=True):
            (root / name).mkdir()
            endings = draw.draw(st.lists(st.sampled_from([".jpg", ".heic", ".avif"]), min_size=count, max_size=count))
            touch(*(root / name / f"{i}{ending}" for i, ending in enumerate(endings)))
        for data in ("folder", "nested"):
            try:
                table = load_dataset(data, root)
            except HoldfastError:  # fewer than two classes are left
                continue
            assert set(shown(table, "train")) <= set("abc")
            assert set(shown(table, "test")) <= set("def")


def test_what_is_left_out_is_counted_and_named_once(tmp_path: Path) -> None:
    for name in "abcd":
        touch(*(tmp_path / name / f"{i}.jpg" for i in range(2)), tmp_path / name / "photo.HEIC")
        touch(*(tmp_path / name / f"9{ending}" for ending in (".avif", ".jfif", ".jp2", ".TIFF")))
    touch(tmp_path / "a/deep/0.png", tmp_path / "a/deep/er/1.png", tmp_path / "b/README", tmp_path / "stray.jpg")
    touch(tmp_path / "e/only.heic", tmp_path / ".hidden/x.jpg", tmp_path / "a/.x.jpg")
    (tmp_path / "c/gone.jpg").symlink_to("nowhere")
    os.mkfifo(tmp_path / "d/pipe.png")
    table = load_dataset("folder", tmp_path)
    assert len(table) == 4 * 6
    assert sorted(table.left_out) == [
        "1 class folder without an image, the first is e",
        "1 file in no class folder, the first is stray.jpg",
        "1 file not read: it is a pipe, socket or device, not a file, the first is d/pipe.png",
        "1 file without an ending, the first is b/README",
        "1 link to nowhere, the first is c/gone.jpg",
        "2 images in a folder inside a class folder, the first is a/deep/0.png",
        "5 files with the ending .heic, which is not read, the first is a/photo.HEIC",
    ]
    assert all(table.describe().count(line) == 1 for line in table.left_out)
    assert table.test().left_out == held_out("folder", tmp_path).left_out == table.left_out


def test_what_lies_beside_the_splits_is_left_out(tmp_path: Path) -> None:
    touch(*(tmp_path / split / name / f"{i}.jpg" for split in ("train", "test", "val") for name in "ab" for i in "01"))
    expected = ("1 folder beside train/ and test/, the first is val",)
    assert load_dataset("folder", tmp_path).left_out == held_out("folder", tmp_path).left_out == expected


def test_nested_folders_are_classes_by_path_and_the_error_offers_it(tmp_path: Path) -> None:
    names = [f"{alphabet}/{character}" for alphabet in ("greek", "latin") for character in "abc"]
    touch(*(tmp_path / name / f"{i}.png" for name in names for i in range(2)), tmp_path / "greek/top.png")
    (tmp_path / "latin/d").mkdir()
    table = load_dataset("nested", tmp_path)
    assert shown(table, "train") == {"greek": ["top.png"], **{name: ["0.png", "1.png"] for name in names[:3]}}
    assert list(shown(table)) == names[3:]
    assert table.left_out == ("1 class folder without an image, the first is latin/d",)
    assert list(shown(held_out("nested", tmp_path))) == ["greek", *names]
    (tmp_path / "greek/top.png").unlink()
    with pytest.raises(HoldfastError, match=r"greek holds folders of images.* take data set 'nested'"):
        load_dataset("folder", tmp_path)


def test_train_and_test_folders_may_share_classes(tmp_path: Path) -> None:
    for split, names in (("train", "ab"), ("test", "bc")):
        for name in names:
            for k in range(2):
                touch(tmp_path / split / name / f"{split}{k}.jpg")
    table = load_dataset("folder", tmp_path)
    assert table.classes == ("a", "b", "c")
    assert shown(table, "train") == {name: ["train0.jpg", "train1.jpg"] for name in "ab"}
    assert shown(table, "test") == {name: ["test0.jpg", "test1.jpg"] for name in "bc"}


def test_folders_that_cannot_be_meant(tmp_path: Path) -> None:
    for name in "abc":
        touch(tmp_path / "few" / name / "1.jpg")
    with pytest.raises(HoldfastError, match=r"the train split has 1 class and needs 2; .* at least 4 are needed"):
        load_dataset("folder", tmp_path / "few")
    with pytest.raises(HoldfastError, match=r"few holds folders of images, not images; give .*few"):
        load_dataset("folder", tmp_path)
    with pytest.raises(HoldfastError, match=r"images lie directly in it: give .*few if it is one class"):
        load_dataset("folder", tmp_path / "few" / "a")
    for name in "ab":
        touch(tmp_path / "half" / "train" / name / "1.jpg")
    with pytest.raises(HoldfastError, match=r"half/test is missing"):
        load_dataset("folder", tmp_path / "half")
    touch(tmp_path / "half" / "test" / "a" / "1.jpg")
    with pytest.raises(HoldfastError, match=r"the test split has 1 class and needs 2$"):
        load_dataset("folder", tmp_path / "half")


def table_csv(root: Path, text: str, name: str = "df.csv") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for i in range(7):
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
    table = load_dataset("csv", table_csv(tmp_path, rows(split=split)))
    assert table.classes == ("8", "9", "10")
    assert table.labels.tolist() == [2, 2, 1, 1, 0, 0]
    assert table.is_query.tolist() == table.is_gallery.tolist() == [False] * 2 + [True] * 4
    assert Path(table.name_of(3)) == tmp_path / "images" / "3.jpg"


def test_validation_rows_of_a_csv_are_no_test_rows(tmp_path: Path) -> None:
    text = "label,path,split,is_query\n"
    lines = ["1,train,", "2,validation,true", "2,validation,false", "3,validation,false"]
    lines += ["3,test,", "3,test,", "4,test,"]
    text += "".join(
        f"{label},images/{i}.jpg,{rest}\n" for i, (label, _, rest) in enumerate(x.partition(",") for x in lines)
    )
    table = load_dataset("csv", table_csv(tmp_path, text))
    validation = table.validation()
    assert validation is not None
    assert validation.labels.tolist() == [1, 1, 2]
    assert validation.is_query.tolist() == [True, False, False]
    assert table.test().labels.tolist() == [2, 2, 3]
    assert table.test().is_query.all()


@pytest.mark.parametrize(("yes", "no"), [("True", "False"), ("1", "0"), ("1.0", "0.0"), ("yes", "NO"), ("T", "f")])
def test_csv_spellings_of_true_and_false(tmp_path: Path, yes: str, no: str) -> None:
    flags = (f"{yes},{no}", f"{no},{yes}", f"{yes},{yes}", f"{no},{yes}")
    table = load_dataset("csv", table_csv(tmp_path, rows(flags)) / "df.csv")
    assert table.is_query.tolist() == [False, False, True, False, True, False]
    assert table.is_gallery.tolist() == [False, False, False, True, True, True]


def test_csv_without_flag_columns_with_spaces_and_text_labels(tmp_path: Path) -> None:
    text = "path, split, label\n" + "".join(f"images/{i}.jpg, {s}, {c}\n" for i, s, c in CSV_ROWS)
    table = load_dataset("csv", table_csv(tmp_path, text))
    assert table.classes == ("10", "9", "bee")
    assert table.is_query.sum() == 4


def test_csv_columns_are_found_in_any_case(tmp_path: Path) -> None:
    text = rows(("true,true", "false,true") * 2)
    head, _, body = text.partition("\n")
    expected, found = (load_dataset("csv", table_csv(tmp_path, one)) for one in (text, f"{head.title()}\n{body}"))
    assert found.is_query.tolist() == expected.is_query.tolist()
    assert found.labels.tolist() == expected.labels.tolist()


@pytest.mark.parametrize("label", ["nan", "NaN", "NAN", "None", "<NA>", "NaT"])
def test_csv_labels_that_name_no_class_are_refused_by_line(tmp_path: Path, label: str) -> None:
    text = f"label,path,split\n1,images/0.jpg,train\n{label},images/1.jpg,train\n"
    for read in (load_dataset, held_out):
        with pytest.raises(HoldfastError, match=f"line 3: the label '{label}' is no class; give it one, or leave"):
            read("csv", table_csv(tmp_path, text))


CSV_ROWS = [
    *((0, "train", "10"), (1, "train", "10"), (2, "test", "bee")),
    *((3, "test", "bee"), (4, "test", "9"), (5, "test", "9")),
]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,file,split\n1,a,train\n", "no column 'path'; its header is 'label,file,split'"),
        ("label,pathh,split\n1,a,train\n", "no column 'path'.*; did you mean 'pathh'"),
        ("label;path;split\n1;a;train\n", "no column 'label'.*; it is separated by semicolons, not commas"),
        ("label\tpath\tsplit\n1\ta\ttrain\n", "no column 'label'.*; it is separated by tabs, not commas"),
        ("label,path,Path,split\n1,a,a,train\n", "two columns 'path'"),
        ("label,path,split\n1,a,b.jpg,train\n", "line 2: there are more cells than the 3 of the header"),
        ("", "no column 'label'"),
        ('label,path,split\n1,a,train\n2,"b"c,train\n', "line 3: ',' expected after"),
        ('label,path,split\n1,a,train\n2,"b,train\n3,c,train\n', 'a " opened in or below line 3 is never closed'),
        ("label,path,split\n1,images/0.jpg,train\n1,images/./0.jpg,test\n", "lines 2 and 3: .* is listed twice$"),
        ("label,path,split\n1,images/0.jpg,train\n2,images/0.jpg,train\n", "is listed twice, as '1' and as '2'"),
        ("label,path,split\n", "has no rows"),
        ("label,path,split\n,images/0.jpg,train\n", "line 2: label and path must be given"),
        ("label,path,split\n1,images/0.jpg\n", "line 2: ''"),
        ("label,path,split\n1,images/0.jpg,valdation\n", "line 2: 'valdation'; did you mean 'validation'"),
        ("label,path,split\n1,images/9.jpg,train\n", r"1 of 1 image is missing, the first is .*9\.jpg"),
        (
            rows(("true,true", ",true", "true,true", "true,true")),
            "line 5: is_query is empty, but other validation rows",
        ),
        (rows(("maybe,true",) * 4), "line 4: is_query is 'maybe', not true or false"),
        ("label,path,split,is_query\n1,images/0.jpg,train,true\n", "1 training image has is_query set"),
    ],
)
def test_csv_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(HoldfastError, match=message):
        load_dataset("csv", table_csv(tmp_path, text))


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_csv_in_another_encoding_is_told_so(tmp_path: Path, encoding: str) -> None:
    root = table_csv(tmp_path, "")
    (root / "df.csv").write_text("label,path,split\né,a,train\n", encoding=encoding)
    with pytest.raises(HoldfastError, match=r"df\.csv: it is not in UTF-8 .*; save it as UTF-8"):
        load_dataset("csv", root)


def test_csv_not_found_or_not_alone(tmp_path: Path) -> None:
    root = table_csv(tmp_path / "a", rows())
    with pytest.raises(HoldfastError, match=r"no \.csv file in .*; .*a/df\.csv is one folder down"):
        load_dataset("csv", tmp_path)
    table_csv(root, rows(), name="other.csv")
    with pytest.raises(HoldfastError, match="holds 2 CSV files"):
        load_dataset("csv", root)
    (root / "lists").mkdir()
    moved = (root / "df.csv").rename(root / "lists" / "df.csv")
    with pytest.raises(HoldfastError, match=r"it lies at .*a/images/0\.jpg"):
        load_dataset("csv", moved)
