"""``holdfast sweep``: what it does and leaves, what it prints beforehand and afterwards."""

import json
import re
from math import nan
from pathlib import Path
from typing import Any

import pytest

from holdfast.cli import display, main
from holdfast.report import find
from holdfast.runs.folder import Run
from holdfast.sweep import dispatch
from holdfast.sweep.dispatch import TRAIN, Board
from holdfast.sweep.estimate import Estimator
from holdfast.sweep.plan import plan
from tests.conftest import Call, Refuse
from tests.helpers.sweep_files import PLAIN, inside, planned, write

EVALUATIONS: list[dict[str, Any]] = [
    {"protocol": "cvpr22", "attacks": ["es", "ltm"], "steps": 1, "max_queries": 4, "checks": False},
    {"protocol": "strict", "attacks": "es", "eps": "8/255", "steps": 1, "max_queries": 4, "checks": False},
]
OTHER = [EVALUATIONS[0], {**EVALUATIONS[1], "max_queries": 5}]
GOOD: dict[str, Any] = {"recipe": ["none-r", "act-r"]}
BAD: dict[str, Any] = {"recipe": "none-r", "optim.lr": 1e30}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """The exit status and the folder of a sweep: two runs that work, between them one whose loss is not finite."""
    folder = tmp_path_factory.mktemp("swept")
    file = write(folder, {"recipe": "none-r"}, BAD, {"recipe": "act-r"}, evaluations=EVALUATIONS)
    with inside(), pytest.raises(SystemExit) as stop:
        main(["sweep", str(file), "--out", str(folder / "out"), "--device", "cpu"])
    return int(stop.value.code or 0), folder


def test_every_run_is_trained_and_evaluated_in_every_way(swept: tuple[int, Path]) -> None:
    _, folder = swept
    for name in GOOD["recipe"]:
        run = folder / "out" / "tiny" / name
        assert len(Run(run).steps()) == 2
        results = {result.protocol: result.content for result in find([run])}
        assert results.keys() == {"cvpr22", "strict"}
        assert {content["model"]["recipe"] for content in results.values()} == {name}
        assert [results[key]["settings"]["attacks"] for key in ("cvpr22", "strict")] == [["es", "ltm"], ["es"]]
        assert results["strict"]["settings"]["eps"] == 8 / 255
        assert {content["data"]["attacked"] for content in results.values()} == {4}
        assert not (run / "failure.json").exists()
        log = (run / "log.txt").read_text().splitlines()
        assert [line.split()[:5] for line in log if line.startswith("$")] == [
            ["$", "python", "-m", "holdfast", verb] for verb in ("train", "evaluate", "evaluate")
        ]


def test_one_that_fails_is_recorded_and_the_others_are_done(swept: tuple[int, Path]) -> None:
    status, folder = swept
    assert status == 1
    run = folder / "out" / "tiny" / "none-r,optim.lr=1e+30"
    recorded = json.loads((run / "failure.json").read_text())
    assert (recorded["what"], recorded["status"]) == (TRAIN, 2)
    assert "step 2: the loss is nan" in recorded["message"]
    assert not find([folder / "out" / "tiny" / "act-r"])[0].content["collapsed"]
    assert not (run / "evaluations").exists()


def test_called_again_it_does_nothing(
    swept: tuple[int, Path], call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(dispatch, "subprocess", None)
    file = write(tmp_path, GOOD, evaluations=EVALUATIONS)
    out = swept[1] / "out"
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    status, shown, _ = call("sweep", file, "--out", out, "--device", "cpu")
    assert status == 0
    assert [line.split() for line in shown.splitlines() if "tiny" in line] == [
        ["done", "tiny", name] for name in GOOD["recipe"]
    ]
    assert f"now: holdfast report {out} --published" in shown
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_an_evaluation_of_other_settings_is_still_to_be_made(swept: tuple[int, Path], tmp_path: Path) -> None:
    (run,) = plan([write(tmp_path, PLAIN, evaluations=OTHER)], swept[1] / "out")
    assert [one.settings["max_queries"] for one in run.missing()] == [5]


def test_the_plan_says_what_is_left(swept: tuple[int, Path], call: Call, tmp_path: Path) -> None:
    file = write(tmp_path, {"recipe": ["none-r", "act-r", "est-r"]}, evaluations=OTHER)
    out = swept[1] / "out"
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    status, shown, err = call("sweep", file, "--out", out, "--dry-run", "--device", "cpu", "--device", "cpu")
    assert (status, err) == (0, "")
    rows = [line.strip() for line in shown.splitlines() if line.strip().startswith("tiny")]
    patterns = [r"none-r\s+trained\s+strict", r"act-r\s+trained\s+strict", r"est-r\s+2 steps\s+cvpr22, strict"]
    for row, pattern in zip(rows, patterns, strict=True):
        assert re.fullmatch(rf"tiny\s+{pattern}\s+\d+ s", row)
    assert re.search(
        r"^runs: 3; about \d+ s; start-up, validations and checks of evaluations not counted$", shown, re.MULTILINE
    ), "two at a time share the cores that were timed"
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_plan_of_what_is_not_begun(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Estimator, "seconds", lambda *_: [5.0, 7500.0, nan])
    file = write(tmp_path, GOOD, start={"recipe": "none-s", "steps": 3}, evaluations=EVALUATIONS)
    shown = call("sweep", file, "--out", tmp_path / "out", "--dry-run", "--device", "mps", "--device", "cpu")[1]
    rows = [line.split() for line in shown.splitlines() if line.strip().startswith("tiny")]
    assert rows == [
        ["tiny", "start", "3", "steps", "–", "5", "s"],
        ["tiny", "none-r", "2", "steps", "cvpr22,", "strict", "2", "h", "05", "min"],
        ["tiny", "act-r", "2", "steps", "cvpr22,", "strict", "?"],
    ]
    assert "runs: 3; about 1 h 03 min, 2 at a time; " in shown
    assert not (tmp_path / "out").exists()


def test_what_became_of_each_run_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = done, left, failed = planned(tmp_path, {**PLAIN, "seed": [0, 1, 2]})
    failed.folder.mkdir(parents=True)
    (failed.folder / "log.txt").touch()
    display.swept(Board(runs, done=[done], left=[left], failed={failed.folder: "train: no luck"}))
    rows = [line.split(maxsplit=3) for line in capsys.readouterr().out.splitlines() if " tiny " in line]
    assert [row[:3] for row in rows] == [
        ["done", "tiny", done.name],
        ["left", "tiny", left.name],
        ["FAILED", "tiny", failed.name],
    ]
    assert rows[1][3].startswith("another process is at work on it")
    assert rows[2][3].startswith("train: no luck (")


def test_a_run_that_is_not_in_the_file_is_refused_with_the_nearest(tmp_path: Path, refused: Refuse) -> None:
    file = write(tmp_path, {"recipe": "act-r", "pgd.steps": [8, 32], "seed": 0})
    line = refused("sweep", file, "--out", tmp_path / "out", "--only", "act-r,pgd.steps=8,sed=0")
    assert "unknown run 'act-r,pgd.steps=8,sed=0'; did you mean 'act-r,pgd.steps=8,seed=0'?" in line
    assert not (tmp_path / "out").exists()
