"""``holdfast corrupt``: what it measures, against a twin; resumed, refused, and read by the report."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from holdfast.data.corruptions import corrupted
from holdfast.evaluation.result import Result
from holdfast.report import find
from holdfast.threats.corruption import SIDES, corrupt, corruptions_of, mean_of
from holdfast.util.errors import HoldfastError
from tests.conftest import Call, Refuse
from tests.helpers.html_page import page_of
from tests.helpers.tiny import counted, digits, embedder, pair, rows, sided, snapshot

EMBEDDER = embedder()
QUICK: dict[str, Any] = {"kinds": ["fog", "contrast"], "severities": [4], "quiet": True, "device": "cpu"}


def found(result: Result) -> Any:
    return corruptions_of(result)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, corrupt(EMBEDDER, digits(60), folder=folder, **QUICK)


def test_it_is_what_a_twin_finds(whole: tuple[Path, Result]) -> None:
    """R@1 by nearest neighbours in numpy, one query at a time."""
    images, labels = pair(60)
    x = torch.from_numpy(images[:, None] / 255).float()

    def embedded(pixels: torch.Tensor) -> Any:
        with torch.no_grad():
            return EMBEDDER(pixels).double().numpy()

    def recall(asking: Any, stored: Any) -> float:
        hits = []
        for i, z in enumerate(asking):
            distances = np.linalg.norm(stored - z, axis=1)
            distances[i] = np.inf
            hits.append(labels[distances.argmin()] == labels[i])
        return 100 * float(np.mean(hits))

    content, clean = found(whole[1]), embedded(x)
    assert content["clean"]["R@1"] == pytest.approx(recall(clean, clean))
    assert len(content["cells"]) == 2 * 3
    for cell in content["cells"]:
        worn = embedded(corrupted(x, cell["kind"], cell["severity"], range(60)))
        sides = {"query": (worn, clean), "gallery": (clean, worn), "both": (worn, worn)}
        assert cell["values"]["R@1"] == pytest.approx(recall(*sides[cell["side"]])), cell
        for name in ("R@1", "mAP"):
            assert cell["ratios"][name] == pytest.approx(cell["values"][name] / content["clean"][name])
    assert len({cell["values"]["mAP"] for cell in content["cells"]}) == 6
    assert mean_of(content["cells"], "values", "R@1") < content["clean"]["R@1"]


def test_queries_and_gallery_of_their_own() -> None:
    pixels = sided([0, 1] * 10, [True] * 8 + [False] * 12, [False] * 8 + [True] * 12)
    result = found(corrupt(EMBEDDER, pixels, max_queries=5, **QUICK))
    assert (result["queries"], result["gallery"]) == (5, 12)
    assert {cell["side"] for cell in result["cells"]} == {*SIDES}


def test_a_seed_is_another_draw(whole: tuple[Path, Result]) -> None:
    first, other = (found(corrupt(EMBEDDER, digits(60), seed=seed, **QUICK))["cells"] for seed in (0, 1))
    assert first == found(whole[1])["cells"]
    assert [cell["values"] for cell in first if cell["kind"] == "fog"] != [
        cell["values"] for cell in other if cell["kind"] == "fog"
    ]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], int]:
    """The files of a measurement of a function, and how often it was called."""
    folder = tmp_path_factory.mktemp("asked")
    embed, calls = counted(EMBEDDER.__call__)
    corrupt(embed, digits(60), folder=folder, **QUICK)
    return snapshot(folder), calls[0]


@pytest.mark.parametrize("back", [2, 1])
def test_a_killed_measurement_goes_on(back: int, asked: tuple[dict[str, bytes], int], tmp_path: Path) -> None:
    """Killed while the images of a kind, ``back`` from the end, are embedded."""
    files, calls = asked
    embed, _ = counted(EMBEDDER.__call__, calls + 1 - back)
    with pytest.raises(KeyboardInterrupt):
        corrupt(embed, digits(60), folder=tmp_path, **QUICK)
    for place in tmp_path.iterdir():
        assert not (place / "result.json").exists()
        with (place / "cells.jsonl").open("a") as stream:
            stream.write('{"kind": "f')
    embed, again = counted(EMBEDDER.__call__)
    corrupt(embed, digits(60), folder=tmp_path, **QUICK)
    assert snapshot(tmp_path) == files
    assert again[0] == calls - (2 - back)


def test_a_finished_measurement_is_not_repeated(whole: tuple[Path, Result]) -> None:
    folder, result = whole
    before = snapshot(folder)
    assert found(corrupt(EMBEDDER, digits(60), folder=folder, **QUICK)) == found(result)
    assert snapshot(folder) == before


def test_damaged_cells_are_refused(whole: tuple[Path, Result], tmp_path: Path) -> None:
    shutil.copytree(whole[0], tmp_path / "x")
    (file,) = (tmp_path / "x").glob("*/cells.jsonl")
    (file.parent / "result.json").unlink()
    lines = rows(file)
    file.write_text("".join(json.dumps(one) + "\n" for one in reversed(lines)))
    with pytest.raises(HoldfastError, match="holds other corruptions; remove"):
        corrupt(EMBEDDER, digits(60), folder=tmp_path / "x", **QUICK)
    file.write_text('{"kind": 3}\n')
    with pytest.raises(HoldfastError, match="damaged"):
        corrupt(EMBEDDER, digits(60), folder=tmp_path / "x", **QUICK)


def test_from_the_command_line_to_the_report(call: Call, digits_run: Path, tmp_path: Path) -> None:
    few = ("--kind", "frost", "--kind", "pixelate", "--severity", "1", "--side", "query", "--max-queries", "30")
    status, out, err = call("corrupt", digits_run, *few, "--out", tmp_path)
    assert (status, err) == (0, "")
    (result,) = find([tmp_path])
    cells = found(result)["cells"]
    assert [(cell["kind"], cell["severity"], cell["side"]) for cell in cells] == [
        ("frost", 1, "query"),
        ("pixelate", 1, "query"),
    ]
    assert "corrupted queries, clean gallery" in out
    for cell in cells:
        assert f"{cell['kind']} " in out
        assert f"{cell['values']['R@1']:.1f}" in out
        assert f"{cell['ratios']['mAP']:.3f}" in out
    page = page_of(result.path)
    assert "corruptions" in page.sections
    worst = min(cells, key=lambda cell: float(cell["ratios"]["R@1"]))
    assert f"least under {worst['kind']}, {100 * worst['ratios']['R@1']:.0f} %." in page.text
    assert call("report", tmp_path)[0] == 0
    content = json.loads(result.path.read_text()) if result.path else {}
    content["corruptions"]["cells"][0]["values"] = {"R@1": "high"}
    (tmp_path / "bad.json").write_text(json.dumps(content))
    with pytest.raises(HoldfastError, match="corruptions"):
        page_of(tmp_path / "bad.json")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--kind", "mist"), "unknown corruption 'mist'"),
        (("--kind", "frots"), "did you mean 'frost'?"),
        (("--severity", "6"), "unknown severity '6'"),
        (("--side", "left"), "unknown side 'left' (allowed: query, gallery, both)"),
        (("--max-queries", "0"), "max_queries is at least 1, not 0"),
        (("--seed", "-1"), "seed is at least 0, not -1"),
        (("--batch-size", "0"), "batch is at least 1 image"),
        (("--data", "nosuch"), "nosuch"),
    ],
)
def test_bad_input_is_refused(
    words: tuple[str, ...], said: str, refused: Refuse, digits_run: Path, tmp_path: Path
) -> None:
    assert said in refused("corrupt", digits_run, *words, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
