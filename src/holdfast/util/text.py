"""Data as text: CSV, JSON, and what a terminal shows."""

import csv
import io
import json
import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

CONTROLS = {number: f"\\u{number:04x}" for number in (*range(32), *range(127, 160)) if chr(number) not in "\n\t"}
"""The characters that steer a terminal, and how they are written out, as in JSON."""


def to_csv(lines: Iterable[Iterable[object]]) -> str:
    """Lines as CSV; None is an empty cell."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()


def to_json(value: object) -> str:
    """A value as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def counted(number: int, noun: str, several: str | None = None) -> str:
    """A number and what it counts: ``1 query``, ``1,280 queries``. several: the plural, by default the regular one."""
    if several is None:
        several = re.sub("(?<![aeiou])y$", "ie", noun) + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")
    return f"{number:,} {noun if number == 1 else several}"


def shorten(text: str, most: int) -> str:
    """A text of at most ``most`` characters, with … in the middle where some are left out."""
    keep = most - 1
    return text if len(text) <= most else f"{text[: (keep + 1) // 2]}…{text[len(text) - keep // 2 :]}"


def plain(text: str) -> str:
    """Text that steers no terminal, whatever names are in it."""
    return text.translate(CONTROLS)


class Plain:
    """A stream that writes plain text only; what it is asked for else is the ``stream``'s."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write the text out."""
        return self.stream.write(plain(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def console() -> "Console":
    """Standard output for colours and bars, past :class:`Plain`; what it prints is to be plain."""
    from rich.console import Console  # noqa: PLC0415 (slow to import, and not needed for --help)

    return Console(file=sys.stdout.stream if isinstance(sys.stdout, Plain) else sys.stdout)
