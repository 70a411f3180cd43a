"""The tables and charts of results in the docs are what the result files in the repository say."""

import json
import re
import shlex
from pathlib import Path

import pytest

from holdfast.cli import main

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [DOCS / "evidence.md", *sorted((DOCS / "evidence").glob("*.md")), DOCS / "concepts" / "score.md"]
SHOWN = re.compile(r"^    (holdfast report .+)\n\n((?:\|.*\n)+)", re.MULTILINE)
DRAWN = re.compile(r"^    (holdfast report .+ --out )docs/(\S+\.html)$", re.MULTILINE)
CHARTS = [drawn for page in PAGES for drawn in DRAWN.findall(page.read_text(encoding="utf-8"))]
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


@pytest.mark.parametrize(("command", "page"), CHARTS)
def test_a_page_of_charts_is_what_its_command_draws(
    command: str, page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match="0"):
        main([*expanded(command), str(tmp_path / page)])
    assert (tmp_path / page).read_text(encoding="utf-8") == (DOCS / page).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "file", sorted((ROOT / "results" / "second-opinion").rglob("opinion.json")), ids=lambda file: file.parent.name
)
def test_the_second_opinion_is_what_its_file_says(file: Path) -> None:
    said, result = (json.loads(place.read_text()) for place in (file, file.with_name("result.json")))
    left, broken, restarts = len(said["robust"]), len(said["broken"]), len({one[1] for one in said["rounds"]})
    assert len(said["rounds"]) == 3 * restarts
    points = 100 * broken / result["robust R@1"]["queries"]
    eps = f"{255 * result['settings']['eps']:.0f}/255"
    row = f"| `{result['name']}` | {eps} | {left} | {restarts} | {broken} | {points:.1f} |"
    assert row in (DOCS / "evidence" / "second-opinion.md").read_text(encoding="utf-8")


def test_the_pages_have_tables_and_charts() -> None:
    assert len(TABLES) >= 17
    assert CHARTS
