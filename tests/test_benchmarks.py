"""How benchmarks take turns and report; their figures are nobody's test."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.__main__ import commands, rows
from benchmarks.side_by_side import Bar, interleaved, row


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


def test_every_benchmark_is_there_and_gets_its_images_where_they_are() -> None:
    assert all(find_spec(f"benchmarks.{command[0]}") for command in commands(None))
    assert not any("--root" in command for command in commands(None))
    assert any("data/fashion-mnist" in command for command in commands(Path("data")))
