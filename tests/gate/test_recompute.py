"""A result evaluated again: what agrees, what was made up, and what cannot be repeated."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from holdfast.evaluation.evaluate import evaluate
from holdfast.evaluation.settings import resolve_settings
from holdfast.gate.recompute import Compared, recompute, settings_of
from holdfast.models.open import open_model
from holdfast.report import Result, find
from holdfast.util.errors import HoldfastError
from tests.conftest import Call
from tests.helpers.tiny import digits, embedder, rows

EMBEDDER = embedder()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Result:
    settings: dict[str, Any] = {"steps": 2, "eps": 0.05, "max_queries": 40, "attacks": ("es", "qa+"), "cascade": False}
    return evaluate(EMBEDDER, digits(), folder=tmp_path_factory.mktemp("r"), checks=False, quiet=True, **settings)


def copied(result: Result, folder: Path) -> Result:
    assert result.path is not None
    shutil.copytree(result.path.parent, folder)
    (found,) = find([folder])
    return found


def changed(file: Path, count: int) -> None:
    """Other readings in so many of the first records."""
    lines = rows(file)
    for line in lines[:count]:
        line["after"] = {name: 100.0 - value for name, value in line["after"].items()}
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_sample_is_among_what_was_attacked_and_agrees(whole: Result) -> None:
    found = recompute(whole, open_model(EMBEDDER), digits(), 20, quiet=True)
    assert [(one.score, one.apart, one.better) for one in found] == [
        (name, 0, 0) for name in ("R@1", "mAP", "QA+", "ES:D", "ES:R")
    ]
    assert [one.queries for one in found[2:]] == [20] * 3
    assert all(one.ok for one in found)


def test_made_up_records_are_found(whole: Result, tmp_path: Path) -> None:
    forged = copied(whole, tmp_path / "forged")
    changed(tmp_path / "forged" / "records" / "qa+.jsonl", 40)
    found = {one.score: one for one in recompute(forged, open_model(EMBEDDER), digits(), 20, quiet=True)}
    assert not found["QA+"].ok
    assert found["QA+"].apart > 15
    assert found["ES:R"].ok


def test_what_cannot_be_repeated_is_refused(whole: Result, tmp_path: Path) -> None:
    with pytest.raises(HoldfastError, match="by hash; this model is"):
        recompute(whole, open_model(embedder(seed=5)), digits(), 4, quiet=True)
    with pytest.raises(HoldfastError, match="in memory"):
        recompute(Result(None, whole.content), open_model(EMBEDDER), digits(), 4)
    for change, why in (
        ({"protocol_version": 1}, "is by version 1 of protocol strict"),
        ({"model": {"surrogate": "01234567"}}, "transfer attacks"),
        ({"settings": {**whole.content["settings"], "attacks": ["mine"]}}, "no score is made of: mine"),
    ):
        with pytest.raises(HoldfastError, match=why):
            settings_of(Result(whole.path, {**whole.content, **change}), 4)


@pytest.mark.parametrize(
    ("protocol", "given"),
    [
        ("strict", {"eps": 0.1, "max_queries": 50, "seed": 3}),
        ("strict", {"attacks": ("es",), "norm": "l2", "eps": 2.0}),
        ("worst", {"eps": 0.1}),
        ("worst", {"gradient": "square", "query_budget": 50, "minimal_eps": True}),
        ("benign", {"sigma": 0.25, "max_queries": 9}),
        ("cvpr22", {}),
    ],
)
def test_the_settings_are_those_of_the_result_but_for_the_sample(protocol: str, given: dict[str, Any]) -> None:
    settings = resolve_settings("28", protocol, **given)
    attacked = 0 if protocol == "benign" else settings.max_queries or 100
    content = {
        "protocol": protocol,
        "protocol_version": settings.rules.version,
        "settings": settings.plain(),
        "model": {},
        "data": {"attacked": attacked},
    }
    again = resolve_settings("28", protocol, **settings_of(Result(None, content), 8)).plain()
    free = {"max_queries", "minimal_eps"}
    assert {k: v for k, v in again.items() if k not in free} == {
        k: v for k, v in settings.plain().items() if k not in free
    }
    assert again["max_queries"] == (8 if attacked else 9)


def test_one_query_in_twenty_may_differ_and_one_in_a_hundred_without_attack() -> None:
    for score, most in (("robust R@1", 10), ("ES:D", 10), ("R@1", 2), ("mAP", 2)):
        assert Compared(score, 200, most, 2).ok
        assert not Compared(score, 200, most + 1, 2).ok
        assert Compared(score, 8, 1, 1).ok
        assert not Compared(score, 8, 2, 1).ok


def test_the_command_compares_a_run_with_its_result(digits_run: Path, tmp_path: Path, call: Call) -> None:
    folder = tmp_path / "run"
    shutil.copytree(digits_run, folder)
    evaluate(folder, protocol="worst", eps=0.3, max_queries=12, checks=False, quiet=True)
    (found,) = find([folder])
    assert found.path is not None
    status, out, _ = call("recompute", found.path, folder, "--sample", "6", "--device", "cpu")
    assert status == 0, out
    assert "evaluated again: agrees" in out
    assert "robust R@1" in out
    stages = found.content["robust R@1"]["stages"]
    changed(found.path.parent / "records" / "worst.margin.jsonl", stages[0]["tried"])
    status, _, err = call("recompute", found.path, folder, "--sample", "6", "--device", "cpu")
    assert status == 2
    assert "by the records beside it" in err
