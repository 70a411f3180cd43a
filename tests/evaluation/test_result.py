"""The verdict of a result: what speaks against its numbers."""

from pathlib import Path
from typing import Any

import pytest

from holdfast.evaluation.result import ENOUGH, read
from tests.helpers import result_files

OLD = {"settings": {"seed": 0}}
SAID = {"settings": {"validation.on_test": False}}
ELSEWHERE = {"settings": {"data.name": "mnist"}}


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "ok"),
        ({"model": {"weights": "last", "training": OLD}}, "ok"),
        ({"model": {"weights": "best", "training": OLD}}, "CHOSEN ON TEST"),
        ({"model": {"weights": "best", "training": None}}, "CHOSEN ON TEST"),
        ({"model": {"weights": "best", "training": {"settings": {"validation.on_test": True}}}}, "CHOSEN ON TEST"),
        ({"model": {"weights": "best", "training": SAID}}, "ok"),
        ({"model": {"weights": "best", "training": ELSEWHERE}}, "ok"),
        ({"data": {"attacked": ENOUGH}}, "ok"),
        ({"data": {"attacked": ENOUGH - 1}}, "too few queries"),
        ({"data": {"attacked": 1}, "collapsed": True, "trusted": False}, "COLLAPSED, UNTRUSTED, too few queries"),
        ({"data": {"attacked": 0}, "trusted": None}, "unchecked"),
        ({"trusted": False}, "UNTRUSTED"),
        ({"collapsed": True, "trusted": None}, "COLLAPSED, unchecked"),
    ],
)
def test_a_verdict_names_all_that_speaks_against_the_numbers(
    changes: dict[str, Any], verdict: str, tmp_path: Path
) -> None:
    path = result_files.write(tmp_path / "result.json", **changes)
    assert read(path).verdict == verdict
