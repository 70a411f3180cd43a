"""A user's own images: a folder per class, or a CSV."""

import csv
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import numpy.typing as npt

from holdfast.data.readers.files import check_present, exists, folder, lines, subfolders
from holdfast.data.table import SPLITS, Table
from holdfast.util.errors import HoldfastError, unknown

Row = tuple[int, dict[str, str]]

FOLDER = "root/class/*.jpg, or root/train/class/*.jpg and root/test/class/*.jpg"
CSV = "a CSV with the columns label,path,split and, if wanted, is_query,is_gallery"
SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"))
BOOLEANS = {
    **dict.fromkeys(("true", "t", "yes", "y", "1", "1.0"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0", "0.0"), False),
}
EMPTY = ("", "nan", "none", "null", "na")
COLUMNS = ("label", "path", "split")
CSV_SPLITS = {"train": "train", "validation": "test", "test": "test"}


def class_folders(root: Path) -> Table:
    """A folder per class, in ``train/`` and ``test/`` where both exist.

    Without these, the first half of the sorted class names trains and the second half tests (zero-shot). Either way
    both splits need two classes.
    """
    folder(root, FOLDER)
    named = all((root / split).is_dir() for split in SPLITS)
    paths: list[Path] = []
    keys: list[str] = []
    splits: list[str] = []
    if named:
        for split in SPLITS:
            for name, members in read_classes(root / split).items():
                paths += members
                keys += [name] * len(members)
                splits += [split] * len(members)
    else:
        classes = read_classes(root)
        for rank, (name, members) in enumerate(classes.items()):
            paths += members
            keys += [name] * len(members)
            splits += ["train" if rank < len(classes) // 2 else "test"] * len(members)
    for split in SPLITS:
        present = {key for key, part in zip(keys, splits, strict=True) if part == split}
        if len(present) < 2:
            advice = "" if named else "; half of the classes train and half test, so at least 4 are needed"
            raise HoldfastError(f"{root}: the {split} split has {len(present)} classes and needs 2{advice}")
    table = Table.build("folder", tuple(paths), keys, splits)
    if not named:
        table.check_disjoint()
    return table


def read_classes(root: Path) -> dict[str, list[Path]]:
    """The images of each class folder in ``root``, at least one class, sorted by name."""
    classes = {}
    for place in subfolders(root):
        members = image_files(place)
        if members:
            classes[place.name] = members
        elif any(image_files(below) for below in subfolders(place)):
            partner = {"train": "test", "test": "train"}.get(place.name)
            advice = f"{root / partner} is missing" if partner else f"give {place} if the classes are in there"
            raise HoldfastError(f"{place} holds folders of images, not images; {advice} (expected {FOLDER})")
    if not classes:
        hint = (
            f"; images lie directly in it: give {root.resolve().parent} if it is one class" if image_files(root) else ""
        )
        raise HoldfastError(f"no class folder with images in {root}{hint} (expected {FOLDER})")
    return classes


def image_files(place: Path) -> list[Path]:
    """The images directly in a folder, sorted by name; hidden ones are left out."""
    hidden_or_other = (p for p in place.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    return sorted(path for path in hidden_or_other if path.is_file())


def csv_file(root: Path) -> Table:
    """A CSV in open-metric-learning's columns: ``label,path,split`` and optionally ``is_query,is_gallery``.

    ``root`` is the file, or a folder that holds one ``.csv``. Paths are relative to the file's folder. ``validation``
    is another name of the test split. A flag column that is missing, or empty in every test row, is true for all.
    """
    path = find_csv(root)
    rows = read_rows(path, COLUMNS, CSV)
    check_splits(path, rows)
    return csv_table(path, rows)


def csv_table(path: Path, rows: list[Row]) -> Table:
    """The table of rows whose label, path and split are known to be good."""
    split = np.asarray([CSV_SPLITS[row["split"].lower()] for _, row in rows])
    images = tuple(path.parent / row["path"] for _, row in rows)
    check_images(path, images, [row["path"] for _, row in rows])
    return Table.build(
        "csv",
        images,
        class_keys([row["label"] for _, row in rows]),
        split,
        is_query=_flags(path, rows, split, "is_query"),
        is_gallery=_flags(path, rows, split, "is_gallery"),
    )


def read_rows(path: Path, needed: Sequence[str], layout: str) -> list[Row]:
    """At least one row, each with the number of its line; the ``needed`` columns are there, label and path filled."""
    filled = [name for name in ("label", "path") if name in needed]
    reader = csv.DictReader(lines(path, layout), skipinitialspace=True)
    try:
        columns = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        found = [(reader.line_num, {name: (row[name] or "").strip() for name in columns}) for row in reader]
    except csv.Error as error:
        raise HoldfastError(f"cannot read {path}, line {reader.line_num}: {error}") from None
    for name in needed:
        if name not in columns:
            near = near_column(name, columns)
            hint = f"; did you mean {near!r}?" if near else ""
            header = ",".join(columns)
            raise HoldfastError(f"{path} has no column {name!r}; its header is {header!r}{hint} (expected {layout})")
    for number, row in found:
        if not all(row[name] for name in filled):
            raise HoldfastError(f"{path}, line {number}: {' and '.join(filled)} must be given")
    if not found:
        raise HoldfastError(f"{path} has no rows (expected {layout})")
    return found


def near_column(name: str, columns: Sequence[str], cutoff: float = 0.6) -> str | None:
    """The column spelled most like ``name``, letter case aside, where one is as alike as ``cutoff`` (1: the same)."""
    lower = {column.lower(): column for column in columns}
    near = get_close_matches(name, lower, n=1, cutoff=cutoff)
    return lower[near[0]] if near else None


def check_splits(path: Path, rows: list[Row]) -> None:
    """Refuse a row whose split is none of ``train``, ``validation`` and ``test``."""
    for number, row in rows:
        if row["split"].lower() not in CSV_SPLITS:
            raise unknown(f"split in {path}, line {number}:", row["split"], CSV_SPLITS)


def find_csv(root: Path) -> Path:
    """The file ``root``, or the one ``.csv`` in the folder ``root``."""
    if root.is_file():
        return root
    found = sorted(folder(root, CSV).glob("*.csv"))
    if len(found) == 1:
        return found[0]
    if found:
        raise HoldfastError(f"{root} holds {len(found)} CSV files ({found[0].name}, …): give the one to read")
    below = sorted(root.glob("*/*.csv"))
    hint = f"; {below[0]} is one folder down" if below else ""
    raise HoldfastError(f"no .csv file in {root}{hint} (expected {CSV})")


def check_images(path: Path, images: tuple[Path, ...], written: list[str]) -> None:
    """Refuse images that do not exist; ``written`` are the paths as they stand in the file ``path``."""
    try:
        check_present(images, f"paths relative to {path.parent}")
    except HoldfastError as error:
        first = next(i for i, image in enumerate(images) if not exists(image))
        above = path.resolve().parent.parent / written[first]
        raise HoldfastError(f"{error}; it lies at {above}" if exists(above) else str(error)) from None


def class_keys(labels: list[str]) -> list[int] | list[str]:
    """The labels as integers where all of them are, so that they sort as numbers."""
    numbers = [int(label) for label in labels if label.isdecimal() and str(int(label)) == label]
    return numbers if len(numbers) == len(labels) else labels


def _flags(path: Path, rows: list[Row], split: npt.NDArray[np.str_], column: str) -> npt.NDArray[np.bool_]:
    flags = np.zeros(len(rows), np.bool_)
    empty = np.zeros(len(rows), np.bool_)
    for i, (number, row) in enumerate(rows):
        text = row.get(column, "").lower()
        if text in EMPTY:
            empty[i] = True
        elif text in BOOLEANS:
            flags[i] = BOOLEANS[text]
        else:
            raise HoldfastError(f"{path}, line {number}: {column} is {row[column]!r}, not true or false")
    test = split == "test"
    if empty[test].all():
        return np.asarray(flags | test)
    gap = np.flatnonzero(empty & test)
    if len(gap):
        raise HoldfastError(
            f"{path}, line {rows[gap[0]][0]}: {column} is empty, but other test rows have it; "
            "fill it in every test row or in none"
        )
    return flags
