"""Data sets by name."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from holdfast.data.readers.arrays import digits, fashion_mnist, mnist
from holdfast.data.readers.benchmarks import cars, cub, sop
from holdfast.data.readers.listing import unlabelled
from holdfast.data.readers.own import class_folders, csv_file, nested_folders
from holdfast.data.table import Table
from holdfast.util.errors import HoldfastError, pick


@dataclass(frozen=True)
class Dataset:
    """How to read a data set, and what its default settings follow from.

    read: from the root folder to the table.
    family: ``"28"`` or ``"224"``, the settings of the paper that apply.
    channels: 1 (grey) or 3 (colour).
    bundled: it needs no root. labelled: its images have classes.
    """

    read: Callable[[Path], Table]
    family: str
    channels: int
    summary: str
    bundled: bool = False
    labelled: bool = True


DATASETS: dict[str, Dataset] = {
    "mnist": Dataset(mnist, "28", 1, "MNIST: 60,000 + 10,000 digits, 28x28"),
    "fashion-mnist": Dataset(fashion_mnist, "28", 1, "Fashion-MNIST: 60,000 + 10,000 clothes, 28x28"),
    "cub": Dataset(cub, "224", 3, "CUB-200-2011: birds, zero-shot 100/100 classes"),
    "cars": Dataset(cars, "224", 3, "CARS-196: cars, zero-shot 98/98 classes"),
    "sop": Dataset(sop, "224", 3, "Stanford Online Products: zero-shot 11,318/11,316 products"),
    "folder": Dataset(class_folders, "224", 3, "your images: a folder per class, or train/ and test/ of these"),
    "nested": Dataset(nested_folders, "224", 3, "your images: every folder of images is a class, named by its path"),
    "csv": Dataset(csv_file, "224", 3, "your images: a CSV label,path,split[,is_query,is_gallery]"),
    "images": Dataset(
        unlabelled,
        "224",
        3,
        "your images, without classes: all below a folder, to train by fare or lore",
        labelled=False,
    ),
    "digits": Dataset(lambda _: digits(), "28", 1, "scikit-learn's digits: 1,000 + 797, 8x8, bundled", bundled=True),
}
"""What ``holdfast datasets`` lists, by the name of ``--data``."""


def check_root(name: str, root: Path | str | None) -> None:
    """Refuse a folder for a data set that is bundled."""
    if root is not None and pick("data set", name, DATASETS).bundled:
        raise HoldfastError(f"data set {name!r} is bundled: leave out --root {root}")


def load_dataset(name: str, root: Path | str | None = None) -> Table:
    """The table of data set ``name`` under ``root`` (not used by a bundled set)."""
    dataset = pick("data set", name, DATASETS)
    if root is None and not dataset.bundled:
        raise HoldfastError(f"data set {name!r} needs the folder its files lie in (--root)")
    return replace(dataset.read(Path(root or ".").expanduser()), family=dataset.family)
