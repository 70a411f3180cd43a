"""A user's own images: a folder per class, or a CSV."""

import csv
import os
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import numpy.typing as npt

from holdfast.data.decode import is_image, no_file
from holdfast.data.readers.files import check_present, folder, lines, subfolders
from holdfast.data.readers.walk import LeftOut, files, image_files, images_below, walk
from holdfast.data.table import REMEDY, SPLITS, Table, missing_labels
from holdfast.util.errors import HoldfastError, unknown
from holdfast.util.text import counted

Row = tuple[int, dict[str, str]]
Classes = Callable[[Path, LeftOut], dict[str, list[Path]]]

FOLDER = "root/class/*.jpg, or root/train/class/*.jpg and root/test/class/*.jpg"
CSV = "a CSV with the columns label,path,split and, if wanted, is_query,is_gallery"
BOOLEANS = {
    **dict.fromkeys(("true", "t", "yes", "y", "1", "1.0"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0", "0.0"), False),
}
EMPTY = ("", "nan", "none", "null", "na")
COLUMNS = ("label", "path", "split")
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
FOLDERS = ("train", "test")


def class_folders(root: Path) -> Table:
    """A folder per class, in ``train/`` and ``test/`` where both exist.

    Without these, the first half of the sorted class names trains and the second half tests (zero-shot), whatever
    images they hold. Either way both splits need two classes.
    """
    return _split("folder", root, read_classes)


def nested_folders(root: Path) -> Table:
    """As :func:`class_folders`, but every folder with files in it is a class, however deep, named by its path."""
    return _split("nested", root, read_nested)


def _split(name: str, root: Path, read: Classes) -> Table:
    folder(root, FOLDER)
    left_out = LeftOut(root)
    paths: list[Path] = []
    keys: list[str] = []
    splits: list[str] = []

    def take(split: str, classes: Iterable[tuple[str, list[Path]]]) -> None:
        for key, members in classes:
            paths.extend(members)
            keys.extend([key] * len(members))
            splits.extend([split] * len(members))

    if named := all((root / split).is_dir() for split in FOLDERS):
        outside(root, left_out)
        for split in FOLDERS:
            take(split, read(root / split, left_out).items())
    else:
        classes = list(read(root, left_out).items())
        take("train", classes[: len(classes) // 2])
        take("test", classes[len(classes) // 2 :])
    for split in FOLDERS:
        present = {key for key, part in zip(keys, splits, strict=True) if part == split}
        if len(present) < 2:
            advice = "" if named else "; half of the classes train and half test, so at least 4 are needed"
            raise HoldfastError(
                f"{root}: the {split} split has {counted(len(present), 'class')} and needs 2{advice}{left_out.hint()}"
            )
    table = Table.build(name, tuple(paths), keys, splits, left_out=left_out.lines())
    if not named:
        table.check_disjoint()
    return table


def outside(root: Path, left_out: LeftOut) -> None:
    """Count what lies beside ``train/`` and ``test/``."""
    left_out.add("file", "beside train/ and test/", *files(root, left_out))
    others = (one for one in subfolders(root) if one.name not in SPLITS)
    left_out.add("folder", "beside train/ and test/", *others)


def read_classes(root: Path, left_out: LeftOut) -> dict[str, list[Path]]:
    """The images of each class folder in ``root``, sorted by name; a class may have none, but not all of them."""
    classes = {}
    for place in subfolders(root):
        members = classes[place.name] = image_files(place, left_out)
        below = [image for inner in subfolders(place) for image in images_below(inner, left_out)]
        if members:
            left_out.add("image", "in a folder inside a class folder", *below)
        elif below:
            partner = {"train": "test", "test": "train"}.get(place.name)
            advice = f"{root / partner} is missing" if partner else f"give {place} if the classes are in there"
            raise HoldfastError(
                f"{place} holds folders of images, not images; {advice}, or take data set 'nested', where every folder "
                f"of images is a class (expected {FOLDER})"
            )
    return _some(root, classes, left_out)


def read_nested(root: Path, left_out: LeftOut) -> dict[str, list[Path]]:
    """The images of each folder below ``root`` that has files, or no folders, by its path."""
    places = sorted(
        place for place in walk(root) if place != root and (files(place, LeftOut(root)) or not subfolders(place))
    )
    classes = {place.relative_to(root).as_posix(): image_files(place, left_out) for place in places}
    return _some(root, classes, left_out)


def _some(root: Path, classes: dict[str, list[Path]], left_out: LeftOut) -> dict[str, list[Path]]:
    empty = (root / name for name, members in classes.items() if not members)
    left_out.add("class folder", "without an image", *empty)
    stray = files(root, left_out)
    if not any(classes.values()):
        inside = any(image_files(root, LeftOut(root)))
        hint = f"; images lie directly in it: give {root.resolve().parent} if it is one class" if inside else ""
        raise HoldfastError(f"no class folder with images in {root}{hint}{left_out.hint()} (expected {FOLDER})")
    left_out.add("file", "in no class folder", *stray)
    return classes


def csv_file(root: Path) -> Table:
    """A CSV in open-metric-learning's columns: ``label,path,split`` and optionally ``is_query,is_gallery``.

    ``root`` is the file, or a folder that holds one ``.csv``. Paths are relative to the file's folder. Weights
    are chosen on the rows of split ``validation``. A flag column that is missing, or empty in every row of a split, is
    true for all of these.
    """
    path = find_csv(root)
    rows = read_rows(path, COLUMNS, CSV)
    check_splits(path, rows)
    return csv_table(path, rows)


def csv_table(path: Path, rows: list[Row]) -> Table:
    """The table of rows whose label, path and split are known to be good."""
    split = np.asarray([row["split"].lower() for _, row in rows])
    images = tuple(path.parent / row["path"] for _, row in rows)
    check_images(path, images, [row["path"] for _, row in rows])
    check_once(path, rows, [os.path.normpath(image) for image in images])
    return Table.build(
        "csv",
        images,
        class_keys([row["label"] for _, row in rows]),
        split,
        is_query=_flags(path, rows, split, "is_query"),
        is_gallery=_flags(path, rows, split, "is_gallery"),
    )


def read_rows(path: Path, needed: Sequence[str], layout: str) -> list[Row]:
    """At least one row, each with the number of its line; the ``needed`` columns are there, label and path filled.

    Columns are named in small letters.
    """
    filled = [name for name in ("label", "path") if name in needed]
    if path.is_file() and is_image(path):
        raise HoldfastError(f"{path} is an image (expected {layout})")
    reader = csv.DictReader(lines(path, layout), skipinitialspace=True, strict=True)
    found: list[Row] = []
    whole = 0
    try:
        columns = [name.strip().lower() for name in reader.fieldnames or ()]
        reader.fieldnames, whole = columns, reader.line_num
        for row in reader:
            if any(cell.strip() for cell in row.pop(None, ())):
                raise HoldfastError(
                    f"{path}, line {reader.line_num}: there are more cells than the {len(columns)} of the header; put "
                    'a cell with a comma in "…"'
                )
            whole = reader.line_num
            found.append((whole, {name: (row[name] or "").strip() for name in columns}))
    except csv.Error as error:
        if "unexpected end" in str(error):
            raise HoldfastError(
                f'cannot read {path}: a " opened in or below line {whole + 1} is never closed'
            ) from None
        raise HoldfastError(f"cannot read {path}, line {reader.line_num + 1}: {error}") from None
    for name in needed:
        if columns.count(name) != 1:
            near, header = near_column(name, columns), ",".join(columns)
            if name in columns:
                raise HoldfastError(f"{path} has two columns {name!r}; its header is {header!r} (expected {layout})")
            hint = f"; did you mean {near!r}?" if near else ""
            hint = next(
                (f"; it is separated by {sign}, not commas" for c, sign in SEPARATORS.items() if c in header), hint
            )
            raise HoldfastError(f"{path} has no column {name!r}; its header is {header!r}{hint} (expected {layout})")
    for number, row in found:
        if not all(row[name] for name in filled):
            raise HoldfastError(f"{path}, line {number}: {' and '.join(filled)} must be given")
        if "label" in filled and len(missing_labels(np.asarray([row["label"]]))):
            raise HoldfastError(f"{path}, line {number}: the label {row['label']!r} is no class; {REMEDY}")
    if not found:
        raise HoldfastError(f"{path} has no rows (expected {layout})")
    return found


def near_column(name: str, columns: Sequence[str], cutoff: float = 0.6) -> str | None:
    """The column spelled most like ``name``, where one is as alike as ``cutoff`` (1: the same)."""
    return next(iter(get_close_matches(name, columns, n=1, cutoff=cutoff)), None)


def check_splits(path: Path, rows: list[Row]) -> None:
    """Refuse a row whose split is none of ``train``, ``validation`` and ``test``."""
    for number, row in rows:
        if row["split"].lower() not in SPLITS:
            raise unknown(f"split in {path}, line {number}:", row["split"], SPLITS)


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
    """Refuse images that are no files; ``written`` are the paths as they stand in the file ``path``."""
    try:
        check_present(images, f"paths relative to {path.parent}")
    except HoldfastError as error:
        first = next(i for i, image in enumerate(images) if no_file(image))
        above = path.resolve().parent.parent / written[first]
        raise HoldfastError(f"{error}; it lies at {above}" if not no_file(above) else str(error)) from None


def check_once(path: Path, rows: list[Row], files: Iterable[str | Path]) -> None:
    """Refuse two rows of a list ``path`` whose ``files``, one for each row, are the same: a query would find itself."""
    first: dict[str | Path, Row] = {}
    for file, (number, row) in zip(files, rows, strict=True):
        line, twin = first.setdefault(file, (number, row))
        if line != number:
            other = f", as {twin['label']!r} and as {row['label']!r}" if twin["label"] != row["label"] else ""
            raise HoldfastError(f"{path}, lines {line} and {number}: {row['path']} is listed twice{other}")


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
    for name in ("validation", "test"):
        inside = split == name
        if empty[inside].all():
            flags |= inside
        elif len(gap := np.flatnonzero(empty & inside)):
            raise HoldfastError(
                f"{path}, line {rows[gap[0]][0]}: {column} is empty, but other {name} rows have it; "
                f"fill it in every {name} row or in none"
            )
    return flags
