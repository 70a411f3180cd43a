"""Finding a data set's files, and saying clearly where they are not."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from holdfast.util.errors import HoldfastError


def folder(root: Path, layout: str) -> Path:
    """``root``, or an error where it is no folder."""
    if root.is_dir():
        return root
    if root.exists():
        raise HoldfastError(f"{root} is a file, not a folder; expected {layout}")
    siblings = [path.name for path in root.parent.iterdir()] if root.parent.is_dir() else []
    near = get_close_matches(root.name, siblings, n=1)
    hint = f"; did you mean {root.parent / near[0]}?" if near else ""
    raise HoldfastError(f"there is no folder {root}{hint} (expected {layout})")


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


def subfolders(root: Path) -> list[Path]:
    """The folders in ``root`` that are not hidden, sorted by name; none where it cannot be read."""
    try:
        return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []


def lines(path: Path, layout: str) -> list[str]:
    """The lines of a text file, or an error that names it."""
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise HoldfastError(f"{path} is missing (expected {layout})") from None
    except (OSError, UnicodeDecodeError) as error:
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


def exists(path: Path) -> bool:
    """Whether there is a file or folder; no path that is too long names one."""
    try:
        return path.exists()
    except OSError:
        return False


def check_present(paths: Sequence[Path], layout: str) -> None:
    """Refuse a list of files of which some do not exist; each folder is listed once."""
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        by_folder[path.parent].append(path)
    missing = []
    for parent, members in by_folder.items():
        names = set(os.listdir(parent)) if parent.is_dir() else set()  # noqa: PTH208 (names, not paths)
        missing += [path for path in members if path.name not in names and not exists(path)]
    if missing:
        raise HoldfastError(
            f"{len(missing)} of {len(paths)} images are missing, the first is {missing[0]} (expected {layout})"
        )
