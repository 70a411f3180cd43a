"""Files that are written whole or not at all, and lines of JSON that outlive a kill."""

import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from holdfast.util.errors import HoldfastError

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp", re.DOTALL)
"""The names that :func:`temporary_for` gives."""


def temporary_for(path: Path) -> Path:
    """A new path beside ``path`` for what is to take its place; a killed process may leave it."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path in the folder of ``path`` that takes its place when the block ends well.

    The file is flushed to the disk first; after an error it is removed and ``path`` stays as it was. Errors of
    the file system become HoldfastError.
    """
    path = Path(path)
    temporary = temporary_for(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise HoldfastError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """A whole text file in UTF-8, or the one before and a HoldfastError."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """A whole JSON file, indented, or the one before and a HoldfastError."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def append_lines(file: Path, records: Iterable[dict[str, Any]]) -> None:
    """Add lines to a file, on the disk when this returns."""
    with file.open("a") as stream:
        stream.write("".join(json.dumps(record) + "\n" for record in records))
        stream.flush()
        os.fsync(stream.fileno())


def rewrite_lines(file: Path, records: list[dict[str, Any]]) -> None:
    """Drop the lines of a file that were written after the last finished batch."""
    text = "".join(json.dumps(record) + "\n" for record in records)
    if file.exists() and file.read_bytes() != text.encode():
        write_text(file, text)
