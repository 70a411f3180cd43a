"""Test images for a model that was not trained here: nothing is set aside for training."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from holdfast.data.datasets import load_dataset
from holdfast.data.readers.files import folder, subfolders
from holdfast.data.readers.own import (
    CSV,
    FOLDER,
    Classes,
    check_images,
    check_once,
    check_splits,
    class_keys,
    csv_table,
    find_csv,
    near_column,
    outside,
    read_classes,
    read_nested,
    read_rows,
)
from holdfast.data.readers.walk import LeftOut, image_files
from holdfast.data.table import Table
from holdfast.util.errors import HoldfastError
from holdfast.util.text import counted

PHOTOS = "224"
"""The family of the user's own images, as of the data sets ``folder`` and ``csv``."""

LIST = "a CSV with the columns path,label"


def held_out(name: str, root: Path | str | None) -> Table:
    """The test images of data set ``name`` under ``root``; the training images need not be there.

    ``folder`` and ``nested``: the classes in ``root/test``, or all images of all classes where there is no ``test/``
    with class folders. ``csv``: the rows whose split is ``test``, or all rows where there is no
    split column.
    Any other set: its test split.
    """
    reader = READERS.get(name)
    if reader is None or root is None:
        return load_dataset(name, root).test()
    return replace(reader(Path(root).expanduser()), family=PHOTOS).test()


def _folders(name: str, root: Path, read: Classes) -> Table:
    folder(root, FOLDER)
    inside, left_out = root / "test", LeftOut(root)
    images = (image for place in subfolders(inside) for image in image_files(place, LeftOut(root)))
    split = inside.is_dir() and ((root / "train").is_dir() or any(images))
    if split:
        outside(root, left_out)
    classes = read(inside if split else root, left_out)
    paths = tuple(path for members in classes.values() for path in members)
    keys = [name for name, members in classes.items() for _ in members]
    return Table.build(name, paths, keys, ["test"] * len(paths), left_out=left_out.lines())


def _csv(root: Path) -> Table:
    path = find_csv(root)
    rows = read_rows(path, ("label", "path"), CSV)
    columns = list(rows[0][1])
    if "split" not in columns:
        if near := near_column("split", columns, 0.8):
            raise HoldfastError(f"{path} has a column {near!r} but none called 'split'; rename it, or leave it out")
        return csv_table(path, [(number, {**row, "split": "test"}) for number, row in rows])
    check_splits(path, rows)
    test = [(number, row) for number, row in rows if row["split"].lower() == "test"]
    if not test:
        found = " or ".join(sorted({repr(row["split"].lower()) for _, row in rows}))
        raise HoldfastError(f"{path} has no test rows: the split of all {counted(len(rows), 'row')} is {found}")
    return csv_table(path, test)


READERS: dict[str, Callable[[Path], Table]] = {
    "folder": lambda root: _folders("folder", root, read_classes),
    "nested": lambda root: _folders("nested", root, read_nested),
    "csv": _csv,
}


@dataclass(frozen=True)
class Entry:
    """A row of a list: its line, the image as the list has it, and the label."""

    line: int
    image: Path
    label: str


def query_gallery(queries: Path | str, gallery: Path | str) -> Table:
    """The images of two CSVs with the columns ``path,label``, paths relative to each file's folder.

    One table row per image file, links followed: a file in both lists is query and gallery, so that a query is never
    its own answer. Queries come first, each list in its own order.
    """
    first, second = Path(queries).expanduser(), Path(gallery).expanduser()
    asked, kept = _entries(first), _entries(second)
    for file in asked:
        if file in kept and asked[file].label != kept[file].label:
            raise HoldfastError(
                f"{asked[file].image} is {asked[file].label!r} in {first}, line {asked[file].line}, "
                f"but {kept[file].label!r} in {second}, line {kept[file].line}"
            )
    if {entry.label for entry in asked.values()}.isdisjoint(entry.label for entry in kept.values()):
        one, other = (next(iter(entries.values())).label for entries in (asked, kept))
        raise HoldfastError(
            f"no class of the queries in {first} ({one!r}, …) is in the gallery {second} ({other!r}, …); "
            "labels must be written alike in both"
        )
    entries = {**asked, **kept}
    table = Table.build(
        "query-gallery",
        tuple(entry.image for entry in entries.values()),
        class_keys([entry.label for entry in entries.values()]),
        ["test"] * len(entries),
        is_query=np.asarray([file in asked for file in entries]),
        is_gallery=np.asarray([file in kept for file in entries]),
    )
    return replace(table, family=PHOTOS).test()


def _entries(path: Path) -> dict[Path, Entry]:
    rows = read_rows(path, ("path", "label"), LIST)
    images = tuple(path.parent / row["path"] for _, row in rows)
    check_images(path, images, [row["path"] for _, row in rows])
    files = [image.resolve() for image in images]
    check_once(path, rows, files)
    return {
        file: Entry(number, image, row["label"]) for file, image, (number, row) in zip(files, images, rows, strict=True)
    }
