"""Test images for a model from outside: what is taken, what is left out, and mistakes in words."""

from pathlib import Path

import numpy as np
import pytest

from holdfast.data import Table, held_out, load_dataset, query_gallery
from holdfast.util.errors import HoldfastError
from tests.helpers.trees import shown, touch

# ---- folder ---------------------------------------------------------------------------------------------------------


def test_all_classes_of_a_plain_folder_are_test_images(tmp_path: Path) -> None:
    touch(*(tmp_path / name / f"{name}{i}.jpg" for name in "abc" for i in range(2)))
    table = held_out("folder", str(tmp_path))
    assert shown(table) == {name: [f"{name}0.jpg", f"{name}1.jpg"] for name in "abc"}
    assert table.is_query.all()
    assert table.is_gallery.all()
    assert table.unmatched_queries == 0


@pytest.mark.parametrize("train", ["absent", "empty", "whole"])
def test_only_the_test_folder_is_read_where_there_is_one(tmp_path: Path, train: str) -> None:
    touch(*(tmp_path / "test" / name / f"{i}.jpg" for name in "ab" for i in range(2)))
    touch(tmp_path / "c" / "neither.jpg")
    if train == "empty":
        (tmp_path / "train").mkdir()
    if train == "whole":
        touch(tmp_path / "train" / "a" / "other.jpg")
    assert shown(held_out("folder", tmp_path)) == {name: ["0.jpg", "1.jpg"] for name in "ab"}


def test_a_class_may_be_called_test(tmp_path: Path) -> None:
    touch(*(tmp_path / name / f"{i}.jpg" for name in ("test", "trial") for i in range(2)))
    assert list(shown(held_out("folder", tmp_path))) == ["test", "trial"]


def test_one_class_or_one_image_per_class_is_not_enough(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "0.jpg")
    touch(tmp_path / "b" / "0.jpg")
    with pytest.raises(HoldfastError, match="none of the 2 queries has another gallery image of its class"):
        held_out("folder", tmp_path)
    (tmp_path / "b" / "0.jpg").rename(tmp_path / "a" / "1.jpg")
    with pytest.raises(HoldfastError, match="the test gallery is of one class, 'a': no answer is wrong"):
        held_out("folder", tmp_path)


def test_a_test_folder_must_be_there_and_hold_classes(tmp_path: Path) -> None:
    touch(tmp_path / "half" / "train" / "a" / "0.jpg")
    with pytest.raises(HoldfastError, match=r"half/test is missing"):
        held_out("folder", tmp_path / "half")
    (tmp_path / "half" / "test").mkdir()
    with pytest.raises(HoldfastError, match=r"no class folder with images in .*half/test "):
        held_out("folder", tmp_path / "half")


# ---- csv ------------------------------------------------------------------------------------------------------------


def listed(root: Path, text: str, name: str = "df.csv") -> Path:
    touch(*(root / f"{i}.jpg" for i in range(6)))
    (root / name).write_text(text)
    return root / name


def test_training_and_validation_rows_are_left_out_even_without_their_images(tmp_path: Path) -> None:
    text = "label,path,split,is_query,is_gallery\n1,gone.jpg,train,,\n2,lost.jpg,validation,1,1\n"
    text += "2,0.jpg,test,1,0\n2,1.jpg,test,0,1\n3,2.jpg,test,0,1\n2,3.jpg,test,0,0\n"
    table = held_out("csv", listed(tmp_path, text))
    assert shown(table) == {"2": ["0.jpg", "1.jpg"], "3": ["2.jpg"]}
    assert table.is_query.tolist() == [True, False, False]
    assert table.is_gallery.tolist() == [False, True, True]


def test_without_a_split_column_every_row_is_a_test_row(tmp_path: Path) -> None:
    text = "path,label,site,is_query\n0.jpg,10,x,yes\n1.jpg,10,y,no\n2.jpg,9,x,yes\n"
    table = held_out("csv", listed(tmp_path, text).parent)
    assert shown(table) == {"10": ["0.jpg", "1.jpg"], "9": ["2.jpg"]}
    assert table.is_query.tolist() == [True, False, True]
    assert table.is_gallery.all()
    assert table.unmatched_queries == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,path,Split\n1,0.jpg,train\n2,1.jpg,train\n", "no test rows"),
        ("label,path,split\n1,0.jpg,test\n1,1.jpg,test\n", "the test gallery is of one class, '1'"),
        ("label,path,splits\n1,0.jpg,train\n", "has a column 'splits' but none called 'split'"),
        ("label,path,split\n1,0.jpg,train\n2,1.jpg,train\n", "no test rows: the split of all 2 rows is 'train'"),
        ("label,path,split\n1,0.jpg,train\n1,1.jpg,Validation\n", "split of all 2 rows is 'train' or 'validation'"),
        ("label,path\n1,0.jpg\n2,1.jpg\n", "none of the 2 queries has another gallery image"),
        ("label,path,is_query\n1,0.jpg,0\n1,1.jpg,0\n", "nothing to evaluate"),
    ],
)
def test_mistakes_in_a_csv_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(HoldfastError, match=message):
        held_out("csv", listed(tmp_path, text))


