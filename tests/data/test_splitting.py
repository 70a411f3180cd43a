"""The validation split: from the training part, by class or by image, and by nothing but names and the seed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from holdfast.data import Table, load_dataset, with_validation


def photos(classes: int, each: int, root: str = "photos") -> Table:
    """A zero-shot table of files that need not exist: half of the classes train."""
    names = [f"{name:03}" for name in range(2 * classes) for _ in range(each)]
    images = tuple(Path(root) / name / f"{i % each}.jpg" for i, name in enumerate(names))
    return Table.build("photos", images, names, ["train" if int(name) < classes else "test" for name in names])


def drawn(table: Table, share: float = 0.1, seed: int = 0) -> set[str]:
    """The validation images, as class and file."""
    split = with_validation(table, share, seed)
    return {
        f"{split.classes[split.labels[i]]}/{Path(split.name_of(i)).name}"
        for i in range(len(split))
        if split.split[i] == "validation"
    }


def test_a_zero_shot_set_gives_whole_classes_and_keeps_its_test_split() -> None:
    table = photos(100, 4)
    split = with_validation(table, 0.1, 0)
    parts = {name: set(split.labels[split.split == name].tolist()) for name in ("train", "validation", "test")}
    assert 5 <= len(parts["validation"]) <= 18
    assert not parts["train"] & parts["validation"]
    assert len(parts["train"] | parts["validation"]) == 100
    assert parts["test"] == set(range(100, 200))
    validation = split.validation()
    assert validation is not None
    assert validation.is_query.all()
    assert validation.is_gallery.all()
    assert split.test().labels.tolist() == table.test().labels.tolist()


def test_a_set_with_the_same_classes_in_both_parts_gives_images_of_each() -> None:
    split = with_validation(load_dataset("digits"), 0.1, 0)
    validation = split.validation()
    assert validation is not None
    assert 70 < len(validation) < 130
    assert len(np.unique(validation.labels)) == len(np.unique(split.train().labels)) == 10
    assert len(validation) + len(split.train()) == 1000


@pytest.mark.parametrize(("classes", "each"), [(100, 4), (6, 60)])
def test_a_draw_hangs_on_seed_and_names_alone(classes: int, each: int) -> None:
    """Not on where the data lie, nor on which other classes and images there are."""
    whole = photos(classes, each)
    assert drawn(whole) == drawn(photos(classes, each, "/elsewhere/now")) != drawn(whole, seed=1)
    lost = whole.labels == whole.labels[0]
    lost[each + 1] = True
    gone = {f"000/{i}.jpg" for i in range(each)} | {"001/1.jpg"}
    assert drawn(whole.select(~lost)) == drawn(whole) - gone


@pytest.mark.parametrize("classes", [20, 21, 22])
def test_few_classes_give_at_least_two(classes: int) -> None:
    for seed in range(20):
        assert len({name.partition("/")[0] for name in drawn(photos(classes, 2), seed=seed)}) >= 2


def test_where_nothing_could_be_found_all_images_train() -> None:
    assert not drawn(photos(2, 3))
    assert not drawn(photos(100, 4), share=0)


def test_a_split_of_the_data_sets_own_is_kept() -> None:
    table = photos(100, 4)
    own = table.labels == 7
    given = replace(
        table,
        split=np.where(own, "validation", table.split),
        is_query=table.is_query | own,
        is_gallery=table.is_gallery | own,
    )
    assert drawn(given, 0.5) == {f"007/{i}.jpg" for i in range(4)}
