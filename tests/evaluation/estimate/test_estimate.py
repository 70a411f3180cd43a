"""What an evaluation takes, said before it begins."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast.evaluation.estimate import sketch
from holdfast.evaluation.estimate.estimate import Estimate, estimate
from holdfast.evaluation.evaluate import evaluate
from holdfast.evaluation.protocols import CASCADE
from holdfast.evaluation.robust import cascade
from holdfast.util.errors import HoldfastError
from tests.helpers.tiny import NINE, counted, digits, embedder, rows, sided

MODEL = embedder()
FEW: dict[str, Any] = {"max_queries": 12, "device": "cpu"}
SOME = ("es", "tma", "ca+")
STAGES = tuple(stage.name for stage in CASCADE)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages of three steps."""
    monkeypatch.setattr(cascade, "CASCADE", tuple(replace(one, steps=3) for one in CASCADE))


def names(found: Estimate) -> tuple[str, ...]:
    return tuple(part.name for part in found.parts)


@pytest.mark.usefixtures("short")
def test_where_no_attack_ends_early_the_passes_are_those_that_are_made(tmp_path: Path) -> None:
    """Within a radius too small for anything to break, in batches of 5."""
    given = {**FEW, "eps": 1e-6, "step": 1e-6, "steps": 6, "attacks": SOME, "cascade": True, "batch": 5}
    found = {part.name: part for part in estimate(MODEL, digits(), checks=False, **given).parts}
    evaluate(MODEL, digits(), checks=False, folder=tmp_path, quiet=True, **given)
    made = dict.fromkeys([*SOME, *STAGES], 0)
    for line in rows(next(tmp_path.glob("*/costs.jsonl"))):
        made[line["attack"].removeprefix("worst.")] += line["forward"] + line["backward"]
    assert {name: found[name].passes for name in made} == made
    assert all(0 < found[name].seconds <= found[name].most for name in made)


@pytest.mark.usefixtures("short")
def test_stages_that_no_query_is_left_for_cost_nothing() -> None:
    found = estimate(MODEL, digits(), "worst", eps=1.0, checks=False, **FEW)
    assert names(found) == ("embedding", "benign metrics", *STAGES)
    margin, *others = found.parts[2:]
    assert margin.seconds > 0
    assert all(part.seconds == 0 < part.most for part in others)
    assert found.seconds < found.most
    assert found.basis[-1] == "of 10 queries tried, 0 withstood margin"


@pytest.mark.usefixtures("short")
def test_of_few_queries_the_first_stages_leave_as_many_as_in_the_evaluation() -> None:
    given = {**FEW, "max_queries": 60, "eps": 0.05, "checks": False}
    found = estimate(MODEL, digits(), "worst", **given)
    stages = evaluate(MODEL, digits(), "worst", quiet=True, **given).content["robust R@1"]["stages"][:3]
    first, _, third = stages
    tried, left = first["tried"], third["tried"] - third["broke"]
    assert 0 < left < tried
    assert found.basis[-1] == f"of {tried} queries tried, {left} withstood margin and odds and adam-1"
    passes = [part.passes for part in found.parts if part.name in STAGES[:3]]
    assert passes == [one["passes"] for one in stages]


