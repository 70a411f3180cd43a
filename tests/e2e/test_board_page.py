"""The board as a person uses it, in a browser, from files on disk."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from holdfast.report import find, site_files
from tests.e2e.conftest import ARTEFACTS
from tests.helpers.result_files import write
from tests.helpers.waiting import GUARD

expect.set_options(timeout=1000 * GUARD)
COMMAND = {"command": ["holdfast", "evaluate", "runs/x"]}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four models on one board, one of them in doubt, one without robust R@1; one that compares with none."""
    folder = tmp_path_factory.mktemp("site")
    models: dict[str, dict[str, Any]] = {
        "plain": {"robust R@1": {"value": 2.0}, "benign": {"R@1": 95.0}},
        "hardened": {"robust R@1": {"value": 30.0}, "benign": {"R@1": 90.0}},
        "flat": {"robust R@1": {"value": 80.0}, "benign": {"R@1": 10.0}, "collapsed": True},
        "quick": {"robust R@1": None, "benign": {"R@1": 99.0}},
        "alone": {"settings": {"seed": 7}},
    }
    for name, changes in models.items():
        given = {"model": {"hash": name, "recipe": f"recipe-{name}"}, "environment": COMMAND, **changes}
        write(folder / "in" / name / "result.json", name=name, **given)
    for name, text in site_files(find([folder / "in"])).items():
        path = folder / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder / "out"


@pytest.fixture
def board(browser: Any, site: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Opens the board offline; nothing may be asked for but its files, and nothing may go wrong."""
    pages, faults = [], list[str]()

    def open_one(width: int = 1200, height: int = 900, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, offline=True, **options)
        page = context.new_page()
        page.set_default_timeout(1000 * GUARD)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("request", lambda one: None if one.url.startswith("file:") else faults.append(one.url))
        page.goto((site / "index.html").as_uri())
        pages.append(page)
        return page

    yield open_one
    ARTEFACTS.mkdir(exist_ok=True)
    for i, page in enumerate(pages):
        page.screenshot(path=ARTEFACTS / f"{re.sub(r'[^a-z0-9]+', '-', request.node.name)}-{i}.png", full_page=True)
        page.context.close()
    assert faults == []


def names(page: Any) -> list[str]:
    """The models of the first board that are to be seen, in order."""
    return [str(text) for text in page.locator("#board-1 tbody tr:visible th").all_inner_texts()]


def test_the_board_is_sorted_and_filtered(board: Any) -> None:
    page = board()
    assert names(page) == ["hardened", "plain", "quick", "flat"]
    expect(page.locator("#count")).to_have_text("4 of 4 rows")
    head = page.get_by_role("columnheader", name="R@1", exact=True)
    head.get_by_role("button").click()
    assert names(page) == ["quick", "plain", "hardened", "flat"]
    expect(head).to_have_attribute("aria-sort", "descending")
    head.get_by_role("button").click()
    assert names(page) == ["hardened", "plain", "quick", "flat"], "one in doubt comes last, whatever its number"
    expect(head).to_have_attribute("aria-sort", "ascending")
    page.get_by_label("Sort by").select_option("robust R@1")
    assert names(page) == ["hardened", "plain", "quick", "flat"], "what was not measured comes after what was"
    page.get_by_label("Sort by").select_option("name")
    assert names(page) == ["flat", "hardened", "plain", "quick"]
    page.get_by_label("only verdict ok").check()
    assert names(page) == ["hardened", "plain", "quick"]
    page.get_by_label("Show models with").fill("RECIPE-pl")
    assert names(page) == ["plain"]
    expect(page.locator("#count")).to_have_text("1 of 4 rows")
    page.get_by_label("Show models with").fill("")
    page.get_by_label("only verdict ok").uncheck()
    page.get_by_label("Sort by").select_option("")
    assert names(page) == ["hardened", "plain", "quick", "flat"]


def test_a_row_leads_to_its_page_its_file_and_its_command(board: Any) -> None:
    page = board()
    row = page.locator("#board-1 tbody tr").first
    row.get_by_text("command").click()
    expect(row.locator("code")).to_have_text("holdfast evaluate runs/x")
    expect(page.locator("#refused")).to_contain_text("settings.seed is 7 and not given")
    row.get_by_role("link", name="hardened").click()
    expect(page.locator("h1")).to_have_text("Retrieval under attack: fashion-mnist")
    page.go_back()
    page.locator("#board-1 tbody tr").first.get_by_role("link", name="file").click()
    expect(page.locator("body")).to_contain_text('"holdfast-evaluation-1"')
    page.go_back()


def test_a_telephone_is_wide_enough_and_the_keyboard_does(board: Any) -> None:
    page = board(width=390, height=844, color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    expect(page.locator("#board-1 thead")).to_be_hidden()
    labels = "one => getComputedStyle(one, '::before').content"
    assert page.locator("#board-1 td[data-label='robust R@1']").first.evaluate(labels) == '"robust R@1"'
    page.get_by_label("Sort by").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert names(page) == ["hardened", "plain", "quick"]
    page.locator("#board-1 summary").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_without_a_script_and_on_paper_everything_is_there(board: Any) -> None:
    page = board(java_script_enabled=False)
    assert names(page) == ["hardened", "plain", "quick", "flat"]
    expect(page.locator(".controls")).to_be_hidden()
    page.emulate_media(media="print")
    expect(page.locator("nav")).to_be_hidden()
    assert names(page) == ["hardened", "plain", "quick", "flat"]
