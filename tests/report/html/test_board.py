"""The board: what is side by side, what is refused and why, and a site that is whole and loads nothing."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from holdfast.report import find, site_files
from holdfast.report.html.board import boards
from tests.helpers.html_page import Page, sound
from tests.helpers.result_files import write

COMMAND = {"command": ["holdfast", "evaluate", "runs/a b"]}


def result(folder: Path, name: str, robust: float, **changes: Any) -> Path:
    changes = {"model": {"hash": f"hash-{name}"}, "robust R@1": {"value": robust}, **changes}
    return write(folder / name / "result.json", name=name, environment=COMMAND, **changes)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Three models that compare, one of them collapsed; two at another radius; one alone; a copy; other data."""
    result(tmp_path, "low", 10.0)
    result(tmp_path, "high", 30.0)
    result(tmp_path, "flat", 90.0, collapsed=True)
    result(tmp_path, "near-a", 50.0, settings={"eps": 0.1})
    result(tmp_path, "near-b", 40.0, settings={"eps": 0.1})
    result(tmp_path, "seeded", 99.0, settings={"seed": 7})
    result(tmp_path, "twin", 10.0, model={"hash": "hash-low"})
    result(tmp_path, "<b>bird</b>", 1.0, data={"name": "cub"})
    return tmp_path


def test_only_what_compares_is_side_by_side(files: Path) -> None:
    made, refused = boards(find([files]))
    names = [[one.name for one in board.results] for board in made]
    assert names == [["high", "low", "flat"], ["near-a", "near-b"]]
    why = {one.result.name: one.why for one in refused}
    assert why == {
        "seeded": "here and in high: settings.seed is 7 and not given",
        "twin": "it has the weights of low, which is on the board",
        "<b>bird</b>": "no other result is of cub",
    }


def test_the_site_is_whole_and_loads_nothing(files: Path) -> None:
    site = site_files(find([files]))
    page = Page(site["index.html"])
    kinds = {name.partition("/")[0] for name in site}
    assert kinds == {"index.html", "models", "results"}
    assert len(site) == 1 + 8 + 8
    links = [str(one["href"]) for one in page.of("a")]
    ids = {str(one["id"]) for _, one, _ in page.elements if "id" in one}
    assert {link for link in links if not link.startswith("#")} == site.keys() - {"index.html"}
    assert {link[1:] for link in links if link.startswith("#")} <= ids
    for tag, attributes, _ in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "img")
        assert not {"src", "srcset", "action", "onclick"} & attributes.keys()
    (policy,) = (one["content"] for one in page.of("meta") if one.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    assert not re.search(r"https?://|fetch\(|import\(|innerHTML", "".join(page.inside("script")))
    assert "&lt;b&gt;bird" in site["index.html"]
    assert "<b>bird" not in site["index.html"]
    assert page.inside("code").count("holdfast evaluate 'runs/a b'") == 8
    assert "settings.eps is 0.1 and 0.30196" in page.text
    for name, text in site.items():
        if name.startswith("models/"):
            sound(text)
        elif name.startswith("results/"):
            assert json.loads(text)["format"] == "holdfast-evaluation-1"


def test_a_column_that_nothing_fills_is_left_out_and_doubts_are_in_words(files: Path) -> None:
    page = Page(site_files(find([files / "low", files / "high", files / "flat"]))["index.html"])
    heads = [text for tag, text in page.texts if tag == "th" and text.strip()]
    assert heads[:5] == ["model", "verdict", "robust R@1", "R@1", "ERS"]
    assert "least R@1" not in heads
    assert "COLLAPSED: all embeddings are nearly alike" in page.text
    assert "30.0 (11.0 to 13.0)" in page.inside("td")


def test_one_result_is_on_no_board(tmp_path: Path) -> None:
    text = site_files(find([result(tmp_path, "alone", 5.0)]))["index.html"]
    page = Page(text)
    assert "No two results here compare." in page.text
    assert "no other result is of fashion-mnist" in page.text
