"""Images without classes, to be embedded or learnt from: all below a folder, those of a CSV, or one file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from holdfast.data.decode import SUFFIXES, is_image, no_file
from holdfast.data.readers.files import folder
from holdfast.data.readers.own import check_images, read_rows
from holdfast.data.readers.walk import LeftOut, images_below
from holdfast.data.table import Table
from holdfast.util.errors import HoldfastError, nearest, printable

LAYOUT = "a folder of images, a CSV with the column path and, if wanted, label, or an image"


def listed(source: Path | str) -> tuple[Table, Path]:
    """The images of ``source`` in order, all of them gallery, and the folder that their paths are relative to.

    A folder: every image below it, sorted, hidden ones left out; an image in a sub-folder has its folder's name as
    class. A file ``.csv``: the column ``path``, relative to the file's folder, and ``label`` if there is one. Any other
    file is an image itself, and so is an image called ``.csv``. What has no class is of class ``""``.

    Raises HoldfastError where there is no such folder or no image, or an image of a CSV is missing.
    """
    source = Path(source).expanduser()
    left_out = LeftOut(source)
    if _is_list(source):
        root, rows = source.parent, _rows(source)
        images, labels = [root / row["path"] for row in rows], [row.get("label", "") for row in rows]
        check_images(source, tuple(images), [row["path"] for row in rows])
    elif source.is_file():
        root, images, labels = source.parent, [source], [""]
    else:
        root, images = source, _below(source, left_out)
        labels = ["" if image.parent == root else image.parent.name for image in images]
    return gallery_only(str(source), images, labels, left_out.lines()), root


def unlabelled(root: Path) -> Table:
    """Every image below a folder, sorted, hidden ones left out; all of them train, and none has a class."""
    left_out = LeftOut(root)
    images = _below(root, left_out)
    count = len(images)
    return Table.build(
        "images", tuple(images), [0] * count, ["train"] * count, title=lambda _: "", left_out=left_out.lines()
    )


def asked(sources: Sequence[str | Path]) -> tuple[Table, dict[str, str]]:
    """The images of files, folders and CSVs, to search with; and why the other sources hold none, by their names.

    An image need not be there: reading it will tell. Raises HoldfastError where there is nothing to search with.
    """
    images: list[Path] = []
    reasons: dict[str, str] = {}
    for source in (Path(one).expanduser() for one in sources):
        try:
            if _is_list(source):
                images += [source.parent / row["path"] for row in _rows(source)]
            elif source.is_dir():
                images += _below(source, LeftOut(source))
            elif reason := no_file(source):
                reasons[str(source)] = f"{reason}{nearest(source)}"
            else:
                images.append(source)
        except HoldfastError as error:
            reasons[str(source)] = str(error)
    if not images:
        raise HoldfastError("; ".join(f"{printable(name)}: {reason}" for name, reason in reasons.items()))
    return gallery_only("queries", images, [""] * len(images)), reasons


def gallery_only(name: str, images: Sequence[Path], labels: Sequence[str], left_out: Sequence[str] = ()) -> Table:
    """A table of images that nothing is asked of; their classes may be empty."""
    nobody = np.zeros(len(images), np.bool_)
    return Table.build(name, tuple(images), labels, ["test"] * len(images), is_query=nobody, left_out=left_out)


def _is_list(source: Path) -> bool:
    return source.suffix.lower() == ".csv" and not source.is_dir() and not is_image(source)


def _rows(source: Path) -> list[dict[str, str]]:
    return [row for _, row in read_rows(source, ("path",), LAYOUT)]


def _below(root: Path, left_out: LeftOut) -> list[Path]:
    if images := images_below(folder(root, LAYOUT), left_out):
        return images
    raise HoldfastError(f"no images in {root} or below it (looked for {', '.join(sorted(SUFFIXES))}){left_out.hint()}")
