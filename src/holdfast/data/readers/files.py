"""Finding a data set's files, and saying clearly where they are not."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from holdfast.data.decode import no_file
from holdfast.util.errors import HoldfastError, nearest, printable
from holdfast.util.text import counted


def folder(root: Path, layout: str) -> Path:
    """``root``, or an error where it is no folder."""
    if root.is_dir():
        return root
    if root.exists():
        what = "a file" if root.is_file() else "a pipe, socket or device"
        raise HoldfastError(f"{root} is {what}, not a folder; expected {layout}")
    what = f"is a link that leads nowhere ({root.readlink()})" if root.is_symlink() else "does not exist"
    raise HoldfastError(f"{root} {what}{nearest(root)} (expected {layout})")


def locate(root: Path, markers: Sequence[str], layout: str, inside: Sequence[str] = ()) -> Path:
    """The first of ``root`` and its ``inside`` folders that holds one of the ``markers`` (relative paths).

    The error says where a marker was found instead, one folder up or up to two down.
    """
    folder(root, layout)
    for place in (root, *(root / name for name in inside)):
        if _holds(place, markers):
            return place
    found = next((place for place in islice(_nearby(root), 1000) if _holds(place, markers)), None)
    hint = f"; it lies in {found}: give that folder instead" if found else ""
    raise HoldfastError(f"no {markers[0]} in {root}{hint} (expected {layout})")


def _holds(place: Path, markers: Sequence[str]) -> bool:
    return any((place / marker).exists() for marker in markers)


def _nearby(root: Path) -> Iterator[Path]:
    yield root.resolve().parent
    below = subfolders(root)
    yield from below
    for child in below:
        yield from subfolders(child)


def contents(place: Path) -> tuple[list[Path], list[Path]]:
    """The folders in a folder, and all else, sorted by name; hidden ones are left out. Raises OSError."""
    folders: list[Path] = []
    others: list[Path] = []
    for one in os.scandir(place):
        if not one.name.startswith("."):
            is_folder = os.path.isdir(one.path) if one.is_symlink() else one.is_dir()  # noqa: PTH112 (a link may fail)
            (folders if is_folder else others).append(Path(one.path))
    return sorted(folders), sorted(others)


def subfolders(root: Path) -> list[Path]:
    """The folders in ``root`` that are not hidden, sorted by name; none where it cannot be read."""
    try:
        return contents(root)[0]
    except OSError:
        return []


def lines(path: Path, layout: str) -> list[str]:
    """The lines of a text file, or an error that names it."""
    if not path.exists():
        raise HoldfastError(f"{path} is missing (expected {layout})")
    if reason := no_file(path):
        raise HoldfastError(f"cannot read {path}: {reason}")
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise HoldfastError(f"cannot read {path}: it is not in UTF-8 ({error.reason}); save it as UTF-8") from None
    except OSError as error:
        raise HoldfastError(f"cannot read {path}: {error}") from None


def records(path: Path, columns: Sequence[str], layout: str, skip: int = 0) -> list[list[str]]:
    """The lines of a table separated by spaces, split into ``columns``; the last one may itself hold spaces."""
    rows = []
    for number, line in enumerate(lines(path, layout)[skip:], start=skip + 1):
        if not line.strip():
            continue
        row = line.strip().split(maxsplit=len(columns) - 1)
        if len(row) != len(columns):
            raise HoldfastError(f"{path}, line {number}: {line!r} is not '{' '.join(columns)}'")
        rows.append(row)
    return rows


def check_present(paths: Sequence[Path], layout: str) -> None:
    """Refuse a list of files of which some are none; each folder is listed once."""
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        by_folder[path.parent].append(path)
    missing = []
    for parent, members in by_folder.items():
        names: set[str] = set()
        with suppress(OSError, ValueError):
            names = {entry.name for entry in os.scandir(parent) if entry.is_file(follow_symlinks=False)}
        missing += [path for path in members if path.name not in names and no_file(path)]
    if missing:
        first = f"{printable(str(missing[0]))}: {no_file(missing[0])}"
        raise HoldfastError(
            f"{len(missing):,} of {counted(len(paths), 'image')} {'is' if len(missing) == 1 else 'are'} missing, "
            f"the first is {first} (expected {layout})"
        )
