"""A browser, and ``holdfast explore`` as a process of its own."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

from holdfast.runs.config import resolve_config
from holdfast.training.loop import train
from tests.helpers.explorer_runs import run_folder
from tests.helpers.waiting import GUARD

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
ROOT = Path(__file__).parents[2]
ARTEFACTS = Path(__file__).parent / "artefacts"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, for a module: while playwright runs, so does an event loop, which other tests cannot have."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folders(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two models."""
    root = tmp_path_factory.mktemp("runs")
    settings = {"recipe": "none-r", "model.dim": 16, "batch.pairs": 100, "optim.epochs": 2, "validation.attacked": 0}
    train(resolve_config(settings), root / "plain", device="cpu", quiet=True)
    return [str(root / "plain"), str(run_folder(root / "other", seed=1))]


@pytest.fixture(scope="module")
def address(folders: list[str]) -> Iterator[str]:
    """Where two models are explored."""
    with explored(folders) as found:
        yield found


@pytest.fixture(scope="module")
def indexed(folders: list[str]) -> Iterator[str]:
    """Where they are explored through an index."""
    with explored(folders, "--index", "IVF16,PQ4x4") as found:
        yield found


@contextmanager
def explored(folders: list[str], *further: str) -> Iterator[str]:
    """Where models are explored."""
    options = ["--port", "0", "--max-images", "200", "--device", "cpu", *further]
    command = [sys.executable, "-m", "tests.e2e.served", "explore", *folders, *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    ) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        found = next((m for line in server.stdout if (m := re.search(r"http://127\.0\.0\.1:\d+", line))), None)
        assert found is not None, server.stderr.read()
        yield found[0]
        server.terminate()
        assert "Traceback" not in server.stderr.read()
        server.wait(timeout=GUARD)


@pytest.fixture
def faults() -> list[str]:
    """What the browser complains about; a test that expects it empties the list."""
    return []


@pytest.fixture
def tab(browser: Any, address: str, faults: list[str], request: pytest.FixtureRequest) -> Iterator[Any]:
    """Opens pages; each leaves a screenshot. ``tab(width=390, color_scheme="dark")``."""
    pages: list[Any] = []

    def open_one(width: int = 1360, height: int = 900, at: str = address, **options: Any) -> Any:
        page = browser.new_context(viewport={"width": width, "height": height}, **options).new_page()
        page.set_default_timeout(1000 * GUARD)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.goto(at)
        page.locator("#models li").first.wait_for()
        pages.append(page)
        return page

    yield open_one
    ARTEFACTS.mkdir(exist_ok=True)
    for i, page in enumerate(pages):
        if not page.is_closed():
            page.screenshot(path=ARTEFACTS / f"{re.sub(r'[^a-z0-9]+', '-', request.node.name)}-{i}.png", full_page=True)
        page.context.close()
    assert faults == []
