"""Files written whole or not at all, and lines that outlive a kill."""

from pathlib import Path
from typing import Any

import pytest

from holdfast.util.atomic import append_lines, replacing, rewrite_lines
from holdfast.util.validate import read_lines


def test_replacing_is_all_or_nothing(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    file.write_text("old")

    def write(text: str, error: bool = False) -> None:
        with replacing(file) as path:
            path.write_text(text)
            assert file.read_text() == "old"
            assert path.parent == file.parent
            if error:
                raise KeyError

    with pytest.raises(KeyError):
        write("half", error=True)
    assert file.read_text() == "old"
    with file.open() as reader:
        write("new")
        assert reader.read() == "old"
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_numbers_survive_the_file(tmp_path: Path) -> None:
    """So that a resumed evaluation computes from the same numbers as one in a single go."""
    values: list[dict[str, Any]] = [{"x": value} for value in (0.1, 1 / 3, 1e-6, 100.0, -0.333333, 123456.654321)]
    append_lines(tmp_path / "a", values)
    assert read_lines(dict[str, float], tmp_path / "a") == values


def test_rewriting_replaces_only_what_differs(tmp_path: Path) -> None:
    file, lines = tmp_path / "a", [{"id": i} for i in range(3)]
    append_lines(file, lines)
    inode = file.stat().st_ino
    rewrite_lines(file, lines)
    assert file.stat().st_ino == inode
    rewrite_lines(file, lines[:1])
    assert read_lines(dict[str, Any], file) == lines[:1]
    rewrite_lines(tmp_path / "absent", lines[:1])
    assert list(tmp_path.iterdir()) == [file]
