"""``holdfast gate``: exit statuses, and the files it writes."""

import json
from pathlib import Path

import pytest

from tests.conftest import Call, Refuse
from tests.helpers.gated import evaluation


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A result and one that is worse."""
    for name, kept in (("old", 120), ("new", 60)):
        evaluation(tmp_path / name, [True] * 200, [i < kept for i in range(200)])
    return tmp_path / "old", tmp_path / "new"


def test_the_exit_status_is_the_verdict_and_files_are_written(
    call: Call, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    old, new = folders
    rules = ("--max-drop", "robust R@1=2", "--max-drop", "R@1=1", "--min", "robust R@1=20")
    outputs = {name: tmp_path / "out" / name for name in ("gate.xml", "summary.md", "badge.json")}
    outputs["summary.md"].parent.mkdir()
    outputs["summary.md"].write_text("before\n")
    written = [
        word
        for option, path in zip(("--junit", "--summary", "--badge"), outputs.values(), strict=True)
        for word in (option, path)
    ]
    status, out, err = call("gate", old / "result.json", "--baseline", old, *rules, *written)
    assert (status, err) == (0, "")
    assert "gate: pass" in out
    assert 'failures="0"' in outputs["gate.xml"].read_text()
    assert json.loads(outputs["badge.json"].read_text())["color"] == "brightgreen"
    status, out, _ = call("gate", new, "--baseline", old, *rules, *written)
    assert status == 1
    (line,) = (line for line in out.splitlines() if "robust R@1: drop" in line)
    for part in ("60.0", "30.0", " to -2", "fail"):
        assert part in line
    text = outputs["summary.md"].read_text()
    assert text.startswith("before\n## holdfast gate: pass")
    assert "## holdfast gate: fail" in text
    status, out, _ = call("gate", new, "--baseline", old, "--max-drop", "ERS=2")
    assert status == 2
    assert "cannot tell" in out


def test_what_cannot_be_decided_is_refused(refused: Refuse, folders: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = folders
    assert "did you mean 'robust R@1'?" in refused("gate", new, "--baseline", old, "--max-drop", "robst R@1=2")
    assert "needs --baseline" in refused("gate", new, "--max-drop", "R@1=2")
    assert "there is no rule" in refused("gate", new, "--baseline", old)
    assert "has 2 results; name one of them" in refused("gate", tmp_path, "--min", "R@1=2")
    assert "--rule-out is above 0" in refused("gate", new, "--min", "R@1=2", "--rule-out", "0")
    assert "--badge" in refused("gate", new, "--min", "R@1=2", "--badge", tmp_path)
    assert "there is no file or folder" in refused("gate", tmp_path / "none", "--min", "R@1=2")
