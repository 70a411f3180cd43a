"""What lies in folders of images: the images, and what is left out, counted."""

from collections import defaultdict, deque
from collections.abc import Iterator
from pathlib import Path

from holdfast.data.decode import SUFFIXES, no_file
from holdfast.data.readers.files import contents, subfolders
from holdfast.util.errors import printable
from holdfast.util.text import counted


class LeftOut:
    """What lies below ``root`` and is not read: for each kind how many, and the first."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._found: defaultdict[tuple[str, str], list[Path]] = defaultdict(list)

    def add(self, noun: str, which: str, *paths: Path) -> None:
        """Count some more, such as a ``file`` ``without an ending``."""
        if paths:
            self._found[noun, which] += paths

    def lines(self) -> tuple[str, ...]:
        """A line for each kind."""
        return tuple(
            f"{counted(len(paths), noun)} {which}, the first is {printable(str(min(paths).relative_to(self.root)))}"
            for (noun, which), paths in self._found.items()
        )

    def hint(self) -> str:
        """What an error says of it."""
        return "".join(f"; left out: {one}" for one in self.lines())


def files(place: Path, left_out: LeftOut) -> list[Path]:
    """All in a folder that is no folder, sorted by name; hidden ones are left out."""
    try:
        return contents(place)[1]
    except OSError:
        left_out.add("folder", "that cannot be read", place)
        return []


def image_files(place: Path, left_out: LeftOut) -> list[Path]:
    """The images directly in a folder, sorted by name; hidden ones are left out, and what else is no image counted."""
    found = []
    for path in files(place, left_out):
        if why := no_file(path):
            noun, which = ("link", "to nowhere") if why.startswith("it is a link") else ("file", f"not read: {why}")
        elif path.suffix.lower() in SUFFIXES:
            found.append(path)
            continue
        else:
            ending = f"with the ending {path.suffix.lower()}, which is not read"
            noun, which = "file", ending if path.suffix else "without an ending"
        left_out.add(noun, which, path)
    return found


def walk(root: Path) -> Iterator[Path]:
    """``root`` and all folders below that are not hidden.

    Links are followed, but lead to no folder a second time, and not to one that ``root`` lies in.
    """
    ahead, seen = deque([root]), set(root.resolve().parents)
    while ahead:
        place = ahead.pop()
        if (real := place.resolve()) in seen:
            continue
        seen.add(real)
        yield place
        for below in subfolders(place):
            if below.is_symlink():  # after all that is no link
                ahead.appendleft(below)
            else:
                ahead.append(below)


def images_below(root: Path, left_out: LeftOut) -> list[Path]:
    """The images in a folder and in all folders below, see :func:`walk`, sorted."""
    return sorted(image for place in walk(root) for image in image_files(place, left_out))
