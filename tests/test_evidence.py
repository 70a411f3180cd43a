"""The tables of results in the docs are what the result files in the repository say."""

import re
import shlex
from pathlib import Path

import pytest

from holdfast.cli import main

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [DOCS / "evidence.md", *sorted((DOCS / "evidence").glob("*.md")), DOCS / "concepts" / "score.md"]
SHOWN = re.compile(r"^    (holdfast report .+)\n\n((?:\|.*\n)+)", re.MULTILINE)
TABLES = [table for page in PAGES for table in SHOWN.findall(page.read_text(encoding="utf-8"))]


def expanded(command: str) -> list[str]:
    """The words after ``holdfast`` as a shell in the repository would give them."""
    words = shlex.split(command)[1:]
    return [place for word in words for place in sorted(map(str, Path().glob(word))) or [word]]


@pytest.mark.parametrize(("command", "shown"), TABLES)
def test_a_table_is_what_its_command_prints(
    command: str, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match="0"):
        main(expanded(command))
    printed = "".join(line + "\n" for line in capsys.readouterr().out.splitlines() if line.startswith("|"))
    assert printed == shown


def test_the_pages_have_tables() -> None:
    assert len(TABLES) >= 17