def test_other_sets_are_their_own_test_split() -> None:
    table, expected = held_out("digits", None), load_dataset("digits").test()
    assert np.array_equal(np.asarray(table.images), np.asarray(expected.images))
    assert np.array_equal(table.labels, expected.labels)


# ---- two lists ------------------------------------------------------------------------------------------------------


def two(root: Path, queries: str, gallery: str) -> Table:
    listed(root, queries, "q.csv")
    return query_gallery(root / "q.csv", str(listed(root / "kept", gallery, "g.csv")))


def test_a_file_in_both_lists_is_one_row(tmp_path: Path) -> None:
    queries = "path,label,note\n0.jpg,cat,x\nkept/1.jpg,dog,\n2.jpg,owl,\n"
    gallery = "label,path\ncat,0.jpg\ndog,1.jpg\ndog,../kept/2.jpg\ncat,../3.jpg\n"
    table = two(tmp_path, queries, gallery)
    assert shown(table) == {"cat": ["0.jpg", "0.jpg", "3.jpg"], "dog": ["1.jpg", "2.jpg"], "owl": ["2.jpg"]}
    assert [Path(table.name_of(i)).resolve().relative_to(tmp_path).as_posix() for i in range(6)] == [
        *("0.jpg", "kept/1.jpg", "2.jpg"),
        *("kept/0.jpg", "kept/2.jpg", "3.jpg"),
    ]
    assert table.is_query.tolist() == [True, True, True, False, False, False]
    assert table.is_gallery.tolist() == [False, True, False, True, True, True]
    assert table.matched_queries().tolist() == [True, True, False, False, False, False]
    assert len(table.test()) == 6


def test_links_to_one_file_are_one_row(tmp_path: Path) -> None:
    touch(tmp_path / "0.jpg")
    (tmp_path / "link.jpg").symlink_to("0.jpg")
    table = two(tmp_path, "path,label\nlink.jpg,1\n", "path,label\n../0.jpg,1\n1.jpg,1\n2.jpg,2\n")
    assert table.is_query.tolist() == [True, False, False]
    assert table.is_gallery.all()


def test_labels_are_numbers_only_where_all_are(tmp_path: Path) -> None:
    assert two(tmp_path, "path,label\n0.jpg,10\n", "path,label\n0.jpg,9\n1.jpg,10\n").classes == ("9", "10")
    assert two(tmp_path, "path,label\n0.jpg,10\n", "path,label\n0.jpg,a\n1.jpg,10\n").classes == ("10", "a")


def test_one_list_may_be_both(tmp_path: Path) -> None:
    path = listed(tmp_path, "path,label\n0.jpg,1\n1.jpg,1\n2.jpg,2\n")
    table = query_gallery(path, path)
    assert len(table) == 3
    assert (table.is_query & table.is_gallery).all()


GOOD = "path,label\n0.jpg,cat\n1.jpg,cat\n"


@pytest.mark.parametrize(
    ("queries", "gallery", "message"),
    [
        (GOOD, "path,labels\n0.jpg,cat\n", r"g\.csv has no column 'label'.*; did you mean 'labels'"),
        (GOOD, GOOD + "./0.jpg,cat\n", r"g\.csv, lines 2 and 4: .*0\.jpg is listed twice$"),
        (GOOD + "1.jpg,dog\n", GOOD, r"q\.csv, lines 3 and 4: .*1\.jpg is listed twice, as 'cat' and as 'dog'"),
        (
            "path,label\nkept/1.jpg,dog\n",
            GOOD,
            r"1\.jpg is 'dog' in .*q\.csv, line 2, but 'cat' in .*g\.csv, line 3$",
        ),
        ("path,label\n0.jpg,Cat\n", GOOD, r"no class of the queries in .*q\.csv \('Cat', …\) .*g\.csv \('cat', …\)"),
        ("path,label\nkept/0.jpg,cat\n", "path,label\n0.jpg,cat\n1.jpg,dog\n", "none of the 1 query has another"),
    ],
)
def test_mistakes_in_two_lists_are_named(tmp_path: Path, queries: str, gallery: str, message: str) -> None:
    with pytest.raises(HoldfastError, match=message) as caught:
        two(tmp_path, queries, gallery)
    assert "\n" not in str(caught.value)


def test_lists_that_cannot_be_read(tmp_path: Path) -> None:
    path = listed(tmp_path, GOOD)
    with pytest.raises(HoldfastError, match=r"none\.csv is missing \(expected a CSV with the columns path,label\)"):
        query_gallery(path, tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(HoldfastError, match=r"cannot read .*binary\.csv"):
        query_gallery(tmp_path / "binary.csv", path)
