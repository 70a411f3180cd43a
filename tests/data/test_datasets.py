"""Data sets by name: their families, and a name or a root that is none."""

from pathlib import Path

import pytest

from holdfast.data import DATASETS, load_dataset
from holdfast.util.errors import HoldfastError
from tests.helpers.trees import touch


def test_the_data_sets_and_their_families() -> None:
    assert {name: (one.family, one.channels) for name, one in DATASETS.items()} == {
        **dict.fromkeys(("mnist", "fashion-mnist", "digits"), ("28", 1)),
        **dict.fromkeys(("cub", "cars", "sop", "folder", "nested", "csv", "images"), ("224", 3)),
    }


def test_an_unknown_name_a_missing_root_and_a_wrong_root(tmp_path: Path) -> None:
    with pytest.raises(HoldfastError, match="unknown data set 'cup'; did you mean 'cub'"):
        load_dataset("cup", tmp_path)
    with pytest.raises(HoldfastError, match="'cub' needs the folder its files lie in"):
        load_dataset("cub", None)
    (tmp_path / "birds").mkdir()
    touch(tmp_path / "cub.tgz")
    with pytest.raises(HoldfastError, match=r"birdz does not exist; did you mean .*birds"):
        load_dataset("cub", tmp_path / "birdz")
    with pytest.raises(HoldfastError, match="is a file, not a folder"):
        load_dataset("cub", tmp_path / "cub.tgz")
