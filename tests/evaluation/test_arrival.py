"""Scores that a longer attack would lower are told from those that have arrived."""

import pytest

from holdfast.evaluation.evaluate import evaluate
from holdfast.evaluation.protocols import COLUMNS
from tests.helpers.tiny import QUICK, digits, embedder

TRIED = {**QUICK, "max_queries": 24, "eps": 0.1}


@pytest.mark.parametrize("steps", [1, 3])
def test_further_is_what_four_times_the_steps_take(steps: int) -> None:
    """Of as few images as are tried, it is the difference between two evaluations."""
    short = evaluate(embedder(), digits(), **{**TRIED, "steps": steps, "checks": True})
    long = evaluate(embedder(), digits(), **{**TRIED, "steps": 4 * steps, "step": short.content["settings"]["step"]})
    for column in COLUMNS:
        one, other = (result.content["columns"][column.name] for result in (short, long))
        taken = column.to_score(one["value"]) - column.to_score(other["value"])
        assert short.further(column.name) == pytest.approx(taken, abs=1e-4)
        assert short.arrived(column.name) == (taken <= 1)
        assert long.arrived(column.name) is None
    assert not all(short.arrived(column.name) for column in COLUMNS)


def test_scores_of_an_attack_that_may_do_nothing_have_arrived() -> None:
    result = evaluate(embedder(), digits(), **{**TRIED, "eps": 0.0, "checks": True})
    assert all(result.arrived(column.name) for column in COLUMNS)


def test_of_last_iterates_nothing_is_said() -> None:
    result = evaluate(embedder(), digits(), "cvpr22", **{**TRIED, "checks": True})
    assert all(result.arrived(column.name) is None for column in COLUMNS)
