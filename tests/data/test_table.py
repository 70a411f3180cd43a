"""The table contract: what is accepted, what is refused and in which words."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from holdfast.data import Table
from holdfast.util.errors import HoldfastError


def columns(**changes: Any) -> dict[str, Any]:
    """Eight images of four classes, two of them in training."""
    test = np.arange(8) >= 4
    return {
        "name": "toy",
        "images": np.zeros((8, 5, 5), np.uint8),
        "labels": np.array([0, 0, 1, 1, 2, 2, 3, 3], np.int64),
        "split": np.where(test, "test", "train"),
        "is_query": test,
        "is_gallery": test,
        "classes": ("a", "b", "c", "d"),
        **changes,
    }


def test_a_sound_table_knows_its_parts() -> None:
    table = Table(**columns())
    assert len(table) == 8
    assert table.train().labels.tolist() == [0, 0, 1, 1]
    assert table.test().labels.tolist() == [2, 2, 3, 3]
    assert table.unmatched_queries == 0
    table.check_disjoint()
    assert table.describe() == "toy: train 4 images of 2 classes, test 4 images of 2 classes"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.zeros(7, np.int64)}, r"labels has shape \(7,\), for 8 images"),
        ({"labels": np.zeros(8, np.int32)}, "int64, not int32"),
        ({"labels": np.zeros(8)}, "labels must be an array of integers, not float64"),
        ({"labels": [0] * 8}, "labels must be an array of integers, not list"),
        ({"labels": np.array([0, 0, 1, 1, 2, 2, 3, 4])}, "run from 0 to 4, but 4 classes allow 0 to 3"),
        ({"labels": np.array([0, 0, 1, 1, 2, 2, 3, -1])}, "run from -1"),
        ({"classes": ("a", "b", "c", "c")}, "same name"),
        ({"split": np.array(["train"] * 4 + ["tset"] * 4)}, "'tset'; did you mean 'test'"),
        ({"is_query": np.zeros(8, np.int64)}, "is_query must be an array of booleans"),
        ({"is_query": np.arange(8) >= 3}, r"1 training image has is_query set, the first is toy train\[3\]"),
        ({"is_gallery": np.ones(8, bool)}, "4 training images have is_gallery set"),
        ({"is_gallery": np.zeros(8, bool)}, "none of the 4 queries has another gallery image"),
        ({"images": np.zeros((0, 5, 5), np.uint8)}, "there are no images"),
        ({"images": ()}, "there are no images"),
        ({"images": np.zeros((8, 5, 5))}, "images must be uint8"),
        ({"images": np.zeros((8, 5, 5, 4), np.uint8)}, "images must be uint8 of shape"),
        ({"images": ("a.jpg",) * 8}, "a tuple of paths"),
    ],
)
def test_what_breaks_the_contract_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(HoldfastError, match=message):
        Table(**columns(**changes))


def test_queries_without_an_answer_are_counted_and_refused_only_when_none_has_one() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2, 2, 3], np.int64)
    table = Table(**columns(labels=labels))
    assert table.unmatched_queries == 1
    assert "1 query has no other gallery image" in table.describe()
    with pytest.raises(HoldfastError, match="none of the 4 queries"):
        Table(**columns(labels=np.array([0, 0, 0, 0, 0, 1, 2, 3], np.int64)))


def test_a_query_outside_the_gallery_needs_only_one_gallery_image_of_its_class() -> None:
    query = np.array([0, 0, 0, 0, 1, 0, 1, 1], bool)
    gallery = np.array([0, 0, 0, 0, 0, 1, 0, 1], bool)
    table = Table(**columns(is_query=query, is_gallery=gallery))
    assert table.matched_queries().tolist() == [False] * 4 + [True, False, True, False]
    assert "(3 queries, 2 gallery)" in table.describe()


def test_zero_shot_sets_must_not_share_classes() -> None:
    table = Table(**columns(labels=np.array([0, 0, 1, 1, 1, 1, 3, 3], np.int64)))
    with pytest.raises(HoldfastError, match=r"1 class is in the training and in the test split \('b'\)"):
        table.check_disjoint()


def test_parts_keep_the_names_the_user_knows() -> None:
    table = Table(**columns())
    part = table.select(np.isin(np.arange(8), (1, 3, 6, 7)))
    assert [part.name_of(i) for i in range(4)] == ["toy train[1]", "toy train[3]", "toy test[2]", "toy test[3]"]
    assert part.classes == table.classes
    paths = Table(**columns(images=tuple(Path(f"{i}.jpg") for i in range(8))))
    assert paths.select(np.arange(8) >= 6).name_of(1) == "7.jpg"
    with pytest.raises(HoldfastError, match=r"a mask must be \(8,\) bool"):
        table.select(np.ones(7, bool))


def test_the_test_part_leaves_out_what_is_neither_query_nor_gallery() -> None:
    flags = np.array([0, 0, 0, 0, 1, 1, 0, 1], bool)
    assert len(Table(**columns(is_query=flags, is_gallery=flags)).test()) == 3


def test_a_missing_part_is_an_error_only_when_asked_for() -> None:
    none = np.zeros(8, bool)
    train_only = Table(**columns(split=np.array(["train"] * 8), is_query=none, is_gallery=none))
    assert len(train_only.train()) == 8
    with pytest.raises(HoldfastError, match="nothing to evaluate"):
        train_only.test()
    with pytest.raises(HoldfastError, match="no training images"):
        Table(**columns()).test().train()


def test_build_numbers_the_classes_in_sorted_order() -> None:
    table = Table.build("toy", np.zeros((4, 2, 2), np.uint8), [10, 9, 9, 9], ["train"] * 2 + ["test"] * 2)
    assert table.classes == ("9", "10")
    assert table.labels.tolist() == [1, 0, 0, 0]


# ---- labels and arrays of other kinds -------------------------------------------------------------------------------

MISSING: dict[str, Any] = {
    "numpy NaN": np.array([0, 1, np.nan, 1]),
    "NaN among numbers": [0, 1, float("nan"), 1],
    "NaN among texts": ["a", "b", float("nan"), "b"],
    "NaN of an object": np.array(["a", "b", np.nan, "b"], object),
    "None": [0, 1, None, 1],
    "None among texts": ["a", "b", None, "b"],
    "nan": ["a", "b", "nan", "b"],
    "NaN": ["a", "b", " NaN ", "b"],
    "empty": ["a", "b", "", "b"],
    "blank": ["a", "b", " ", "b"],
    "pandas": ["a", "b", "<NA>", "b"],
}


@pytest.mark.parametrize("kind", MISSING)
@pytest.mark.parametrize("split", ["train", "test"])
def test_labels_that_name_no_class_are_refused_by_row(kind: str, split: str) -> None:
    with pytest.raises(HoldfastError, match="toy: 1 of 4 labels name no class, the first at row 2, counted from 0: "):
        Table.build("toy", np.zeros((4, 2, 2), np.uint8), MISSING[kind], [split] * 4)


@pytest.mark.parametrize("keys", [["a", 1, (2,), "b"], [[0], [1, 2], [0], [1]], np.array([0, "a", 1, "b"], object)])
def test_labels_that_cannot_be_sorted_are_refused(keys: Any) -> None:
    with pytest.raises(HoldfastError, match=r"^toy: "):
        Table.build("toy", np.zeros((4, 2, 2), np.uint8), keys, ["test"] * 4)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW", "N1HW", "NHW1", "NHW"])
@pytest.mark.parametrize("numbers", ["uint8", "int64", "float32", "float64", "0 to 255", "bool", "tensor"])
def test_the_advice_for_arrays_works(layout: str, numbers: str) -> None:
    wanted = np.random.default_rng(0).integers(0, 2, (4, 5, 5, 3) if "C" in layout else (4, 5, 5), np.uint8) * 255
    images: Any = wanted.transpose(0, 3, 1, 2) if layout == "NCHW" else wanted
    images = images[:, None] if layout == "N1HW" else images[..., None] if layout == "NHW1" else images
    if numbers == "0 to 255":
        images = images.astype(np.float32)
    elif numbers != "uint8":
        images = images if numbers == "int64" else images / 255
        images = images.astype("float32" if numbers == "tensor" else numbers)
    given = torch.from_numpy(images.copy()) if numbers == "tensor" else images
    try:
        table = Table.build("toy", np.asarray(given), [0, 0, 1, 1], ["test"] * 4)
    except HoldfastError as error:
        code = str(error).partition("; ")[2].removesuffix(" makes them so")
        table = Table.build("toy", eval(code, {"np": np, "images": given}), [0, 0, 1, 1], ["test"] * 4)
    assert np.array_equal(np.asarray(table.images), wanted)


@pytest.mark.parametrize(
    "images", [np.full((4, 5, 5), 300), np.full((4, 5, 5), np.nan), np.zeros((4, 5, 5, 4), np.uint8)]
)
def test_no_advice_is_given_that_would_not_work(images: Any) -> None:
    with pytest.raises(HoldfastError, match=r"images must be uint8 .* of shape \(4, 5, 5(, 4)?\)$"):
        Table.build("toy", images, [0, 0, 1, 1], ["test"] * 4)


def test_a_gallery_of_one_class_is_refused() -> None:
    with pytest.raises(HoldfastError, match="toy: the test gallery is of one class, '7': no answer is wrong"):
        Table.build("toy", np.zeros((4, 2, 2), np.uint8), [7] * 4, ["test"] * 4).test()
    splits = ["validation"] * 2 + ["test"] * 4
    with pytest.raises(HoldfastError, match="toy: the validation gallery is of one class, '7'"):
        Table.build("toy", np.zeros((6, 2, 2), np.uint8), [7] * 4 + [8] * 2, splits).validation()
