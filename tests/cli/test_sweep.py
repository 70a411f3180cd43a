"""``holdfast sweep``: what it does and leaves, what it prints beforehand and afterwards."""

import re
import sys
from math import nan
from pathlib import Path
from typing import Any

import pytest

from holdfast.cli import main
from holdfast.report import find
from holdfast.runs.folder import Run
from holdfast.sweep import execute
from holdfast.sweep.estimate import Estimator
from holdfast.sweep.plan import plan
from tests.conftest import Call, Refuse
from tests.helpers.sweep_files import PLAIN, Machine, inside, planned, write

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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execute.subprocess, "call", inside)
        with pytest.raises(SystemExit) as stop:
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
        log = (run / "log.txt").read_text().splitlines()
        assert [line.split()[:5] for line in log if line.startswith("$")] == [
            ["$", "python", "-m", "holdfast", verb] for verb in ("train", "evaluate", "evaluate")
        ]


def test_one_that_fails_stops_no_other_and_is_told_by_the_exit_status(swept: tuple[int, Path]) -> None:
    status, folder = swept
    assert status == 1
    run = folder / "out" / "tiny" / "none-r,optim.lr=1e+30"
    assert "step 2: the loss is nan" in (run / "log.txt").read_text()
    assert not find([folder / "out" / "tiny" / "act-r"])[0].content["collapsed"]
    assert not (run / "evaluations").exists()


@pytest.mark.parametrize("start", [None, {"recipe": "none-s"}])
def test_data_that_is_not_there_is_said_once(start: dict[str, Any] | None, tmp_path: Path, refused: Refuse) -> None:
    file = write(tmp_path, {"recipe": ["none-r", "act-r"]}, start=start)
    for more in ([], ["--dry-run"]):
        line = refused("sweep", file, "--out", tmp_path / "out", "--root", "nowhere", "--set", "data.name=cub", *more)
        assert line.count("nowhere") == 1
        assert "none-r" not in line
        assert not (tmp_path / "out").exists()


def test_settings_of_all_runs_are_given_beside_the_file(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Estimator, "seconds", lambda _, runs: [1.0] * len(runs))
    file = write(tmp_path, {"recipe": ["none-r", "act-r"], "seed": [0, 1]})
    shown = call("sweep", file, "--out", tmp_path / "out", "--dry-run", "--set", "seed=[3]", "--set", "steps=7")[1]
    rows = [line.split()[:4] for line in shown.splitlines() if line.strip().startswith("tiny")]
    assert rows == [["tiny", f"{recipe},seed=3", "7", "steps"] for recipe in ("none-r", "act-r")]


def test_called_again_it_does_nothing(
    swept: tuple[int, Path], call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(execute, "subprocess", None)
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
        r"^runs: 3; about \d+ s, evaluations at the most; start-up and validations not counted$", shown, re.MULTILINE
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
    assert "runs: 3; about 1 h 03 min, 2 at a time, evaluations at the most; " in shown
    assert not (tmp_path / "out").exists()


def test_a_dry_run_needs_no_ray(tmp_path: Path, call: Call, refused: Refuse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Estimator, "seconds", lambda *_: [5.0])
    monkeypatch.setitem(sys.modules, "ray", None)
    arguments = ("sweep", write(tmp_path), "--out", tmp_path / "out", "--ray", "auto")
    assert call(*arguments, "--dry-run")[0] == 0
    assert "ray is not installed; install it: pip install 'holdfast[ray]'" in refused(*arguments)
    assert not (tmp_path / "out").exists()


def test_what_became_of_each_run_is_printed(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep that leaves a run undone does not name the next command."""
    runs = planned(tmp_path, {**PLAIN, "seed": [0, 1]}, evaluations=[{"protocol": "benign"}])
    processes = Machine(runs)
    monkeypatch.setattr(execute.subprocess, "call", processes)
    processes.fails[f"train {runs[1].name}"] = "holdfast: another process is at work here\n"
    arguments = ("sweep", tmp_path / "tiny.yaml", "--out", tmp_path / "out", "--jobs", "2")
    status, shown, _ = call(*arguments)
    rows = [line.split(maxsplit=3) for line in shown.splitlines() if " tiny " in line]
    log = runs[1].folder / "log.txt"
    assert status == 1
    assert [one.rstrip() for one in rows[0]] == ["done", "tiny", runs[0].name]
    assert rows[1][:3] == ["FAILED", "tiny", runs[1].name]
    assert rows[1][3].rstrip() == f"train: another process is at work here ({log})"
    assert "not done: 1 of 2 runs; the same command goes on with them" in shown
    assert "now: holdfast report" not in shown
    processes.fails.clear()
    status, shown, _ = call(*arguments)
    assert (status, "now: holdfast report" in shown, "not done" in shown) == (0, True, False)


def test_a_run_that_is_not_in_the_file_is_refused_with_the_nearest(tmp_path: Path, refused: Refuse) -> None:
    file = write(tmp_path, {"recipe": "act-r", "pgd.steps": [8, 32], "seed": 0})
    line = refused("sweep", file, "--out", tmp_path / "out", "--only", "act-r,pgd.steps=8,sed=0")
    assert "unknown run 'act-r,pgd.steps=8,sed=0'; did you mean 'act-r,pgd.steps=8,seed=0'?" in line
    assert not (tmp_path / "out").exists()
