"""Trees of files for readers, and what they make of them."""

from pathlib import Path

import numpy as np

from holdfast.data import Table


def touch(*paths: Path) -> None:
    """Empty files: readers look at names only."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def shown(table: Table, split: str = "test") -> dict[str, list[str]]:
    """Class name to file names, of one split."""
    part: dict[str, list[str]] = {}
    for i in np.flatnonzero(table.split == split):
        part.setdefault(table.classes[table.labels[i]], []).append(Path(table.name_of(int(i))).name)
    return part
