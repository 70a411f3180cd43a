"""``holdfast report``: formats, files, and what is refused."""

from pathlib import Path

import pytest

from holdfast.report import BESIDE_PUBLISHED, STYLES, find, html_text
from holdfast.util.errors import HoldfastError
from tests.conftest import Call, Refuse
from tests.helpers.result_files import write


def test_other_formats_are_written_too(call: Call, tmp_path: Path) -> None:
    path = write(tmp_path / "result.json")
    for tables, options in ((STYLES, ()), (BESIDE_PUBLISHED, ("--published",))):
        for style in ("markdown", "csv", "json"):
            out, written = tmp_path / "new" / f"table.{style}", tables[style](find([path]))
            assert call("report", path, *options, "--format", style) == (0, written + "\n", "")
            assert call("report", path, *options, "--format", style, "--out", out) == (0, f"written to {out}\n", "")
            assert out.read_text(encoding="utf-8") == written
    out = tmp_path / "page.html"
    options = ("--published", "--format", "html", "--pictures", "0")
    assert call("report", path, *options, "--out", out)[0] == 0
    assert out.read_text(encoding="utf-8") == BESIDE_PUBLISHED["html"](find([path]), pictures=0)


def test_what_does_not_go_together_is_refused(refused: Refuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "result.json")
    assert "--pictures needs --format html" in refused("report", path, "--pictures", "2")
    assert "--root needs --format html" in refused("report", path, "--root", tmp_path, "--format", "csv")
    assert "--columns needs --format markdown" in refused("report", path, "--format", "html", "--columns", "ERS")
    assert "at least 0, not -1" in refused("report", path, "--format", "html", "--pictures", "-1")
    assert "is a folder; try" in refused("report", path, "--format", "html", "--out", tmp_path)
    (tmp_path / "README.md").write_text("mine")
    assert "no file of format html by its name" in refused("report", path, "--format", "html", "--out", "README.md")
    assert (tmp_path / "README.md").read_text() == "mine"
    assert "did you mean 'html'?" in refused("report", path, "--format", "htm")
    assert not (tmp_path / "report.html").exists()
    (tmp_path / "file").write_text("")
    assert "cannot write" in refused("report", path, "--out", tmp_path / "file" / "table.md")
    with pytest.raises(HoldfastError, match="at least 0"):
        html_text(find([path]), pictures=-1)


def test_a_site_is_written_anew_and_nothing_else_is_touched(call: Call, refused: Refuse, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / "results" / name / "result.json", name=name, model={"hash": name})
    site = tmp_path / "site"
    status, out, _ = call("report", tmp_path / "results", "--format", "site", "--out", site)
    assert (status, out) == (0, f"written to {site / 'index.html'}\n")
    first = {path.relative_to(site): path.read_text() for path in site.rglob("*") if path.is_file()}
    assert len([name for name in first if name.suffix in (".html", ".json")]) == 5
    assert call("report", tmp_path / "results", "--format", "site", "--out", site)[0] == 0
    assert {path.relative_to(site): path.read_text() for path in site.rglob("*") if path.is_file()} == first
    assert call("report", tmp_path / "results" / "a", "--format", "site", "--out", site)[0] == 0
    assert [path.stem for path in (site / "models").iterdir()] == ["a-1a2b3c4d"]
    everything = ("report", tmp_path / "results", "--format", "site", "--out", site)
    assert "--pictures needs --format html" in refused(*everything, "--pictures", "2")
    assert "--published goes with a table or a page" in refused(*everything, "--published")
    assert "holds other files" in refused("report", tmp_path / "results", "--format", "site", "--out", tmp_path)
    assert "is a file" in refused("report", tmp_path / "results", "--format", "site", "--out", site / "index.html")
