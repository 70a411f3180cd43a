"""The documentation site: which pages it has, how they link, how it reads docstrings, and what its builder refuses."""

import runpy
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.pages import DOCS, ROOT

pytest.importorskip("griffe", reason="the site is built with the extra docs")

BUILD: dict[str, Any] = runpy.run_path(str(DOCS / "build.py"))
markdown = runpy.run_path(str(DOCS / "docstrings.py"))["markdown"]


def test_every_page_is_in_the_nav() -> None:
    assert BUILD["listed"]() == BUILD["gathered"]().keys()


def test_links_between_docs_and_experiments_lead_to_where_the_pages_are_on_the_site() -> None:
    pages = BUILD["gathered"]()
    assert "experiments/README.md" in (DOCS / "evidence.md").read_text()
    assert "[experiments](experiments.md)" in pages["evidence.md"]
    assert "../docs/" in (ROOT / "experiments" / "README.md").read_text()
    assert "(data.md#layouts)" in pages["experiments.md"]
    assert not any("experiments/README.md)" in page for page in pages.values())


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        ('<a href="other.html#part">', ""),
        ('<a href="https://example.org">', ""),
        ('<img src="data:image/png;base64,AA">', ""),
        ('<a href="nowhere.html">', "page.html leads to nowhere.html, which is not there"),
        ('<img src="../outside.svg">', "page.html leads to ../outside.svg, which is not there"),
        ('<script src="https://example.org/x.js"></script>', "page.html loads https://example.org/x.js"),
        ('<link rel="stylesheet" href="//example.org/x.css">', "page.html loads //example.org/x.css"),
    ],
)
def test_what_a_page_lacks_or_loads_is_found(page: str, fault: str, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (tmp_path / "outside.svg").touch()
    (site / "other.html").touch()
    (site / "page.html").write_text(page)
    assert list(BUILD["faults"](site)) == [fault] * bool(fault)


def test_docstrings_become_markdown() -> None:
    text = "See :func:`.weights.load_weights`.\n\neps, step: sizes; note: small. steps: how\n    many.\nnorm: of both."
    fields = "- **eps, step**: sizes; note: small.\n- **steps**: how\n  many.\n- **norm**: of both."
    assert markdown(text, {"eps", "step", "steps", "norm"}) == f"See `weights.load_weights`.\n\n{fields}"
    assert markdown("eps: a size.", {"other"}) == "eps: a size."