@pytest.mark.usefixtures("short")
def test_of_many_queries_some_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketch, "TRIED", 20)
    found = estimate(MODEL, digits(), "worst", eps=0.05, checks=False, **{**FEW, "max_queries": 60})
    assert re.fullmatch(r"of (1\d|20) queries tried, \d+ withstood margin.*\(95 %: \d+ to \d+ %\)", found.basis[-1])


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"protocol": "benign"}, ()),
        ({"protocol": "cvpr22", "steps": 2}, (*NINE, "checks")),
        ({"attacks": ("es", "gtm"), "steps": 2}, ("es", "gtm", "checks")),
        ({"protocol": "worst", "eps": 0}, ("checks",)),
        ({"protocol": "worst", "minimal_eps": True}, (*STAGES, "minimal ε", "checks")),
        ({"protocol": "worst", "gradient": "nes", "query_budget": 120}, ("square", "nes", "checks")),
        (
            {"protocol": "worst", "gradient": "square", "query_budget": 60, "eps": 0.3, "minimal_eps": True},
            ("square", "nes", "minimal ε", "checks"),
        ),
        ({"attacks": ("es",), "gradient": "square", "query_budget": 20}, ("es", "checks")),
        ({"attacks": ("es",), "steps": 2, "surrogate": embedder(1)}, ("es", "checks")),
    ],
)
def test_every_part_of_an_evaluation_is_there(given: dict[str, Any], parts: tuple[str, ...]) -> None:
    eps = {} if given.get("protocol") == "benign" else {"eps": 0.1, "max_queries": 12}
    found = estimate(MODEL, digits(), device="cpu", **{**eps, **given})
    assert names(found) == ("embedding", *["embedding"] * ("surrogate" in given), "benign metrics", *parts)
    assert all(part.seconds <= part.most for part in found.parts)
    assert found.took > 0
    assert all(part.passes > 0 for part in found.parts if part.name == "minimal ε")


def test_a_black_box_is_tried_on_few_queries() -> None:
    given = {"gradient": "nes", "query_budget": 60, "eps": 0.05, "checks": False, "device": "cpu"}
    found = estimate(MODEL, digits(), "worst", max_queries=80, **given)
    assert re.fullmatch(r"of 32 queries tried, .* \(95 %: \d+ to \d+ %\)", found.basis[-1])


def test_an_index_that_is_built_is_a_part() -> None:
    pytest.importorskip("faiss", reason="needs faiss-cpu")
    found = estimate(MODEL, digits(), eps=0.1, steps=1, attacks=("es",), checks=False, index="SQ8", **FEW)
    assert names(found) == ("embedding", "index", "benign metrics", "es")
    assert found.basis[1] == "1 step of each attack"


def test_few_images_are_embedded_of_a_large_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are tried among them; and the model is asked far less than for the evaluation."""
    monkeypatch.setattr(cascade, "CASCADE", tuple(replace(one, steps=20) for one in CASCADE))
    monkeypatch.setattr(sketch, "ATTACKED", 40)
    embed, calls = counted(MODEL)
    found = estimate(embed, digits(), "worst", eps=1e-6, checks=False, **FEW)
    assert found.basis[0] == "40 of 100 images embedded"
    assert found.parts[0].passes == 100
    asked = calls[0]
    evaluate(embed, digits(), "worst", eps=1e-6, checks=False, quiet=True, **FEW)
    assert 3 * asked < calls[0] - asked


def test_the_gallery_stays_as_large_and_what_is_tried_is_of_the_right_side() -> None:
    labels = [0, 0, 1, 1] * 8
    asks = [i % 2 == 0 for i in range(32)]
    pixels = sided(labels, asks, [not one for one in asks])
    found = estimate(MODEL, pixels, eps=0.1, steps=1, attacks=("ca+", "qa+"), checks=False, device="cpu")
    assert names(found) == ("embedding", "benign metrics", "ca+", "qa+")


def test_what_cannot_be_evaluated_is_refused() -> None:
    with pytest.raises(HoldfastError, match="batch is at least 1"):
        estimate(MODEL, digits(), batch=0, **FEW)
    with pytest.raises(HoldfastError, match="of one class"):
        estimate(MODEL, sided([0] * 8, [True] * 8, [True] * 8), eps=0.1, **FEW)


def test_random_numbers_elsewhere_are_left_alone() -> None:
    state = torch.get_rng_state()
    estimate(MODEL, digits(), eps=0.1, steps=1, attacks=("es",), checks=False, **FEW)
    assert torch.get_rng_state().equal(state)
