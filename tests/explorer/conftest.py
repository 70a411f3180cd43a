"""Two models of digits and their scene, for the tests of what it shows and of what is done in it."""

from collections.abc import Iterator

import pytest

from holdfast.explorer.scene import Scene, open_scene
from tests.helpers.explorer_runs import run_folder

IMAGES = 120


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("runs")
    return [str(run_folder(root / name, seed)) for seed, name in enumerate(("one", "other"))]


@pytest.fixture(scope="module")
def scene(folders: list[str]) -> Iterator[Scene]:
    with open_scene(folders, images=IMAGES, device="cpu", quiet=True) as scene:
        yield scene
