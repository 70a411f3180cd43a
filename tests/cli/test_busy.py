"""Every command that writes into a folder leaves it to the process that is at work there."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from holdfast.data import load_dataset
from holdfast.util.lock import working_in, writing
from tests.conftest import Call, Refuse

SMALL = ["--max-queries", "8", "--steps", "1", "--device", "cpu"]


@pytest.mark.parametrize(
    ("words", "place", "hold"),
    [
        (
            ["train", "--set", "recipe=none-r", "--set", "steps=1", "--set", "validation.every=0", "--resume"],
            "",
            working_in,
        ),
        (["evaluate", "RUN", "--attack", "es", "--no-checks", *SMALL], "strict-*", working_in),
        (["attack", "RUN", *SMALL], "", working_in),
        (["embed", "PICTURES", "--model", "RUN"], "", writing),
        (["export", "RUN", "--format", "hub"], "", writing),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_folder_at_which_another_process_is_at_work(  # noqa: PLR0917
    words: list[str],
    place: str,
    hold: Callable[[Path], AbstractContextManager[None]],
    digits_run: Path,
    tmp_path: Path,
    call: Call,
    refused: Refuse,
) -> None:
    (tmp_path / "pictures").mkdir()
    Image.fromarray(np.asarray(load_dataset("digits").images[0])).save(tmp_path / "pictures" / "0.png")
    places = {"RUN": str(digits_run), "PICTURES": str(tmp_path / "pictures")}
    out = tmp_path / "out"
    command = [*(places.get(word, word) for word in words), "--out", str(out)]
    assert call(*command)[0] == 0
    target = next(out.glob(place)) if place else out
    before = contents(target)
    for result in target.glob("result.json"):
        result.unlink()
    with hold(target):
        message = refused(*command)
        assert "another process (pid " in message
        assert f"at work {'in' if hold is working_in else 'on'} {target}" in message
    assert call(*command)[0] == 0
    assert contents(target) == before
    assert not list(tmp_path.rglob("*.lock"))


def contents(folder: Path) -> list[str]:
    """The names of what lies there."""
    return sorted(str(path) for path in (folder, *folder.rglob("*")))
