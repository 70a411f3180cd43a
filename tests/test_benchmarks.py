"""How benchmarks take turns and report; their figures are nobody's test."""

import json
import shutil
import sys
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from benchmarks import __main__ as benchmarks
from benchmarks import ceiling, independent_attack
from benchmarks.__main__ import commands, rows
from benchmarks.side_by_side import Bar, interleaved, row, tell
from holdfast import evaluate


def test_work_is_done_in_turns_and_the_first_turn_does_not_count() -> None:
    done: list[str] = []
    seconds = interleaved({"a": lambda: done.append("a"), "b": lambda: done.append("b")}, repeats=3)
    assert done == ["a", "b"] * 4
    assert list(seconds) == ["a", "b"]
    assert all(value >= 0 for value in seconds.values())


@pytest.mark.parametrize(
    ("bar", "figure", "met"),
    [(Bar(least=2), 2.0, True), (Bar(least=2), 1.9, False), (Bar(most=2), 2.0, True), (Bar(most=2), 2.1, False)],
)
def test_a_row_says_whether_its_bar_is_met(
    bar: Bar, figure: float, met: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    row("speed", figure, "x", bar, details={"seconds": 1 / 3})
    printed = capsys.readouterr().out
    assert ("NOT MET" in printed) != met
    (found,) = rows(printed)
    assert (found["row"], found["figure"], found["met"]) == ("speed", figure, met)
    assert found["details"] == {"seconds": 0.3333}


def test_the_table_of_all_benchmarks_has_figures_without_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tell("searches", 12.5, "%")
    row("speed", 1.0, "x", Bar(least=2))
    printed = capsys.readouterr().out
    monkeypatch.setattr(benchmarks, "commands", lambda data: [["some"], ["other"]])
    monkeypatch.setattr(benchmarks, "run", lambda command: (command, printed, int(command == ["other"])))
    monkeypatch.setattr(sys, "argv", ["benchmarks"])
    with pytest.raises(SystemExit, match="True"):
        benchmarks.main()
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert cells.count(["searches", "12.5 %", "", ""]) == 2
    assert cells.count(["speed", "1 x", "at least 2", "NO"]) == 2


def test_every_benchmark_is_there_and_gets_its_images_where_they_are() -> None:
    assert all(find_spec(f"benchmarks.{command[0]}") for command in commands(None))
    assert not any("--root" in command for command in commands(None))
    assert any("data/fashion-mnist" in command for command in commands(Path("data")))


@pytest.fixture
def claimed(tmp_path: Path) -> Path:
    """The worst case of a plain model at 77/255, 8 digits asking."""
    evaluate("zoo:digits-none-r", protocol="worst", folder=tmp_path, max_queries=8, checks=False, quiet=True)
    (file,) = tmp_path.glob("worst-*/result.json")
    return file


def test_the_independent_attack_breaks_what_a_result_calls_robust(
    claimed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, content = claimed.parent / "opinion.json", json.loads(claimed.read_text())
    arguments = [str(claimed), "--restarts", "1", "--steps", "10"]

    def judged() -> tuple[dict[str, Any], dict[str, Any]]:
        independent_attack.main(arguments)
        (found,) = rows(capsys.readouterr().out)
        return found, json.loads(out.read_text())

    found, _ = judged()
    assert (found["figure"], found["met"]) == (0, True)
    assert found["robust by the library"] == content["robust R@1"]["value"] == 0
    out.unlink()

    right = {json.loads(line)["id"] for line in (claimed.parent / "records" / "worst.margin.jsonl").open()}
    _claim_all_robust(claimed, len(right))
    found, kept = judged()
    assert (found["figure"], found["met"]) == (100 * len(right) / 8, False)
    assert {kill["id"] for kill in kept["broken"]} == right
    assert kept["broken"][0]["loss"] == "margin"
    shutil.rmtree(claimed.parent / "records")
    assert judged()[1] == kept, "what is done is not done again, and needs no records"


def _claim_all_robust(file: Path, right: int) -> None:
    """The same result, had the cascade broken nothing."""
    content = json.loads(file.read_text())
    content["robust R@1"]["value"] = 100 * right / 8
    file.write_text(json.dumps(content))
    for records in (file.parent / "records").iterdir():
        lines = [json.loads(line) | {"after": {"R@1": 100.0}} for line in records.open()]
        records.write_text("".join(json.dumps(line) + "\n" for line in lines))


@given(st.integers(2, 9), st.integers(0, 10_000), st.floats(0.05, 0.6))
def test_no_choice_of_queries_exceeds_the_ceiling(n: int, seed: int, density: float) -> None:
    """Naive twins: every choice that keeps no pair whole, and the linear program that the matching solves."""
    rng = np.random.default_rng(seed)
    pairs = np.array([pair for pair in combinations(range(n), 2) if rng.random() < density]).reshape(-1, 2)
    most = max(
        size
        for size in range(n + 1)
        for kept in combinations(range(n), size)
        if not {*map(tuple, pairs)} & {*combinations(kept, 2)}
    )
    bound = n * ceiling.ceiling(pairs, n)
    incidence = np.eye(n)[pairs].sum(1) if len(pairs) else np.zeros((1, n))
    weights = linprog(-np.ones(n), incidence, np.ones(len(incidence)), bounds=(0, 1))
    assert bound >= most
    assert bound == pytest.approx(-weights.fun)


def test_pairs_within_reach_are_those_of_different_classes() -> None:
    images = torch.tensor([[0, 0], [10, 3], [10, 4], [200, 0]], dtype=torch.int16)
    found = ceiling.gaps(images, torch.tensor([0, 1, 1, 0]), 10)
    assert found.tolist() == [[0, 1, 10], [0, 2, 10]]
    assert ceiling.gaps(images, torch.tensor([0, 1, 1, 0]), 9).tolist() == []
    assert ceiling.ceiling(found[:, :2], 4) == 0.75


def test_the_ceiling_of_the_digits(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["ceiling", "--eps", "32", "127"])
    ceiling.main()
    low, high = rows(capsys.readouterr().out)
    assert low["figure"] == 100
    assert low["near"] == 0
    assert 50 <= high["figure"] < 100
