"""Images that are only to be embedded: all below a folder, those of a CSV, or one file."""

from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from holdfast.data.readers.files import folder, subfolders
from holdfast.data.readers.own import SUFFIXES, check_images, image_files, read_rows
from holdfast.data.table import Table
from holdfast.util.errors import HoldfastError

LAYOUT = "a folder of images, a CSV with the column path and, if wanted, label, or an image"


def listed(source: Path | str) -> tuple[Table, Path]:
    """The images of ``source`` in order, all of them gallery, and the folder that their paths are relative to.

    A folder: every image below it, sorted, hidden ones left out; an image in a sub-folder has its folder's name as
    class. A file ``.csv``: the column ``path``, relative to the file's folder, and ``label`` if there is one. Any other
    file is an image itself. What has no class is of class ``""``.

    Raises HoldfastError where there is no such folder or no image, or an image of a CSV is missing.
    """
    source = Path(source).expanduser()
    if not source.is_file():
        root, images = source, images_below(folder(source, LAYOUT))
        labels = ["" if image.parent == root else image.parent.name for image in images]
        if not images:
            raise HoldfastError(f"no images in {root} or below it (looked for {', '.join(sorted(SUFFIXES))})")
    elif source.suffix.lower() == ".csv":
        root, rows = source.parent, [row for _, row in read_rows(source, ("path",), LAYOUT)]
        images = [root / row["path"] for row in rows]
        check_images(source, tuple(images), [row["path"] for row in rows])
        labels = [row.get("label", "") for row in rows]
    else:
        root, images, labels = source.parent, [source], [""]
    return gallery_only(str(source), images, labels), root


def gallery_only(name: str, images: Sequence[Path], labels: Sequence[str]) -> Table:
    """A table of images that nothing is asked of."""
    nobody = np.zeros(len(images), np.bool_)
    return Table.build(name, tuple(images), labels, ["test"] * len(images), is_query=nobody)


def images_below(root: Path) -> list[Path]:
    """The images in a folder and in all folders below, sorted.

    Links are followed, but lead to no folder a second time, and not to one that ``root`` lies in.
    """
    found: list[Path] = []
    ahead, seen = deque([root]), set(root.resolve().parents)
    while ahead:
        place = ahead.pop()
        if (real := place.resolve()) not in seen:
            seen.add(real)
            found += image_files(place)
            for below in subfolders(place):
                if below.is_symlink():  # after all that is no link
                    ahead.appendleft(below)
                else:
                    ahead.append(below)
    return sorted(found)
